//! The rows that are the same on every broker.

use super::deployment::{Pace, Party, Stop, Target};
use super::ear::{Ear, Mark, Space};
use super::identity::Identity;
use super::report::{Attempt, Cannot, Judged, Seen, Trial};
use std::cell::Cell;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How often a message is sent that has to arrive, before it counts as lost: once, but where a subscription
/// takes its time to become known.
const TRIES: u32 = 10;

/// How long each of them is waited for.
const ARRIVES: Duration = Duration::from_millis(500);

/// How many times as long as a message takes is waited for one that must not arrive.
const SLACK: u32 = 5;

/// How long that is at most, unless the file says more.
const LONGEST: Duration = Duration::from_secs(5);

/// How long an answer may take that always comes.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How long one attempt may take, with all that it waits for.
const ATTEMPT: Duration = Duration::from_secs(90);

/// Messages to a group of subscribers that share them. A server that chooses at random among four
/// subscriptions, three of them a stranger's, leaves the stranger out once in 65,536 runs.
const SHARED: usize = 8;

/// A client of a broker.
pub(super) trait Client: Sized {
    /// Another connection with the same credentials, where what it tries may end it.
    async fn again(&self) -> Result<Self, Cannot>;

    /// Subscribes.
    async fn listen(&self, filter: &str) -> Result<Listening, Cannot>;

    /// Publishes, and says whether the broker took it, as far as it says so.
    async fn publish(&self, name: &str, mark: &Mark) -> Result<bool, Cannot>;

    /// Asks as Device Connect's clients do; the answer, if there is one.
    async fn ask(&self, name: &str, question: &str, within: Duration) -> Option<Vec<u8>>;
}

/// A subscription, as the broker took it.
pub(super) struct Listening {
    pub(super) ear: Ear,
    pub(super) refused: bool,
}

/// A tenant, with two connections: what one says, the other hears.
pub(super) struct Side<C> {
    pub(super) party: Party,
    pub(super) space: Space,
    pub(super) sender: C,
    pub(super) hearer: C,
}

impl<C> Side<C> {
    pub(super) fn name(&self) -> &str {
        &self.party.name
    }
}

/// Both tenants of a broker.
pub(super) struct Sides<C> {
    pub(super) backend: &'static str,
    pub(super) a: Side<C>,
    pub(super) b: Side<C>,
    /// How long is waited for what must not arrive.
    pub(super) wait: Duration,
    stop: Stop,
    /// Neither tenant hears what it says itself: nothing more can be told.
    silent: Cell<bool>,
}

impl<C: Client> Sides<C> {
    /// Connects both tenants.
    ///
    /// # Errors
    /// The only row that there is then.
    pub(super) async fn connect(
        backend: &'static str,
        target: &Target,
        pace: &Pace,
        space: impl Fn(&Party) -> Space,
        connect: impl AsyncFn(&Party) -> Result<C, Cannot>,
    ) -> Result<Self, Judged> {
        let side = async |party: &Party| {
            let (sender, hearer) = (connect(party).await?, connect(party).await?);
            Ok::<_, Cannot>(Side { party: party.clone(), space: space(party), sender, hearer })
        };
        let (a, b) = (side(&target.a).await, side(&target.b).await);
        match (a, b) {
            (Ok(a), Ok(b)) => {
                let slowest = round_trip(&a).await.max(round_trip(&b).await).unwrap_or_default();
                let wait = pace.wait.max((slowest * SLACK).min(LONGEST));
                let (stop, silent) = (pace.stop.clone(), Cell::new(false));
                Ok(Self { backend, a, b, wait, stop, silent })
            }
            (a, b) => {
                let attempts = [(a, &target.a), (b, &target.b)].into_iter().filter_map(|(side, party)| {
                    let (Cannot::Tell(why) | Cannot::Apply(why)) = side.err()?;
                    let why = format!(
                        "{} cannot connect: {why}; check the address, ca_file and what {} shows",
                        party.name, party.setting
                    );
                    let came_to = Err(Cannot::Tell(why));
                    Some(Attempt { attacker: &party.name, victim: &party.name, came_to })
                });
                Err(Judged::of(backend, "connect", attempts.collect()))
            }
        }
    }

