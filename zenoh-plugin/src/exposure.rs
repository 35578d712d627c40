//! What of the router tenants could reach around the gate.

use bulkhead_control::config::ZenohConfig;
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zenoh_protocol::core::Locator;

/// How a Unix socket is written among endpoints.
const UNIX: &str = "unixsock-stream/";

/// What others need of a folder to enter it, and of a socket to connect to it.
const ENTER: u32 = 0o001;
const CONNECT: u32 = 0o002;

/// Where the router itself listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exposure {
    /// The socket for the gate.
    pub(crate) socket: Option<PathBuf>,
    /// All sockets that are not trusted, that one among them.
    pub(crate) sockets: Vec<PathBuf>,
    /// What anybody who can reach the address can use.
    pub(crate) open: Vec<String>,
    /// What is for routers and for the platform's own programs.
    trusted: Vec<String>,
}

impl Exposure {
    /// Reads the router's `listen/endpoints` (JSON), and takes out what the configuration trusts.
    pub(crate) fn of(endpoints: &str, config: &ZenohConfig) -> Self {
        let endpoints: Value = serde_json::from_str(endpoints).unwrap_or_default();
        // One list, or one for each mode.
        let listed = endpoints.get("router").unwrap_or(&endpoints);
        let listed = listed.as_array().map(Vec::as_slice).unwrap_or_default();
        let all: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
        let (sockets, others): (Vec<&str>, Vec<&str>) =
            all.into_iter().partition(|endpoint| endpoint.starts_with(UNIX));
        let path = |endpoint: &&str| {
            // What stands behind `?` and `#` is no part of the path.
            let path = endpoint.strip_prefix(UNIX)?;
            path.split(['?', '#']).next().map(PathBuf::from)
        };
        let socket = config.router_socket.clone().or_else(|| sockets.first().and_then(path));
        let trusted = |endpoint: &&str| config.trusted_listeners.iter().any(|own| own == endpoint);
        let open = others.into_iter().filter(|e| !trusted(e)).map(str::to_owned).collect();
        let mut sockets: Vec<_> = sockets.iter().filter(|e| !trusted(e)).filter_map(path).collect();
        sockets.extend(socket.clone().filter(|own| !sockets.contains(own)));
        Self { socket, sockets, open, trusted: config.trusted_listeners.clone() }
    }

    /// Whether no router of ours should have come in here: by the gate's socket, or by a listener that is
    /// not trusted.
    pub(crate) fn is_open(&self, own_end: &Locator) -> bool {
        let (protocol, address) = (own_end.protocol().as_str(), own_end.address().as_str());
        if format!("{protocol}/") == UNIX {
            return self.socket.as_deref() == Some(Path::new(address));
        }
        if self.trusted.iter().any(|own| parts(own) == Some((protocol, address))) {
            return false;
        }
        let here = port(address);
        self.open.iter().filter_map(|listener| parts(listener)).any(|(by, address)| {
            let listens = port(address);
            by == protocol && (listens == here || listens == Some("0"))
        })
    }
}

/// Whether every user of the machine can connect to a socket that this process makes: who may enter all
/// folders above it and may write to it.
pub(crate) fn is_for_everybody(socket: &Path) -> bool {
    umask().is_some_and(|umask| umask & CONNECT == 0) && socket.parent().is_some_and(is_entered)
}

/// Whether everybody may enter a folder and all above it.
fn is_entered(folder: &Path) -> bool {
    // What is above a mere name is where the process is.
    let Ok(folder) = Path::new(".").join(folder).canonicalize() else { return false };
    folder.ancestors().all(|one| one.metadata().is_ok_and(|found| found.mode() & ENTER != 0))
}

/// What is taken from the rights to new files. It can be read only where the system tells it as a file:
/// to ask the usual way sets another one.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(octal.trim(), 8).ok()
}

/// Protocol and address of an endpoint.
fn parts(endpoint: &str) -> Option<(&str, &str)> {
    endpoint.split(['?', '#']).next()?.split_once('/')
}

fn port(address: &str) -> Option<&str> {
    address.rsplit_once(':').map(|(_, port)| port)
}

#[cfg(test)]
mod tests {
    use super::{Exposure, is_entered};
    use bulkhead_control::config::ZenohConfig;
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn exposure(endpoints: &str, trusted: &[&str]) -> Exposure {
        let mut config = ZenohConfig::new(Vec::new());
        config.trusted_listeners = trusted.iter().map(|t| (*t).to_owned()).collect();
        Exposure::of(endpoints, &config)
    }

    #[test]
    fn everything_but_sockets_and_what_is_trusted_is_open() {
        let found = exposure(
            r#"["unixsock-stream//run/z.sock?prio=1", "tcp/[::]:7447", "tls/10.0.0.1:7447"]"#,
            &["tls/10.0.0.1:7447"],
        );
        assert_eq!(found.socket.as_deref(), Some(std::path::Path::new("/run/z.sock")));
        assert_eq!(found.open, ["tcp/[::]:7447"]);
        let found = exposure(
            r#"["unixsock-stream/a.sock", "unixsock-stream/b.sock", "unixsock-stream/c.sock"]"#,
            &["unixsock-stream/b.sock"],
        );
        assert_eq!(found.sockets, [Path::new("a.sock"), Path::new("c.sock")]);
    }

    #[test]
    fn routers_come_by_trusted_listeners() {
        let found = exposure(
            r#"["unixsock-stream//run/z.sock", "tcp/[::]:7447?prio=1", "tls/10.0.0.1:7448",
                "tls/192.0.2.1:7448", "quic/[::]:0"]"#,
            &["tls/10.0.0.1:7448"],
        );
        for (end, open) in [
            ("unixsock-stream//run/z.sock", true),
            ("unixsock-stream//run/other.sock", false),
            ("tls/192.0.2.1:7448", true),
            ("quic/127.0.0.1:41234", true),
            ("tcp/127.0.0.1:7447", true),
            ("tcp/[::1]:7447", true),
            ("tls/10.0.0.1:7448", false),
            ("tcp/127.0.0.1:50123", false),
            ("tls/127.0.0.1:7447", false),
        ] {
            assert_eq!(found.is_open(&end.parse().unwrap()), open, "{end}");
        }
    }

    #[test]
    fn one_closed_folder_keeps_others_out() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("inner");
        create_dir(&inner).unwrap();
        for (above, below, entered) in [
            (0o755, 0o755, true),
            (0o700, 0o755, false),
            (0o755, 0o750, false),
            (0o711, 0o701, true),
        ] {
            set_permissions(outer.path(), Permissions::from_mode(above)).unwrap();
            set_permissions(&inner, Permissions::from_mode(below)).unwrap();
            let expected = entered && is_entered(&std::env::temp_dir());
            assert_eq!(is_entered(&inner), expected, "{above:o} {below:o}");
        }
        assert!(!is_entered(&outer.path().join("missing")));
        let here = std::env::current_dir().unwrap();
        assert_eq!(is_entered(Path::new("")), is_entered(&here), "the folder of a mere name");
    }

    #[test]
    fn a_list_may_depend_on_the_mode() {
        let found = exposure(r#"{"router": ["tcp/[::]:7447"], "peer": ["tcp/[::]:0"]}"#, &[]);
        assert_eq!((found.socket, found.open), (None, vec!["tcp/[::]:7447".to_owned()]));
        assert_eq!(exposure("null", &[]).open, Vec::<String>::new());
    }
}
