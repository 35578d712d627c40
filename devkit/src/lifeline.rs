use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Kills a process group when this process dies, even of SIGKILL.
///
/// A shell waits on a pipe whose other end only this process holds. A line means that all is well;
/// an end of file without one means that this process is gone. (Linux could do it without the shell,
/// but only from code between fork and exec, which is unsafe, and it would already act when the
/// starting *thread* ends.)
#[derive(Debug)]
pub(crate) struct Lifeline {
    shell: Child,
}

impl Lifeline {
    /// Watches over the group that `pid` leads.
    pub(crate) fn attach(pid: u32) -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", "read -r _ || kill -s KILL -- \"-$1\"", "lifeline", &pid.to_string()])
            // Out of reach of the terminal's Ctrl-C, which would cut the lifeline.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { shell })
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // Without the line the shell would kill whoever has got the process id by now.
        let released =
            self.shell.stdin.take().is_some_and(|mut pipe| pipe.write_all(b"\n").is_ok());
        if !released {
            let _ = self.shell.kill();
        }
        let _ = self.shell.wait();
    }
}