    /// Has each tenant try something on the other.
    pub(super) async fn each(
        &self,
        action: &'static str,
        attempt: impl AsyncFn(&Side<C>, &Side<C>) -> Result<Trial, Cannot>,
    ) -> Judged {
        let mut attempts = Vec::new();
        for (attacker, victim) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let came_to = if self.stop.is_set() {
                Err(Cannot::Tell("interrupted".to_owned()))
            } else if self.silent.get() {
                Err(Cannot::Tell("neither tenant hears what it says itself".to_owned()))
            } else {
                timeout(ATTEMPT, attempt(attacker, victim))
                    .await
                    .unwrap_or_else(|_| Err(Cannot::Tell("the broker took too long".to_owned())))
            };
            let (attacker, victim) = (attacker.name(), victim.name());
            attempts.push(Attempt { attacker, victim, came_to });
        }
        let told = |attempt: &Attempt<'_>| match &attempt.came_to {
            Ok(trial) => trial.own == Seen::Arrived || trial.foreign == Seen::Arrived,
            Err(Cannot::Tell(_)) => false,
            Err(Cannot::Apply(_)) => true,
        };
        // A broker that has gone would be waited for in every row.
        if !self.silent.get() && !attempts.iter().any(told) {
            let heard = round_trip(&self.a).await.or(round_trip(&self.b).await);
            self.silent.set(heard.is_none());
        }
        Judged::of(self.backend, action, attempts)
    }

    /// The rows of plain messages.
    pub(super) async fn messages(&self) -> Vec<Judged> {
        let wait = self.wait;
        vec![
            self.each("publish to the other tenant", async |attacker, victim| {
                publish_across(attacker, victim, wait).await
            })
            .await,
            self.each("subscribe to the other tenant's names", async |attacker, victim| {
                let name = victim.space.fresh();
                let filters = [name.clone()];
                listen_across(attacker, victim, &name, &filters, wait).await
            })
            .await,
            self.each("subscribe to everything", async |attacker, victim| {
                let name = victim.space.fresh();
                listen_across(attacker, victim, &name, &victim.space.wide(), wait).await
            })
            .await,
        ]
    }

    /// The row of subscriptions that share what comes.
    pub(super) async fn shared(
        &self,
        action: &'static str,
        join: impl AsyncFn(&C, &str) -> Result<Listening, Cannot>,
    ) -> Judged {
        let wait = self.wait;
        self.each(action, async |attacker, victim| {
            let name = victim.space.fresh();
            let mut member = join(&victim.hearer, &name).await?;
            let own = converse(&victim.sender, &name, &mut member).await?.seen;
            let spy = attacker.hearer.again().await?;
            let (mut ears, mut agreed) = (Vec::new(), false);
            for filter in [name.clone()].into_iter().chain(victim.space.wide()) {
                let joined = join(&spy, &filter).await?;
                agreed |= !joined.refused;
                ears.push(joined.ear);
            }
            let marks: Vec<_> = (0..SHARED).map(|_| Mark::new()).collect();
            for mark in &marks {
                victim.sender.publish(&name, mark).await?;
            }
            sleep(wait).await;
            let arrived = hears_any(&mut ears, &marks).await;
            Ok(Trial {
                note: None,
                own,
                foreign: Seen::of(arrived, agreed),
                leak: format!(
                    "{} joined a group of subscribers of {}, and got messages of `{name}` in its place",
                    attacker.name(),
                    victim.name()
                ),
            })
        })
        .await
    }

    /// The rows of those who have no business here.
    pub(super) async fn uninvited(
        &self,
        connect: impl AsyncFn(&Party) -> Result<C, Cannot>,
    ) -> Vec<Judged> {
        // Who is refused for another reason shows nothing: the right credentials open the door meanwhile.
        let let_in = async |party: &Party| Seen::of(connect(party).await.is_ok(), false);
        let nobody = async |side: &Side<C>| {
            connect(&Party { identity: Identity::nobody(), ..side.party.clone() }).await.ok()
        };
        let at_a = nobody(&self.a).await;
        let elsewhere = self.a.party.urls != self.b.party.urls;
        let at_b = if elsewhere { Some(nobody(&self.b).await) } else { None };
        let at_b = at_b.as_ref().unwrap_or(&at_a);
        let mut attempts = Vec::new();
        for (victim, stranger) in [(&self.a, &at_a), (&self.b, at_b)] {
            let came_to = match stranger {
                Some(stranger) => reach(stranger, victim, self.wait).await,
                None => Ok(Trial {
                    note: None,
                    own: let_in(&victim.party).await,
                    foreign: Seen::Refused,
                    leak: String::new(),
                }),
            };
            let attacker = "somebody without credentials";
            attempts.push(Attempt { attacker, victim: victim.name(), came_to });
        }
        let anonymous = Judged::of(self.backend, "reach a tenant without credentials", attempts);
        let mut attempts = Vec::new();
        for side in [&self.a, &self.b] {
            let came_to = match side.party.identity.forged() {
                None => Err(Cannot::Apply(format!(
                    "{} shows no secret that could be wrong",
                    side.name()
                ))),
                Some(identity) => {
                    let foreign = let_in(&Party { identity, ..side.party.clone() }).await;
                    Ok(Trial {
                        note: None,
                        own: let_in(&side.party).await,
                        foreign,
                        leak: format!(
                            "somebody came in as {} with a wrong secret: it is not checked",
                            side.name()
                        ),
                    })
                }
            };
            let attacker = "somebody with a wrong secret";
            attempts.push(Attempt { attacker, victim: side.name(), came_to });
        }
        vec![anonymous, Judged::of(self.backend, "come in with a wrong secret", attempts)]
    }
}

