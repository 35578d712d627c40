use serde_json::Value;

/// Where a server listens, from the file that it writes once it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) client: String,
    pub(crate) monitor: String,
    pub(crate) cluster: Option<String>,
}

impl Ports {
    /// Nothing while the file is incomplete: the server does not write it in one step.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let file: Value = serde_json::from_str(text).ok()?;
        let first = |key: &str| Some(file.get(key)?.get(0)?.as_str()?.to_owned());
        Some(Self {
            client: first("nats")?,
            monitor: first("monitoring")?,
            cluster: first("cluster"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Ports;

    const CLUSTERED: &str = r#"{
        "nats": ["nats://127.0.0.1:20001"],
        "monitoring": ["http://127.0.0.1:20002"],
        "cluster": ["nats://127.0.0.1:40003"]
    }"#;

    #[test]
    fn a_whole_file_is_read() {
        let ports = Ports::parse(CLUSTERED).unwrap();
        assert_eq!(ports.client, "nats://127.0.0.1:20001");
        assert_eq!(ports.monitor, "http://127.0.0.1:20002");
        assert_eq!(ports.cluster.as_deref(), Some("nats://127.0.0.1:40003"));
    }

    #[test]
    fn a_server_alone_has_no_cluster() {
        let text = r#"{"nats":["tls://127.0.0.1:1"],"monitoring":["http://127.0.0.1:2"]}"#;
        assert_eq!(Ports::parse(text).unwrap().cluster, None);
    }

    #[test]
    fn a_partial_file_is_not() {
        for end in 0..CLUSTERED.len() {
            assert_eq!(Ports::parse(CLUSTERED.get(..end).unwrap()), None, "{end}");
        }
        for text in ["{}", r#"{"nats":[],"monitoring":[]}"#, r#"{"nats":[1],"monitoring":["x"]}"#] {
            assert_eq!(Ports::parse(text), None, "{text}");
        }
    }
}
