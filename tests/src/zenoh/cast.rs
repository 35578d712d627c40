use super::{Entrance, Greeting, Link, Witness};
use crate::stack::{Stack, Token};
use crate::wait::WITHIN;
use tokio::time::timeout;
use zenoh::{Config, Session};

impl Stack {
    /// Where Zenoh clients come in over TCP.
    pub fn zenoh_tcp(&self) -> Entrance {
        self.entrance(Link::Tcp)
    }

    /// A session of Zenoh's library with a token, over TCP.
    pub async fn zenoh_session(&self, token: &Token) -> Session {
        self.zenoh_tcp().connect(&self.token(token)).await
    }

    /// A session of a member of a tenant, over TCP.
    pub async fn zenoh_member(&self, tenant: &str) -> Session {
        self.zenoh_session(&Token::role(tenant, "member")).await
    }

    /// What a raw client with a token says first.
    pub fn greeting(&self, token: &Token) -> Greeting {
        Greeting::new(&self.token(token))
    }

    /// Somebody of a tenant who hears everything there, over TCP.
    pub async fn zenoh_witness(&self, tenant: &str) -> Witness {
        let session = self.zenoh_member(tenant).await;
        Witness::new(tenant, session, self.zenoh_member(tenant).await).await
    }
}

/// Opens a session of Zenoh's library.
///
/// # Errors
/// What the library says.
pub async fn open(config: Config) -> zenoh::Result<Session> {
    timeout(WITHIN, zenoh::open(config)).await.expect("a session, or none, in time")
}

/// Waits until the router has taken over what the session has declared.
pub async fn settle(session: &Session, tenant: &str) {
    let nobody = format!("device-connect/{tenant}/nobody");
    let answers = session.liveliness().get(nobody).await.unwrap();
    timeout(WITHIN, async { while answers.recv_async().await.is_ok() {} }).await.unwrap();
}

/// What others answer to a query, once all of it has come: `key payload`, in order of keys.
pub async fn asked(session: &Session, keys: &str) -> Vec<String> {
    let answers = session.get(keys).await.unwrap();
    let mut heard = Vec::new();
    let hearing = async {
        while let Ok(answer) = answers.recv_async().await {
            heard.push(match answer.result() {
                Ok(sample) => {
                    let payload = sample.payload().try_to_string().unwrap();
                    format!("{} {payload}", sample.key_expr())
                }
                Err(error) => format!("error {:?}", error.payload().try_to_string()),
            });
        }
    };
    timeout(WITHIN, hearing).await.expect("all answers in time");
    // A session answers about itself, without asking anybody.
    let own = format!("@/{}/session/", session.zid());
    heard.retain(|answer| !answer.starts_with(&own));
    heard.sort_unstable();
    heard
}
