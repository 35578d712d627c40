use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use crate::error::Error;

/// Below what Linux and macOS hand out for outgoing connections. A port from that range can be
/// taken, while its server is down, by a client that reconnects: it may even connect to itself.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// How often a server that finds its port taken is started.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// A TCP port from 20000 to 31999 that was free on 127.0.0.1 a moment ago.
///
/// The port is not reserved: another program may take it before its user binds it, so be ready to
/// try another one. One process gets a port twice only after it has gone through the whole range.
///
/// # Errors
///
/// [`Error::NoFreePort`] if everything in the range is taken.
pub fn free_port() -> Result<u16, Error> {
    static CURSOR: OnceLock<AtomicU16> = OnceLock::new();
    // Processes that start together have to look in different places.
    let cursor = CURSOR.get_or_init(|| {
        let random = RandomState::new().hash_one(std::process::id()) % u64::from(COUNT);
        AtomicU16::new(u16::try_from(random).unwrap_or_default())
    });
    for _ in 0..COUNT {
        let port = FIRST + cursor.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::NoFreePort { first: FIRST, last: FIRST + (COUNT - 1) })
}

/// Starts a server again, five times in all, as long as it fails because its port is taken.
pub(crate) fn retry_on_conflict<T>(
    mut start: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    for _ in 1..ATTEMPTS {
        match start() {
            Err(error) if error.is_port_conflict() => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
    start()
}

#[cfg(test)]
mod tests {
    use super::{ATTEMPTS, COUNT, FIRST, free_port, retry_on_conflict};
    use crate::error::Error;

    fn conflict() -> Error {
        Error::Exited {
            name: "x".to_owned(),
            status: "exit status: 1".to_owned(),
            log: "listen tcp 127.0.0.1:1: bind: address already in use".to_owned(),
        }
    }

    #[test]
    fn ports_differ_and_stay_in_range() {
        let first = free_port().unwrap();
        let second = free_port().unwrap();
        assert_ne!(first, second);
        assert!((FIRST..FIRST + COUNT).contains(&first));
    }

    #[test]
    fn only_a_conflict_is_tried_again() {
        let mut tries = 0;
        let mut try_until = |good: u32, error: fn() -> Error| {
            tries = 0;
            let outcome = retry_on_conflict(|| {
                tries += 1;
                if tries == good { Ok(()) } else { Err(error()) }
            });
            (outcome.is_ok(), tries)
        };
        assert_eq!(try_until(2, conflict), (true, 2));
        assert_eq!(try_until(2, || Error::NoToolsFolder), (false, 1));
        assert_eq!(try_until(0, conflict), (false, ATTEMPTS));
    }
}
