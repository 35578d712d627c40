//! The rows of Zenoh.

use super::deployment::{Pace, Party, Target};
use super::ear::{Ear, Heard, Mark, Space};
use super::identity::{Pem, Shown};
use super::probe::{ANSWER, Client, Listening, Side, Sides, converse};
use super::registry;
use super::report::{Cannot, Judged, Seen, Trial};
use bulkhead_policy::Broker;
use data_encoding::BASE64;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use zenoh::query::{ConsolidationMode, QueryTarget};
use zenoh::sample::Locality;
use zenoh::{Config, Session};

/// What the report calls it.
const BACKEND: &str = "zenoh";

/// How often something is looked at that takes its time.
const LOOK: Duration = Duration::from_millis(50);

/// Tries every row.
pub(super) async fn measure(target: &Target, pace: &Pace) -> Vec<Judged> {
    let space = |party: &Party| Space::new(Broker::Zenoh, &party.prefix);
    let sides = match Sides::connect(BACKEND, target, pace, space, Zenoh::connect).await {
        Ok(sides) => sides,
        Err(row) => return vec![row],
    };
    let wait = sides.wait;
    let mut rows = sides.messages().await;
    rows.push(sides.each("query the other tenant", async |a, v| query(a, v, wait).await).await);
    rows.push(
        sides
            .each("answer the other tenant's queries", async |a, v| answer(a, v, wait).await)
            .await,
    );
    rows.push(sides.each("see who is alive", async |a, v| liveliness(a, v, wait).await).await);
    rows.push(sides.each("see who subscribes", async |a, v| matching(a, v, wait).await).await);
    rows.push(sides.each("use the admin space", async |a, v| admin(a, v, wait).await).await);
    rows.push(registry::judge(&sides).await);
    rows.extend(sides.uninvited(Zenoh::connect).await);
    rows
}

/// A session with the router.
#[derive(Clone)]
struct Zenoh(Session);

impl Zenoh {
    async fn connect(party: &Party) -> Result<Self, Cannot> {
        let config = config(party)?;
        let opened = timeout(ANSWER * 2, zenoh::open(config)).await;
        let opened = opened.map_err(|_| Cannot::Tell("the router does not answer".to_owned()))?;
        let session = opened.map_err(Cannot::tell)?;
        // A router that refuses closes the session as soon as it is open.
        let deadline = Instant::now() + ANSWER;
        while session.info().routers_zid().await.next().is_none() {
            if Instant::now() > deadline {
                return Err(Cannot::Tell("there is no router at the address".to_owned()));
            }
            sleep(LOOK).await;
        }
        Ok(Self(session))
    }

    /// The marks in the answers to a query.
    async fn query(&self, keys: &str, within: Duration) -> Result<Vec<Mark>, Cannot> {
        let answers = self
            .0
            .get(keys)
            .target(QueryTarget::All)
            .consolidation(ConsolidationMode::None)
            .allowed_destination(Locality::Remote)
            .timeout(within)
            .await
            .map_err(Cannot::tell)?;
        let mut marks = Vec::new();
        let collecting = async {
            while let Ok(reply) = answers.recv_async().await {
                if let Ok(sample) = reply.result() {
                    marks.extend(Mark::read(&sample.payload().to_bytes()));
                }
            }
        };
        let _ = timeout(within, collecting).await;
        Ok(marks)
    }
}

impl Client for Zenoh {
    /// A router says nothing and leaves the session as it is.
    async fn again(&self) -> Result<Self, Cannot> {
        Ok(self.clone())
    }

    async fn listen(&self, filter: &str) -> Result<Listening, Cannot> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let subscriber = self
            .0
            .declare_subscriber(filter.to_owned())
            .allowed_origin(Locality::Remote)
            .callback(move |sample| {
                if let Some(mark) = Mark::read(&sample.payload().to_bytes()) {
                    let name = Some(sample.key_expr().to_string());
                    let _ = sender.send(Heard { mark: Some(mark), reply: None, name });
                }
            })
            .await
            .map_err(Cannot::tell)?;
        Ok(Listening { ear: Ear::of(receiver, subscriber), refused: false })
    }

    /// Zenoh tells nobody that something was denied.
    async fn publish(&self, name: &str, mark: &Mark) -> Result<bool, Cannot> {
        self.0.put(name, mark.text()).await.map_err(Cannot::tell)?;
        Ok(true)
    }

    async fn ask(&self, key: &str, question: &str, within: Duration) -> Option<Vec<u8>> {
        let asked = self.0.get(key).payload(question).timeout(within).await.ok()?;
        let reply = timeout(within, asked.recv_async()).await.ok()?.ok()?;
        Some(reply.result().ok()?.payload().to_bytes().into_owned())
    }
}

