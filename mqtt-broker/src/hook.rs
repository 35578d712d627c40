//! Who may connect, and what they may do: the way in for a policy of your own.
//!
//! The broker asks a [`Hook`] who a client is, once for each CONNECT, and gets an [`Access`], which it
//! asks about each topic before anything is acknowledged. Bulkhead's own is
//! [`TenantPolicy`](crate::TenantPolicy).

use bulkhead_control::usage::Uncounted;
use bulkhead_policy::service::of_tenant;
use bulkhead_policy::{DenyReason, DeviceId, Quotas, Scope, TenantId, Verdict};
use jiff::Timestamp;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

/// Decides who may connect.
pub trait Hook: Send + Sync + 'static {
    /// Says who a client is and what it may do.
    ///
    /// # Errors
    /// Why it is refused.
    fn connect<'a>(&'a self, attempt: Attempt<'a>) -> Answer<'a>;

    /// What stands before every name that a tenant's clients say and hear, with a `/` at its end;
    /// empty for nothing. An [`Access`] is asked about names with it.
    fn mount(&self, _tenant: &TenantId) -> String {
        String::new()
    }
}

/// What a [`Hook`] answers, when it can.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Verdict<Arc<dyn Access>>> + Send + 'a>>;

/// What a client shows of itself in CONNECT, or in AUTH when it renews.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Where it comes from.
    pub source: IpAddr,
    /// The client id that it asks for; empty if it leaves that to the broker.
    pub client_id: &'a str,
    /// User name, never to be believed by itself.
    pub user_name: Option<&'a str>,
    /// Everything that may be a token: password, Bearer header of the WebSocket, authentication
    /// data. Where there are several, they have to agree.
    pub tokens: &'a [&'a [u8]],
    /// Leaf of the client certificate that the TLS handshake verified, in DER.
    pub certificate: Option<&'a [u8]>,
}

/// What one client may do. It never changes; when rights change, there is another.
pub trait Access: Send + Sync + 'static {
    /// The tenant, or all of them for a service. Client ids, sessions, retained messages, shared
    /// groups and quotas live inside it.
    fn scope(&self) -> &Scope;

    /// Which device it is. Client ids of different devices never meet.
    fn device(&self) -> Option<&DeviceId>;

    /// Who it is, in the words that platform services are told: a
    /// [`Requester`](bulkhead_policy::Requester). `None` for a service itself.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Whether it may publish to this topic.
    ///
    /// # Errors
    /// Why not.
    fn publish(&self, topic: &str) -> Verdict<()>;

    /// Whether it may receive everything that this filter (without `$share/…`) matches.
    ///
    /// # Errors
    /// Why not.
    fn subscribe(&self, filter: &str) -> Verdict<()>;

    /// Whether it may receive messages of this topic.
    fn receives(&self, topic: &str) -> bool;

    /// When it ends by itself.
    fn expires_at(&self) -> Option<Timestamp>;

    /// The limits of its tenant.
    fn quotas(&self) -> Quotas;

    /// Counts a message with a payload of so many bytes against what its tenant may publish in a day, or
    /// lets [`Access::count`] do that.
    ///
    /// # Errors
    /// Why it may not be published.
    fn spend(&self, _bytes: usize, _uncounted: &mut Uncounted) -> Verdict<()> {
        Ok(())
    }

    /// Counts what was allowed and is not counted yet: once for all messages of a read.
    fn count(&self, _uncounted: &mut Uncounted) {}

    /// Which tenant a service speaks to with this topic, which it may publish to. Its message goes there
    /// and nowhere else.
    fn tenant_of(&self, _topic: &str) -> Option<TenantId> {
        None
    }

    /// Whose a name is that a service may receive. What is said in another tenant's place does not reach it
    /// under this name.
    fn tenant_heard(&self, _topic: &str) -> Option<TenantId> {
        None
    }

    /// Is told what became of the client, to count it or to write it down.
    fn note(&self, _event: Noted) {}

    /// Whether it still holds, asked when the directory or the rules have changed.
    ///
    /// # Errors
    /// Why the client is cut off.
    fn renew(&self) -> Verdict<Renewal>;
}

/// Whether a client may publish to a topic; a service may say the tenant before a name that carries none.
///
/// # Errors
/// Why not.
pub(crate) fn may_publish(access: &dyn Access, topic: &str) -> Verdict<()> {
    let Some((tenant, name)) = of_tenant(topic).filter(|_| *access.scope() == Scope::Service)
    else {
        return access.publish(topic);
    };
    access.publish(name)?;
    // A name that carries a tenant, and another one, is neither's.
    match access.tenant_of(name) {
        Some(other) if other != tenant => Err(DenyReason::NameInvalid),
        _ => Ok(()),
    }
}

/// What became of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// It has its session.
    Connected,
    /// Something that it wanted was refused.
    Denied(Operation, DenyReason),
    /// It is cut off: it is told, and its connection ends.
    Terminated(DenyReason),
    /// The connection of one that was served has ended, whatever for.
    Closed,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// CONNECT.
    Connect,
    /// PUBLISH.
    Publish,
    /// SUBSCRIBE.
    Subscribe,
    /// A will, at CONNECT or when it is due.
    Will,
    /// To have a message retained.
    Retain,
    /// To receive what waits for it.
    Receive,
}

impl Operation {
    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Will => "will",
            Self::Retain => "retain",
            Self::Receive => "receive",
        }
    }
}

/// How an [`Access`] goes on.
pub enum Renewal {
    /// As it is.
    Unchanged,
    /// With other rights or limits: open subscriptions and waiting messages are looked at again.
    Changed(Arc<dyn Access>),
}

/// Lets everybody do everything, all in one tenant: to compare with, and for tests.
#[derive(Clone, Debug)]
pub struct AllowAll {
    scope: Scope,
}

impl AllowAll {
    /// Everybody is of this tenant.
    pub fn of(tenant: TenantId) -> Self {
        Self { scope: Scope::Tenant(tenant) }
    }
}

impl Hook for AllowAll {
    fn connect<'a>(&'a self, _: Attempt<'a>) -> Answer<'a> {
        let access: Arc<dyn Access> = Arc::new(self.clone());
        Box::pin(std::future::ready(Ok(access)))
    }
}

impl Access for AllowAll {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn device(&self) -> Option<&DeviceId> {
        None
    }

    fn publish(&self, topic: &str) -> Verdict<()> {
        if topic.starts_with('$') { Err(DenyReason::PublishDenied) } else { Ok(()) }
    }

    fn subscribe(&self, _: &str) -> Verdict<()> {
        Ok(())
    }

    fn receives(&self, _: &str) -> bool {
        true
    }

    fn expires_at(&self) -> Option<Timestamp> {
        None
    }

    fn quotas(&self) -> Quotas {
        Quotas::default()
    }

    fn renew(&self) -> Verdict<Renewal> {
        Ok(Renewal::Unchanged)
    }
}
