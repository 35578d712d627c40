//! Everything that this workspace's crates log, to look for what must not be there.

use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// A log in memory. Cloning shares it.
#[derive(Clone, Default)]
pub struct Capture {
    text: Arc<Mutex<Vec<u8>>>,
}

impl Capture {
    /// A subscriber that writes here, at the finest level.
    pub fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        let filter = "off,bulkhead_control=trace,bulkhead_policy=trace,bulkhead_devkit=trace";
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_ansi(false)
            .with_writer(self.clone())
            .finish()
    }

    /// What was logged so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Capture {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
