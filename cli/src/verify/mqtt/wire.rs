//! The library's two clients, of MQTT 5 and of 3.1.1, as one.

use crate::verify::ear::Mark;
use rumqttc::v5::mqttbytes::v5::{
    ConnAckProperties, Filter, LastWill, LastWillProperties, Packet, PubAckReason,
    PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::{Transport, v5};

/// Requests that wait for the client's loop.
const REQUESTS: usize = 32;

/// Bytes of a message: what is larger, a broker of MQTT 5 does not send. Ours are far smaller.
const MAX_MESSAGE: u32 = 256 * 1024;

/// Bytes of a message of MQTT 3.1.1, by which nobody can be asked to send less: what the protocol has.
const MAX_MESSAGE_V311: usize = 268_435_455;

/// How long a broker keeps what is left there by a run that is killed, in seconds. A broker of 3.1.1
/// cannot be told.
const KEPT: u32 = 60;

/// How a client connects.
pub(super) struct Hello<'a> {
    pub(super) id: String,
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) transport: Transport,
    pub(super) login: Option<(&'a str, &'a str)>,
    pub(super) will: Option<(String, Mark)>,
    /// With a session that lives on, or one that does.
    pub(super) lasts: bool,
}

/// What a client says.
#[derive(Clone)]
pub(super) enum Speaker {
    V5(v5::AsyncClient),
    V311(rumqttc::AsyncClient),
}

/// What it hears. It has to be asked again and again, or nothing is said either.
pub(super) enum Listener {
    V5(Box<v5::EventLoop>),
    V311(Box<rumqttc::EventLoop>),
}

/// What a broker says.
pub(super) enum Incoming {
    /// It lets the client in, and says what it offers, if it does.
    Connected(Option<Box<ConnAckProperties>>),
    /// Whether it grants a subscription.
    Subscribed(bool),
    /// Whether it takes a message; one of 3.1.1 cannot say that it does not.
    Published(bool),
    Message {
        topic: String,
        payload: Vec<u8>,
    },
    Other,
    /// It ends the connection, or lets nobody in.
    Ended(String),
}

/// A client of MQTT 5.
pub(super) fn v5(hello: Hello<'_>) -> (Speaker, Listener) {
    let mut options = v5::MqttOptions::new(hello.id, hello.host, hello.port);
    options.set_max_packet_size(Some(MAX_MESSAGE));
    options.set_transport(hello.transport);
    options.set_clean_start(!hello.lasts);
    if hello.lasts {
        options.set_session_expiry_interval(Some(KEPT));
    }
    if let Some((user, password)) = hello.login {
        options.set_credentials(user, password);
    }
    if let Some((topic, mark)) = hello.will {
        let properties = LastWillProperties {
            delay_interval: None,
            payload_format_indicator: None,
            message_expiry_interval: Some(KEPT),
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        options.set_last_will(LastWill::new(topic, mark.text(), qos, false, Some(properties)));
    }
    let (client, events) = v5::AsyncClient::new(options, REQUESTS);
    (Speaker::V5(client), Listener::V5(Box::new(events)))
}

/// A client of MQTT 3.1.1.
pub(super) fn v311(hello: Hello<'_>) -> (Speaker, Listener) {
    let mut options = rumqttc::MqttOptions::new(hello.id, hello.host, hello.port);
    options.set_max_packet_size(MAX_MESSAGE_V311, MAX_MESSAGE_V311);
    options.set_transport(hello.transport);
    options.set_clean_session(!hello.lasts);
    if let Some((user, password)) = hello.login {
        options.set_credentials(user, password);
    }
    if let Some((topic, mark)) = hello.will {
        let qos = rumqttc::QoS::AtLeastOnce;
        options.set_last_will(rumqttc::LastWill::new(topic, mark.text(), qos, false));
    }
    let (client, events) = rumqttc::AsyncClient::new(options, REQUESTS);
    (Speaker::V311(client), Listener::V311(Box::new(events)))
}

impl Speaker {
    /// Asks for a subscription, with what is retained. Says whether there is a connection to ask on.
    pub(super) async fn subscribe(&self, filter: &str) -> bool {
        match self {
            Self::V5(client) => {
                let mut wanted = Filter::new(filter, v5::mqttbytes::QoS::AtLeastOnce);
                wanted.retain_forward_rule = RetainForwardRule::OnEverySubscribe;
                client.subscribe_many([wanted]).await.is_ok()
            }
            Self::V311(client) => client.subscribe(filter, rumqttc::QoS::AtLeastOnce).await.is_ok(),
        }
    }

    /// Takes a subscription back, if there is still a connection.
    pub(super) fn unsubscribe(&self, filter: &str) {
        let _ = match self {
            Self::V5(client) => client.try_unsubscribe(filter).is_ok(),
            Self::V311(client) => client.try_unsubscribe(filter).is_ok(),
        };
    }

    /// Says goodbye, if there is still a connection.
    pub(super) async fn disconnect(&self) {
        let _ = match self {
            Self::V5(client) => client.disconnect().await.is_ok(),
            Self::V311(client) => client.disconnect().await.is_ok(),
        };
    }

    /// Publishes. Says whether there is a connection to do it on.
    pub(super) async fn publish(&self, topic: &str, payload: String, retain: bool) -> bool {
        match self {
            Self::V5(client) => {
                let properties = PublishProperties {
                    message_expiry_interval: Some(KEPT),
                    ..PublishProperties::default()
                };
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                let sent = client.publish_with_properties(topic, qos, retain, payload, properties);
                sent.await.is_ok()
            }
            Self::V311(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                client.publish(topic, qos, retain, payload).await.is_ok()
            }
        }
    }
}

impl Listener {
    pub(super) async fn next(&mut self) -> Incoming {
        match self {
            Self::V5(events) => match events.poll().await {
                Ok(v5::Event::Incoming(packet)) => incoming_v5(packet),
                Ok(v5::Event::Outgoing(_)) => Incoming::Other,
                Err(error) => Incoming::Ended(crate::commands::causes(&error)),
            },
            Self::V311(events) => match events.poll().await {
                Ok(rumqttc::Event::Incoming(packet)) => incoming_v311(packet),
                Ok(rumqttc::Event::Outgoing(_)) => Incoming::Other,
                Err(error) => Incoming::Ended(crate::commands::causes(&error)),
            },
        }
    }
}

fn incoming_v5(packet: Packet) -> Incoming {
    match packet {
        Packet::ConnAck(ack) => Incoming::Connected(ack.properties.map(Box::new)),
        Packet::SubAck(ack) => {
            let granted =
                |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Incoming::Subscribed(ack.return_codes.iter().all(granted))
        }
        Packet::PubAck(ack) => Incoming::Published(matches!(
            ack.reason,
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers
        )),
        Packet::Publish(publish) => Incoming::Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload.to_vec(),
        },
        _ => Incoming::Other,
    }
}

fn incoming_v311(packet: rumqttc::Packet) -> Incoming {
    use rumqttc::{Packet, SubscribeReasonCode};
    match packet {
        Packet::ConnAck(_) => Incoming::Connected(None),
        Packet::SubAck(ack) => {
            let granted =
                |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Incoming::Subscribed(ack.return_codes.iter().all(granted))
        }
        Packet::PubAck(_) => Incoming::Published(true),
        Packet::Publish(publish) => {
            Incoming::Message { topic: publish.topic, payload: publish.payload.to_vec() }
        }
        _ => Incoming::Other,
    }
}
