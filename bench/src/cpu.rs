//! CPU time, in seconds.

use rustix::time::{ClockId, clock_gettime};

/// What the calling thread has used.
pub fn of_thread() -> f64 {
    read(ClockId::ThreadCPUTime)
}

/// What this process has used, all threads.
pub fn of_this_process() -> f64 {
    read(ClockId::ProcessCPUTime)
}

/// What another process has used, user and system, all threads; in steps of a clock tick, 10 ms as a
/// rule.
///
/// # Panics
/// If there is no such process, or no `/proc` (Linux only).
pub fn of_process(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    ticks(&text).unwrap_or_else(|| panic!("{path} is not as proc(5) says: {text}"))
        / f64::from(u32::try_from(rustix::param::clock_ticks_per_second()).unwrap())
}

fn read(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    f64::from(u32::try_from(time.tv_sec).unwrap())
        + f64::from(u32::try_from(time.tv_nsec).unwrap()) / 1e9
}

/// `utime` and `stime`, fields 14 and 15 (proc(5)). The name before them can hold spaces.
fn ticks(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(f64::from(user) + f64::from(system))
}

#[cfg(test)]
mod tests {
    use super::{of_process, of_this_process, of_thread, ticks};

    #[test]
    fn a_name_with_spaces_is_skipped() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 12 30 0 0 20 0 1";
        assert_eq!(ticks(stat), Some(42.0));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn work_takes_time() {
        // In this order: what the second clock takes to be read, the first has counted already.
        let (process, thread) = (of_this_process(), of_thread());
        let mut n = 0_u64;
        while of_thread() - thread < 0.02 {
            n = std::hint::black_box(n.wrapping_add(1));
        }
        assert!(of_this_process() - process >= 0.02);
        assert!(of_process(std::process::id()) > 0.0);
    }
}
