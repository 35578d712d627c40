//! A child process that logs to a file and does not outlive its owner.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::error::Error;
use crate::lifeline::Lifeline;
use crate::tail::tail;

/// How much of the end of a log is ever read: 64 KiB.
const LOG_TAIL: u64 = 64 * 1024;

/// How much of it goes into an error.
const ERROR_TAIL: usize = 4 * 1024;

/// How long a server may take to end by itself, or to freeze: 5 s.
const STOP_WITHIN: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(10);

/// A running program: its process, its log, and the certainty that it will end.
///
/// It leads a process group of its own, so that a Ctrl-C in the terminal reaches its owner only and
/// signals reach what it started itself. It is killed when this is dropped, and also when the owning
/// process dies of whatever cause.
#[derive(Debug)]
pub struct Server {
    name: String,
    pid: u32,
    log: PathBuf,
    log_start: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Child,
    /// Gone once the process has been waited for.
    lifeline: Option<Lifeline>,
}

impl Server {
    /// Starts `command` with standard output and error appended to `<dir>/<name>.log` and nothing
    /// on standard input. `dir` is made if it is missing; `name` has to be fit for a file name.
    ///
    /// # Errors
    ///
    /// [`Error::File`] for the folder or the log, [`Error::Spawn`] for the program.
    pub fn spawn(name: &str, mut command: Command, dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let log = dir.join(format!("{name}.log"));
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(&log)?;
            let start = file.metadata()?.len();
            Ok((file.try_clone()?, file, start))
        };
        let (out, err, log_start) = open().map_err(Error::file("write", &log))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);

        let program = PathBuf::from(command.get_program());
        let failed = |source| Error::Spawn { name: name.to_owned(), program, source };
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(source) => return Err(failed(source)),
        };
        let pid = child.id();
        let lifeline = match Lifeline::attach(pid) {
            Ok(lifeline) => Some(lifeline),
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(source));
            }
        };
        let state = Mutex::new(State { child, lifeline });
        Ok(Self { name: name.to_owned(), pid, log, log_start, state })
    }

    /// What the server is called in messages and in the name of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id; of no meaning once it has ended.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that its output goes to. It holds the earlier runs in the same folder too.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// What this run has logged: its last 64 KiB, or nothing if the file cannot be read.
    pub fn log(&self) -> String {
        self.log_from(self.log_start)
    }

    /// How long the log is, in bytes: a position for [`log_from`](Self::log_from).
    pub(crate) fn log_position(&self) -> u64 {
        fs::metadata(&self.log).map_or(self.log_start, |metadata| metadata.len())
    }

    /// What was logged after a position, its last 64 KiB.
    pub(crate) fn log_from(&self, position: u64) -> String {
        let read = || {
            let mut file = File::open(&self.log)?;
            let from = position.max(file.metadata()?.len().saturating_sub(LOG_TAIL));
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL).read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }

    /// Whether the process has not ended; a paused one runs.
    pub fn is_running(&self) -> bool {
        self.state().poll().is_none()
    }

    /// Asks `ready` every 10 ms until it has an answer.
    ///
    /// # Errors
    ///
    /// [`Error::Exited`] as soon as the process has ended, [`Error::NotReady`] after `within`; each
    /// with the last 4 KiB of this run's log.
    pub fn wait_until<T>(
        &self,
        within: Duration,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        loop {
            if let Some(answer) = ready() {
                return Ok(answer);
            }
            let name = || self.name.clone();
            let log = || tail(self.log().as_bytes(), ERROR_TAIL);
            if let Some(status) = self.state().poll() {
                return Err(Error::Exited { name: name(), status: status.to_string(), log: log() });
            }
            if started.elapsed() >= within {
                return Err(Error::NotReady { name: name(), within, log: log() });
            }
            thread::sleep(POLL);
        }
    }

    /// Freezes the process (SIGSTOP) and waits, 5 s at most, until it is frozen: it keeps its
    /// connections and answers nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] if it has ended, [`Error::Control`] if the signal is refused or has no
    /// effect.
    pub fn pause(&self) -> Result<(), Error> {
        let action = "pause";
        self.state().signal(&self.name, action, Signal::STOP)?;
        let started = Instant::now();
        // The signal is only noted when it is sent; each thread stops when it next sees it.
        while !self.state().is_stopped(&self.name, action)? {
            if started.elapsed() >= STOP_WITHIN {
                return Err(control(&self.name, action, ErrorKind::TimedOut.into()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), Error> {
        self.state().signal(&self.name, "resume", Signal::CONT)
    }

    /// Sends SIGHUP, by which many servers read their configuration again.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub fn hang_up(&self) -> Result<(), Error> {
        self.state().signal(&self.name, "hang up", Signal::HUP)
    }

    /// Ends the process at once (SIGKILL) and waits for it. Nothing happens if it has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Control`] if the operating system refuses.
    pub fn kill(&self) -> Result<(), Error> {
        let mut state = self.state();
        match state.signal(&self.name, "kill", Signal::KILL) {
            Err(Error::NotRunning { .. }) => return Ok(()),
            outcome => outcome?,
        }
        state.child.wait().map_err(|source| control(&self.name, "wait for", source))?;
        state.lifeline = None;
        Ok(())
    }

    /// Ends the process in order (SIGTERM), paused or not, and kills it if that takes more than 5 s.
    /// Nothing happens if it has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Control`] if the operating system refuses.
    pub fn stop(&self) -> Result<(), Error> {
        // A paused process gets the first signal only when the second lets it go on.
        for signal in [Signal::TERM, Signal::CONT] {
            match self.state().signal(&self.name, "stop", signal) {
                Err(Error::NotRunning { .. }) => return Ok(()),
                outcome => outcome?,
            }
        }
        let started = Instant::now();
        while started.elapsed() < STOP_WITHIN {
            if !self.is_running() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        self.kill()
    }

    /// A panic elsewhere leaves the state as good as it was.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

impl State {
    /// The exit status, once there is one.
    fn poll(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.lifeline = None;
        }
        status
    }

    /// INVARIANT: signals go only to a process that has not been waited for, since the id of one
    /// that has may belong to somebody else.
    fn signal(&mut self, name: &str, action: &'static str, signal: Signal) -> Result<(), Error> {
        if self.poll().is_some() {
            return Err(Error::NotRunning { name: name.to_owned(), action });
        }
        kill_process_group(Pid::from_child(&self.child), signal)
            .map_err(|errno| control(name, action, errno.into()))
    }

    fn is_stopped(&mut self, name: &str, action: &'static str) -> Result<bool, Error> {
        if self.poll().is_some() {
            return Err(Error::NotRunning { name: name.to_owned(), action });
        }
        // Only looked at, so that pausing twice finds the same.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&self.child)), options)
            .map(|status| status.is_some())
            .map_err(|errno| control(name, action, errno.into()))
    }
}

fn control(name: &str, action: &'static str, source: std::io::Error) -> Error {
    Error::Control { name: name.to_owned(), action, source }
}