/// How long a message takes within a tenant, if it arrives at all.
async fn round_trip<C: Client>(side: &Side<C>) -> Option<Duration> {
    let name = side.space.fresh();
    let measure = async {
        let mut listening = side.hearer.listen(&name).await?;
        // The first makes the subscription known everywhere.
        let first = converse(&side.sender, &name, &mut listening).await?.seen;
        if first != Seen::Arrived {
            return Ok(None);
        }
        let begin = Instant::now();
        let seen = converse(&side.sender, &name, &mut listening).await?.seen;
        Ok::<_, Cannot>((seen == Seen::Arrived).then(|| begin.elapsed()))
    };
    measure.await.ok().flatten()
}

/// What became of a message that has to arrive.
pub(super) struct Said {
    pub(super) mark: Mark,
    pub(super) seen: Seen,
}

/// Publishes a message until it is heard, a few times at most.
pub(super) async fn converse<C: Client>(
    sender: &C,
    name: &str,
    listening: &mut Listening,
) -> Result<Said, Cannot> {
    let mark = Mark::new();
    let mut agreed = false;
    for _ in 0..TRIES {
        agreed = sender.publish(name, &mark).await?;
        if listening.ear.hears(&mark, ARRIVES).await {
            return Ok(Said { mark, seen: Seen::Arrived });
        }
        if !agreed {
            break;
        }
    }
    Ok(Said { mark, seen: Seen::of(false, agreed && !listening.refused) })
}

/// The attacker publishes to a name that the victim listens to.
async fn publish_across<C: Client>(
    attacker: &Side<C>,
    victim: &Side<C>,
    wait: Duration,
) -> Result<Trial, Cannot> {
    let name = victim.space.fresh();
    let mut listening = victim.hearer.listen(&name).await?;
    let own = converse(&victim.sender, &name, &mut listening).await?.seen;
    let forged = Mark::new();
    let agreed = attacker.sender.again().await?.publish(&name, &forged).await?;
    let arrived = listening.ear.hears(&forged, wait).await;
    // What was heard before and is heard afterwards would have been heard between.
    let own = match own {
        Seen::Arrived => converse(&victim.sender, &name, &mut listening).await?.seen,
        other => other,
    };
    Ok(Trial {
        note: None,
        own,
        foreign: Seen::of(arrived || listening.ear.hears(&forged, Duration::ZERO).await, agreed),
        leak: format!("{} published to `{name}`, and {} heard it", attacker.name(), victim.name()),
    })
}

/// The attacker subscribes to these filters while the victim says something to itself.
pub(super) async fn listen_across<C: Client>(
    attacker: &Side<C>,
    victim: &Side<C>,
    name: &str,
    filters: &[String],
    wait: Duration,
) -> Result<Trial, Cannot> {
    let spy = attacker.hearer.again().await?;
    let mut spying = spy_on(&spy, attacker, filters).await?;
    let mut listening = victim.hearer.listen(name).await?;
    let Said { mark, seen: own } = converse(&victim.sender, name, &mut listening).await?;
    // Once more, for a broker of many nodes that takes its time to know of a subscription.
    victim.sender.publish(name, &mark).await?;
    sleep(wait).await;
    let arrived = hears_any(&mut spying.ears, &[mark]).await;
    Ok(Trial {
        note: None,
        own,
        foreign: spying.end(attacker, arrived).await?,
        leak: format!(
            "{} subscribed to `{}`, and heard what {} published to `{name}`",
            attacker.name(),
            filters.join("`, `"),
            victim.name()
        ),
    })
}

