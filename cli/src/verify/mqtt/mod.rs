//! The rows of MQTT.

mod client;
mod wire;

use crate::verify::deployment::{Pace, Party, Target};
use crate::verify::ear::{DEVICE_CONNECT, Heard, Mark, Space, random_word};
use crate::verify::probe::{ANSWER, Client, Side, Sides, converse, listen_across, spy_on};
use crate::verify::registry;
use crate::verify::report::{Cannot, Judged, Seen, Trial};
use bulkhead_policy::Broker;
use client::{Manner, Mqtt};
use std::time::Duration;
use tokio::time::sleep;

/// What the report calls it.
const BACKEND: &str = "mqtt";

/// Tries every row.
pub(super) async fn measure(target: &Target, pace: &Pace) -> Vec<Judged> {
    let space = |party: &Party| Space::new(Broker::Mqtt, &party.prefix);
    let connect = async |party: &Party| Mqtt::connect(party, Manner::default()).await;
    let sides = match Sides::connect(BACKEND, target, pace, space, connect).await {
        Ok(sides) => sides,
        Err(row) => return vec![row],
    };
    let wait = sides.wait;
    let mut rows = sides.messages().await;
    rows.push(
        sides.each("read the other tenant's replies", async |a, v| replies(a, v, wait).await).await,
    );
    let group = random_word();
    rows.push(
        sides
            .shared("share the other tenant's subscription", async |client: &Mqtt, filter| {
                if !client.shares() {
                    return Err(absent("shared subscriptions"));
                }
                client.listen(&format!("$share/{group}/{filter}")).await
            })
            .await,
    );
    rows.push(
        sides
            .each("read what the other tenant retains", async |a, v| {
                read_retained(a, v, wait).await
            })
            .await,
    );
    rows.push(
        sides
            .each("overwrite what the other tenant retains", async |a, v| {
                overwrite_retained(a, v, wait).await
            })
            .await,
    );
    rows.push(
        sides.each("leave a will to the other tenant", async |a, v| will(a, v, wait).await).await,
    );
    rows.push(
        sides
            .each("cut the other tenant by its client id", async |a, v| take_over(a, v, wait).await)
            .await,
    );
    rows.push(
        sides
            .each("resume the other tenant's session by its client id", async |a, v| {
                resume(a, v, wait).await
            })
            .await,
    );
    rows.push(
        sides.each("use the broker's own topics", async |a, v| system(a, v, wait).await).await,
    );
    rows.push(registry::judge(&sides).await);
    rows.extend(sides.uninvited(connect).await);
    rows
}

fn absent(what: &str) -> Cannot {
    Cannot::Apply(format!("the broker has no {what}"))
}

/// The attacker listens where the victim waits for an answer.
async fn replies(
    attacker: &Side<Mqtt>,
    victim: &Side<Mqtt>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    // Device Connect's answers come to names without the tenant; others' to names of its own.
    if victim.party.prefix.split('/').next() == Some(DEVICE_CONNECT) {
        let name = format!("_reply/{}", random_word().replace("bulkhead-verify-", ""));
        let filters = [name.clone(), "_reply/#".to_owned(), "_reply/+".to_owned()];
        return listen_across(attacker, victim, &name, &filters, wait).await;
    }
    let name = victim.space.fresh();
    let filters = [name.clone(), format!("{name}/#")];
    listen_across(attacker, victim, &name, &filters, wait).await
}

/// The victim keeps a message at the broker; the attacker subscribes to it.
async fn read_retained(
    attacker: &Side<Mqtt>,
    victim: &Side<Mqtt>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    if !victim.sender.retains() {
        return Err(absent("retained messages"));
    }
    let (name, kept) = (victim.space.fresh(), Mark::new());
    let agreed_within = victim.sender.retain(&name, Some(&kept)).await?;
    let tried = async {
        let own = is_retained(victim, &name, &kept, ANSWER).await?;
        let spy = attacker.hearer.again().await?;
        let mut filters = vec![name.clone()];
        filters.extend(victim.space.wide());
        let mut spying = spy_on(&spy, attacker, &filters).await?;
        sleep(wait).await;
        let mut arrived = false;
        for ear in &mut spying.ears {
            arrived |= ear.hears(&kept, Duration::ZERO).await;
        }
        Ok(Trial {
            note: None,
            own: Seen::of(own, agreed_within),
            foreign: spying.end(attacker, arrived).await?,
            leak: format!(
                "{} subscribed to `{}`, and got what {} retains under `{name}`",
                attacker.name(),
                filters.join("`, `"),
                victim.name()
            ),
        })
    };
    let tried = tried.await;
    cleared(victim, &name, tried).await
}

