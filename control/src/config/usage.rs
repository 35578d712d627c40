use super::{DirectoryConfig, Problem};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Counting what tenants use.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UsageConfig {
    /// How often each process tells the others what it has counted, which is how late a daily quota is
    /// noticed elsewhere. Default 5 seconds, at least 100 milliseconds and at most a minute. What has no
    /// daily quota is told twelve times less often.
    pub interval: SignedDuration,
    /// With `directory.file`: the folder where processes of this machine keep what they count. Default:
    /// beside the file, under its name and `.usage`. With `directory.etcd` it is kept there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

impl Default for UsageConfig {
    fn default() -> Self {
        Self { interval: SignedDuration::from_secs(5), folder: None }
    }
}

impl UsageConfig {
    /// How often processes tell each other.
    pub fn interval(&self) -> Duration {
        self.interval.unsigned_abs()
    }

    /// The folder of a directory in a file.
    pub fn folder(&self, directory: &DirectoryConfig) -> Option<PathBuf> {
        self.folder.clone().or_else(|| {
            let mut name = directory.file.as_ref()?.as_os_str().to_owned();
            name.push(".usage");
            Some(name.into())
        })
    }

    pub(super) fn check(&self, directory: &DirectoryConfig) -> Result<(), Problem> {
        let interval = SignedDuration::from_millis(100)..=SignedDuration::from_mins(1);
        if !interval.contains(&self.interval) {
            let remedy = "choose between \"100ms\" and \"1m\"";
            return Err(Problem::new("interval", "is out of its bounds", remedy));
        }
        if self.folder.is_some() && directory.file.is_none() {
            return Err(Problem::new(
                "folder",
                "has no effect, because what is used is kept in directory.etcd",
                "leave it out",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::UsageConfig;
    use crate::config::{Config, DirectoryConfig};
    use std::path::PathBuf;

    #[test]
    fn what_would_not_be_counted_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bulkhead.toml");
        let issuer = "[[issuers]]\nname = \"a\"\nissuer = \"https://a.test\"\naudiences = [\"b\"]\n\
                      algorithms = [\"EdDSA\"]\ntenants = \"all\"\nkeys.jwks_file = \"a.json\"\n";
        let load = |directory: &str, more: &str| {
            std::fs::write(&path, format!("directory = {{ {directory} }}\n{issuer}{more}"))
                .unwrap();
            Config::load(&path).map(drop).map_err(|error| error.to_string())
        };
        let daily = "[quotas]\nmessages_per_day = 5\n";
        let (file, etcd) = ("file = \"t.toml\"", "etcd = { endpoints = [\"http://localhost:1\"] }");
        assert_eq!(load(file, daily), Ok(()));
        let refused = load(&format!("{file}, open = true"), daily).unwrap_err();
        assert!(refused.contains("quotas") && refused.contains("directory.open"), "{refused}");
        assert_eq!(load(&format!("{file}, open = true"), ""), Ok(()));
        for interval in ["99ms", "61s"] {
            let refused = load(file, &format!("[usage]\ninterval = \"{interval}\"\n")).unwrap_err();
            assert!(refused.contains("usage.interval"), "{refused}");
        }
        let refused = load(etcd, "[usage]\nfolder = \"u\"\n").unwrap_err();
        assert!(refused.contains("usage.folder"), "{refused}");
    }

    #[test]
    fn files_are_beside_the_directory() {
        let directory = DirectoryConfig::in_file(PathBuf::from("/etc/tenants.toml"));
        let folder = UsageConfig::default().folder(&directory);
        assert_eq!(folder, Some(PathBuf::from("/etc/tenants.toml.usage")));
    }
}
