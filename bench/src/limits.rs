//! What the operating system allows.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the number of files, and so of connections, that this process and those that it starts may
/// have open, as far as it goes. Returns it; `None` is no limit.
pub fn raise_file_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.maximum
}
