//! Connecting again and again, with several connectors at once.

use std::time::{Duration, Instant};

/// What a connector says, over and over again.
pub type Share<'a> = &'a [Vec<u8>];

/// Lets each connector connect for so long with what is in its share. Returns how many connections
/// were made per second, and how many that were.
pub fn for_a_while<'a>(
    shares: impl Iterator<Item = Share<'a>>,
    length: Duration,
    connect: impl Fn(usize, &[u8]) + Sync,
) -> (f64, f64) {
    let started = Instant::now();
    let connect = &connect;
    let made: u32 = std::thread::scope(|scope| {
        let connectors: Vec<_> = shares
            .enumerate()
            .map(|(connector, share)| {
                scope.spawn(move || {
                    let mut made = 0;
                    for hello in share.iter().cycle() {
                        if started.elapsed() >= length {
                            break;
                        }
                        connect(connector, hello);
                        made += 1;
                    }
                    made
                })
            })
            .collect();
        connectors.into_iter().map(|connector| connector.join().unwrap()).sum()
    });
    let took = started.elapsed().as_secs_f64();
    // What is left to do for the last connections belongs to them, and not to whom comes next.
    std::thread::sleep(Duration::from_millis(20));
    (f64::from(made) / took, f64::from(made))
}
