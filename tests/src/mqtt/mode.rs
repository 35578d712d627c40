/// What is behind the MQTT session layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bulkhead's own broker.
    Embedded,
    /// A mosquitto, before which Bulkhead is the front.
    Upstream,
}

impl Mode {
    /// Whether it is Bulkhead's own broker.
    pub fn is_embedded(self) -> bool {
        self == Self::Embedded
    }
}

/// Makes two tests of each of these functions, which take the [`Mode`].
#[macro_export]
macro_rules! in_both_modes {
    ($($test:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::mqtt::Mode::Embedded).await;
            })*
        }

        mod upstream {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test($crate::mqtt::Mode::Upstream).await;
            })*
        }
    };
}
