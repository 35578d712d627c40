use super::{Properties, PropertiesBuf, Property, PropertyId, Scope};
use crate::codec::QoS;
use crate::codec::read::Reader;

const EACH: [Property<'static>; 27] = [
    Property::PayloadFormat(1),
    Property::MessageExpiry(1),
    Property::ContentType("a"),
    Property::ResponseTopic("a"),
    Property::CorrelationData(b"a"),
    Property::SubscriptionIdentifier(200),
    Property::SessionExpiry(1),
    Property::AssignedClientId("a"),
    Property::ServerKeepAlive(1),
    Property::AuthenticationMethod("a"),
    Property::AuthenticationData(b"a"),
    Property::RequestProblemInformation(true),
    Property::WillDelay(1),
    Property::RequestResponseInformation(true),
    Property::ResponseInformation("a"),
    Property::ServerReference("a"),
    Property::ReasonString("a"),
    Property::ReceiveMaximum(1),
    Property::TopicAliasMaximum(1),
    Property::TopicAlias(1),
    Property::MaximumQos(QoS::AtLeastOnce),
    Property::RetainAvailable(true),
    Property::UserProperty("a", "b"),
    Property::MaximumPacketSize(1),
    Property::WildcardSubscriptionAvailable(true),
    Property::SubscriptionIdentifiersAvailable(true),
    Property::SharedSubscriptionAvailable(true),
];

fn read(properties: &[Property<'_>], scope: Scope) -> bool {
    let all: PropertiesBuf = properties.iter().copied().collect();
    let raw = all.as_properties().raw();
    let mut bytes = vec![u8::try_from(raw.len()).unwrap()];
    bytes.extend_from_slice(raw);
    Properties::read(&mut Reader::new(&bytes), scope).is_ok()
}

#[test]
fn the_table_has_every_identifier_of_the_specification() {
    let known: Vec<u8> = (0..=u8::MAX).filter(|b| PropertyId::from_byte(*b).is_some()).collect();
    let written: Vec<u8> = EACH.iter().map(|property| property.id() as u8).collect();
    assert_eq!(known, written);
}

#[test]
fn each_packet_takes_its_own_properties_and_no_others() {
    let taken = |scope| -> Vec<u8> {
        EACH.iter()
            .filter(|property| match property {
                // Data is nothing without its method.
                Property::AuthenticationData(_) => {
                    read(&[Property::AuthenticationMethod("a"), **property], scope)
                }
                _ => read(&[**property], scope),
            })
            .map(|property| property.id() as u8)
            .collect()
    };
    for (scope, ids) in [
        (Scope::CONNECT, &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27][..]),
        (Scope::WILL, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26]),
        (
            Scope::CONNACK,
            &[
                0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27,
                0x28, 0x29, 0x2A,
            ],
        ),
        (Scope::CLIENT_PUBLISH, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26]),
        (Scope::SERVER_PUBLISH, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26]),
        (Scope::ACK, &[0x1F, 0x26]),
        (Scope::SUBSCRIBE, &[0x0B, 0x26]),
        (Scope::UNSUBSCRIBE, &[0x26]),
        (Scope::CLIENT_DISCONNECT, &[0x11, 0x1F, 0x26]),
        (Scope::SERVER_DISCONNECT, &[0x1C, 0x1F, 0x26]),
        (Scope::AUTH, &[0x15, 0x16, 0x1F, 0x26]),
    ] {
        assert_eq!(taken(scope), ids, "{scope:?}");
    }
}

#[test]
fn only_user_properties_repeat_and_a_servers_subscription_identifiers() {
    let scopes = (0..11).map(|bit| Scope(1 << bit));
    for scope in scopes {
        for property in EACH {
            let method = Property::AuthenticationMethod("a");
            let once = match property {
                Property::AuthenticationData(_) => vec![method, property],
                _ => vec![property],
            };
            let mut twice = once.clone();
            twice.push(property);
            let repeats = match property.id() {
                PropertyId::UserProperty => true,
                PropertyId::SubscriptionIdentifier => scope == Scope::SERVER_PUBLISH,
                _ => false,
            };
            assert_eq!(
                read(&twice, scope),
                repeats && read(&once, scope),
                "{scope:?} {property:?}"
            );
        }
    }
}

#[test]
fn every_property_is_found_among_all_others() {
    let all: PropertiesBuf = EACH.into_iter().collect();
    let all = all.as_properties();
    assert!(all.iter().eq(EACH));
    assert!(all.raw_items().map(|(id, _)| id).eq(EACH.iter().map(Property::id)));
    assert!(all.raw_items().flat_map(|(_, item)| item).eq(all.raw()));
    assert_eq!(all.payload_format(), Some(1));
    assert_eq!(all.topic_alias(), Some(1));
    assert_eq!(all.subscription_identifier(), Some(200));
    assert_eq!(all.shared_subscription_available(), Some(true));
    assert_eq!(all.authentication_data(), Some(&b"a"[..]));
    assert_eq!(all.maximum_qos(), Some(QoS::AtLeastOnce));
    assert!(all.user_properties().eq([("a", "b")]));
    assert!(all.subscription_identifiers().eq([200]));
    assert_eq!(Properties::default().topic_alias(), None);
}
