//! Real NATS clients, with what the server tells them.

use crate::stack::Stack;
use crate::wait::{WITHIN, eventually};
use async_nats::{Client, ConnectOptions, Event, Message, Subscriber};
use bulkhead_cli::verify::settle;
use futures::StreamExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// How long nothing has to arrive for it to count as nothing. Whatever is to arrive does so within
/// milliseconds; the test first waits for a message that was sent later.
const NOTHING: Duration = Duration::from_millis(250);

/// A connected client that remembers what the server told it.
pub struct Actor {
    /// The client.
    pub client: Client,
    events: Arc<Mutex<Vec<String>>>,
}

impl Actor {
    /// Connects with a token, and never again once it was cut off.
    pub async fn connect(url: &str, token: &str) -> Self {
        Self::try_connect(url, ConnectOptions::with_token(token.to_owned())).await.unwrap()
    }

    /// Connects with other options.
    ///
    /// # Errors
    /// What the client says.
    pub async fn try_connect(
        url: &str,
        options: ConnectOptions,
    ) -> Result<Self, async_nats::ConnectError> {
        let events: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&events);
        let client = options
            .max_reconnects(1)
            .connection_timeout(Duration::from_secs(8))
            .event_callback(move |event| {
                let log = Arc::clone(&log);
                async move {
                    let text = match event {
                        Event::ServerError(error) => error.to_string(),
                        other => other.to_string(),
                    };
                    log.lock().unwrap().push(text);
                }
            })
            .connect(url)
            .await?;
        Ok(Self { client, events })
    }

    /// Subscribes and waits until the server knows, or has refused.
    pub async fn subscribe(&self, subject: &str) -> Subscriber {
        let subscriber = self.client.subscribe(subject.to_owned()).await.unwrap();
        settle(&self.client).await.unwrap();
        subscriber
    }

    /// Publishes and waits until the server has routed it, or has refused.
    pub async fn publish(&self, subject: &str, payload: &str) {
        self.client.publish(subject.to_owned(), payload.to_owned().into()).await.unwrap();
        settle(&self.client).await.unwrap();
    }

    /// What the server told this client, one line each.
    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    /// Waits until the server has told it something that contains this text, in any case.
    pub async fn told(&self, text: &str) {
        let text = text.to_lowercase();
        eventually(&format!("the client is told {text:?}, not only {:?}", self.events()), || {
            self.events().iter().any(|event| event.to_lowercase().contains(&text))
        })
        .await;
    }

    /// Waits until the server has refused something about this subject.
    pub async fn refused(&self, subject: &str) {
        let subject = subject.to_lowercase();
        eventually(&format!("the server refuses {subject}; so far: {:?}", self.events()), || {
            self.events().iter().any(|event| {
                let event = event.to_lowercase();
                event.contains("permissions violation") && event.contains(&subject)
            })
        })
        .await;
    }

    /// Waits until this client is cut off.
    pub async fn cut(&self) {
        eventually("the client is cut off", || {
            self.events().iter().any(|event| event.contains("disconnected"))
        })
        .await;
    }

    /// Whether it was cut off.
    pub fn is_cut(&self) -> bool {
        self.events().iter().any(|event| event.contains("disconnected"))
    }
}

/// The next message.
pub async fn next(subscriber: &mut Subscriber) -> Message {
    timeout(WITHIN, subscriber.next()).await.expect("a message in time").expect("a subscription")
}

/// Makes sure that nothing arrives.
pub async fn nothing(subscriber: &mut Subscriber) {
    if let Ok(Some(message)) = timeout(NOTHING, subscriber.next()).await {
        panic!("{} arrived: {:?}", message.subject, message.payload);
    }
}

/// Tries to connect and returns what the client is told; a connection is a failure.
pub async fn connect_error(stack: &Stack, token: &str) -> String {
    match Actor::try_connect(stack.url(), ConnectOptions::with_token(token.to_owned())).await {
        Ok(_) => panic!("the connection was admitted"),
        Err(error) => error.to_string(),
    }
}
