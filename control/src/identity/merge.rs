//! What several files trust, in one: each once, in their order.

use super::keys::IdentityError;
use crate::tls::certificates;
use pem::{EncodeConfig, LineEnding, Pem};
use serde_json::{Value, json};
use std::path::Path;

/// Certificates in PEM. `path` is the file that this is for.
pub(super) fn authorities(path: &Path, texts: &[&str]) -> Result<String, IdentityError> {
    let mut all = Vec::new();
    for text in texts {
        let found = certificates(text).ok_or_else(|| unusable(path, "holds no certificates"))?;
        for one in found {
            let one = Pem::new("CERTIFICATE", one.as_ref());
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
    Ok(pem::encode_many_config(&all, EncodeConfig::new().set_line_ending(LineEnding::LF)))
}

/// Key sets (RFC 7517 §5).
pub(super) fn keys(path: &Path, texts: &[&str]) -> Result<String, IdentityError> {
    let mut all: Vec<Value> = Vec::new();
    for text in texts {
        let set: Value = serde_json::from_str(text).unwrap_or_default();
        let found = set.get("keys").and_then(Value::as_array);
        let found = found.ok_or_else(|| unusable(path, "holds no set of keys (JWKS)"))?;
        for key in found {
            if !all.contains(key) {
                all.push(key.clone());
            }
        }
    }
    Ok(json!({ "keys": all }).to_string())
}

fn unusable(path: &Path, what: &str) -> IdentityError {
    IdentityError::Unusable { path: path.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{authorities, keys};
    use std::path::Path;

    #[test]
    fn each_key_is_there_once_and_in_its_place() {
        let at = Path::new("keys");
        let merged =
            keys(at, &[r#"{"keys":[{"x":"a"},{"x":"b"}]}"#, r#"{"keys":[{"x":"b"},{"x":"c"}]}"#]);
        assert_eq!(merged.unwrap(), r#"{"keys":[{"x":"a"},{"x":"b"},{"x":"c"}]}"#);
        for text in ["", "[]", "{}", "{\"keys\":1}"] {
            assert!(
                keys(at, &[text]).unwrap_err().to_string().starts_with("keys holds no"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_certificate_is_not_passed_on() {
        for text in ["", "nothing of the kind", "-----BEGIN CERTIFICATE-----\n-----END"] {
            let error = authorities(Path::new("ca.pem"), &[text]).unwrap_err().to_string();
            assert!(error.starts_with("ca.pem holds no certificates"), "{error}");
        }
    }
}
