//! The forms in which tenants are kept: a TOML file of all, a JSON document of one.

use bulkhead_policy::{Broker, RoleName, Tenant, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Document {
    pub(super) tenants: BTreeMap<TenantId, Tenant>,
}

/// Why a directory's content cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// No TOML or JSON of tenants.
    #[error("{0}")]
    Syntax(String),
    /// Two ids that people and case-insensitive systems take for one.
    #[error("tenants '{0}' and '{1}' differ only in case; rename one of them")]
    CaseClash(TenantId, TenantId),
    /// A role of a tenant that would reach beyond it.
    #[error("role '{role}' of tenant '{tenant}': {cause}")]
    Role {
        /// Whose.
        tenant: TenantId,
        /// Which.
        role: RoleName,
        /// What is wrong with it.
        cause: String,
    },
}

impl Document {
    /// Reads and checks the file.
    pub(super) fn parse(text: &str) -> Result<Self, DocumentError> {
        let document: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
            DocumentError::Syntax(format!("line {line}: {}", error.message()))
        })?;
        check_all(document.tenants.iter())?;
        Ok(document)
    }
}

/// Reads one tenant's JSON: an object and nothing else. (An array of values in the order of the fields
/// would be taken for one.)
pub(super) fn parse_json(text: &[u8]) -> Result<Tenant, serde_json::Error> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text)?;
    serde_json::from_value(fields.into())
}

/// Checks one tenant by itself.
pub(super) fn check(id: &TenantId, tenant: &Tenant) -> Result<(), DocumentError> {
    for (name, role) in &tenant.roles {
        let checked = role.validate(&Broker::ALL).and_then(|()| role.validate_for_tenants());
        checked.map_err(|cause| DocumentError::Role {
            tenant: id.clone(),
            role: name.clone(),
            cause: cause.to_string(),
        })?;
    }
    Ok(())
}

/// Checks each tenant, and their ids against each other.
pub(super) fn check_all<'a>(
    tenants: impl Iterator<Item = (&'a TenantId, &'a Tenant)>,
) -> Result<(), DocumentError> {
    let mut folded = BTreeMap::new();
    for (id, tenant) in tenants {
        check(id, tenant)?;
        if let Some(other) = folded.insert(id.as_str().to_ascii_lowercase(), id) {
            return Err(DocumentError::CaseClash(other.clone(), id.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Document, DocumentError};

    #[test]
    fn reads_tenants_with_everything() {
        let document = Document::parse(
            r#"
            [tenants.acme]
            [tenants.globex]
            status = "suspended"
            tokens_valid_from = "2026-01-01T00:00:00Z"
            quotas.connections = 10
            quotas.jetstream = { streams = 2, consumers = 4, storage_bytes = 1_000_000 }
            revoked_devices.cam-1 = "2026-02-01T00:00:00Z"
            revoked_tokens."a.b/c" = "2026-03-01T00:00:00Z"
            "#,
        )
        .unwrap();
        assert_eq!(document.tenants.len(), 2);
    }

    #[test]
    fn refuses_what_would_be_misread() {
        let error = |text| Document::parse(text).unwrap_err();
        assert!(error("[tenants.acme]\nstatus = \"gone\"").to_string().contains("line 2"));
        assert!(matches!(error("[tenants.\"a.b\"]"), DocumentError::Syntax(_)));
        assert!(matches!(error("[tenants.registry]"), DocumentError::Syntax(_)));
        assert!(matches!(error("[tenants.acme]\n[tenants.Acme]"), DocumentError::CaseClash(..)));
        let role = "[tenants.acme.roles.device]\nsubscribe = [\"device-connect/**\"]";
        assert!(matches!(error(role), DocumentError::Role { .. }));
    }
}
