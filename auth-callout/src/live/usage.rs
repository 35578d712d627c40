//! What tenants publish over NATS: their messages go past us, so the servers' own counters are read.

use super::follow::Accounts;
use super::system::{SystemClient, SystemError};
use bulkhead_control::Authenticator;
use bulkhead_control::usage::Gauges;
use bulkhead_policy::{Day, Resource, TenantId};
use jiff::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Accounts asked about at a time.
const BATCH: usize = 256;

/// How many times a server may be silent before nobody needs to read it.
const SILENT: u32 = 12;

/// What is known of what tenants have on NATS. Subscriptions are limited for each connection there.
const REPORTED: &[Resource] = &[Resource::Connections];

/// Reads the servers' counters. Of all replicas, one reads those of a server.
#[derive(Debug)]
pub struct UsageReader {
    system: SystemClient,
    auth: Arc<Authenticator>,
    accounts: Accounts,
    /// Accounts and whose they are. It does not change which account is whose.
    names: HashMap<TenantId, String>,
    servers: HashMap<String, Server>,
    connections: Arc<Mutex<HashMap<TenantId, u64>>>,
}

#[derive(Clone, Copy, Debug)]
struct Server {
    began: Timestamp,
    silent: u32,
}

impl UsageReader {
    /// Nothing was read yet. What tenants have is reported from now on.
    pub fn new(system: SystemClient, auth: Arc<Authenticator>, accounts: Accounts) -> Self {
        let connections = Arc::<Mutex<HashMap<TenantId, u64>>>::default();
        let known = Arc::clone(&connections);
        auth.usage().report(REPORTED, move || {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let gauges = |n: &u64| Gauges::from([(Resource::Connections, *n)]);
            known.iter().map(|(tenant, n)| (tenant.clone(), gauges(n))).collect()
        });
        let (names, servers) = (HashMap::new(), HashMap::new());
        Self { system, auth, accounts, names, servers, connections }
    }

    /// Reads until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let interval = self.auth.usage().interval();
        while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            match stop.run_until_cancelled(self.look()).await {
                Some(Err(error)) => {
                    tracing::warn!(%error, "what tenants use on NATS is not known; trying again");
                }
                Some(Ok(())) => {}
                None => return,
            }
        }
    }

    async fn look(&mut self) -> Result<(), SystemError> {
        let accounts = self.tenants();
        let mut connections: HashMap<TenantId, u64> = HashMap::new();
        self.servers.values_mut().for_each(|server| server.silent += 1);
        for batch in accounts.chunks(BATCH) {
            let names: Vec<_> = batch.iter().map(|(account, _)| account.clone()).collect();
            let tenants: HashMap<_, _> = batch.iter().cloned().collect();
            for used in self.system.used(&names).await? {
                let Some(server) = self.server(&used.server).await? else { continue };
                let (usage, counter) = (self.auth.usage(), counter(&used.server));
                if !usage.reads(&counter) {
                    continue;
                }
                let begun_today = Day::of(server.began) == Day::of(usage.now());
                let marks = used.accounts.iter().filter_map(|account| {
                    let tenant = tenants.get(&account.account)?;
                    *connections.entry(tenant.clone()).or_default() +=
                        account.conns + account.leafnodes;
                    Some((tenant.clone(), account.published()))
                });
                usage.read(&counter, begun_today, marks);
            }
        }
        *self.connections.lock().unwrap_or_else(PoisonError::into_inner) = connections;
        self.servers.retain(|_, server| server.silent < SILENT);
        let wanted: BTreeSet<_> = self.servers.keys().map(|server| counter(server)).collect();
        self.auth.usage().want(wanted);
        Ok(())
    }

    /// The directory's tenants that have an account, by that.
    fn tenants(&mut self) -> Vec<(String, TenantId)> {
        let snapshot = self.auth.directory().snapshot();
        self.names.retain(|tenant, _| snapshot.get(tenant).is_some());
        for (tenant, _) in snapshot.iter() {
            if !self.names.contains_key(tenant)
                && let Some(account) = self.accounts.of(tenant)
            {
                self.names.insert(tenant.clone(), account);
            }
        }
        self.names.iter().map(|(tenant, account)| (account.clone(), tenant.clone())).collect()
    }

    /// What is known of a server that has just answered.
    async fn server(&mut self, id: &str) -> Result<Option<Server>, SystemError> {
        if !self.servers.contains_key(id) {
            for (server, began) in self.system.starts().await? {
                self.servers.entry(server).or_insert(Server { began, silent: 0 });
            }
        }
        let known = self.servers.get_mut(id);
        Ok(known.map(|server| {
            server.silent = 0;
            *server
        }))
    }
}

/// The name of a server's counters.
fn counter(server: &str) -> String {
    format!("nats-{server}")
}
