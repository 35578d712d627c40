use super::settle;
use crate::wait::eventually;
use std::sync::{Arc, Mutex};
use zenoh::Session;
use zenoh::pubsub::Subscriber;
use zenoh::query::Queryable;
use zenoh::sample::{Locality, SampleKind};

/// Payloads that are longer are heard by their length.
const LONGEST: usize = 64;

/// A member of a tenant that hears everything there: messages, queries and who is alive. It answers
/// queries with `witness`.
pub struct Witness {
    /// Its tenant.
    pub tenant: String,
    /// Another session of the tenant, whose messages it hears.
    pub friend: Session,
    heard: Arc<Mutex<Vec<String>>>,
    _hearing: (Subscriber<()>, Subscriber<()>, Queryable<()>),
    _session: Session,
}

impl Witness {
    /// Hears on one session, beside another one of the same tenant.
    pub async fn new(tenant: &str, session: Session, friend: Session) -> Self {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = |kind: &'static str| {
            let heard = Arc::clone(&heard);
            move |what: String| heard.lock().unwrap().push(format!("{kind} {what}"))
        };
        let all = format!("device-connect/{tenant}/**");
        let (put, deleted) = (log("put"), log("delete"));
        let messages = session
            .declare_subscriber(&all)
            .allowed_origin(Locality::Remote)
            .callback(move |sample| {
                let payload = match sample.payload().try_to_string() {
                    Ok(text) if text.len() <= LONGEST => text.into_owned(),
                    _ => format!("{} bytes", sample.payload().len()),
                };
                match sample.kind() {
                    SampleKind::Put => put(format!("{} {payload}", sample.key_expr())),
                    SampleKind::Delete => deleted(sample.key_expr().to_string()),
                }
            })
            .await
            .unwrap();
        let (alive, gone) = (log("alive"), log("gone"));
        let tokens = session
            .liveliness()
            .declare_subscriber(&all)
            .callback(move |sample| match sample.kind() {
                SampleKind::Put => alive(sample.key_expr().to_string()),
                SampleKind::Delete => gone(sample.key_expr().to_string()),
            })
            .await
            .unwrap();
        let asked = log("query");
        let queries = session
            .declare_queryable(format!("device-connect/{tenant}/*/cmd"))
            .allowed_origin(Locality::Remote)
            .callback(move |query| {
                asked(query.key_expr().to_string());
                let key = query.key_expr().clone();
                tokio::task::block_in_place(|| {
                    let _ = zenoh::Wait::wait(query.reply(key, "witness"));
                });
            })
            .await
            .unwrap();
        settle(&session, tenant).await;
        settle(&friend, tenant).await;
        Self {
            tenant: tenant.to_owned(),
            friend,
            heard,
            _hearing: (messages, tokens, queries),
            _session: session,
        }
    }

    /// What it has heard, in order: `put device-connect/acme/x hello`, `delete …`, `query …`, `alive …`
    /// and `gone …`.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until it has heard something.
    pub async fn hears(&self, what: &str) {
        let want = format!("{} hears {what}", self.tenant);
        eventually(&want, || self.heard().iter().any(|heard| heard == what)).await;
    }

    /// Makes sure that it has heard nothing but what is said now, by somebody of its own tenant.
    pub async fn undisturbed(&self) {
        self.heard_only(&[]).await;
    }

    /// Makes sure that it has heard just this so far, in any order, and forgets it.
    pub async fn heard_only(&self, expected: &[&str]) {
        let marker = format!("device-connect/{}/marker/event/now", self.tenant);
        self.friend.put(&marker, "now").await.unwrap();
        let marker = format!("put {marker} now");
        self.hears(&marker).await;
        let mut heard = std::mem::take(&mut *self.heard.lock().unwrap());
        heard.retain(|heard| *heard != marker);
        heard.sort_unstable();
        let mut expected: Vec<_> = expected.iter().map(|text| (*text).to_owned()).collect();
        expected.sort_unstable();
        assert_eq!(heard, expected, "{} hears just this", self.tenant);
    }
}
