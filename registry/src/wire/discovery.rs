use super::{Code, Request, RpcError};
use serde_json::{Map, Value};

/// Most devices of one page; a larger limit is taken for this one.
pub const MAX_PAGE: usize = 200;

/// What somebody wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `discovery/listDevices`: those that a filter leaves, all of them or a page.
    List(Filter, Option<Page>),
    /// `discovery/getDevice`: one, by what may be its id.
    Get(String),
    /// `discovery/describeFleet`: how many of what, and where.
    Describe,
}

/// Which devices: those whose type and location contain these, whatever their case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Part of `identity.device_type`, in lower case.
    pub device_type: Option<String>,
    /// Part of `status.location`, in lower case.
    pub location: Option<String>,
}

/// Which of them, in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many to leave out first.
    pub offset: usize,
    /// How many at most: 1 to [`MAX_PAGE`].
    pub limit: usize,
}

impl Question {
    /// Understands a request.
    ///
    /// # Errors
    /// [`Code::MethodNotFound`], or [`Code::InvalidParams`] in the words of the contract.
    pub fn of(request: &Request) -> Result<Self, RpcError> {
        let params = &request.params;
        match &*request.method {
            "discovery/listDevices" => {
                let filter = Filter {
                    device_type: text(params, "device_type")?,
                    location: text(params, "location")?,
                };
                Ok(Self::List(filter, page(params)?))
            }
            "discovery/getDevice" => match params.get("device_id") {
                Some(Value::String(id)) if !id.is_empty() => Ok(Self::Get(id.clone())),
                _ => Err(invalid("device_id required".to_owned())),
            },
            "discovery/describeFleet" => Ok(Self::Describe),
            _ => Err(RpcError::new(Code::MethodNotFound, "method not found")),
        }
    }
}

impl Filter {
    /// Bytes of what it asks for.
    pub fn bytes(&self) -> usize {
        let of = |part: &Option<String>| part.as_ref().map_or(0, String::len);
        of(&self.device_type) + of(&self.location)
    }

    /// Whether a device is among them.
    pub fn admits(&self, device_type: Option<&str>, location: Option<&str>) -> bool {
        let contains = |wanted: &Option<String>, has: Option<&str>| {
            wanted
                .as_ref()
                .is_none_or(|part| has.is_some_and(|text| text.to_lowercase().contains(part)))
        };
        contains(&self.device_type, device_type) && contains(&self.location, location)
    }
}

fn invalid(message: String) -> RpcError {
    RpcError::new(Code::InvalidParams, message)
}

fn text(params: &Map<String, Value>, name: &str) -> Result<Option<String>, RpcError> {
    match params.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.to_lowercase())),
        Some(other) => Err(invalid(format!("{name} must be a string, got {}", shown(other)))),
    }
}

fn page(params: &Map<String, Value>) -> Result<Option<Page>, RpcError> {
    let offset = integer(params, "offset")?.unwrap_or(0);
    if offset < 0 {
        return Err(invalid(format!("offset must be non-negative, got {offset}")));
    }
    let Some(limit) = integer(params, "limit")? else { return Ok(None) };
    if limit <= 0 {
        return Err(invalid(format!("limit must be positive, got {limit}")));
    }
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MAX_PAGE);
    Ok(Some(Page { offset, limit }))
}

fn integer(params: &Map<String, Value>, name: &str) -> Result<Option<i64>, RpcError> {
    let wrong =
        |value: &Value| Err(invalid(format!("{name} must be an integer, got {}", shown(value))));
    match params.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value @ Value::Number(number)) => match number.as_i64() {
            Some(integer) => Ok(Some(integer)),
            None => wrong(value),
        },
        // The contract's first implementation takes digits for a number.
        Some(value @ Value::String(text)) => match text.trim().parse() {
            Ok(integer) => Ok(Some(integer)),
            Err(_) => wrong(value),
        },
        Some(other) => wrong(other),
    }
}

/// A value in an error's text, which clients know with single quotes, and no longer than anyone reads.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::{Filter, Page, Question};
    use crate::wire::{Code, Request};
    use serde_json::{Value, json};

    fn asked(method: &str, params: Value) -> Result<Question, (Code, String)> {
        let request = json!({"id": 1, "method": method, "params": params}).to_string();
        Question::of(&Request::parse(request.as_bytes()).unwrap())
            .map_err(|error| (error.code, error.message))
    }

    fn list(params: Value) -> Result<Question, String> {
        asked("discovery/listDevices", params).map_err(|(code, message)| {
            assert_eq!(code, Code::InvalidParams);
            message
        })
    }

    #[test]
    fn errors_are_those_of_the_contract() {
        let wrong = |params| list(params).unwrap_err();
        assert_eq!(wrong(json!({"limit": 0})), "limit must be positive, got 0");
        assert_eq!(wrong(json!({"limit": "x"})), "limit must be an integer, got 'x'");
        assert_eq!(wrong(json!({"offset": -1})), "offset must be non-negative, got -1");
        assert_eq!(wrong(json!({"offset": "a"})), "offset must be an integer, got 'a'");
        assert_eq!(wrong(json!({"limit": 1.5})), "limit must be an integer, got 1.5");
        assert_eq!(wrong(json!({"limit": [1]})), "limit must be an integer, got [1]");
        assert_eq!(wrong(json!({"device_type": 7})), "device_type must be a string, got 7");
        let missing = Err((Code::InvalidParams, "device_id required".to_owned()));
        assert_eq!(asked("discovery/getDevice", json!({})), missing);
        assert_eq!(asked("discovery/getDevice", json!({"device_id": ""})), missing);
        let unknown = Err((Code::MethodNotFound, "method not found".to_owned()));
        assert_eq!(asked("discovery/other", json!({})), unknown);
    }

    #[test]
    fn a_page_is_bounded() {
        let paged =
            |offset, limit| Ok(Question::List(Filter::default(), Some(Page { offset, limit })));
        assert_eq!(list(json!({"limit": 10_000})), paged(0, 200));
        assert_eq!(list(json!({"offset": "7", "limit": "3"})), paged(7, 3));
        assert_eq!(list(json!({"offset": 7})), Ok(Question::List(Filter::default(), None)));
    }

    #[test]
    fn filters_find_parts_in_any_case() {
        let Ok(Question::List(filter, None)) = list(json!({"device_type": "CAM", "location": ""}))
        else {
            panic!("it is a list")
        };
        assert!(filter.admits(Some("Ip-Camera"), None));
        assert!(!filter.admits(Some("lock"), None) && !filter.admits(None, None));
    }
}
