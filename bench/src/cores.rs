//! Which cores a process may use.

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use std::path::Path;

/// Servers and this process, each with cores of its own; as before when it is dropped.
///
/// What a server costs then takes nothing from its clients, which are on other machines as a rule.
pub struct Apart {
    servers: Vec<u32>,
    before: CpuSet,
}

impl Apart {
    /// Gives the servers half of the cores, rounded down, and this process the others. `None` on a machine with
    /// one.
    ///
    /// # Panics
    /// If a server has ended, or without `/proc` (Linux only).
    pub fn begin(servers: impl Iterator<Item = u32>) -> Option<Self> {
        let before = sched_getaffinity(None).unwrap();
        let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| before.is_set(*core)).collect();
        let (theirs, ours) = cores.split_at(cores.len() / 2);
        if theirs.is_empty() {
            return None;
        }
        let apart = Self { servers: servers.collect(), before };
        let set = |cores: &[usize]| {
            let mut set = CpuSet::new();
            cores.iter().for_each(|core| set.set(*core));
            set
        };
        apart.allow(&set(theirs), &set(ours));
        Some(apart)
    }

    fn allow(&self, servers: &CpuSet, this: &CpuSet) {
        for pid in &self.servers {
            allow(&pid.to_string(), servers);
        }
        allow("self", this);
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.allow(&self.before, &self.before);
    }
}

/// Sets it for each thread: those that begin later have it from them.
fn allow(process: &str, cores: &CpuSet) {
    let threads = Path::new("/proc").join(process).join("task").read_dir().unwrap();
    for thread in threads {
        let id = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
        // One that has ended meanwhile needs nothing.
        let _ = sched_setaffinity(Pid::from_raw(id), cores);
    }
}

#[cfg(test)]
mod tests {
    use super::Apart;
    use rustix::thread::{CpuSet, Pid, sched_getaffinity};
    use std::process::{Command, Stdio};

    #[test]
    fn who_is_apart_shares_no_core_until_it_ends() {
        let mut server = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let of = |pid: Option<u32>| {
            let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).unwrap()));
            let set = sched_getaffinity(pid).unwrap();
            (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect::<Vec<_>>()
        };
        let all = of(None);
        if let Some(apart) = Apart::begin([server.id()].into_iter()) {
            let (theirs, ours) = (of(Some(server.id())), of(None));
            assert!(!theirs.is_empty() && !ours.is_empty(), "{theirs:?} {ours:?}");
            let mut both = [theirs, ours].concat();
            both.sort_unstable();
            assert_eq!(both, all);
            drop(apart);
        } else {
            assert_eq!(all.len(), 1);
        }
        assert_eq!(of(None), all);
        assert_eq!(of(Some(server.id())), all);
        drop(server.stdin.take());
        server.wait().unwrap();
    }
}