fn config(party: &Party) -> Result<Config, Cannot> {
    let mut config = Config::default();
    let mut set = |key: &str, value: Value| {
        config.insert_json5(key, &value.to_string()).map_err(|error| {
            // What the error quotes might be a secret.
            let _ = error;
            Cannot::Tell(format!("Zenoh does not take the setting {key}"))
        })
    };
    set("mode", json!("client"))?;
    set("connect/endpoints", json!(party.urls))?;
    // One try: what is refused once is refused.
    set("connect/timeout_ms", json!(0))?;
    set("connect/exit_on_failure", json!(true))?;
    set("scouting/multicast/enabled", json!(false))?;
    set("scouting/gossip/enabled", json!(false))?;
    let base64 = |pem: &Pem| json!(BASE64.encode(pem.0.expose_secret().as_bytes()));
    if let Some(authorities) = &party.authorities {
        set("transport/link/tls/root_ca_certificate_base64", base64(authorities))?;
    }
    if let Some((cert, key)) = &party.identity.certificate {
        set("transport/link/tls/enable_mtls", json!(true))?;
        set("transport/link/tls/connect_certificate_base64", base64(cert))?;
        set("transport/link/tls/connect_private_key_base64", base64(key))?;
    }
    let (user, password) = match &party.identity.shown {
        Shown::Nothing => return Ok(config),
        Shown::Password { user, password } => (user.as_str(), password.expose_secret()),
        Shown::Token(token) => (token.expose_secret(), "any"),
        Shown::Creds(_) => {
            return Err(Cannot::Tell("a .creds file is for NATS; use another".to_owned()));
        }
    };
    set("transport/auth/usrpwd/user", json!(user))?;
    set("transport/auth/usrpwd/password", json!(password))?;
    Ok(config)
}

/// The last chunk of a name under whatever leads to it. Queries about it disturb nobody: it is nobody's.
fn anywhere(name: &str) -> String {
    format!("**/{}", name.rsplit('/').next().unwrap_or(name))
}

/// The victim answers queries; the attacker asks.
async fn query(
    attacker: &Side<Zenoh>,
    victim: &Side<Zenoh>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let (name, mark) = (victim.space.fresh(), Mark::new());
    let (key, text) = (name.clone(), mark.text().to_owned());
    let _answering = victim
        .hearer
        .0
        .declare_queryable(name.clone())
        .callback(move |query| {
            let (key, text) = (key.clone(), text.clone());
            tokio::spawn(async move { query.reply(key, text).await });
        })
        .await
        .map_err(Cannot::tell)?;
    let mut answered = false;
    let deadline = Instant::now() + ANSWER;
    while !answered && Instant::now() < deadline {
        answered = victim.sender.query(&name, wait).await?.contains(&mark);
    }
    let keys = [name.clone(), anywhere(&name)];
    let mut leaked = None;
    for keys in &keys {
        if attacker.sender.query(keys, wait).await?.contains(&mark) {
            leaked = leaked.or(Some(keys));
        }
    }
    Ok(Trial {
        note: None,
        own: Seen::of(answered, true),
        foreign: Seen::of(leaked.is_some(), true),
        leak: format!(
            "{} queried `{}`, and {} answered",
            attacker.name(),
            leaked.unwrap_or(&name),
            victim.name()
        ),
    })
}

/// The attacker offers answers to what the victim asks.
async fn answer(
    attacker: &Side<Zenoh>,
    victim: &Side<Zenoh>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let name = victim.space.fresh();
    let (right, forged) = (Mark::new(), Mark::new());
    let declare = async |session: &Session, keys: String, mark: &Mark| {
        let (key, text) = (name.clone(), mark.text().to_owned());
        session
            .declare_queryable(keys)
            .callback(move |query| {
                let (key, text) = (key.clone(), text.clone());
                tokio::spawn(async move { query.reply(key, text).await });
            })
            .await
            .map_err(Cannot::tell)
    };
    let _exact = declare(&attacker.hearer.0, name.clone(), &forged).await?;
    let _wide = declare(&attacker.hearer.0, anywhere(&name), &forged).await?;
    // The router has heard of them once it hands on what the attacker says afterwards.
    let own_name = attacker.space.fresh();
    let mut control = attacker.hearer.listen(&own_name).await?;
    let alive = converse(&attacker.sender, &own_name, &mut control).await?.seen;
    let _right = declare(&victim.hearer.0, name.clone(), &right).await?;
    let (mut answered, mut leaked) = (false, false);
    let deadline = Instant::now() + ANSWER;
    while !answered && Instant::now() < deadline {
        let marks = victim.sender.query(&name, wait).await?;
        answered |= marks.contains(&right);
        leaked |= marks.contains(&forged);
    }
    if alive != Seen::Arrived && !leaked {
        return Err(Cannot::Tell(format!("its client heard nothing of its own either ({alive})")));
    }
    Ok(Trial {
        note: None,
        own: Seen::of(answered, true),
        foreign: Seen::of(leaked, true),
        leak: format!("{} answered a query of {} for `{name}`", attacker.name(), victim.name()),
    })
}

