use super::site::tenant;
use async_nats::{Client, ConnectOptions};
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Requests under way at a time.
const AT_A_TIME: usize = 64;

/// Somebody of the tenant, who speaks for all its devices.
pub struct Load {
    client: Client,
}

/// What devices of Device Connect register with: the document has about 1.3 KB.
pub fn params(device: &str, ttl: u32) -> Value {
    let function = |name: &str| {
        json!({"name": name, "description": "what it does, in a sentence of usual length",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
            "labels": null, "tags": []})
    };
    let functions: Vec<_> = ["one", "two", "three"].map(function).to_vec();
    let event = json!({"name": "motion", "description": "that something moved",
        "payload_schema": {"type": "object"}, "labels": null, "tags": []});
    let capabilities = json!({"description": "a camera", "functions": functions, "events": [event], "labels": null});
    json!({"device_id": device, "device_ttl": ttl, "capabilities": capabilities,
        "identity": {"device_type": "camera", "manufacturer": "bench", "model": "m1",
            "serial_number": device, "firmware_version": "1.0.0"},
        "status": {"ts": "2026-11-22T02:58:05Z", "location": "lab", "availability": "idle"}})
}

/// A registration with that.
pub fn registration(device: &str, ttl: u32) -> String {
    let params = params(device, ttl);
    json!({"jsonrpc": "2.0", "id": device, "method": "registerDevice", "params": params})
        .to_string()
}

pub fn name(n: usize) -> String {
    format!("cam-{n:06}")
}

impl Load {
    pub async fn connect(url: &str, token: &str) -> Self {
        let options = ConnectOptions::with_token(token.to_owned())
            .request_timeout(Some(Duration::from_secs(30)));
        Self { client: options.connect(url).await.unwrap() }
    }

    /// Waits until a registry answers.
    pub async fn until_served(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        // Not for a list: one that is put together of a large fleet takes its time.
        let params = json!({"device_id": name(0)});
        let question = json!({"id": 1, "method": "discovery/getDevice", "params": params});
        while self.try_ask("discovery", &question).await.is_none() {
            assert!(Instant::now() < deadline, "no registry answers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_ask(&self, name: &str, request: &Value) -> Option<Value> {
        let subject = format!("device-connect.{}.{name}", tenant());
        let answer = self.client.request(subject, request.to_string().into()).await.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }

    /// Registers devices, some at a time. Returns how long each took, in seconds.
    pub async fn register(&self, devices: std::ops::Range<usize>, ttl: u32) -> Vec<f64> {
        let subject = format!("device-connect.{}.registry", tenant());
        stream::iter(devices)
            .map(|n| {
                let (subject, request) = (subject.clone(), registration(&name(n), ttl));
                async move {
                    let began = Instant::now();
                    let answer = self.client.request(subject, request.into()).await.unwrap();
                    let text = String::from_utf8_lossy(&answer.payload).into_owned();
                    assert!(text.contains("device_registration_id"), "{text}");
                    began.elapsed().as_secs_f64()
                }
            })
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await
    }

    /// Sends a heartbeat.
    pub async fn beat(&self, n: usize, change: Option<usize>) {
        let device = name(n);
        let subject = format!("device-connect.{}.{device}.heartbeat", tenant());
        let beat = match change {
            None => format!("{{\"device_id\":\"{device}\",\"ts\":1795317234.77}}"),
            Some(value) => {
                format!("{{\"device_id\":\"{device}\",\"ts\":1795317234.77,\"battery\":{value}}}")
            }
        };
        self.client.publish(subject, beat.into()).await.unwrap();
    }

    /// Has devices beat in turn, each so often (in seconds), for so long. Returns how many heartbeats were
    /// sent; each is told its number, from one on, to make its change of.
    pub async fn paced(
        &self,
        devices: usize,
        every: f64,
        how_long: Duration,
        change: impl Fn(usize) -> Option<usize>,
    ) -> usize {
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < how_long {
            let due = (began.elapsed().as_secs_f64() / every * devices as f64) as usize;
            while sent < due {
                self.beat(sent % devices, change(sent + 1)).await;
                sent += 1;
            }
            self.flush().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sent
    }

    pub async fn flush(&self) {
        self.client.flush().await.unwrap();
    }

    /// Asks, and returns how long the answer took, in seconds, and its bytes.
    pub async fn timed(&self, request: &Value) -> (f64, usize) {
        let (took, answer) = self.answered(request).await;
        (took, answer.len())
    }

    /// The same, with the answer itself.
    pub async fn answered(&self, request: &Value) -> (f64, Vec<u8>) {
        let subject = format!("device-connect.{}.discovery", tenant());
        let began = Instant::now();
        let answer = self.client.request(subject, request.to_string().into()).await.unwrap();
        (began.elapsed().as_secs_f64(), answer.payload.to_vec())
    }
}
