//! Asking the servers through the system account.

use async_nats::{Client, Message, Subscriber};
use bulkhead_policy::Mark;
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How long one server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// After this long without another answer, every server has answered.
const QUIET: Duration = Duration::from_millis(200);

/// Connections asked for at a time: with the longest names still well below a message's size.
const PAGE: usize = 256;

/// A client of the system account.
#[derive(Clone, Debug)]
pub struct SystemClient {
    client: Client,
}

/// Why the servers could not be asked or told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemError {
    /// The message did not get through.
    #[error("the system account cannot be used: {0}; check that its user still exists")]
    Client(String),
    /// No server answered.
    #[error("no server answered {0} in time")]
    Silent(&'static str),
    /// A server refused.
    #[error("a server refused {0}: {1}")]
    Refused(&'static str, String),
}

/// A live connection.
#[derive(Clone, Debug, Deserialize)]
pub struct Connection {
    /// Its number at its server.
    pub cid: u64,
    /// The name of its user: the one in the JWT, where it came through the callout.
    #[serde(default)]
    pub authorized_user: String,
    /// Its account.
    #[serde(default)]
    pub account: String,
}

/// What one server has counted since it began.
#[derive(Clone, Debug)]
pub struct ServerUse {
    /// Its id, which is another each time it starts.
    pub server: String,
    /// Of each account that it knows.
    pub accounts: Vec<AccountUse>,
}

/// What one server has counted of an account.
#[derive(Clone, Debug, Deserialize)]
pub struct AccountUse {
    /// The account.
    #[serde(rename = "acc")]
    pub account: String,
    /// Its connections there.
    #[serde(default)]
    pub conns: u64,
    /// Its leaf nodes there.
    #[serde(default)]
    pub leafnodes: u64,
    #[serde(default)]
    received: Received,
}

/// Messages and bytes, and what of them came by other servers, who count it too.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Received {
    #[serde(flatten)]
    all: RawMark,
    routes: RawMark,
    gateways: RawMark,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct RawMark {
    msgs: u64,
    bytes: u64,
}

impl AccountUse {
    /// What its clients have published there.
    pub fn published(&self) -> Mark {
        let Received { all, routes, gateways } = &self.received;
        Mark {
            messages: all.msgs.saturating_sub(routes.msgs).saturating_sub(gateways.msgs),
            bytes: all.bytes.saturating_sub(routes.bytes).saturating_sub(gateways.bytes),
        }
    }
}

#[derive(Deserialize)]
struct AccountUses {
    #[serde(default)]
    account_statz: Vec<AccountUse>,
}

#[derive(Serialize)]
struct AccountsQuery<'a> {
    accounts: &'a [String],
    include_unused: bool,
}

#[derive(Deserialize)]
struct Started {
    #[serde(default)]
    server: Server,
    statsz: Start,
}

#[derive(Deserialize)]
struct Start {
    start: Timestamp,
}

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(default)]
    server: Server,
    data: Option<T>,
    error: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
struct Server {
    #[serde(default)]
    id: String,
}

#[derive(Deserialize)]
struct Connections {
    #[serde(default)]
    total: usize,
    #[serde(default)]
    offset: usize,
    #[serde(default)]
    connections: Vec<Connection>,
}

#[derive(Serialize)]
struct ConnectionsQuery<'a> {
    auth: bool,
    limit: usize,
    offset: usize,
    #[serde(rename = "acc", skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
}

impl SystemClient {
    /// Asks through this client, which has to be one of the system account.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Tells the servers of an account. It returns when the first of them has it; they tell each
    /// other.
    ///
    /// # Errors
    /// [`SystemError`].
    pub async fn update_account(&self, jwt: String) -> Result<(), SystemError> {
        #[derive(Deserialize)]
        struct Updated {
            code: u16,
        }
        const WHAT: &str = "an account update";
        let message = self.request("$SYS.REQ.CLAIMS.UPDATE", jwt.into(), WHAT).await?;
        let answer: Answer<Updated> = parse(&message, WHAT)?;
        match answer {
            Answer { data: Some(Updated { code: 200 }), .. } => Ok(()),
            Answer { error, .. } => {
                Err(SystemError::Refused(WHAT, error.unwrap_or_default().to_string()))
            }
        }
    }

