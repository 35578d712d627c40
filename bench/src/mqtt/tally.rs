//! What the threads of a load know of each other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes at the beginning of a payload that say when it was sent.
pub const STAMP_BYTES: usize = 8;

/// Counts messages, and their times where that is wanted.
pub struct Tally {
    started: Instant,
    arrived: AtomicU64,
    /// Nothing more is published.
    enough: AtomicBool,
    /// Nothing more is received.
    over: AtomicBool,
    /// Whether times count now.
    timing: AtomicBool,
    /// Seconds from publish to arrival.
    times: Mutex<Vec<f64>>,
}

/// Ends everything when it is dropped.
pub struct Ending<'a>(&'a Tally);

/// Takes the times of messages that were read together.
pub struct Stopwatch<'a> {
    tally: &'a Tally,
    /// Nanoseconds; `None` if nobody wants to know.
    now: Option<u64>,
}

impl Tally {
    /// Nothing so far.
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            arrived: AtomicU64::new(0),
            enough: AtomicBool::new(false),
            over: AtomicBool::new(false),
            timing: AtomicBool::new(false),
            times: Mutex::default(),
        }
    }

    /// Messages that have arrived.
    pub fn count(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Adds messages that have arrived.
    pub fn arrived(&self, messages: u64) {
        self.arrived.fetch_add(messages, Ordering::Relaxed);
    }

    /// Whether to publish no more.
    pub fn is_enough(&self) -> bool {
        self.enough.load(Ordering::Relaxed)
    }

    /// Whether to receive no more.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Lets nobody publish any more.
    pub fn end_publishing(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// Ends everything when it is dropped.
    pub fn ending(&self) -> Ending<'_> {
        Ending(self)
    }

    /// Begins or ends to take times.
    pub fn take_times(&self, on: bool) {
        self.timing.store(on, Ordering::Relaxed);
    }

    /// The times that were taken, in seconds.
    pub fn times(&self) -> Vec<f64> {
        std::mem::take(&mut self.times.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For messages that were read together.
    pub fn stopwatch(&self) -> Stopwatch<'_> {
        let on = self.timing.load(Ordering::Relaxed);
        Stopwatch { tally: self, now: on.then(|| self.now()) }
    }

    /// What a payload says that is sent now.
    pub fn stamp(&self) -> [u8; STAMP_BYTES] {
        self.now().to_be_bytes()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap()
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.enough.store(true, Ordering::Relaxed);
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Stopwatch<'_> {
    /// Takes the time of one of them.
    pub fn stop(&self, payload: &[u8]) {
        let Some(now) = self.now else { return };
        let sent = u64::from_be_bytes(*payload.first_chunk().expect("a payload with a stamp"));
        let time = Duration::from_nanos(now.saturating_sub(sent)).as_secs_f64();
        self.tally.times.lock().unwrap_or_else(PoisonError::into_inner).push(time);
    }
}
