//! Where in a CONNECT the tenant's token stands.

use crate::jwt::ConnectOpts;
use bulkhead_policy::{DenyReason, Verdict};

/// What every JSON Web Token starts with: `{"`, in base64.
const TOKEN_START: &str = "eyJ";

/// What a client presents as proof of who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier<'a> {
    /// A tenant token: `auth_token`, the password, or the user of `nats://<token>@host`.
    Token(&'a str),
    /// A NATS user JWT, whose key the server has checked the client to hold. The server puts its
    /// sentinel here for clients that present none.
    UserJwt(&'a str),
    /// Nothing.
    None,
}

impl<'a> Carrier<'a> {
    /// Finds the token. Carriers that hold different tokens are a conflict: nobody should have to
    /// guess which of them counts.
    ///
    /// # Errors
    /// [`DenyReason::CarrierConflict`].
    pub fn find(opts: &'a ConnectOpts) -> Verdict<Self> {
        let user = Some(opts.user.as_str()).filter(|user| {
            user.starts_with(TOKEN_START) && opts.pass.is_empty() && opts.auth_token.is_empty()
        });
        let carriers = [Some(opts.auth_token.as_str()), Some(opts.pass.as_str()), user];
        let mut tokens = carriers.into_iter().flatten().filter(|text| !text.is_empty());
        match tokens.next() {
            // MQTT passwords arrive in both fields.
            Some(token) if tokens.all(|other| other == token) => Ok(Self::Token(token)),
            Some(_) => Err(DenyReason::CarrierConflict),
            None if opts.jwt.is_empty() => Ok(Self::None),
            None => Ok(Self::UserJwt(&opts.jwt)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Carrier;
    use crate::jwt::ConnectOpts;
    use bulkhead_policy::DenyReason;

    fn find(change: impl Fn(&mut ConnectOpts)) -> Result<String, DenyReason> {
        let mut opts = ConnectOpts::default();
        change(&mut opts);
        Carrier::find(&opts).map(|carrier| format!("{carrier:?}"))
    }

    #[test]
    fn each_carrier_is_found() {
        assert_eq!(find(|o| o.auth_token = "t".into()).unwrap(), r#"Token("t")"#);
        assert_eq!(find(|o| o.pass = "t".into()).unwrap(), r#"Token("t")"#);
        assert_eq!(find(|o| o.user = "eyJt".into()).unwrap(), r#"Token("eyJt")"#);
        assert_eq!(find(|o| o.jwt = "j".into()).unwrap(), r#"UserJwt("j")"#);
        assert_eq!(find(|_| ()).unwrap(), "None");
    }

    #[test]
    fn a_token_wins_over_the_sentinel_and_loses_to_a_contradiction() {
        let with_sentinel = find(|o| (o.pass, o.jwt) = ("t".into(), "sentinel".into()));
        assert_eq!(with_sentinel.unwrap(), r#"Token("t")"#);
        let both = find(|o| (o.pass, o.auth_token) = ("t".into(), "t".into()));
        assert_eq!(both.unwrap(), r#"Token("t")"#);
        let two = find(|o| (o.pass, o.auth_token) = ("t".into(), "u".into()));
        assert_eq!(two, Err(DenyReason::CarrierConflict));
    }

    #[test]
    fn a_user_name_beside_a_password_is_only_a_name() {
        let named = find(|o| (o.user, o.pass) = ("eyJname".into(), "t".into()));
        assert_eq!(named.unwrap(), r#"Token("t")"#);
    }
}
