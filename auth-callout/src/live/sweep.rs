//! Cutting live connections whose rights have changed.

use super::system::{Closings, SystemClient, SystemError};
use crate::callout::BACKEND;
use bulkhead_control::Authenticator;
use bulkhead_control::audit::{Event, Record};
use bulkhead_control::identity::Session;
use bulkhead_policy::{DenyReason, Verdict};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// When the connections are looked at after a change. The last look is later than any server waits
/// for an answer (two seconds), so a connection that was let in just before the change is seen too.
const LOOKS: &[Duration] = &[
    Duration::ZERO,
    Duration::from_millis(150),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
    Duration::from_millis(1_700),
    Duration::from_millis(2_500),
];

/// How long after the last look a server may take to tell of a connection's end.
const LAST_WORD: Duration = Duration::from_millis(500);

/// Looks at live connections and cuts those that may not stay.
#[derive(Clone, Debug)]
pub struct Sweeper {
    system: SystemClient,
    auth: Arc<Authenticator>,
}

impl Sweeper {
    /// A sweeper that acts through the system account.
    pub fn new(system: SystemClient, auth: Arc<Authenticator>) -> Self {
        Self { system, auth }
    }

    /// Hears from now on which connections end, of one account or of all: to be asked before anything
    /// is done that ends some. `None` if that cannot be heard, which ends them no less.
    pub async fn listen(&self, account: Option<&str>) -> Option<Closings> {
        let listening = self.system.closings(account).await;
        listening
            .inspect_err(|error| tracing::warn!(%error, "nobody tells when connections end"))
            .ok()
    }

    /// Looks now and a few times more, at the connections of one account or of all, and notes when those
    /// have ended that may not stay.
    pub async fn run(&self, account: Option<&str>, closings: Option<Closings>) {
        let looks = async {
            let mut cut = HashSet::new();
            let started = tokio::time::Instant::now();
            for look in LOOKS {
                tokio::time::sleep_until(started + *look).await;
                if let Err(error) = self.look(account, &mut cut).await {
                    tracing::warn!(%error, "live connections could not be looked at; trying again");
                }
            }
            tokio::time::sleep(LAST_WORD).await;
        };
        let closings = async {
            if let Some(mut closings) = closings {
                while let Some(user) = closings.next().await {
                    self.closed(&user);
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = looks => {}
            () = closings => {}
        }
    }

    /// Counts the time to cut of a connection that has ended, if it was not to stay.
    fn closed(&self, user: &str) {
        let Some(Session { principal, rights }) = Session::parse(user) else { return };
        if let Err(reason) = self.auth.reassess(&principal, rights)
            && let Some(cut) = self.auth.cut(&principal, None, reason)
        {
            self.auth.metrics().closed(BACKEND, &cut);
        }
    }

    fn may_stay(&self, session: &Session) -> Verdict<()> {
        self.auth.reassess(&session.principal, session.rights)?;
        let is_exhausted = |tenant| self.auth.usage().is_exhausted(tenant);
        match session.principal.tenant() {
            Some(tenant) if is_exhausted(tenant) => Err(DenyReason::DailyQuotaExceeded),
            _ => Ok(()),
        }
    }

    async fn look(
        &self,
        account: Option<&str>,
        cut: &mut HashSet<(String, u64)>,
    ) -> Result<(), SystemError> {
        self.system
            .review(account, |server, connection| {
                let Some(session) = Session::parse(&connection.authorized_user) else {
                    return true;
                };
                let Err(reason) = self.may_stay(&session) else { return true };
                // A connection is told to go until it is gone, but counted once.
                if cut.insert((server.to_owned(), connection.cid)) {
                    self.auth.metrics().terminated(BACKEND, reason, 1);
                    let record = Record::new(Event::Terminate, BACKEND);
                    self.auth.audit().record(record.of(&session.principal).because(reason));
                    tracing::info!(principal = %session.principal, %reason, "cut");
                }
                false
            })
            .await
    }
}
