use bulkhead_policy::DeviceId;
use serde_json::{Map, Value, json};

/// Longest time to live, in seconds: a day. A device that beats more rarely is not present.
pub const MAX_TTL: u32 = 86_400;

/// Longest type, and longest location, by which a device is found, in bytes.
pub const MAX_FACT: usize = 256;

/// Most functions, and most events, of one device.
const MAX_CAPABILITIES: usize = 10_000;

/// What a device says of itself when it registers: checked, with what is missing filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// Who it is.
    pub device: DeviceId,
    /// How long it is present after its last sign of life, in seconds: 1 to [`MAX_TTL`].
    pub ttl: u32,
    /// What it can do.
    pub capabilities: Map<String, Value>,
    /// What it is.
    pub identity: Map<String, Value>,
    /// How it is.
    pub status: Map<String, Value>,
}

/// What a field may hold.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// A text that devices are found by.
    Fact,
    Integer,
    Number,
    Flag,
    Texts,
}

/// A field: its name, its kind, and whether it may be null.
type Field = (&'static str, Kind, bool);

const IDENTITY: &[Field] = &[
    ("arch", Kind::Text, false),
    ("host_cpu", Kind::Text, false),
    ("dram_mb", Kind::Integer, false),
    ("device_type", Kind::Fact, true),
    ("manufacturer", Kind::Text, true),
    ("model", Kind::Text, true),
    ("serial_number", Kind::Text, true),
    ("firmware_version", Kind::Text, true),
    ("capabilities", Kind::Texts, false),
];

const STATUS: &[Field] = &[
    ("ts", Kind::Text, false),
    ("location", Kind::Fact, true),
    ("busy_score", Kind::Number, true),
    ("availability", Kind::Text, true),
    ("task_stack", Kind::Texts, true),
    ("battery", Kind::Integer, true),
    ("online", Kind::Flag, true),
];

impl Registration {
    /// Reads the parameters of `registerDevice`, or the answer to `requestRegistration`.
    ///
    /// # Errors
    /// What is wrong, with the name of the field.
    pub fn parse(mut params: Map<String, Value>) -> Result<Self, String> {
        let device = match params.get("device_id") {
            Some(Value::String(id)) => {
                DeviceId::parse(id).map_err(|error| format!("device_id: {error}"))?
            }
            _ => return Err("device_id: a text is required".to_owned()),
        };
        let ttl = params.get("device_ttl").and_then(Value::as_u64);
        let ttl =
            ttl.and_then(|ttl| u32::try_from(ttl).ok()).filter(|ttl| (1..=MAX_TTL).contains(ttl));
        let ttl = ttl.ok_or_else(|| {
            format!("device_ttl: a whole number of seconds from 1 to {MAX_TTL} is required")
        })?;
        let mut part = |name: &str| match params.remove(name) {
            Some(Value::Object(part)) => Ok(part),
            _ => Err(format!("{name}: an object is required")),
        };
        let (mut capabilities, mut identity, mut status) =
            (part("capabilities")?, part("identity")?, part("status")?);
        check_capabilities(&capabilities)?;
        check(&identity, IDENTITY, "identity")?;
        check(&status, STATUS, "status")?;
        if !status.contains_key("ts") {
            return Err("status.ts: a text is required".to_owned());
        }
        fill(
            &mut capabilities,
            json!({"description": "", "functions": [], "events": [], "labels": null}),
        );
        fill(
            &mut identity,
            json!({"arch": "arm64", "host_cpu": "generic", "dram_mb": 0, "device_type": null,
                "manufacturer": null, "model": null, "serial_number": null,
                "firmware_version": null, "capabilities": []}),
        );
        fill(
            &mut status,
            json!({"location": null, "busy_score": null, "availability": null,
                "task_stack": null, "battery": null, "online": null}),
        );
        Ok(Self { device, ttl, capabilities, identity, status })
    }
}

fn check(part: &Map<String, Value>, fields: &[Field], under: &str) -> Result<(), String> {
    for (name, kind, may_be_null) in fields {
        let Some(value) = part.get(*name) else { continue };
        if value.is_null() && *may_be_null {
            continue;
        }
        let (holds, wanted) = match kind {
            Kind::Text => (value.is_string(), "a text"),
            Kind::Fact => (
                value.as_str().is_some_and(|text| text.len() <= MAX_FACT),
                "a text of at most 256 bytes",
            ),
            Kind::Integer => (value.is_i64() || value.is_u64(), "a whole number"),
            Kind::Number => (value.is_number(), "a number"),
            Kind::Flag => (value.is_boolean(), "true or false"),
            Kind::Texts => (
                value.as_array().is_some_and(|all| all.iter().all(Value::is_string)),
                "a list of texts",
            ),
        };
        if !holds {
            return Err(format!("{under}.{name}: {wanted} is required"));
        }
    }
    Ok(())
}

/// What can be called and what is told of has a name.
fn check_capabilities(capabilities: &Map<String, Value>) -> Result<(), String> {
    for list in ["functions", "events"] {
        let items = match capabilities.get(list) {
            None => continue,
            Some(Value::Array(items)) if items.len() <= MAX_CAPABILITIES => items,
            Some(Value::Array(_)) => {
                return Err(format!(
                    "capabilities.{list}: at most {MAX_CAPABILITIES} are possible"
                ));
            }
            Some(_) => return Err(format!("capabilities.{list}: a list is required")),
        };
        for (i, item) in items.iter().enumerate() {
            if !item.get("name").is_some_and(Value::is_string) {
                return Err(format!("capabilities.{list}.{i}.name: a text is required"));
            }
        }
    }
    Ok(())
}

fn fill(part: &mut Map<String, Value>, defaults: Value) {
    let Value::Object(defaults) = defaults else { return };
    for (name, value) in defaults {
        part.entry(name).or_insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::Registration;
    use serde_json::{Map, Value, json};

    fn parse(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Registration, String> {
        let mut params = json!({"device_id": "cam-1", "device_ttl": 15, "capabilities": {},
            "identity": {"device_type": "camera", "own": 1}, "status": {"ts": "t", "also": [2]}});
        change(params.as_object_mut().unwrap());
        Registration::parse(params.as_object().unwrap().clone())
    }

    #[test]
    fn what_is_missing_is_filled_in_and_what_is_unknown_is_kept() {
        let registration = parse(|_| {}).unwrap();
        assert_eq!(
            Value::Object(registration.identity),
            json!({"arch": "arm64", "host_cpu": "generic", "dram_mb": 0, "device_type": "camera",
                "manufacturer": null, "model": null, "serial_number": null,
                "firmware_version": null, "capabilities": [], "own": 1})
        );
        assert_eq!(
            Value::Object(registration.status),
            json!({"ts": "t", "location": null, "busy_score": null, "availability": null,
                "task_stack": null, "battery": null, "online": null, "also": [2]})
        );
        assert_eq!(
            Value::Object(registration.capabilities),
            json!({"description": "", "functions": [], "events": [], "labels": null})
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(65_536);
        for id in ["", "*", "a/b/../c", "a\n", "a.b", ">", "device", "a\0b", &long] {
            let error = parse(|p| drop(p.insert("device_id".into(), json!(id)))).unwrap_err();
            assert!(error.starts_with("device_id: "), "{error}");
        }
        for ttl in [json!(0), json!(-1), json!(1_000_000_000), json!("15"), json!(1.5), json!(null)]
        {
            let error = parse(|p| drop(p.insert("device_ttl".into(), ttl))).unwrap_err();
            assert!(error.starts_with("device_ttl: "), "{error}");
        }
        for (field, value, named) in [
            ("identity", json!(null), "identity: "),
            ("identity", json!({"dram_mb": "x"}), "identity.dram_mb: "),
            ("identity", json!({"capabilities": [1]}), "identity.capabilities: "),
            ("status", json!({}), "status.ts: "),
            ("status", json!({"ts": null}), "status.ts: "),
            ("status", json!({"ts": "t", "online": "yes"}), "status.online: "),
            (
                "identity",
                json!({"device_type": "x".repeat(257)}),
                "identity.device_type: a text of",
            ),
            (
                "status",
                json!({"ts": "t", "location": "x".repeat(257)}),
                "status.location: a text of",
            ),
            ("capabilities", json!({"functions": {}}), "capabilities.functions: "),
            ("capabilities", json!({"events": [{}]}), "capabilities.events.0.name: "),
        ] {
            let error = parse(|p| drop(p.insert(field.into(), value))).unwrap_err();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
