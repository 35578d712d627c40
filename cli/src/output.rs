//! Results for people and for scripts.

use comfy_table::Table;
use jiff::Timestamp;
use serde::Serialize;
use std::io::{self, Write};

/// How results are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints a value: as JSON, or as `text` says.
    ///
    /// # Errors
    /// As for [`line`].
    pub(crate) fn print(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        if self.json {
            line(&serde_json::to_string_pretty(value)?)
        } else {
            line(text().trim_end())
        }
    }
}

/// Writes a line to standard output. A reader that has gone, as `head` does, has read enough.
///
/// # Errors
/// What the system says otherwise, such as a full disk.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to standard error. There is nobody to tell if that fails.
pub(crate) fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A table without lines: what is aligned on a terminal can still be cut by a script.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    table.add_rows(rows);
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim())).collect()
}

/// A time as a person says it: how long ago, or how soon.
pub(crate) fn relative(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - time.as_second();
    let (size, unit) = match seconds.unsigned_abs() {
        n @ 0..120 => (n, "s"),
        n @ 120..7_200 => (n / 60, "min"),
        n @ 7_200..172_800 => (n / 3_600, "h"),
        n => (n / 86_400, "d"),
    };
    if seconds >= 0 { format!("{size} {unit} ago") } else { format!("in {size} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::{relative, table};
    use jiff::Timestamp;

    #[test]
    fn times_are_said_in_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let at = |seconds| relative(Timestamp::from_second(seconds).unwrap(), now);
        assert_eq!(at(999_990), "10 s ago");
        assert_eq!(at(1_000_300), "in 5 min");
        assert_eq!(at(0), "11 d ago");
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let text = table(&["ID", "STATUS"], [vec!["acme".to_owned(), "active".to_owned()]]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("ID"), "{text}");
    }
}
