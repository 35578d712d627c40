//! Whether a client may have the will that it asks for.

use crate::codec::{Connect, is_topic_name};
use crate::connection::inbound::kept_properties;
use crate::hook::Access;
use crate::realm::{Realm, Will};
use crate::record::Message;
use bulkhead_policy::DenyReason;

/// The will, if the client may publish it.
pub(super) fn agree(
    realm: &Realm,
    access: &dyn Access,
    connect: &Connect<'_>,
) -> Result<Option<Will>, DenyReason> {
    let Some(will) = &connect.will else { return Ok(None) };
    let topic = realm.mounted(will.topic);
    if !is_topic_name(&topic) {
        return Err(DenyReason::NameInvalid);
    }
    let response = will.properties.response_topic().map(|response| realm.mounted(response));
    check_will(access, &topic, response.as_deref(), will.payload.len())?;
    let properties = kept_properties(will.properties);
    let message = Message {
        topic: &topic,
        properties: &properties,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        packet_id: 0,
        deadline: None,
    };
    Ok(Some(Will {
        record: message.to_bytes(),
        expiry: will.properties.message_expiry(),
        delay: will.properties.will_delay().unwrap_or(0),
    }))
}

/// Whether a client may have a will: of this topic, with this response topic, and of so many bytes.
pub(crate) fn check_will(
    access: &dyn Access,
    topic: &str,
    response: Option<&str>,
    payload: usize,
) -> Result<(), DenyReason> {
    access.publish(topic)?;
    if response.is_some_and(|name| !is_topic_name(name) || !access.receives(name)) {
        return Err(DenyReason::ResponseTopicDenied);
    }
    let too_large = |limit| u64::try_from(payload).is_ok_and(|bytes| bytes > limit);
    if access.quotas().payload_bytes.is_some_and(too_large) {
        return Err(DenyReason::PayloadQuotaExceeded);
    }
    Ok(())
}