/// The victim declares that it is alive; the attacker asks, and listens.
async fn liveliness(
    attacker: &Side<Zenoh>,
    victim: &Side<Zenoh>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let name = victim.space.fresh();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let wanted = name.clone();
    let watching = attacker.hearer.0.liveliness().declare_subscriber("**");
    let watching = watching
        .history(true)
        .callback(move |sample| {
            if sample.key_expr().as_str() == wanted {
                let name = Some(wanted.clone());
                let _ = sender.send(Heard { mark: None, reply: None, name });
            }
        })
        .await
        .map_err(Cannot::tell)?;
    let mut watched = Ear::of(receiver, watching);
    let token = victim.hearer.0.liveliness().declare_token(name.clone()).await;
    let _alive = token.map_err(Cannot::tell)?;
    let is_alive = async |session: &Session, keys: &str| -> Result<bool, Cannot> {
        let answers = session.liveliness().get(keys.to_owned()).timeout(wait).await;
        let answers = answers.map_err(Cannot::tell)?;
        let looking = async {
            while let Ok(reply) = answers.recv_async().await {
                if reply.result().is_ok_and(|sample| sample.key_expr().as_str() == name) {
                    return true;
                }
            }
            false
        };
        Ok(timeout(wait, looking).await.unwrap_or(false))
    };
    let mut own = false;
    let deadline = Instant::now() + ANSWER;
    while !own && Instant::now() < deadline {
        own = is_alive(&victim.sender.0, &name).await?;
    }
    let mut leaked = false;
    for keys in [name.as_str(), "**"] {
        leaked |= is_alive(&attacker.sender.0, keys).await?;
    }
    leaked |= watched.find(wait, |_| true).await.is_some();
    Ok(Trial {
        note: None,
        own: Seen::of(own, true),
        foreign: Seen::of(leaked, true),
        leak: format!("{} sees that `{name}` of {} is alive", attacker.name(), victim.name()),
    })
}

/// The victim subscribes; the attacker asks whether somebody would hear it.
async fn matching(
    attacker: &Side<Zenoh>,
    victim: &Side<Zenoh>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let name = victim.space.fresh();
    let _listening = victim.hearer.listen(&name).await?;
    let matches = async |session: &Session, within: Duration| -> Result<bool, Cannot> {
        let publisher = session.declare_publisher(name.clone());
        let publisher = publisher.allowed_destination(Locality::Remote).await;
        let publisher = publisher.map_err(Cannot::tell)?;
        let deadline = Instant::now() + within;
        loop {
            let status = publisher.matching_status().await.map_err(Cannot::tell)?;
            if status.matching() || Instant::now() > deadline {
                return Ok(status.matching());
            }
            sleep(LOOK).await;
        }
    };
    let own = matches(&victim.sender.0, ANSWER).await?;
    let leaked = matches(&attacker.sender.0, wait).await?;
    Ok(Trial {
        note: None,
        own: Seen::of(own, true),
        foreign: Seen::of(leaked, true),
        leak: format!("{} sees that {} subscribes to `{name}`", attacker.name(), victim.name()),
    })
}

/// The attacker reads what the router says about itself and its sessions.
async fn admin(
    attacker: &Side<Zenoh>,
    victim: &Side<Zenoh>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let name = victim.space.fresh();
    let mut listening = victim.hearer.listen(&name).await?;
    let own = converse(&victim.sender, &name, &mut listening).await?.seen;
    let mut leaked = None;
    let routers: Vec<_> = attacker.sender.0.info().routers_zid().await.collect();
    let spelled = routers.iter().map(|zid| format!("@/{zid}/router"));
    for keys in ["@/**".to_owned(), "@/*/router/**".to_owned()].into_iter().chain(spelled) {
        let answers = attacker
            .sender
            .0
            .get(keys)
            .target(QueryTarget::All)
            .allowed_destination(Locality::Remote)
            .timeout(wait)
            .await
            .map_err(Cannot::tell)?;
        if let Ok(Ok(reply)) = timeout(wait, answers.recv_async()).await
            && let Ok(sample) = reply.result()
        {
            leaked = Some(sample.key_expr().to_string());
        }
    }
    Ok(Trial {
        note: None,
        own,
        foreign: Seen::of(leaked.is_some(), true),
        leak: format!(
            "{} read `{}` in the admin space, where the router tells of all its sessions",
            attacker.name(),
            leaked.unwrap_or_default()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::anywhere;

    #[test]
    fn a_name_is_looked_for_anywhere_and_nothing_else_is() {
        assert_eq!(anywhere("tenants/acme/x"), "**/x");
        assert_eq!(anywhere("x"), "**/x");
    }
}
