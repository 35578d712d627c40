//! What runs on Node.js.

use std::path::PathBuf;
use std::process::Command;

/// MQTT.js, and the Node.js to run it with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MqttJs {
    /// The `node` program.
    pub node: PathBuf,
    /// The folder whose `node_modules` holds `mqtt`.
    pub folder: PathBuf,
}

impl MqttJs {
    /// A `node` whose scripts, wherever they are, can `require("mqtt")`. An `import` looks only
    /// beside and above its own file.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.node);
        command.env("NODE_PATH", self.folder.join("node_modules"));
        command
    }
}
