use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Scratch, announce, lock};
use crate::error::Error;
use crate::path::executables;
use crate::python::{Fetch, Purpose};
use crate::tail::last_lines;

/// How much of the output of a failed build is kept, in bytes.
const OUTPUT_TAIL: usize = 4 * 1024;

/// A program of crates.io, built with the dependencies of its own lock file.
///
/// It is installed as `<root>/<folder>/bin/<program>`. What it says about itself tells whether it is
/// there, and whether the Rust in use has built it.
#[derive(Debug)]
pub(crate) struct Crate {
    pub(crate) purpose: Purpose,
    /// With the version, so that another one can lie beside it.
    pub(crate) folder: &'static str,
    /// For messages: what it is and where it is from.
    pub(crate) package: &'static str,
    /// The crate, which has a program of the same name.
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

impl Crate {
    /// The program on `PATH`, if it is of this version and of the Rust in use.
    pub(crate) fn installed(&self) -> Option<PathBuf> {
        let rust = Rust::in_use()?;
        let path = env::var_os("PATH").unwrap_or_default();
        executables(&path, self.name).find(|program| self.is_it(program, &rust))
    }

    /// Its path, after building it if need be.
    pub(crate) fn get(&self, root: &Path) -> Result<PathBuf, Error> {
        let failed = |output: &str| Error::Fetch {
            tool: self.purpose.tool,
            step: "rustc --version",
            check: "that Rust is installed",
            alternative: self.purpose.alternative,
            output: output.to_owned(),
        };
        let rust = Rust::in_use().ok_or_else(|| failed("there is no rustc"))?;
        let home = root.join(self.folder);
        let program = home.join("bin").join(self.name);
        if self.is_it(&program, &rust) {
            return Ok(program);
        }
        let fetch = Fetch { purpose: self.purpose, lock: lock(root, self.folder)? };
        if self.is_it(&program, &rust) {
            return Ok(program);
        }

        announce(self.package, &home);
        let scratch = Scratch::create(root.join(format!("{}.partial", self.folder)))?;
        let mut command = cargo();
        command
            .args(["install", self.name, "--version", self.version])
            // Another Rust may have built what is there.
            .args(["--locked", "--quiet", "--force", "--root"])
            .arg(&home)
            .arg("--target-dir")
            .arg(&scratch.path)
            .current_dir(root);
        fetch.run(command, "cargo install", "the network, and that there is a C compiler")?;
        if self.is_it(&program, &rust) {
            return Ok(program);
        }
        Err(failed(&format!("{} is not of {}", program.display(), rust.0)))
    }

    fn is_it(&self, program: &Path, rust: &Rust) -> bool {
        let version = format!("v{} built with {}", self.version, rust.0);
        printed(Command::new(program).arg("--version")).is_some_and(|text| text.contains(&version))
    }
}

/// Builds a package of the workspace with a lock file of its own.
///
/// # Errors
/// [`Error::Build`].
pub(crate) fn build(manifest: &Path, target: &Path, profile: &'static str) -> Result<(), Error> {
    let failed = |output: String| Error::Build { manifest: manifest.to_owned(), output };
    let mut command = cargo();
    command
        .args(["build", "--locked", "--quiet", "--profile", profile, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null());
    // Settings of the workspace are found from the working folder on.
    if let Some(folder) = manifest.parent() {
        command.current_dir(folder);
    }
    let output = command.output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(last_lines(&output.stderr, OUTPUT_TAIL)))
}

/// What `rustc --version` prints.
struct Rust(String);

impl Rust {
    fn in_use() -> Option<Self> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let text = printed(Command::new(rustc).arg("--version"))?;
        Some(Self(text.trim_end().to_owned()))
    }
}

/// The cargo that runs this, or the one on `PATH`, free of what it says about another package.
fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_BIN_EXE_") {
            command.env_remove(&name);
        }
    }
    command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH");
    command
}

fn printed(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{Crate, Rust, build};
    use crate::error::Error;
    use crate::python::Purpose;

    #[test]
    fn only_the_version_of_the_rust_in_use_is_it() {
        let wanted = Crate {
            purpose: Purpose { tool: "x", alternative: "" },
            folder: "x-1.2.3",
            package: "x 1.2.3",
            name: "x",
            version: "1.2.3",
        };
        let rust = Rust("rustc 1.95.0 (59807616e 2026-04-14)".to_owned());
        let dir = tempfile::tempdir().unwrap();
        for (name, script, good) in [
            ("good", "echo x v1.2.3 built with 'rustc 1.95.0 (59807616e 2026-04-14)'", true),
            ("rust", "echo x v1.2.3 built with 'rustc 1.96.0 (59807616e 2026-04-14)'", false),
            ("commit", "echo x v1.2.3 built with 'rustc 1.95.0 (00000000e 2026-04-14)'", false),
            ("version", "echo x v1.2.30 built with 'rustc 1.95.0 (59807616e 2026-04-14)'", false),
            (
                "failing",
                "echo x v1.2.3 built with 'rustc 1.95.0 (59807616e 2026-04-14)'; exit 1",
                false,
            ),
        ] {
            let program = dir.path().join(name);
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            assert_eq!(wanted.is_it(&program, &rust), good, "{name}");
        }
        assert!(!wanted.is_it(Path::new("/nowhere/x"), &rust));
    }

    #[test]
    fn a_build_that_fails_says_what_cargo_said() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("Cargo.toml");
        fs::write(&manifest, "[package]\nname = 7\n").unwrap();
        let error = build(&manifest, &dir.path().join("target"), "dev").unwrap_err();
        assert!(
            matches!(&error, Error::Build { output, .. } if output.contains("name = 7")),
            "{error}"
        );
    }
}
