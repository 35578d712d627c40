use bulkhead_policy::DeviceId;
use serde_json::{Map, Value};

/// A device's sign of life.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// When it was sent, by the device's own clock, in seconds since 1970.
    pub sent: Option<f64>,
    /// What it says of itself besides, to be merged into its status.
    pub status: Map<String, Value>,
}

impl Heartbeat {
    /// Reads a heartbeat that came under a device's name. `None` if it is none, or says that it is
    /// another device's.
    pub fn parse(bytes: &[u8], device: &DeviceId) -> Option<Self> {
        let Value::Object(mut status) = serde_json::from_slice(bytes).ok()? else { return None };
        let named = status.remove("device_id")?;
        if named.as_str() != Some(device.as_str()) {
            return None;
        }
        // When it was sent is of no use to anybody later, and would make every beat a change.
        let sent = status.remove("ts").and_then(|ts| ts.as_f64());
        Some(Self { sent, status })
    }
}

#[cfg(test)]
mod tests {
    use super::Heartbeat;
    use serde_json::json;

    #[test]
    fn a_beat_is_of_the_device_under_whose_name_it_came() {
        let device = "cam-1".parse().unwrap();
        let parse = |text: &str| Heartbeat::parse(text.as_bytes(), &device);
        let beat = parse(r#"{"device_id":"cam-1","ts":1795317234.77,"battery":7}"#).unwrap();
        assert_eq!(
            (json!(beat.status), beat.sent),
            (json!({"battery": 7}), Some(1_795_317_234.77))
        );
        for other in [
            r#"{"device_id":"cam-2"}"#,
            r#"{"device_id":["cam-1"]}"#,
            "{}",
            "[]",
            "",
            r#"{"device_id":"cam-1""#,
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
