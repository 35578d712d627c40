//! Registrations, and questions about devices.

use super::room::Room;
use super::{Fleet, Permit, lock};
use crate::presence::{Full, Sight, Via};
use crate::wire::{
    Code, Question, Registration, Request, RpcError, Subject, fitting, too_large, with_result,
};
use bulkhead_control::Granted;
use bulkhead_control::audit::{Event as AuditEvent, Record};
use bulkhead_policy::{Broker, DeviceId, Discover, Requester};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a registration is not answered because it is not written yet. After that it is answered from
/// memory: the device is present, whether or not the store is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a replica holds back its answers that is cut off from etcd while others may not be: if one has
/// taken over, that one's come first. With a registration it waits for [`PATIENCE`] besides, since it is
/// the other's that is written.
const DEFERENCE: Duration = Duration::from_millis(300);

/// What is said in an answer of a store that is behind, in bytes at the most.
const BEHIND: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Registration,
    Discovery,
}

/// Whom a question came from, as far as the broker says.
pub(crate) struct Asker {
    pub(crate) broker: Broker,
    pub(crate) who: Who,
    /// Bytes that the answer may have.
    pub(crate) most: usize,
}

/// Who that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The broker tells, and this is what it says.
    Known(Requester),
    /// The broker does not tell: the tenant is all that is known.
    Untold,
    /// The broker tells, but what it says cannot be told from what a client may have written.
    Unreadable,
}

impl Fleet {
    /// Leave to work on a request of so many bytes, if there is room now.
    ///
    /// # Errors
    /// The answer that says that there is none, for whom it can be sent to.
    pub(crate) fn admit(&self, asked: Asked, bytes: usize, via: Via) -> Result<Permit, Vec<u8>> {
        let (room, code): (&Room, _) = match asked {
            Asked::Registration => (&self.registrations, Code::Internal),
            Asked::Discovery => (&self.discoveries, Code::Failed),
        };
        room.take(bytes).ok_or_else(|| {
            self.count_asked(asked, via, "overloaded");
            let message = "the tenant asks for more than is answered at a time; try again";
            RpcError::new(code, message).answer(&Value::Null)
        })
    }

    /// The answer to a request that is larger than it may be.
    pub(crate) fn refuse_large(&self, asked: Asked, bytes: usize, via: Via) -> Option<Vec<u8>> {
        (bytes > self.common.limits.document).then(|| {
            self.count_asked(asked, via, "refused");
            RpcError::new(Code::InvalidParams, Full::Document.to_string()).answer(&Value::Null)
        })
    }

    fn count_asked(&self, asked: Asked, via: Via, outcome: &str) {
        let metrics = &self.common.metrics;
        let counter = match asked {
            Asked::Registration => &metrics.registrations,
            Asked::Discovery => &metrics.discoveries,
        };
        counter.with_label_values(&[via.label(), outcome]).inc();
    }

    /// Answers a request. The permit is kept until the answer is sent.
    pub(crate) async fn answer(
        &self,
        asked: Asked,
        payload: &[u8],
        asker: &Asker,
        via: Via,
        permit: &mut Permit,
    ) -> Vec<u8> {
        if let Some(refusal) = self.refuse_large(asked, payload.len(), via) {
            return refusal;
        }
        if asked == Asked::Discovery && self.common.store.is_doubtful() {
            tokio::time::sleep(DEFERENCE).await;
        }
        let request = match Request::parse(payload) {
            Ok(request) => request,
            Err(answer) => {
                self.count_asked(asked, via, "refused");
                return answer;
            }
        };
        let id = request.id.clone();
        let outcome = match asked {
            Asked::Registration => {
                self.registered(request, asker, via).await.map(|result| result.to_string())
            }
            Asked::Discovery => self.found(&request, asker, permit).await,
        };
        let counted = match (&outcome, asked) {
            (Err(_), _) => "refused",
            (Ok(_), Asked::Registration) => "registered",
            (Ok(_), Asked::Discovery) => "answered",
        };
        self.count_asked(asked, via, counted);
        let answer = match outcome {
            Ok(result) => with_result(&id, &result),
            Err(error) => error.answer(&id),
        };
        fitting(answer, &id, asker.most)
    }

