use std::fmt;

/// A released version, `major.minor.patch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// The first version in what a program prints about itself.
    ///
    /// A pre-release has no place in the order of releases and is not found.
    pub(crate) fn find_in(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(Self::parse)
    }

    fn parse(word: &str) -> Option<Self> {
        let mut parts = word.strip_prefix('v').unwrap_or(word).split('.');
        let mut next = || {
            let part = parts.next()?;
            // `parse` alone would take "+1".
            part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
        };
        let version = Self::new(next()?, next()?, next()?);
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn is_found_in_what_programs_print() {
        for (text, expected) in [
            ("nats-server: v2.15.1\n", Version::new(2, 15, 1)),
            (
                "etcd Version: 3.5.1\nGit SHA: e8732fb5f\nGo Version: go1.16.3\n",
                Version::new(3, 5, 1),
            ),
            ("Python 3.11.7", Version::new(3, 11, 7)),
        ] {
            assert_eq!(Version::find_in(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn is_not_found_elsewhere() {
        for text in [
            "",
            "nats-server: v2.15.0-RC.2",
            "Python 3.14.0rc1",
            "1.2",
            "1.2.3.4",
            "1.+2.3",
            "1..3",
            "go1.16.3",
            "99999999999.0.0",
        ] {
            assert_eq!(Version::find_in(text), None, "{text}");
        }
    }

    #[test]
    fn is_ordered_by_number() {
        assert!(Version::new(2, 9, 30) < Version::new(2, 10, 0));
        assert!(Version::new(2, 14, 3) <= Version::new(2, 14, 3));
        assert!(Version::new(3, 0, 0) > Version::new(2, 15, 1));
    }
}
