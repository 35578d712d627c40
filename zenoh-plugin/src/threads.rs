//! The threads that serve sessions.

use std::io;
use tokio::runtime::{Builder, Handle, Runtime};

/// Two sets of threads. Those that read from clients enter the router, which may hold them up until it
/// has handed on what it has; those that read from the router are never held up, so it always goes on.
#[derive(Debug)]
pub(crate) struct Threads {
    inward: Option<Runtime>,
    outward: Option<Runtime>,
    inward_handle: Handle,
    outward_handle: Handle,
}

impl Threads {
    /// Starts as many of each as the machine has cores.
    pub(crate) fn start() -> io::Result<Self> {
        let set = |name| Builder::new_multi_thread().thread_name(name).enable_all().build();
        let (inward, outward) = (set("bulkhead-in")?, set("bulkhead-out")?);
        let (inward_handle, outward_handle) = (inward.handle().clone(), outward.handle().clone());
        Ok(Self { inward: Some(inward), outward: Some(outward), inward_handle, outward_handle })
    }

    /// For what comes from clients.
    pub(crate) fn inward(&self) -> &Handle {
        &self.inward_handle
    }

    /// For what goes to clients.
    pub(crate) fn outward(&self) -> &Handle {
        &self.outward_handle
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The last one to go may be one of these threads' own tasks, which cannot wait for them.
        for threads in [self.inward.take(), self.outward.take()].into_iter().flatten() {
            threads.shutdown_background();
        }
    }
}
