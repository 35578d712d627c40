use bulkhead_policy::{Broker, DeviceId, TenantId};

/// First segment of every name of Device Connect.
const ROOT: &str = "device-connect";

/// Hexadecimal digits of a reply topic's name.
const REPLY_DIGITS: usize = 32;

/// One of the names that the registry hears or speaks, within a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// Registrations come here.
    Registry,
    /// Questions come here.
    Discovery,
    /// A device's heartbeat; `None` for those of all devices.
    Heartbeat(Option<&'a DeviceId>),
    /// A device's commands.
    Command(&'a DeviceId),
    /// That a device came.
    Online,
    /// That a device is gone.
    Offline,
}

impl Subject<'_> {
    /// The name on a broker.
    pub fn on(self, broker: Broker, tenant: &TenantId) -> String {
        let slash = if broker == Broker::Nats { '.' } else { '/' };
        let any = if broker == Broker::Mqtt { "+" } else { "*" };
        let rest = match self {
            Self::Registry => "registry".to_owned(),
            Self::Discovery => "discovery".to_owned(),
            Self::Heartbeat(device) => {
                format!("{}{slash}heartbeat", device.map_or(any, DeviceId::as_str))
            }
            Self::Command(device) => format!("{device}{slash}cmd"),
            Self::Online => format!("device{slash}online"),
            Self::Offline => format!("device{slash}offline"),
        };
        format!("{ROOT}{slash}{tenant}{slash}{rest}")
    }

    /// The device whose heartbeat comes under this name of a broker.
    pub fn beating(name: &str, broker: Broker) -> Option<DeviceId> {
        let slash = if broker == Broker::Nats { '.' } else { '/' };
        let (rest, last) = name.rsplit_once(slash)?;
        let (_, device) = rest.rsplit_once(slash)?;
        (last == "heartbeat").then(|| DeviceId::parse(device).ok())?
    }
}

/// Whether an answer over MQTT may go to a topic: `_reply/` and 32 lower-case hexadecimal digits, which
/// nobody can guess or subscribe to by a wildcard.
pub fn is_reply_topic(topic: &str) -> bool {
    topic.strip_prefix("_reply/").is_some_and(|name| {
        name.len() == REPLY_DIGITS && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::{Subject, is_reply_topic};
    use bulkhead_policy::Broker;

    #[test]
    fn names_are_those_of_the_contract() {
        let (tenant, device) = ("acme".parse().unwrap(), "cam-1".parse().unwrap());
        let on = |subject: Subject<'_>, broker| subject.on(broker, &tenant);
        assert_eq!(on(Subject::Registry, Broker::Nats), "device-connect.acme.registry");
        assert_eq!(on(Subject::Discovery, Broker::Zenoh), "device-connect/acme/discovery");
        assert_eq!(on(Subject::Heartbeat(None), Broker::Nats), "device-connect.acme.*.heartbeat");
        assert_eq!(on(Subject::Heartbeat(None), Broker::Mqtt), "device-connect/acme/+/heartbeat");
        assert_eq!(on(Subject::Command(&device), Broker::Zenoh), "device-connect/acme/cam-1/cmd");
        assert_eq!(on(Subject::Online, Broker::Nats), "device-connect.acme.device.online");
        assert_eq!(on(Subject::Offline, Broker::Mqtt), "device-connect/acme/device/offline");
    }

    #[test]
    fn the_device_comes_from_the_name() {
        let beating = |name| Subject::beating(name, Broker::Mqtt).map(|id| id.to_string());
        assert_eq!(beating("device-connect/acme/cam-1/heartbeat").as_deref(), Some("cam-1"));
        for other in
            ["device-connect/acme/device/heartbeat", "device-connect/acme/cam-1/cmd", "x", ""]
        {
            assert_eq!(beating(other), None, "{other}");
        }
    }

    #[test]
    fn answers_go_to_reply_topics_alone() {
        assert!(is_reply_topic(&format!("_reply/{}", "0af9".repeat(8))));
        for other in
            ["_reply/", "_reply/+", "device-connect/globex/x/cmd", "$tenant/globex/_reply/a"]
        {
            assert!(!is_reply_topic(other), "{other}");
        }
        assert!(!is_reply_topic(&format!("_reply/{}", "0AF9".repeat(8))));
        assert!(!is_reply_topic(&format!("_reply/{}/x", "0af9".repeat(8))));
    }
}
