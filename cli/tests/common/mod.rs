//! What the tests of the command line share: a folder as a person has it, and the command run in it.
//!
//! Every run is looked through for what no run may do: panic, or tell a secret on standard error.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod secrets;
pub mod service;

use bulkhead_cli::signer::Signer;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// `iss` of the tokens.
pub const ISSUER: &str = "https://issuer.test";

/// How long anything may take that has to happen. Far beyond what it takes: tests do not measure.
pub const WITHIN: Duration = Duration::from_secs(60);

/// A folder with whatever the command finds and leaves there.
pub struct Home {
    folder: TempDir,
}

/// What became of a command.
#[derive(Debug)]
pub struct Ran {
    pub typed: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Home {
    /// An empty folder.
    pub fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A configuration with a directory in a file and an issuer, whose private key is in
    /// `issuer.pem`. There are no tenants yet.
    pub fn new() -> Self {
        Self::with("directory = { file = \"tenants.toml\" }\n")
    }

    /// The same, with tenants.
    pub fn of(tenants: &[&str]) -> Self {
        let home = Self::new();
        home.create(tenants);
        home
    }

    /// A configuration with an issuer and these other settings, and its keys.
    pub fn with(settings: &str) -> Self {
        let home = Self::empty();
        let signer = Signer::create(&home.path("issuer.pem")).unwrap();
        home.write("issuer.jwks.json", &signer.jwks().to_string());
        home.configure(settings);
        home
    }

    /// A configuration with NATS in operator mode, its keys, and tenants. No server is there.
    pub fn with_nats(tenants: &[&str]) -> Self {
        let home = Self::new();
        home.run(["init", "nats"]).ok();
        home.configure(
            "directory = { file = \"tenants.toml\" }\n\
             audit = { path = \"audit.jsonl\" }\n\
             nats = { servers = [\"nats://127.0.0.1:1\"], operator = { keys = \"nats\" } }\n",
        );
        home.create(tenants);
        home
    }

    /// Writes the configuration anew.
    pub fn configure(&self, settings: &str) {
        let text = format!(
            "dev = true\n\
             admin = {{ listen = \"127.0.0.1:0\" }}\n\
             {settings}\n\
             [[issuers]]\n\
             name = \"corp\"\n\
             issuer = \"{ISSUER}\"\n\
             audiences = [\"bulkhead\"]\n\
             algorithms = [\"EdDSA\"]\n\
             keys.jwks_file = \"issuer.jwks.json\"\n\
             tenants = \"all\"\n\
             leeway = \"0s\"\n\
             roles = [\"device\", \"member\", \"viewer\", \"operator\"]\n"
        );
        self.write("bulkhead.toml", &text);
    }

    fn create(&self, tenants: &[&str]) {
        for tenant in tenants {
            self.run(["tenant", "create", tenant]).ok();
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// The permissions of a file or folder.
    pub fn mode(&self, name: &str) -> u32 {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }

    /// The names of everything in a folder.
    pub fn names_in(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The command in this folder, with nothing of this process's environment that it reads.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.args(args).current_dir(self.folder()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_ascii_lowercase();
            // Where tools are kept is the only one that the tests need.
            if text.starts_with("bulkhead") && text != "bulkhead_tools_dir"
                || text.ends_with("_proxy")
            {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Runs the command to its end.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        Ran::from(self.command(args))
    }

    /// Runs the command with something on standard input.
    pub fn run_with<A: AsRef<OsStr>>(&self, input: &str, args: impl IntoIterator<Item = A>) -> Ran {
        let mut command = self.command(args);
        let typed = typed(&command);
        let mut child = start(command.stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        Ran::of(typed, child.wait_with_output().unwrap())
    }

    /// A token, minted as a person does, with these other arguments.
    pub fn token(&self, tenant: &str, more: &[&str]) -> String {
        let mint = ["token", "mint", "--key", "issuer.pem", "--tenant", tenant];
        let ran = self.run(mint.iter().chain(more)).ok();
        ran.stdout.trim().to_owned()
    }
}

/// Starts a command whose output will be read.
pub fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A command as it was typed.
pub fn typed(command: &Command) -> String {
    let args = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
    format!("bulkhead {}", args.collect::<Vec<_>>().join(" "))
}

impl Ran {
    /// Runs a command to its end.
    pub fn from(mut command: Command) -> Self {
        let typed = typed(&command);
        Self::of(typed, start(&mut command).wait_with_output().unwrap())
    }

    /// What became of a command that has ended.
    pub fn of(typed: String, output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ran = Self {
            typed,
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        };
        assert!(!ran.stderr.contains("panicked"), "{ran}");
        assert_eq!(secrets::in_text(&ran.stderr), None, "a secret on standard error");
        ran
    }

    /// It did what it was asked, and complained of nothing.
    pub fn ok(self) -> Self {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self}");
        self
    }

    /// It ended with this code; what it says about that is on standard error, and nothing else is
    /// on standard output.
    pub fn failed(self, code: i32) -> Self {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), ""), "{self}");
        assert!(!self.stderr.trim().is_empty(), "{self}");
        self
    }

    /// It found something wrong and said so on standard output.
    pub fn found(self) -> Self {
        assert_eq!((self.code, self.stderr.as_str()), (Some(3), ""), "{self}");
        self
    }

    /// It said all of this, on whichever stream.
    pub fn says(self, texts: &[&str]) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        for text in texts {
            assert!(all.contains(text), "{text:?} is missing from: {self}");
        }
        self
    }

    /// The JSON on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { typed, code, stdout, stderr } = self;
        write!(f, "`{typed}` ended with {code:?}\n-- stdout\n{stdout}\n-- stderr\n{stderr}")
    }
}
