//! The threads that serve sessions.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use tokio::runtime::{Builder, Handle, Runtime};

/// Pairs of threads, as many as the machine has cores. Those that read from clients enter the router, which
/// may hold them up until it has handed on what it has; those that read from the router are never held up,
/// so it always goes on.
///
/// A session stays with its pair. Threads that take work from each other wake each other for it, which at a
/// message at a time costs as much as the messages do.
#[derive(Debug)]
pub(crate) struct Threads {
    first: Pair,
    others: Vec<Pair>,
    next: AtomicUsize,
    /// What runs all of them.
    runtimes: Vec<Runtime>,
}

/// The threads of one session.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// For what comes from the client.
    pub(crate) inward: Handle,
    /// For what goes to it.
    pub(crate) outward: Handle,
}

impl Threads {
    /// Starts them.
    pub(crate) fn start() -> io::Result<Self> {
        let mut runtimes = Vec::new();
        let first = pair(&mut runtimes)?;
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let others = (1..cores).map(|_| pair(&mut runtimes)).collect::<io::Result<_>>()?;
        Ok(Self { first, others, next: AtomicUsize::new(0), runtimes })
    }

    /// The pair for the next session, in turn.
    pub(crate) fn next(&self) -> &Pair {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % (self.others.len() + 1);
        self.others.get(next).unwrap_or(&self.first)
    }
}

fn pair(runtimes: &mut Vec<Runtime>) -> io::Result<Pair> {
    let mut thread = |name: &str| -> io::Result<Handle> {
        // Not one of the kind that is a single thread: there nothing could be done aside.
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?;
        let handle = runtime.handle().clone();
        runtimes.push(runtime);
        Ok(handle)
    };
    Ok(Pair { inward: thread("bulkhead-in")?, outward: thread("bulkhead-out")? })
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The last one to go may be one of these threads' own tasks, which cannot wait for them.
        for runtime in self.runtimes.drain(..) {
            runtime.shutdown_background();
        }
    }
}
