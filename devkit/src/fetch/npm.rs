use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Scratch, announce, lock, remove, write};
use crate::error::Error;
use crate::path::on_path;
use crate::python::{Fetch, Purpose};

/// A module of the npm registry and all it needs, in `<root>/<folder>/node_modules`.
///
/// All of it appears there in one step, beside a stamp that holds what was asked for.
#[derive(Debug)]
pub(crate) struct Modules {
    pub(crate) purpose: Purpose,
    /// With the version, so that another one can lie beside it.
    pub(crate) folder: &'static str,
    /// For messages: what it is and where it is from.
    pub(crate) package: &'static str,
    /// A file by which an installed module is recognised.
    pub(crate) inside: &'static str,
    /// The text of `package.json`.
    pub(crate) manifest: &'static str,
    /// The text of `package-lock.json`, with the hash of every package.
    pub(crate) pins: &'static str,
}

impl Modules {
    /// The folder with `node_modules`, after installing them if need be.
    pub(crate) fn get(&self, root: &Path) -> Result<PathBuf, Error> {
        let home = root.join(self.folder);
        let complete = || {
            home.join(self.inside).is_file()
                && fs::read_to_string(home.join("stamp")).is_ok_and(|text| text == self.pins)
        };
        if complete() {
            return Ok(home);
        }
        let fetch = Fetch { purpose: self.purpose, lock: lock(root, self.folder)? };
        if complete() {
            return Ok(home);
        }

        let (npm, _) = on_path("npm")
            .next()
            .ok_or(Error::NoNode { tool: self.purpose.tool, missing: "npm" })?;
        announce(self.package, &home);
        let scratch = Scratch::create(root.join(format!("{}.partial", self.folder)))?;
        write(&scratch.path.join("package.json"), self.manifest)?;
        write(&scratch.path.join("package-lock.json"), self.pins)?;
        let mut command = Command::new(npm);
        command.current_dir(&scratch.path).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--no-update-notifier",
        ]);
        fetch.run(command, "npm ci", "the network and the registry of npm's settings")?;

        if !scratch.path.join(self.inside).is_file() {
            return Err(Error::NotInPackage {
                package: self.package,
                inside: self.inside,
                alternative: self.purpose.alternative,
            });
        }
        write(&scratch.path.join("stamp"), self.pins)?;
        remove(&home)?;
        fs::rename(&scratch.path, &home).map_err(Error::file("create", &home))?;
        Ok(home)
    }
}
