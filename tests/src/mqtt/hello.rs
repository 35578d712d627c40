use bulkhead_mqtt_broker::codec::{Connect, PropertiesBuf, Property, QoS, Version, Will, connect};

/// What a client says of itself in CONNECT. The token is the password, of user `any`.
#[derive(Clone, Debug)]
pub struct Hello {
    /// What it speaks.
    pub version: Version,
    /// The client id.
    pub client_id: String,
    /// The user name.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// Whether it wants no session of before.
    pub clean_start: bool,
    /// Seconds.
    pub keep_alive: u16,
    properties: PropertiesBuf,
    will: Option<Testament>,
}

#[derive(Clone, Debug)]
struct Testament {
    topic: String,
    payload: String,
    qos: QoS,
    retain: bool,
    properties: PropertiesBuf,
}

impl Hello {
    /// A client of MQTT 5, without a session of before or after.
    pub fn new(client_id: &str, token: &str) -> Self {
        Self {
            version: Version::V5,
            client_id: client_id.to_owned(),
            user: Some("any".to_owned()),
            password: Some(token.to_owned()),
            clean_start: true,
            keep_alive: 60,
            properties: PropertiesBuf::new(),
            will: None,
        }
    }

    /// Speaks another version.
    #[must_use]
    pub fn version(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// Wants its session of before, and keeps it for so many seconds.
    #[must_use]
    pub fn resume(self, expiry: u32) -> Self {
        Self { clean_start: false, ..self }.with(Property::SessionExpiry(expiry))
    }

    /// Wants no session of before.
    #[must_use]
    pub fn clean(self) -> Self {
        Self { clean_start: true, ..self }
    }

    /// Changes the keep alive, in seconds.
    #[must_use]
    pub fn keep_alive(self, keep_alive: u16) -> Self {
        Self { keep_alive, ..self }
    }

    /// Adds a property.
    #[must_use]
    pub fn with(mut self, property: Property<'_>) -> Self {
        self.properties.push(property);
        self
    }

    /// Shows no token as password.
    #[must_use]
    pub fn without_password(self) -> Self {
        Self { user: None, password: None, ..self }
    }

    /// Leaves a will of QoS 1.
    #[must_use]
    pub fn will(self, topic: &str, payload: &str) -> Self {
        let will = Testament {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: PropertiesBuf::new(),
        };
        Self { will: Some(will), ..self }
    }

    /// Adds a property to the will.
    #[must_use]
    pub fn will_with(mut self, property: Property<'_>) -> Self {
        self.will.as_mut().unwrap().properties.push(property);
        self
    }

    /// The will is retained.
    #[must_use]
    pub fn will_retained(mut self) -> Self {
        self.will.as_mut().unwrap().retain = true;
        self
    }

    /// The packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut out = Vec::new();
        connect(
            &mut out,
            &Connect {
                version: self.version,
                clean_start: self.clean_start,
                keep_alive: self.keep_alive,
                client_id: &self.client_id,
                properties: self.properties.as_properties(),
                will: self.will.as_ref().map(|will| Will {
                    qos: will.qos,
                    retain: will.retain,
                    topic: &will.topic,
                    properties: will.properties.as_properties(),
                    payload: will.payload.as_bytes(),
                }),
                user_name: self.user.as_deref(),
                password: self.password.as_deref().map(str::as_bytes),
            },
        );
        out
    }
}
