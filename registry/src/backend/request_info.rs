//! Who asks over NATS: what a server says in a header of a request that crosses accounts.
//!
//! The server takes out what a client wrote under that name, and puts its own at the end. But it ends lines
//! at `\r\n` alone, and the client library at `\n` too: a line of the client's can pass by the one and be a
//! header to the other, or go on into the server's. So a request is believed only if the name stands there
//! once, in the place where nothing but the server's own line can be.

use crate::fleet::Who;
use async_nats::HeaderMap;
use bulkhead_control::identity::Session;
use bulkhead_policy::{Requester, TenantId};
use serde::Deserialize;

/// What the server's header is called.
const INFO: &str = "Nats-Request-Info";

/// How the server names where the answer to a request goes that has crossed accounts.
pub(super) const CROSSED: &str = "_R_.";

/// What of the header is of use.
#[derive(Deserialize)]
struct Info {
    /// The user's name, which the callout has given.
    #[serde(default)]
    user: String,
}

/// Who asks of a tenant, and wants the answer there.
pub(super) fn who(reply: &str, headers: Option<&HeaderMap>, tenant: &TenantId) -> Who {
    if !reply.starts_with(CROSSED) {
        // The client is in the registry's own account, and whatever stands there is the client's.
        return Who::Untold;
    }
    headers.and_then(|headers| told(headers, tenant)).map_or(Who::Unreadable, Who::Known)
}

fn told(headers: &HeaderMap, tenant: &TenantId) -> Option<Requester> {
    let mut told = None;
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        let is_info = name == INFO;
        if !is_info && mentions(name) {
            return None;
        }
        for value in values {
            if mentions(value.as_str()) {
                return None;
            }
            if is_info && told.replace(value.as_str()).is_some() {
                return None;
            }
        }
    }
    let info: Info = serde_json::from_str(told?).ok()?;
    let principal = Session::parse(&info.user)?.principal;
    let own = principal.tenant().cloned();
    Some(Requester {
        // A service is of no tenant, and may what it may in each.
        tenant: own.unwrap_or_else(|| tenant.clone()),
        device: principal.device,
        role: principal.role,
    })
}

/// Whether the server's line may have become part of this.
fn mentions(text: &str) -> bool {
    text.to_ascii_lowercase().contains(&INFO.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::{INFO, who};
    use crate::fleet::Who;
    use async_nats::HeaderMap;
    use bulkhead_control::identity::Session;
    use bulkhead_policy::{Principal, Requester, Scope};
    use serde_json::json;

    fn info(device: &str) -> String {
        let principal = Principal {
            scope: Scope::Tenant("acme".parse().unwrap()),
            device: Some(device.parse().unwrap()),
            role: "device".parse().unwrap(),
            issuer: "test".into(),
            token_id: None,
            origin: None,
            issued_at: None,
            expires_at: jiff::Timestamp::MAX,
        };
        let user = Session { principal, rights: "00000000000000ff".parse().unwrap() }.name();
        json!({"acc": "A", "user": user}).to_string()
    }

    fn asked(reply: &str, lines: &[(&str, &str)]) -> Who {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, *value);
        }
        who(reply, Some(&headers), &"acme".parse().unwrap())
    }

    #[test]
    fn only_what_the_server_alone_can_have_written_is_believed() {
        let (own, forged) = (info("cam-2"), info("cam-1"));
        let swallowed = format!("a{INFO}: {own}");
        let crossed = |lines: &[(&str, &str)]| asked("_R_.a.b", lines);
        let known: Requester = "acme/cam-2/device".parse().unwrap();
        assert_eq!(crossed(&[("X", "a"), (INFO, &own)]), Who::Known(known));
        for lines in [
            &[][..],
            &[("X", "a")],
            &[(INFO, &forged), (INFO, &own)],
            &[("X", &swallowed)],
            &[(INFO, &forged), ("X", &swallowed)],
            &[(INFO, &forged), ("XNats-Request-Info", &own)],
            &[(INFO, &forged), ("nats-request-info", &own)],
            &[(INFO, &format!("{forged} {INFO}: {own}"))],
            &[(INFO, "{}")],
            &[(INFO, "no JSON")],
        ] {
            assert_eq!(crossed(lines), Who::Unreadable, "{lines:?}");
        }
        assert_eq!(who("_R_.a.b", None, &"acme".parse().unwrap()), Who::Unreadable);
    }

    #[test]
    fn within_one_account_nobody_tells() {
        assert_eq!(asked("_INBOX.a.b", &[(INFO, &info("cam-1"))]), Who::Untold);
        assert_eq!(asked("_INBOX.a.b", &[]), Who::Untold);
    }
}