/// The attacker replaces, and then removes, what the victim keeps at the broker.
async fn overwrite_retained(
    attacker: &Side<Mqtt>,
    victim: &Side<Mqtt>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    if !victim.sender.retains() {
        return Err(absent("retained messages"));
    }
    let (name, kept, forged) = (victim.space.fresh(), Mark::new(), Mark::new());
    let agreed_within = victim.sender.retain(&name, Some(&kept)).await?;
    let tried = async {
        let own = is_retained(victim, &name, &kept, ANSWER).await?;
        let mut agreed = attacker.sender.again().await?.retain(&name, Some(&forged)).await?;
        let overwritten = is_retained(victim, &name, &forged, wait).await?;
        agreed |= attacker.sender.again().await?.retain(&name, None).await?;
        let removed = own && !overwritten && !is_retained(victim, &name, &kept, ANSWER).await?;
        let did = if overwritten { "replaced" } else { "removed" };
        Ok(Trial {
            note: None,
            own: Seen::of(own, agreed_within),
            foreign: Seen::of(overwritten || removed, agreed),
            leak: format!(
                "{} {did} what {} retains under `{name}`",
                attacker.name(),
                victim.name()
            ),
        })
    };
    let tried = tried.await;
    cleared(victim, &name, tried).await
}

/// Whether somebody of the tenant who comes now gets this message.
async fn is_retained(
    side: &Side<Mqtt>,
    name: &str,
    mark: &Mark,
    within: Duration,
) -> Result<bool, Cannot> {
    let mut listening = side.hearer.listen(name).await?;
    Ok(listening.ear.hears(mark, within).await)
}

/// Removes what is retained, whatever came of the attempt.
async fn cleared(
    victim: &Side<Mqtt>,
    name: &str,
    tried: Result<Trial, Cannot>,
) -> Result<Trial, Cannot> {
    match victim.sender.retain(name, None).await {
        Ok(true) => tried,
        Ok(false) | Err(_) if matches!(&tried, Ok(trial) if trial.own != Seen::Arrived) => tried,
        _ => {
            let left = format!(
                "the retained message under `{name}` of {} could not be removed, and ends by itself within \
                 a minute if MQTT 5 is spoken",
                victim.name()
            );
            Trial::left_behind(tried, left)
        }
    }
}

/// The attacker leaves a will for a name of the victim, and vanishes.
async fn will(attacker: &Side<Mqtt>, victim: &Side<Mqtt>, wait: Duration) -> Result<Trial, Cannot> {
    let name = victim.space.fresh();
    let mut listening = victim.hearer.listen(&name).await?;
    let (own_will, forged) = (Mark::new(), Mark::new());
    let dying =
        |mark: &Mark| Manner { will: Some((name.clone(), mark.clone())), ..Manner::default() };
    // Whoever is dropped cannot say goodbye; whose will is refused has no connection to lose.
    let agreed = Mqtt::connect(&attacker.party, dying(&forged)).await.is_ok();
    let agreed_within = Mqtt::connect(&victim.party, dying(&own_will)).await.is_ok();
    let own = Seen::of(listening.ear.hears(&own_will, ANSWER).await, agreed_within);
    let arrived = listening.ear.hears(&forged, wait).await;
    Ok(Trial {
        note: None,
        own,
        foreign: Seen::of(arrived, agreed),
        leak: format!(
            "{} left a will for `{name}`, and {} heard it",
            attacker.name(),
            victim.name()
        ),
    })
}

/// The attacker connects with the client id that the victim is connected with.
async fn take_over(
    attacker: &Side<Mqtt>,
    victim: &Side<Mqtt>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let id = format!("{}{}", victim.party.client_id_prefix, random_word());
    let called = || Manner { id: Some(id.clone()), ..Manner::default() };
    let here = Mqtt::connect(&victim.party, called()).await?;
    let intruder = Mqtt::connect(&attacker.party, called()).await;
    let cut = here.ends(wait).await;
    let agreed = intruder.is_ok();
    drop(intruder);
    // Within the tenant the later connection takes the place of the earlier (MQTT 5, 3.1.4).
    let own = if cut {
        Seen::Arrived
    } else {
        let _later = Mqtt::connect(&victim.party, called()).await?;
        Seen::of(here.ends(ANSWER).await, true)
    };
    Ok(Trial {
        note: None,
        own,
        foreign: Seen::of(cut, agreed),
        leak: format!(
            "{} connected with the client id of a client of {}, which was cut off",
            attacker.name(),
            victim.name()
        ),
    })
}

