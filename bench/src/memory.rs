//! Memory, in bytes.

/// What a process has resident.
///
/// # Panics
/// If there is no such process, or no `/proc` (Linux only).
pub fn resident(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/statm");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let pages = pages(&text).unwrap_or_else(|| panic!("{path} is not as proc(5) says: {text}"));
    f64::from(pages) * f64::from(u32::try_from(rustix::param::page_size()).unwrap())
}

/// The second field (proc(5)).
fn pages(statm: &str) -> Option<u32> {
    statm.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{pages, resident};

    #[test]
    fn the_second_field_is_what_is_resident() {
        assert_eq!(pages("900 12 3 4 0 5 0"), Some(12));
        assert_eq!(pages("900"), None);
        assert!(resident(std::process::id()) > 100_000.0);
    }
}
