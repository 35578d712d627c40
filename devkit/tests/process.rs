//! What becomes of a server when its owner goes.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead_devkit::{Error as DevkitError, Server};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Set in the process that [`a_server_dies_with_its_killed_owner`] starts.
const OWNER: &str = "BULKHEAD_TEST_OWNER";

fn sleeper(dir: &Path) -> std::result::Result<Server, DevkitError> {
    let mut command = Command::new("sleep");
    command.arg("60");
    Server::spawn("sleeper", command, dir)
}

/// Whether the process exists and is not a zombie.
fn exists(pid: &str) -> Result<bool> {
    if Path::new("/proc/self/stat").exists() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The state comes after the name, which is in brackets and may hold anything.
        return Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')));
    }
    let output = Command::new("ps").args(["-o", "stat=", "-p", pid]).output()?;
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(!state.is_empty() && !state.starts_with('Z'))
}

fn gone_soon(pid: &str) -> Result<bool> {
    let started = Instant::now();
    while exists(pid)? {
        if started.elapsed() > Duration::from_secs(10) {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(true)
}

/// Does nothing when the tests are run as a whole.
#[test]
fn owner() -> Result {
    if let Some(dir) = std::env::var_os(OWNER) {
        let server = sleeper(dir.as_ref())?;
        println!("\nserver {}", server.pid());
        thread::sleep(Duration::from_secs(60));
    }
    Ok(())
}

#[test]
fn a_server_dies_with_its_killed_owner() -> Result {
    let dir = tempfile::tempdir()?;
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--exact", "owner", "--nocapture"])
        .env(OWNER, dir.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = owner.stdout.take().ok_or("no output")?;
    let pid = BufReader::new(output)
        .lines()
        .map_while(std::result::Result::ok)
        .find_map(|line| line.strip_prefix("server ").map(str::to_owned))
        .ok_or("the owner started no server")?;
    assert!(exists(&pid)?);
    owner.kill()?;
    owner.wait()?;
    assert!(gone_soon(&pid)?);
    Ok(())
}

#[test]
fn a_server_dies_with_its_guard() -> Result {
    let dir = tempfile::tempdir()?;
    let server = sleeper(dir.path())?;
    let pid = server.pid().to_string();
    assert!(exists(&pid)?);
    drop(server);
    assert!(!exists(&pid)?);
    Ok(())
}

#[test]
fn what_a_server_started_dies_too() -> Result {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 60 & echo $!; wait"]);
    let server = Server::spawn("shell", command, dir.path())?;
    let started = server.wait_until(Duration::from_secs(10), || {
        let log = server.log();
        log.ends_with('\n').then(|| log.trim().to_owned())
    })?;
    assert!(exists(&started)?);
    server.kill()?;
    assert!(gone_soon(&started)?);
    Ok(())
}

#[test]
fn an_unwilling_server_is_killed() -> Result {
    let dir = tempfile::tempdir()?;
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]);
    let server = Server::spawn("unwilling", command, dir.path())?;
    server.wait_until(Duration::from_secs(10), || server.log().contains("ready").then_some(()))?;
    server.stop()?;
    assert!(!server.is_running());
    Ok(())
}

#[test]
fn the_log_is_of_this_run_and_bounded() -> Result {
    let dir = tempfile::tempdir()?;
    for word in ["one", "two"] {
        let mut command = Command::new("echo");
        command.arg(word);
        let server = Server::spawn("echo", command, dir.path())?;
        let ended = server.wait_until(Duration::from_secs(10), || None::<()>);
        assert!(matches!(ended, Err(DevkitError::Exited { .. })), "{ended:?}");
        assert_eq!(server.log(), format!("{word}\n"));
        assert_eq!(server.log_file(), dir.path().join("echo.log"));
    }
    let mut command = Command::new("sh");
    command.args(["-c", "yes | head -c 200000; echo end"]);
    let server = Server::spawn("yes", command, dir.path())?;
    let ended = server.wait_until(Duration::from_secs(10), || None::<()>);
    assert!(ended.is_err());
    assert_eq!(server.log().len(), 64 * 1024);
    assert!(server.log().ends_with("end\n"));
    Ok(())
}

#[test]
fn a_slow_server_is_not_waited_for_longer_than_asked() -> Result {
    let dir = tempfile::tempdir()?;
    let server = sleeper(dir.path())?;
    let outcome = server.wait_until(Duration::from_millis(50), || None::<()>);
    assert!(matches!(outcome, Err(DevkitError::NotReady { .. })), "{outcome:?}");
    assert!(server.is_running());
    Ok(())
}
