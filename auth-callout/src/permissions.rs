//! Grants as NATS permissions. The server enforces them, on publishing, subscribing and delivery.

use crate::jwt::{Permission, ResponsePermission, User};
use bulkhead_policy::{Broker, Grants, Pattern, SyntaxError};

/// The user section for these grants.
///
/// # Errors
/// [`SyntaxError`] if a pattern has no form in NATS, which the checks of configuration and directory
/// rule out.
pub fn user(grants: &Grants) -> Result<User, SyntaxError> {
    let publish =
        Permission::only(subjects(grants.publish_allowed())?, subjects(grants.publish_denied())?);
    let subscribe = Permission::only(
        subjects(grants.subscribe_allowed())?,
        subjects(grants.subscribe_denied())?,
    );
    let mut user = User::new(publish, subscribe);
    user.responses = grants.responses().map(|responses| ResponsePermission {
        max: responses.max.into(),
        ttl: i64::try_from(responses.ttl().as_nanos()).unwrap_or(i64::MAX),
    });
    Ok(user)
}

fn subjects(patterns: &[Pattern]) -> Result<Vec<String>, SyntaxError> {
    let mut subjects = Vec::with_capacity(patterns.len() * 2);
    for pattern in patterns {
        subjects.extend(Broker::Nats.render(pattern)?);
    }
    Ok(subjects)
}
