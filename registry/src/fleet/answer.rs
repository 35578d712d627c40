//! Registrations, and questions about devices.

use super::{Fleet, lock};
use crate::presence::{Device, Full, Via};
use crate::wire::{Code, Question, Registration, Request, RpcError, Subject, fitting, with_result};
use bulkhead_control::Granted;
use bulkhead_control::audit::{Event as AuditEvent, Record};
use bulkhead_policy::{Broker, DeviceId, Discover, Requester};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a registration is not answered because it is not written yet. After that it is answered from
/// memory: the device is present, whether or not the store is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a replica holds back its answers that is cut off from etcd while others may not be: if one has
/// taken over, that one's come first. With a registration it waits for [`PATIENCE`] besides, since it is
/// the other's that is written.
const DEFERENCE: Duration = Duration::from_millis(300);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Registration,
    Discovery,
}

/// Whom a question came from, as far as the broker says.
pub(crate) struct Asker {
    pub(crate) broker: Broker,
    pub(crate) requester: Option<Requester>,
    /// Bytes that the answer may have.
    pub(crate) most: usize,
}

impl Fleet {
    /// Leave to work on something, when there is room.
    pub(crate) async fn permit(&self, asked: Asked) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.permits(asked)).acquire_owned().await.ok()
    }

    /// The same, if there is room now.
    pub(crate) fn try_permit(&self, asked: Asked, via: Via) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(self.permits(asked)).try_acquire_owned().ok();
        if permit.is_none() {
            self.count_asked(asked, via, "overloaded");
        }
        permit
    }

    fn permits(&self, asked: Asked) -> &Arc<Semaphore> {
        match asked {
            Asked::Registration => &self.registrations,
            Asked::Discovery => &self.discoveries,
        }
    }

    fn count_asked(&self, asked: Asked, via: Via, outcome: &str) {
        let metrics = &self.common.metrics;
        let counter = match asked {
            Asked::Registration => &metrics.registrations,
            Asked::Discovery => &metrics.discoveries,
        };
        counter.with_label_values(&[via.label(), outcome]).inc();
    }

    /// Answers a request.
    pub(crate) async fn answer(
        &self,
        asked: Asked,
        payload: &[u8],
        asker: &Asker,
        via: Via,
    ) -> Vec<u8> {
        if payload.len() > self.common.limits.document {
            self.count_asked(asked, via, "refused");
            let error = RpcError::new(Code::InvalidParams, Full::Document.to_string());
            return error.answer(&Value::Null);
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
            Asked::Discovery => self.found(&request, asker),
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

    /// Whoever may beat for a device may register it.
    fn may_speak_for(&self, asker: &Asker, device: &DeviceId) -> Result<(), RpcError> {
        let Some(requester) = &asker.requester else { return Ok(()) };
        let name = Subject::Heartbeat(Some(device)).on(asker.broker, &self.tenant);
        let may = self.granted(asker, requester).is_some_and(|granted| {
            asker.broker.name(&name).is_ok_and(|name| granted.grants.publish(&name).is_ok())
        });
        if may {
            return Ok(());
        }
        let record = Record::new(AuditEvent::Deny, "registry").tenant(&self.tenant);
        self.common.auth.audit().record(record.detail(format!("{requester} registers {device}")));
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

    fn found(&self, request: &Request, asker: &Asker) -> Result<String, RpcError> {
        let question = Question::of(request)?;
        // Where no broker says who asks, the tenant is all that is known.
        let (discover, own) = match &asker.requester {
            None => (Discover::Everything, None),
            Some(requester) => match self.granted(asker, requester) {
                Some(granted) => (granted.discover, requester.device.clone()),
                None => (Discover::Nothing, None),
            },
        };
        let sees = |id: &DeviceId, device: &Device| {
            discover.admits(device.device_type.as_deref(), own.as_ref() == Some(id))
        };
        let presence = lock(&self.presence);
        let mut result = match question {
            Question::List(filter, page) => {
                let too_large = || {
                    let message =
                        "the answer is larger than a message may be; ask for pages with limit";
                    RpcError::new(Code::Failed, message)
                };
                presence.list(&filter, page, sees, asker.most).ok_or_else(too_large)?
            }
            Question::Get(id) => presence.get(&id, sees),
            Question::Describe => presence.describe(sees),
        };
        drop(presence);
        if let Some(behind) = self.behind_since()
            && result.pop().is_some()
        {
            result += &format!(",\"store_behind_seconds\":{}}}", behind.elapsed().as_secs());
        }
        Ok(result)
    }
}
