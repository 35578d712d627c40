use super::{Entrance, Link, Raw, Witness};
use crate::stack::{Stack, Token};
use crate::wait::eventually;
use bulkhead_devkit::Server;
use std::process::Command;

/// A gate in a process of its own, so that what it takes can be seen. Its stack was started without a service.
pub struct Apart {
    /// Where it is entered.
    pub entrance: Entrance,
    server: Server,
}

impl Apart {
    /// Starts it, by the program `replica` of these tests, with one listener for each of `links`; it is entered by the
    /// first.
    pub async fn start(stack: &Stack, replica: &str, link: Link) -> Self {
        let mut command = Command::new(replica);
        command.args(["serve", "--config"]).arg(stack.config_path());
        let server = Server::spawn("gate", command, stack.folder()).unwrap();
        eventually("the gate says where it is", || server.log().contains("addresses=[")).await;
        let log = server.log();
        let addresses = log.split("addresses=[").nth(1).unwrap().split(']').next().unwrap();
        let place = super::LINKS.iter().position(|(one, _)| *one == link).unwrap();
        let address = addresses.split(", ").nth(place).unwrap().parse().unwrap();
        let certificate = stack.folder().join("zenoh.pem");
        let entrance = Entrance { link, address, certificate, identity: None, window: None };
        Self { entrance, server }
    }

    /// A raw client of acme.
    pub async fn member(&self, stack: &Stack) -> Raw {
        self.entrance.enter(&stack.greeting(&Token::role("acme", "member"))).await
    }

    /// Somebody of globex who hears everything there.
    pub async fn witness(&self, stack: &Stack) -> Witness {
        let session = || async {
            self.entrance.connect(&stack.token(&Token::role("globex", "member"))).await
        };
        Witness::new("globex", session().await, session().await).await
    }

    /// Memory that it has in use, in bytes.
    pub fn resident(&self) -> u64 {
        self.figure("VmRSS")
    }

    /// The most that it had.
    pub fn peak(&self) -> u64 {
        self.figure("VmHWM")
    }

    /// A figure of `/proc/<pid>/status`, in bytes.
    fn figure(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let kilobytes = line.trim_matches([':', '\t', ' ']).trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() * 1024
    }
}
