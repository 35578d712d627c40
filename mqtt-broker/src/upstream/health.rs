//! Whether the broker is there: one connection of the front's own tells, so that clients need not
//! find out one by one.

use super::Upstream;
use super::hello::{self, Failure};
use crate::codec::{Frame, ServerPacket, Version, pingreq};
use crate::connection::Stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// How often the broker is asked whether it is there.
const ASK: Duration = Duration::from_secs(5);

/// How long it may take to answer that, or to accept a connection.
pub(super) const ANSWER: Duration = Duration::from_secs(4);

/// The first pause after it could not be reached; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Largest packet that the broker may send here, where it has nothing to say.
const MAX_PACKET: usize = 1024;

/// What is known of the broker.
#[derive(Debug)]
pub(super) struct Health {
    state: watch::Sender<State>,
    /// Somebody had no luck with it.
    suspect: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Up,
    Down,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::new(State::Unknown), suspect: Notify::new() }
    }

    pub(super) fn is_up(&self) -> bool {
        *self.state.borrow() == State::Up
    }

    /// Whether it makes sense to connect now. Only while nothing is known does that take time, until
    /// the first attempt has ended.
    pub(super) async fn permits(&self) -> bool {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| *state != State::Unknown);
        let known = timeout(ANSWER, known).await;
        matches!(known, Ok(Ok(state)) if *state == State::Up)
    }

    /// Has the broker asked at once.
    pub(super) fn suspect(&self) {
        self.suspect.notify_one();
    }
}

/// Follows how the broker is, for ever.
pub(super) async fn watch_over(upstream: Arc<Upstream>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let failure = match timeout(ANSWER, connect(&upstream)).await {
            Ok(Ok(stream)) => {
                pause = FIRST_PAUSE;
                tracing::info!(url = %upstream.dialer.url(), "mqtt.upstream: the broker is there");
                upstream.metrics.up.set(1);
                upstream.health.state.send_replace(State::Up);
                stay(&upstream, stream).await
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Timeout,
        };
        upstream.metrics.up.set(0);
        let before = upstream.health.state.send_replace(State::Down);
        let url = upstream.dialer.url();
        if failure.is_credentials() {
            tracing::warn!(
                %url,
                %failure,
                "mqtt.upstream: the broker does not take the front; check user and password_file"
            );
        } else if before != State::Down {
            tracing::warn!(%url, %failure, "mqtt.upstream: the broker is away");
        } else {
            tracing::debug!(%url, %failure, "mqtt.upstream: the broker is away");
        }
        sleep(pause + jitter(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(upstream: &Upstream) -> Result<Box<dyn Stream>, Failure> {
    let mut stream = upstream.dialer.dial().await?;
    let packet = hello::own_connect(upstream, &upstream.own_id);
    let answer = hello::introduce(&mut stream, &packet).await?;
    hello::accepts(&answer, Version::V311)?;
    Ok(stream)
}

/// Asks again and again, until there is no answer.
async fn stay(upstream: &Upstream, mut stream: Box<dyn Stream>) -> Failure {
    let mut buffer = Vec::new();
    loop {
        let asked = async {
            tokio::select! {
                () = sleep(ASK) => {}
                () = upstream.health.suspect.notified() => {}
                // Nothing comes unasked but the end.
                failure = answer(&mut stream, &mut buffer) => return failure.map(drop),
            }
            let mut packet = Vec::new();
            pingreq(&mut packet);
            let ask = async {
                stream.write_all(&packet).await?;
                stream.flush().await?;
                answer(&mut stream, &mut buffer).await
            };
            timeout(ANSWER, ask).await.map_err(|_| Failure::Timeout)?
        };
        if let Err(failure) = asked.await {
            return failure;
        }
    }
}

async fn answer(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>) -> Result<(), Failure> {
    loop {
        if let Some(frame) = Frame::find(buffer, MAX_PACKET)? {
            let len = frame.len;
            match ServerPacket::decode(&frame, Version::V311)? {
                ServerPacket::PingResp => {}
                _ => return Err(Failure::Unexpected),
            }
            buffer.drain(..len);
            return Ok(());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// Up to half of it, so that fronts which lost one broker do not all come back at once.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness it comes at once.
    let _ = aws_lc_rs::rand::fill(&mut random);
    pause.mul_f64(f64::from(random[0]) / 512.0)
}
