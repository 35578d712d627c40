//! What a client gets of what it asks for.

use crate::broker::Shared;
use crate::codec::{Connect, Property, ReasonCode, Version, connack};
use crate::settings::{MAX_CLIENT_ID_BYTES, TOPIC_ALIASES};
use bulkhead_policy::{Scope, service};
use std::borrow::Cow;
use std::sync::Arc;

/// What the broker grants of what CONNECT asks for.
pub(super) struct Terms {
    pub(super) client_id: Arc<str>,
    pub(super) expiry: u32,
    pub(super) server_keep_alive: Option<u16>,
    method: Option<Box<str>>,
}

impl Terms {
    pub(super) fn agree(
        shared: &Shared,
        connect: &Connect<'_>,
        client_id: Cow<'_, str>,
        method: Option<&str>,
    ) -> Self {
        let settings = &shared.settings;
        let asked = match connect.version {
            Version::V5 => connect.properties.session_expiry().unwrap_or(0),
            // MQTT 3.1.1 §3.1.2.4: a session that is not clean is kept.
            Version::V311 if connect.clean_start => 0,
            Version::V311 => u32::MAX,
        };
        let longest = settings.max_keep_alive;
        let is_too_long = connect.keep_alive == 0 || connect.keep_alive > longest;
        let shortened = connect.version == Version::V5 && is_too_long;
        Self {
            client_id: client_id.into(),
            expiry: asked.min(settings.max_session_expiry),
            server_keep_alive: shortened.then_some(longest),
            method: method.map(Box::from),
        }
    }

    pub(super) fn connack(
        &self,
        shared: &Shared,
        connect: &Connect<'_>,
        scope: &Scope,
        present: bool,
    ) -> Vec<u8> {
        let settings = &shared.settings;
        let asked = connect.properties.session_expiry().unwrap_or(0);
        let max_packet = u32::try_from(settings.max_packet).unwrap_or(u32::MAX);
        let mut properties = vec![
            Property::ReceiveMaximum(settings.max_in_flight),
            Property::MaximumPacketSize(max_packet),
            Property::TopicAliasMaximum(TOPIC_ALIASES),
        ];
        if self.expiry != asked {
            properties.push(Property::SessionExpiry(self.expiry));
        }
        if connect.client_id.is_empty() {
            properties.push(Property::AssignedClientId(&self.client_id));
        }
        properties.extend(self.server_keep_alive.map(Property::ServerKeepAlive));
        properties.extend(self.method.as_deref().map(Property::AuthenticationMethod));
        if *scope == Scope::Service {
            let offers = [service::TENANT_NAMES, service::PUBLISHER];
            properties.extend(offers.map(|offer| Property::UserProperty(service::OFFERS, offer)));
        }
        let mut out = Vec::new();
        connack(&mut out, connect.version, present, ReasonCode::SUCCESS, &properties);
        out
    }
}

/// The client id, or one that the broker makes up (MQTT 5 §3.1.3.1).
pub(super) fn client_id<'a>(connect: &Connect<'a>) -> Result<Cow<'a, str>, ReasonCode> {
    if connect.client_id.len() > MAX_CLIENT_ID_BYTES {
        return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    }
    if !connect.client_id.is_empty() {
        return Ok(Cow::Borrowed(connect.client_id));
    }
    if connect.version == Version::V311 && !connect.clean_start {
        return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    }
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| ReasonCode::SERVER_UNAVAILABLE)?;
    Ok(Cow::Owned(format!("auto-{:032x}", u128::from_be_bytes(random))))
}
