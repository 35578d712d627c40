use crate::wire::{MAX_FACT, Registration};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// A device's document, as JSON in pieces: heartbeats change the status alone, and most of it is read far
/// more often than it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// From the beginning to the value of `status`.
    head: Box<str>,
    /// The value of `status`.
    pub(super) status: Box<str>,
    /// What comes after it.
    tail: Box<str>,
    ttl: u32,
}

impl Document {
    /// The document of a registration.
    pub(crate) fn new(registration: Registration, id: Uuid, at: Timestamp) -> Self {
        let Registration { device, ttl, capabilities, identity, status } = registration;
        let registry = json!({
            "device_registration_id": id.to_string(),
            "registered_at": crate::wire::seconds(at),
        });
        let mut rest = Map::new();
        rest.insert("device_id".to_owned(), json!(device));
        rest.insert("device_ttl".to_owned(), json!(ttl));
        rest.insert("capabilities".to_owned(), Value::Object(capabilities));
        rest.insert("identity".to_owned(), Value::Object(identity));
        Self::of(&rest, &status, &registry, ttl)
    }

    fn of(
        rest: &Map<String, Value>,
        status: &Map<String, Value>,
        registry: &Value,
        ttl: u32,
    ) -> Self {
        let mut head = String::from("{");
        for (name, value) in rest {
            head += &format!("{}:{value},", json!(name));
        }
        head += "\"status\":";
        let status = serde_json::to_string(status).unwrap_or_default();
        let tail = format!(",\"registry\":{registry}}}");
        Self { head: head.into(), status: status.into(), tail: tail.into(), ttl }
    }

    /// Reads a document of the store, whoever wrote it. `None` for what is none.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let Value::Object(mut rest) = serde_json::from_slice(text).ok()? else { return None };
        let ttl = u32::try_from(rest.get("device_ttl")?.as_u64()?).ok().filter(|ttl| *ttl > 0)?;
        let Value::Object(status) = rest.remove("status")? else { return None };
        let registry = rest.remove("registry").unwrap_or_else(|| json!({}));
        Some(Self::of(&rest, &status, &registry, ttl.min(crate::wire::MAX_TTL)))
    }

    /// How long the device is present after its last sign of life, in seconds.
    pub(crate) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// The status with these keys over it; `None` if it has them already.
    pub(super) fn merged(&self, news: &Map<String, Value>) -> Option<String> {
        let mut status: Map<String, Value> = serde_json::from_str(&self.status).ok()?;
        if news.iter().all(|(name, value)| status.get(name) == Some(value)) {
            return None;
        }
        status.extend(news.clone());
        serde_json::to_string(&status).ok()
    }

    /// Appends the whole document.
    pub(crate) fn write(&self, out: &mut String) {
        out.push_str(&self.head);
        out.push_str(&self.status);
        out.push_str(&self.tail);
    }

    /// The whole document.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(self.len());
        self.write(&mut text);
        text
    }

    /// Bytes of the whole.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.status.len() + self.tail.len()
    }

    /// What of it is asked for: type, location, number of functions.
    pub(super) fn facts(&self) -> (Option<Box<str>>, Option<Box<str>>, u32) {
        let whole: Value = serde_json::from_str(&self.text()).unwrap_or_default();
        let text = |part: &str, name: &str| searchable(whole.get(part)?.get(name)?);
        let functions = whole.get("capabilities").and_then(|c| c.get("functions")?.as_array());
        let functions = functions.map_or(0, |all| u32::try_from(all.len()).unwrap_or(u32::MAX));
        (text("identity", "device_type"), text("status", "location"), functions)
    }

    /// The location that the status names.
    pub(super) fn location(&self) -> Option<Box<str>> {
        let status: Value = serde_json::from_str(&self.status).ok()?;
        searchable(status.get("location")?)
    }
}

/// A type or a location that devices are found by. What a heartbeat says beyond that stays in the document.
fn searchable(value: &Value) -> Option<Box<str>> {
    value.as_str().filter(|text| text.len() <= MAX_FACT).map(Box::from)
}

#[cfg(test)]
mod tests {
    use super::Document;
    use crate::wire::{MAX_FACT, Registration};
    use jiff::Timestamp;
    use serde_json::{Value, json};
    use uuid::Uuid;

    fn document() -> Document {
        let params = json!({"device_id": "cam-1", "device_ttl": 15, "capabilities": {"functions":
            [{"name": "f"}]}, "identity": {"device_type": "camera"},
            "status": {"ts": "t", "location": "roof"}});
        let registration = Registration::parse(params.as_object().unwrap().clone()).unwrap();
        let at: Timestamp = "2026-11-22T02:58:05Z".parse().unwrap();
        Document::new(registration, Uuid::nil(), at)
    }

    #[test]
    fn a_document_is_the_contracts_and_reads_back() {
        let document = document();
        let value: Value = serde_json::from_str(&document.text()).unwrap();
        assert_eq!(value["device_id"], "cam-1");
        assert_eq!(value["device_ttl"], 15);
        assert_eq!(
            value["registry"],
            json!({"device_registration_id": Uuid::nil().to_string(),
            "registered_at": "2026-11-22T02:58:05Z"})
        );
        assert_eq!(document.len(), document.text().len());
        assert_eq!(Document::parse(document.text().as_bytes()), Some(document.clone()));
        assert_eq!(document.facts(), (Some("camera".into()), Some("roof".into()), 1));
        for other in
            ["", "[]", "{}", r#"{"device_ttl":15,"status":1}"#, r#"{"device_ttl":0,"status":{}}"#]
        {
            assert_eq!(Document::parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_status_is_merged_shallowly_and_only_if_it_differs() {
        let mut document = document();
        let news = |value: Value| value.as_object().unwrap().clone();
        assert_eq!(document.merged(&news(json!({"location": "roof"}))), None);
        let merged = document.merged(&news(json!({"location": null, "own": {"a": 1}}))).unwrap();
        document.status = merged.into();
        let value: Value = serde_json::from_str(&document.text()).unwrap();
        assert_eq!(
            (&value["status"]["location"], &value["status"]["own"]),
            (&Value::Null, &json!({"a": 1}))
        );
        assert_eq!(value["status"]["ts"], "t");
        assert_eq!(document.location(), None);
        for (len, is_found) in [(MAX_FACT, true), (MAX_FACT + 1, false)] {
            let long = "x".repeat(len);
            document.status = document.merged(&news(json!({"location": long}))).unwrap().into();
            assert_eq!(document.location().is_some(), is_found);
            assert_eq!(document.facts().1, document.location());
            assert!(document.text().contains(&long), "nothing is lost");
        }
    }
}
