use super::Registration;
use bulkhead_policy::DeviceId;
use serde_json::{Map, Value, json};

/// Longest id of a request, which comes back in the answer, in bytes.
const MAX_ID_BYTES: usize = 1024;

/// A request that has been read, and is to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Comes back in the answer; null where there is none.
    pub id: Value,
    /// What is asked for.
    pub method: String,
    /// With which parameters.
    pub params: Map<String, Value>,
}

/// Why a request is not fulfilled.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// Which kind of error.
    pub code: Code,
    /// What is wrong, for people.
    pub message: String,
}

/// The kinds of error (JSON-RPC 2.0 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// There is no such method.
    MethodNotFound,
    /// What was sent is no JSON, or not what the method needs.
    InvalidParams,
    /// The registration failed for another reason.
    Internal,
    /// The discovery failed for another reason.
    Failed,
}

impl Code {
    /// The number on the wire.
    pub fn number(self) -> i32 {
        match self {
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            Self::Failed => -32000,
        }
    }
}

impl RpcError {
    /// An error with its message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The answer that says so.
    pub fn answer(&self, id: &Value) -> Vec<u8> {
        let error = json!({"code": self.code.number(), "message": self.message});
        json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string().into_bytes()
    }
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// The answer to it, if it cannot be read: with its id, where that could be read.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<u8>> {
        let invalid =
            |id: &Value, message: &str| RpcError::new(Code::InvalidParams, message).answer(id);
        let mut value: Value = serde_json::from_slice(bytes)
            .map_err(|error| invalid(&Value::Null, &format!("no JSON: {error}")))?;
        let Some(request) = value.as_object_mut() else {
            return Err(invalid(&Value::Null, "a request is an object"));
        };
        let id = match request.remove("id") {
            Some(id @ Value::Number(_)) => id,
            Some(Value::String(id)) if id.len() <= MAX_ID_BYTES => Value::String(id),
            Some(Value::String(_)) => return Err(invalid(&Value::Null, "id is too long")),
            _ => Value::Null,
        };
        let method = match request.remove("method") {
            Some(Value::String(method)) => method,
            _ => String::new(),
        };
        let params = match request.remove("params") {
            Some(Value::Object(params)) => params,
            None | Some(Value::Null) => Map::new(),
            Some(_) => return Err(invalid(&id, "params is an object")),
        };
        Ok(Self { id, method, params })
    }
}

/// The answer with a result that is JSON already.
pub fn with_result(id: &Value, result: &str) -> Vec<u8> {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}").into_bytes()
}

/// An answer, or an error in its place if it has more than `most` bytes.
pub fn fitting(answer: Vec<u8>, id: &Value, most: usize) -> Vec<u8> {
    if answer.len() <= most { answer } else { too_large().answer(id) }
}

/// What is said in place of an answer that is larger than a message may be.
pub fn too_large() -> RpcError {
    let message = "the answer is larger than a message may be; ask for pages with limit";
    RpcError::new(Code::Failed, message)
}

/// The question to a device for its registration; `nonce` tells one question from another.
pub fn pull_request(device: &DeviceId, nonce: i64) -> Vec<u8> {
    let id = format!("re-reg-{device}-{nonce}");
    json!({"jsonrpc": "2.0", "id": id, "method": "requestRegistration", "params": {}})
        .to_string()
        .into_bytes()
}

/// What a device answered to it. `None` if that is no registration of this device.
pub fn pulled(bytes: &[u8], device: &DeviceId) -> Option<Registration> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    let Value::Object(params) = value.get_mut("result")?.take() else { return None };
    let registration = Registration::parse(params).ok()?;
    (registration.device == *device).then_some(registration)
}

#[cfg(test)]
mod tests {
    use super::{Code, Request, RpcError, fitting, pull_request, pulled, with_result};
    use serde_json::{Value, json};

    #[test]
    fn what_cannot_be_read_is_answered() {
        let answered = |bytes: &[u8]| -> Value {
            serde_json::from_slice(&Request::parse(bytes).unwrap_err()).unwrap()
        };
        for (bytes, id) in [
            (&b"{"[..], Value::Null),
            (b"[]", Value::Null),
            (b"\xff", Value::Null),
            (br#"{"id":"x","method":"m","params":[1]}"#, json!("x")),
        ] {
            let answer = answered(bytes);
            assert_eq!(answer["error"]["code"], -32602, "{answer}");
            assert_eq!(answer["id"], id);
        }
    }

    #[test]
    fn an_id_comes_back_as_it_was() {
        for id in [json!("a\"b"), json!(7), json!(1.5)] {
            let text = json!({"id": id, "method": "m"}).to_string();
            let request = Request::parse(text.as_bytes()).unwrap();
            assert_eq!(request.id, id);
            let answer: Value = serde_json::from_slice(&with_result(&request.id, "{}")).unwrap();
            assert_eq!(answer, json!({"jsonrpc": "2.0", "id": id, "result": {}}));
        }
        let odd = Request::parse(br#"{"id":{"a":1},"method":7}"#).unwrap();
        assert_eq!((odd.id, odd.method), (Value::Null, String::new()));
        let error = RpcError::new(Code::Failed, "no").answer(&Value::Null);
        let error: Value = serde_json::from_slice(&error).unwrap();
        assert_eq!(error["error"], json!({"code": -32000, "message": "no"}));
    }

    #[test]
    fn no_answer_is_larger_than_a_message_may_be() {
        let long = json!({"id": "x".repeat(1_025), "method": "m"}).to_string();
        let refused: Value =
            serde_json::from_slice(&Request::parse(long.as_bytes()).unwrap_err()).unwrap();
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&Value::Null, &json!(-32602)));
        let answer = with_result(&json!(1), "\"0123456789\"");
        assert_eq!(fitting(answer.clone(), &json!(1), answer.len()), answer);
        let short: Value = serde_json::from_slice(&fitting(answer, &json!(1), 10)).unwrap();
        assert_eq!((&short["id"], &short["error"]["code"]), (&json!(1), &json!(-32000)));
    }

    #[test]
    fn a_device_speaks_for_itself_alone() {
        let device = "cam-1".parse().unwrap();
        let asked: Value = serde_json::from_slice(&pull_request(&device, 5)).unwrap();
        assert_eq!(
            (&asked["id"], &asked["method"]),
            (&json!("re-reg-cam-1-5"), &json!("requestRegistration"))
        );
        let answer = |id: &str| {
            let params = json!({"device_id": id, "device_ttl": 15, "capabilities": {},
                "identity": {}, "status": {"ts": "t"}});
            json!({"result": params}).to_string()
        };
        assert!(pulled(answer("cam-1").as_bytes(), &device).is_some());
        assert!(pulled(answer("cam-2").as_bytes(), &device).is_none());
        assert!(pulled(b"{\"result\":[]}", &device).is_none());
    }
}
