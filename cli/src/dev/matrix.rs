//! The isolation matrix: what one tenant's clients can do within their tenant, and across.

use super::environment::{DevError, Environment};
use super::{mqtt, nats, registry, zenoh};
use serde::Serialize;
use std::fmt;

/// All rows.
#[derive(Clone, Debug)]
pub struct Matrix {
    rows: Vec<Row>,
}

/// One action, tried within the own tenant and on the other.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which broker.
    pub backend: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// What came of it within the own tenant: it has to work, or the row would show nothing.
    pub own: Seen,
    /// What came of it across tenants.
    pub foreign: Seen,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// It worked: the message arrived.
    Arrived,
    /// The broker refused with an error, and nothing arrived.
    Refused,
    /// Nothing arrived, and nobody said why.
    Nothing,
}

impl Matrix {
    /// Tries every row with real clients.
    ///
    /// # Errors
    /// [`DevError`] if a client cannot even connect.
    pub async fn measure(environment: &Environment) -> Result<Self, DevError> {
        let mut rows = nats::measure(environment).await?;
        rows.extend(mqtt::measure(environment).await?);
        rows.extend(zenoh::measure(environment).await?);
        rows.extend(registry::measure(environment).await?);
        Ok(Self { rows })
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether every row holds.
    pub fn holds(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::holds)
    }
}

impl Row {
    /// Whether it works within the tenant and not across.
    pub fn holds(&self) -> bool {
        self.own == Seen::Arrived && self.foreign != Seen::Arrived
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Arrived => "arrived",
            Self::Refused => "refused",
            Self::Nothing => "nothing arrived",
        })
    }
}
