use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::path::executables;
use crate::version::Version;

/// Where the broker is installed and not on everybody's `PATH`.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/local/sbin", "/usr/sbin"];

/// The programs of mosquitto.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mosquitto {
    /// `mosquitto`, for [`MosquittoServer::start`](crate::MosquittoServer::start).
    pub broker: PathBuf,
    /// `mosquitto_pub`.
    pub publish: PathBuf,
    /// `mosquitto_sub`.
    pub subscribe: PathBuf,
    /// `mosquitto_passwd`, which writes password files.
    pub passwd: PathBuf,
}

impl Mosquitto {
    /// Those in one folder.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            broker: folder.join("mosquitto"),
            publish: folder.join("mosquitto_pub"),
            subscribe: folder.join("mosquitto_sub"),
            passwd: folder.join("mosquitto_passwd"),
        }
    }

    /// The first broker on `PATH` that is new enough, and the other programs, if all are there.
    pub(crate) fn installed(at_least: Version) -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
        Self::search(&env::join_paths(folders).ok()?, at_least)
    }

    fn search(path: &OsStr, at_least: Version) -> Option<Self> {
        let first = |name| executables(path, name).next();
        Some(Self {
            broker: executables(path, "mosquitto")
                .find(|broker| version_of(broker).is_some_and(|version| version >= at_least))?,
            publish: first("mosquitto_pub")?,
            subscribe: first("mosquitto_sub")?,
            passwd: first("mosquitto_passwd")?,
        })
    }
}

/// The release a broker says it is. It says so only in its help, and then fails.
fn version_of(broker: &Path) -> Option<Version> {
    let output = Command::new(broker).arg("-h").stdin(Stdio::null()).output().ok()?;
    Version::find_in(String::from_utf8_lossy(&output.stdout).strip_prefix("mosquitto version ")?)
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::Mosquitto;
    use crate::version::Version;

    #[test]
    fn all_programs_have_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, programs: &[(&str, &str)]| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            for (program, script) in programs {
                let program = folder.join(program);
                fs::write(&program, format!("#!/bin/sh\n{script}\nexit 3\n")).unwrap();
                fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            }
            folder
        };
        let old = folder("old", &[("mosquitto", "echo mosquitto version 1.6.9")]);
        let other = folder("other", &[("mosquitto", "echo not installed: 9.9.9")]);
        let new = folder("new", &[("mosquitto", "echo mosquitto version 2.0.11")]);
        let clients = folder(
            "clients",
            &["mosquitto_pub", "mosquitto_sub", "mosquitto_passwd"].map(|n| (n, "")),
        );

        let search = |folders: &[_]| {
            Mosquitto::search(&env::join_paths(folders).unwrap(), Version::new(2, 0, 11))
        };
        let found = search(&[&old, &other, &clients, &new]).unwrap();
        assert_eq!(found.broker, new.join("mosquitto"));
        assert_eq!(found.publish, clients.join("mosquitto_pub"));
        assert_eq!(found.subscribe, clients.join("mosquitto_sub"));
        assert_eq!(found.passwd, clients.join("mosquitto_passwd"));
        assert_eq!(search(&[&old, &other, &clients]), None);
        assert_eq!(search(&[&new]), None);
    }
}
