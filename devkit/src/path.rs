use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::version::Version;

/// Every executable of that name on `PATH`, in its order, with the release it says it is.
///
/// A program that does not answer `--version` with a release is left out: version managers put
/// placeholders on `PATH` that only print how to install the real one. Entries of `PATH` that are
/// relative to the working folder are left out as well.
pub(crate) fn on_path(name: &str) -> impl Iterator<Item = (PathBuf, Version)> {
    search(&env::var_os("PATH").unwrap_or_default(), name)
}

fn search(path: &OsStr, name: &str) -> impl Iterator<Item = (PathBuf, Version)> + use<> {
    executables(path, name).filter_map(|candidate| {
        let version = version_of(&candidate)?;
        Some((candidate, version))
    })
}

/// Every executable of that name in the absolute folders of a search path, in its order.
pub(crate) fn executables(path: &OsStr, name: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let candidates: Vec<PathBuf> = env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .collect();
    candidates.into_iter().filter(|candidate| is_executable(candidate))
}

/// The release a program says it is.
pub(crate) fn version_of(program: &Path) -> Option<Version> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Version::find_in(&String::from_utf8_lossy(&output.stdout))
}

/// Whether it is a file that somebody may execute.
pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::search;
    use crate::version::Version;

    #[test]
    fn only_what_runs_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let folders = [
            ("plain-file", "echo v1.0.0", 0o644),
            ("placeholder", "echo v2.0.0 is not installed; exit 1", 0o755),
            ("preview", "echo v3.0.0-RC.1", 0o755),
            ("first", "echo v4.0.0", 0o755),
            ("second", "echo v5.0.0", 0o755),
        ]
        .map(|(folder, script, mode)| {
            let folder = dir.path().join(folder);
            let program = folder.join("program");
            fs::create_dir(&folder).unwrap();
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
            folder
        });
        let found: Vec<_> = search(&env::join_paths(&folders).unwrap(), "program").collect();
        let expected = [
            (folders[3].join("program"), Version::new(4, 0, 0)),
            (folders[4].join("program"), Version::new(5, 0, 0)),
        ];
        assert_eq!(found, expected);
        assert_eq!(search("relative::".as_ref(), "program").count(), 0);
    }
}