    async fn registered(
        &self,
        request: Request,
        asker: &Asker,
        via: Via,
    ) -> Result<Value, RpcError> {
        if request.method != "registerDevice" {
            return Err(RpcError::new(Code::MethodNotFound, "method not found"));
        }
        let registration = Registration::parse(request.params)
            .map_err(|message| RpcError::new(Code::InvalidParams, message))?;
        self.may_speak_for(asker, &registration.device)?;
        let registered =
            lock(&self.presence).register(registration, via, Instant::now(), Timestamp::now());
        let (id, written) =
            registered.map_err(|full| RpcError::new(Code::Internal, full.to_string()))?;
        self.wake.notify_one();
        let patience = match self.behind_since() {
            None => PATIENCE,
            Some(_) if self.common.store.is_doubtful() => PATIENCE + DEFERENCE,
            Some(_) => Duration::ZERO,
        };
        // Whoever waits for too long is answered from memory.
        if let Ok(Err(_gone)) = tokio::time::timeout(patience, written).await {
            return Err(RpcError::new(Code::Internal, Full::Closed.to_string()));
        }
        Ok(json!({"status": "registered", "device_registration_id": id.to_string()}))
    }

    /// Nobody has rights whose name somebody may have forged, or hidden.
    fn refuse_unreadable(&self, asker: &Asker, does: &str) -> RpcError {
        let broker = asker.broker;
        self.record_denial(format!("somebody who cannot be told from what {broker} says {does}"));
        tracing::info!(tenant = %self.tenant, %broker, does, "a request whose sender is unclear was refused");
        let message = "what the broker says of the sender cannot be read; over NATS, send no \
                       Nats-Request-Info, and end each header with CRLF";
        RpcError::new(Code::InvalidParams, message)
    }

    fn record_denial(&self, detail: String) {
        let record = Record::new(AuditEvent::Deny, "registry").tenant(&self.tenant);
        self.common.auth.audit().record(record.detail(detail));
    }

    /// Whoever may beat for a device may register it.
    fn may_speak_for(&self, asker: &Asker, device: &DeviceId) -> Result<(), RpcError> {
        let requester = match &asker.who {
            Who::Known(requester) => requester,
            Who::Untold => return Ok(()),
            Who::Unreadable => {
                return Err(self.refuse_unreadable(asker, &format!("registers {device}")));
            }
        };
        let name = Subject::Heartbeat(Some(device)).on(asker.broker, &self.tenant);
        let may = self.granted(asker, requester).is_some_and(|granted| {
            asker.broker.name(&name).is_ok_and(|name| granted.grants.publish(&name).is_ok())
        });
        if may {
            return Ok(());
        }
        self.record_denial(format!("{requester} registers {device}"));
        tracing::info!(tenant = %self.tenant, %requester, %device, "a registration was refused");
        let message = format!("device_id: this connection may not speak for '{device}'");
        Err(RpcError::new(Code::InvalidParams, message))
    }

    fn granted(&self, asker: &Asker, requester: &Requester) -> Option<Granted> {
        if requester.tenant != self.tenant {
            return None;
        }
        self.common.auth.granted(asker.broker, requester).ok()
    }

    async fn found(
        &self,
        request: &Request,
        asker: &Asker,
        permit: &mut Permit,
    ) -> Result<String, RpcError> {
        let question = Question::of(request)?;
        let sight = self.sight(asker)?;
        let most = asker.most.saturating_sub(with_result(&request.id, "").len() + BEHIND);
        let mut result = match question {
            Question::List(filter, page) => {
                permit.turn().await;
                self.list(&filter, page, &sight, most).await.ok_or_else(too_large)?
            }
            Question::Get(id) => lock(&self.presence).get(&id, &sight),
            Question::Describe => {
                permit.turn().await;
                self.describe(&sight, most).await.ok_or_else(too_large)?
            }
        };
        if let Some(behind) = self.behind_since()
            && result.pop().is_some()
        {
            result += &format!(",\"store_behind_seconds\":{}}}", behind.elapsed().as_secs());
        }
        Ok(result)
    }

    /// Which devices whoever asks may see.
    fn sight(&self, asker: &Asker) -> Result<Sight, RpcError> {
        let requester = match &asker.who {
            Who::Known(requester) => requester,
            // The tenant is all that is known.
            Who::Untold => return Ok(Sight::new(Discover::Everything, None)),
            Who::Unreadable => return Err(self.refuse_unreadable(asker, "looks for devices")),
        };
        Ok(match self.granted(asker, requester) {
            Some(granted) => Sight::new(granted.discover, requester.device.clone()),
            None => Sight::new(Discover::Nothing, None),
        })
    }
}