/// A session of the victim waits for a message; the attacker connects with its client id.
async fn resume(
    attacker: &Side<Mqtt>,
    victim: &Side<Mqtt>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    if !victim.sender.keeps_sessions() {
        return Err(absent("sessions that outlive their connection"));
    }
    let control = Waiting::leave(victim).await?;
    let own = control.resumed(&victim.party, ANSWER).await;
    control.forget(&[&victim.party]).await;
    let own = own?;
    let attacked = Waiting::leave(victim).await?;
    let taken = attacked.resumed(&attacker.party, wait).await;
    let agreed = taken.is_ok();
    let taken = taken.unwrap_or(false);
    let lost = match attacked.resumed(&victim.party, ANSWER).await {
        Ok(is_there) => Ok(!is_there && own),
        Err(error) => Err(error),
    };
    attacked.forget(&[&attacker.party, &victim.party]).await;
    let lost = if taken { true } else { lost? };
    let did = if taken { "got what waited there" } else { "made it lose what waited there" };
    Ok(Trial {
        note: None,
        own: Seen::of(own, true),
        foreign: Seen::of(lost, agreed),
        leak: format!(
            "{} connected with the client id of a session of {}, and {did}",
            attacker.name(),
            victim.name()
        ),
    })
}

/// A session without a connection, and a message that waits in it.
struct Waiting {
    id: String,
    message: Mark,
}

impl Waiting {
    async fn leave(victim: &Side<Mqtt>) -> Result<Self, Cannot> {
        let id = format!("{}{}", victim.party.client_id_prefix, random_word());
        let waiting = Self { id, message: Mark::new() };
        let owner = Mqtt::connect(&victim.party, waiting.lasting()).await?;
        let name = victim.space.fresh();
        let listening = owner.listen(&name).await?;
        owner.leave(listening).await?;
        victim.sender.publish(&name, &waiting.message).await?;
        Ok(waiting)
    }

    fn lasting(&self) -> Manner {
        Manner { id: Some(self.id.clone()), lasts: true, ..Manner::default() }
    }

    /// Whether whoever connects with its id gets the message.
    async fn resumed(&self, party: &Party, within: Duration) -> Result<bool, Cannot> {
        let resumed = Mqtt::connect(party, self.lasting()).await?;
        Ok(resumed.inherited().hears(&self.message, within).await)
    }

    /// A session that begins anew and does not last leaves none.
    async fn forget(&self, parties: &[&Party]) {
        for party in parties {
            let last = Manner { id: Some(self.id.clone()), ..Manner::default() };
            let _ = Mqtt::connect(party, last).await;
        }
    }
}

/// The attacker listens to what the broker says about itself, and asks it about its clients.
async fn system(
    attacker: &Side<Mqtt>,
    victim: &Side<Mqtt>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let name = victim.space.fresh();
    let mut listening = victim.hearer.listen(&name).await?;
    let own = converse(&victim.sender, &name, &mut listening).await?.seen;
    let spy = attacker.hearer.again().await?;
    let filters = ["$SYS/#", "$CONTROL/#", "$SYS/+/+/#"].map(str::to_owned);
    let mut spying = spy_on(&spy, attacker, &filters).await?;
    attacker.sender.again().await?.list_clients().await?;
    let is_systems = |heard: &Heard| heard.mark.is_none();
    sleep(wait).await;
    let mut heard = None;
    for ear in &mut spying.ears {
        heard = heard.or(ear.find(Duration::ZERO, is_systems).await);
    }
    let topic = heard.as_ref().and_then(|heard| heard.name.clone()).unwrap_or_default();
    Ok(Trial {
        note: None,
        own,
        foreign: spying.end(attacker, heard.is_some()).await?,
        leak: format!(
            "{} heard `{topic}`, by which the broker tells about all of its clients",
            attacker.name()
        ),
    })
}
