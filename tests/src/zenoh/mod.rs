//! Zenoh clients of two kinds: those of Zenoh's own library, and a raw one that can say anything.

mod apart;
mod cast;
mod entrance;
mod greeting;
mod raw;
pub mod say;
mod wire;
mod witness;

pub use apart::Apart;
pub use cast::{asked, open, settle};
pub use entrance::{Entrance, LINKS};
pub use greeting::{Authentication, Greeting};
pub use raw::{Raw, Said};
pub use witness::Witness;

pub use bulkhead_control::config::ZenohLink as Link;

/// Makes four tests of each of these functions, which take the [`Link`].
#[macro_export]
macro_rules! over_all_links {
    ($($test:ident),* $(,)?) => {
        $crate::over_all_links!(@ tcp Tcp $($test)*);
        $crate::over_all_links!(@ tls Tls $($test)*);
        $crate::over_all_links!(@ ws Ws $($test)*);
        $crate::over_all_links!(@ quic Quic $($test)*);
    };
    (@ $module:ident $link:ident $($test:ident)*) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::zenoh::Link::$link).await;
            })*
        }
    };
}