/// Subscriptions to what is not one's own.
pub(super) struct Spying {
    pub(super) ears: Vec<Ear>,
    agreed: bool,
    /// A name of the own tenant, and the subscription to it on the same connection; nothing if the
    /// broker cut the connection for asking.
    control: Option<(String, Listening)>,
}

/// Subscribes to all of these. A client that hears nothing of its own tenant before or afterwards would
/// show nothing by hearing nothing of another.
pub(super) async fn spy_on<C: Client>(
    spy: &C,
    side: &Side<C>,
    filters: &[String],
) -> Result<Spying, Cannot> {
    let name = side.space.fresh();
    let mut control = spy.listen(&name).await?;
    let before = converse(&side.sender, &name, &mut control).await?.seen;
    if before != Seen::Arrived {
        return Err(deaf(side, before));
    }
    let (mut ears, mut agreed, mut refused) = (Vec::new(), false, false);
    for filter in filters {
        let listening = spy.listen(filter).await?;
        agreed |= !listening.refused;
        refused |= listening.refused;
        ears.push(listening.ear);
    }
    // The broker works off what a client sends in order: it knows of those subscriptions by now.
    match converse(&side.sender, &name, &mut control).await?.seen {
        Seen::Arrived => Ok(Spying { ears, agreed, control: Some((name, control)) }),
        // Some brokers cut whoever asks for too much.
        _ if refused => Ok(Spying { ears, agreed, control: None }),
        other => Err(deaf(side, other)),
    }
}

impl Spying {
    /// What came of it: who heard nothing of the other tenant still has to hear its own.
    pub(super) async fn end<C: Client>(
        &mut self,
        side: &Side<C>,
        arrived: bool,
    ) -> Result<Seen, Cannot> {
        if let (false, Some((name, control))) = (arrived, &mut self.control) {
            let seen = converse(&side.sender, name, control).await?.seen;
            if seen != Seen::Arrived {
                return Err(deaf(side, seen));
            }
        }
        Ok(Seen::of(arrived, self.agreed))
    }
}

fn deaf<C>(side: &Side<C>, seen: Seen) -> Cannot {
    Cannot::Tell(format!(
        "its client heard nothing of its own either ({seen}); {}.prefix has to be a name below which it \
         may publish and subscribe, and is '{}'",
        side.party.setting, side.party.prefix
    ))
}

/// Whether somebody who is nobody's reaches a tenant, or hears it.
async fn reach<C: Client>(stranger: &C, victim: &Side<C>, wait: Duration) -> Result<Trial, Cannot> {
    let name = victim.space.fresh();
    let (mut ears, mut agreed) = (Vec::new(), false);
    for filter in [name.clone()].into_iter().chain(victim.space.wide()) {
        let listening = stranger.listen(&filter).await?;
        agreed |= !listening.refused;
        ears.push(listening.ear);
    }
    let mut listening = victim.hearer.listen(&name).await?;
    let Said { mark, seen: own } = converse(&victim.sender, &name, &mut listening).await?;
    let forged = Mark::new();
    agreed |= stranger.publish(&name, &forged).await?;
    victim.sender.publish(&name, &mark).await?;
    sleep(wait).await;
    let heard = hears_any(&mut ears, &[mark]).await;
    let reached = listening.ear.hears(&forged, Duration::ZERO).await;
    let did = match (heard, reached) {
        (true, true) => "heard, and was heard by,",
        (true, false) => "heard",
        _ => "was heard by",
    };
    Ok(Trial {
        note: None,
        own,
        foreign: Seen::of(heard || reached, agreed),
        leak: format!("somebody without credentials was let in, and {did} {}", victim.name()),
    })
}

pub(super) async fn hears_any(ears: &mut [Ear], marks: &[Mark]) -> bool {
    for ear in ears {
        for mark in marks {
            if ear.hears(mark, Duration::ZERO).await {
                return true;
            }
        }
    }
    false
}
