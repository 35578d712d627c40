//! A raw MQTT client, which can say anything, and the broker that it speaks to.

mod cast;
mod client;
mod door;
mod heard;
mod hello;
mod mode;

pub use cast::SERVICE_ISSUER;
pub use client::Client;
pub use door::Door;
pub use heard::{Heard, Message, Owned};
pub use hello::Hello;
pub use mode::Mode;

pub use bulkhead_mqtt_broker::codec;
