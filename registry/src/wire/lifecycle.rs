use super::Subject;
use bulkhead_policy::DeviceId;
use jiff::Timestamp;
use serde_json::json;

/// What became of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It has registered.
    Online,
    /// It has not been heard of for its time to live.
    Offline,
}

impl Transition {
    /// Where it is told.
    pub fn subject(self) -> Subject<'static> {
        match self {
            Self::Online => Subject::Online,
            Self::Offline => Subject::Offline,
        }
    }

    /// The method of the notification.
    pub fn method(self) -> &'static str {
        match self {
            Self::Online => "device/online",
            Self::Offline => "device/offline",
        }
    }
}

/// The notification of a transition.
pub fn lifecycle(transition: Transition, device: &DeviceId, at: Timestamp) -> Vec<u8> {
    let params = json!({"device_id": device, "ts": seconds(at)});
    json!({"jsonrpc": "2.0", "method": transition.method(), "params": params})
        .to_string()
        .into_bytes()
}

/// A time as the contract writes it: whole seconds, UTC.
pub(crate) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::{Transition, lifecycle};
    use serde_json::{Value, json};

    #[test]
    fn a_transition_is_told_as_the_contract_says() {
        let device = "cam-1".parse().unwrap();
        let at = "2026-11-22T02:58:05.75Z".parse().unwrap();
        let told: Value =
            serde_json::from_slice(&lifecycle(Transition::Offline, &device, at)).unwrap();
        let params = json!({"device_id": "cam-1", "ts": "2026-11-22T02:58:05Z"});
        assert_eq!(told, json!({"jsonrpc": "2.0", "method": "device/offline", "params": params}));
    }
}
