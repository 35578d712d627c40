use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{PROGRAM_PYTHON, Scratch, announce, lock, remove, write};
use crate::error::Error;
use crate::python::{Fetch, Purpose};

/// Programs out of Debian packages, with the libraries they need.
///
/// They are kept in `<root>/<folder>` beside a stamp that holds what was asked for and how long each
/// file is. All of it appears there in one step; what has no right stamp is fetched again.
#[derive(Debug)]
pub(crate) struct Packages {
    pub(crate) purpose: Purpose,
    /// With the version, so that another one can lie beside it.
    pub(crate) folder: &'static str,
    /// For messages: what it is and where it is from.
    pub(crate) package: &'static str,
    /// Lines of a hash (SHA-256) and a path below a mirror, for every architecture.
    pub(crate) pins: &'static str,
}

const SCRIPT: &str = include_str!("debian.py");

/// The public mirror, asked after the one that the environment names.
const MIRROR: &str = "https://deb.debian.org/debian";

const MIRROR_VARIABLE: &str = "BULKHEAD_DEBIAN_MIRROR";

/// What a failed fetch needs.
const CHECK: &str = "the network, or name a mirror of Debian in BULKHEAD_DEBIAN_MIRROR";

impl Packages {
    /// The folder of the programs, after fetching them if need be.
    pub(crate) fn get(&self, root: &Path) -> Result<PathBuf, Error> {
        let home = root.join(self.folder);
        let programs = home.join("bin");
        let complete = || {
            fs::read_to_string(home.join("stamp"))
                .is_ok_and(|text| self.stamp(&home).is_ok_and(|stamp| text == stamp))
        };
        if complete() {
            return Ok(programs);
        }
        let fetch = Fetch { purpose: self.purpose, lock: lock(root, self.folder)? };
        if complete() {
            return Ok(programs);
        }

        let architecture = architecture().ok_or(Error::NotInPackage {
            package: self.package,
            inside: "program",
            alternative: self.purpose.alternative,
        })?;
        announce(self.package, &home);
        let scratch = Scratch::create(root.join(format!("{}.partial", self.folder)))?;
        let script = scratch.path.join("fetch.py");
        write(&script, SCRIPT)?;
        let pins = scratch.path.join("pins.txt");
        write(&pins, self.pins)?;
        let downloads = scratch.path.join("packages");
        fs::create_dir(&downloads).map_err(Error::file("create", &downloads))?;
        let target = scratch.path.join("target");
        let mut command = fetch.python(PROGRAM_PYTHON)?;
        command
            .arg(script)
            .arg(pins)
            .arg(architecture)
            .arg(downloads)
            .arg(&target)
            .args(mirrors(env::var_os(MIRROR_VARIABLE)));
        fetch.run(command, "the download from Debian", CHECK)?;

        let stamp = self.stamp(&target).map_err(Error::file("read", &target))?;
        write(&target.join("stamp"), &stamp)?;
        remove(&home)?;
        fs::rename(&target, &home).map_err(Error::file("create", &home))?;
        Ok(programs)
    }

    fn stamp(&self, home: &Path) -> io::Result<String> {
        let mut lines = Vec::new();
        for folder in ["bin", "lib", "libexec"] {
            for entry in fs::read_dir(home.join(folder))? {
                let path = entry?.path();
                let length = fs::metadata(&path)?.len();
                let name = path.strip_prefix(home).unwrap_or(&path).display().to_string();
                lines.push(format!("{name} {length} bytes\n"));
            }
        }
        lines.sort();
        Ok(format!("{}\n{}", self.pins, lines.concat()))
    }
}

/// This machine's, as Debian calls it, if it is one of those that are pinned.
fn architecture() -> Option<&'static str> {
    match (env::consts::OS, env::consts::ARCH) {
        ("linux", "x86_64") => Some("amd64"),
        ("linux", "aarch64") => Some("arm64"),
        _ => None,
    }
}

fn mirrors(named: Option<OsString>) -> impl Iterator<Item = OsString> {
    named.filter(|mirror| !mirror.is_empty()).into_iter().chain([MIRROR.into()])
}

#[cfg(test)]
mod tests {
    use super::{MIRROR, mirrors};

    #[test]
    fn the_named_mirror_is_asked_first() {
        let asked = |named: Option<&str>| mirrors(named.map(Into::into)).collect::<Vec<_>>();
        assert_eq!(asked(None), [MIRROR]);
        assert_eq!(asked(Some("")), [MIRROR]);
        assert_eq!(asked(Some("http://a/debian")), ["http://a/debian", MIRROR]);
    }
}