    /// All accounts that one of the servers has, by public key.
    ///
    /// # Errors
    /// [`SystemError`].
    pub async fn accounts(&self) -> Result<HashMap<String, String>, SystemError> {
        const WHAT: &str = "for its accounts";
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(client)?;
        // Not the hash of what any server has, so one of them sends everything.
        let nothing = Bytes::from_static(b"-");
        self.client
            .publish_with_reply("$SYS.REQ.CLAIMS.PACK", inbox, nothing)
            .await
            .map_err(client)?;
        let mut accounts = HashMap::new();
        loop {
            let message = timeout(TIMEOUT, answers.next())
                .await
                .map_err(|_| SystemError::Silent(WHAT))?
                .ok_or(SystemError::Silent(WHAT))?;
            if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                return Err(SystemError::Silent(WHAT));
            }
            if message.payload.is_empty() {
                return Ok(accounts);
            }
            let text = String::from_utf8_lossy(&message.payload);
            if let Some((account, jwt)) = text.split_once('|') {
                accounts.insert(account.to_owned(), jwt.to_owned());
            }
        }
    }

    /// Shows `may_stay` every live connection with its server's id, of one account or of all, on every
    /// server of the cluster as the answers come in, and closes those that may not.
    ///
    /// It does not wait for connections to be closed; whoever wants to know looks again.
    ///
    /// # Errors
    /// [`SystemError`] if no server answers at all.
    pub async fn review(
        &self,
        account: Option<&str>,
        mut may_stay: impl FnMut(&str, &Connection) -> bool + Send,
    ) -> Result<(), SystemError> {
        const WHAT: &str = "for its connections";
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(client)?;
        let page_at = |offset| {
            let query = ConnectionsQuery { auth: true, limit: PAGE, offset, account };
            Bytes::from(serde_json::to_vec(&query).unwrap_or_default())
        };
        self.client
            .publish_with_reply("$SYS.REQ.SERVER.PING.CONNZ", inbox.clone(), page_at(0))
            .await
            .map_err(client)?;
        let mut deadline = Instant::now() + TIMEOUT;
        let mut answered = false;
        let mut open_pages = 0_usize;
        while let Ok(Some(message)) = timeout_at(deadline, answers.next()).await {
            if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                break;
            }
            answered = true;
            let answer: Answer<Connections> = parse(&message, WHAT)?;
            let Some(page) = answer.data else { continue };
            open_pages = open_pages.saturating_sub(usize::from(page.offset > 0));
            let next = page.offset + page.connections.len();
            if !page.connections.is_empty() && next < page.total {
                let subject = format!("$SYS.REQ.SERVER.{}.CONNZ", answer.server.id);
                self.client
                    .publish_with_reply(subject, inbox.clone(), page_at(next))
                    .await
                    .map_err(client)?;
                open_pages += 1;
            }
            for connection in &page.connections {
                if !may_stay(&answer.server.id, connection) {
                    self.kick(&answer.server.id, connection.cid).await?;
                }
            }
            let wait = if open_pages > 0 { TIMEOUT } else { QUIET };
            deadline = Instant::now() + wait;
        }
        self.client.flush().await.map_err(client)?;
        if answered { Ok(()) } else { Err(SystemError::Silent(WHAT)) }
    }

    /// Hears of connections that end from now on, of one account or of all.
    ///
    /// # Errors
    /// [`SystemError`]; nothing waits for it for long.
    pub async fn closings(&self, account: Option<&str>) -> Result<Closings, SystemError> {
        let subject = format!("$SYS.ACCOUNT.{}.DISCONNECT", account.unwrap_or("*"));
        let listening = timeout(QUIET, self.client.subscribe(subject)).await;
        let silent = |_| SystemError::Silent("for connections that end");
        Ok(Closings(listening.map_err(silent)?.map_err(client)?))
    }

    /// What every server of the cluster has counted of these accounts.
    ///
    /// # Errors
    /// [`SystemError`] if no server answers at all.
    pub async fn used(&self, accounts: &[String]) -> Result<Vec<ServerUse>, SystemError> {
        const WHAT: &str = "for what accounts use";
        // A server that nobody of an account is connected to at the moment has counted it all the same.
        let query = AccountsQuery { accounts, include_unused: true };
        let query = serde_json::to_vec(&query).unwrap_or_default();
        let answers = self.all("$SYS.REQ.ACCOUNT.PING.STATZ", query.into(), WHAT).await?;
        let read = |message: &Message| {
            let answer: Answer<AccountUses> = parse(message, WHAT)?;
            let accounts = answer.data.map(|data| data.account_statz).unwrap_or_default();
            Ok(ServerUse { server: answer.server.id, accounts })
        };
        answers.iter().map(read).collect()
    }

    /// When every server of the cluster began, by its id.
    ///
    /// # Errors
    /// [`SystemError`] if no server answers at all.
    pub async fn starts(&self) -> Result<HashMap<String, Timestamp>, SystemError> {
        const WHAT: &str = "when it began";
        let answers = self.all("$SYS.REQ.SERVER.PING.STATSZ", Bytes::new(), WHAT).await?;
        let read = |message: &Message| {
            let answer: Started = serde_json::from_slice(&message.payload)
                .map_err(|error| SystemError::Refused(WHAT, error.to_string()))?;
            Ok((answer.server.id, answer.statsz.start))
        };
        answers.iter().map(read).collect()
    }

    /// One answer of every server.
    async fn all(
        &self,
        subject: &'static str,
        body: Bytes,
        what: &'static str,
    ) -> Result<Vec<Message>, SystemError> {
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(client)?;
        self.client.publish_with_reply(subject, inbox, body).await.map_err(client)?;
        let mut all = Vec::new();
        let mut deadline = Instant::now() + TIMEOUT;
        while let Ok(Some(message)) = timeout_at(deadline, answers.next()).await {
            if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                break;
            }
            all.push(message);
            deadline = Instant::now() + QUIET;
        }
        if all.is_empty() { Err(SystemError::Silent(what)) } else { Ok(all) }
    }

    async fn kick(&self, server: &str, cid: u64) -> Result<(), SystemError> {
        let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
        // A server does nothing for a request that it could not answer, so it is given an inbox,
        // which nobody reads.
        let inbox = self.client.new_inbox();
        let body = format!("{{\"cid\":{cid}}}");
        self.client.publish_with_reply(subject, inbox, body.into()).await.map_err(client)
    }

    async fn request(
        &self,
        subject: &'static str,
        body: Bytes,
        what: &'static str,
    ) -> Result<Message, SystemError> {
        timeout(TIMEOUT, self.client.request(subject, body))
            .await
            .map_err(|_| SystemError::Silent(what))?
            .map_err(client)
    }
}

/// Connections that end, as servers tell of them.
#[derive(Debug)]
pub struct Closings(Subscriber);

impl Closings {
    /// The name of the next one's user, unless its client left by itself; `None` when nothing is heard
    /// any more.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let message = self.0.next().await?;
            if let Ok(told) = serde_json::from_slice::<Closing>(&message.payload)
                && told.reason != "Client Closed"
            {
                return Some(told.client.user);
            }
        }
    }
}

#[derive(Deserialize)]
struct Closing {
    client: ClosedClient,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct ClosedClient {
    #[serde(default)]
    user: String,
}

fn client(error: impl std::fmt::Display) -> SystemError {
    SystemError::Client(error.to_string())
}

fn parse<T: DeserializeOwned>(
    message: &Message,
    what: &'static str,
) -> Result<Answer<T>, SystemError> {
    serde_json::from_slice(&message.payload)
        .map_err(|error| SystemError::Refused(what, error.to_string()))
}
