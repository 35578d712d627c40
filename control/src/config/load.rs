use super::{Config, Problem};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::Value;
use toml::de::{DeTable, DeValue};

/// Prefix of the environment variables that set something.
const PREFIX: &str = "BULKHEAD__";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {cause}; name the configuration with --config or make one with `bulkhead init`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The text is no TOML, or a key is unknown, missing or of the wrong type.
    #[error("{place}: {message}")]
    Syntax {
        /// `file:line:column`, or the file and the variables that were read over it.
        place: String,
        /// What is wrong, in TOML's own words.
        message: String,
    },
    /// A setting is well formed and cannot be right.
    #[error("{place}: {setting}: {what}; {remedy}")]
    Setting {
        /// `file:line`, or the file where the setting is absent.
        place: String,
        /// The setting's path.
        setting: String,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
}

/// A configuration that was read but not yet checked.
#[derive(Debug)]
pub struct Loaded {
    path: PathBuf,
    text: String,
    /// Names of the variables that were read over the file.
    variables: Vec<String>,
    config: Config,
}

impl Loaded {
    /// Reads a file, and the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Read { path: path.to_owned(), cause })?;
        Self::parse(path, text, environment)
    }

    fn parse(
        path: &Path,
        text: String,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let syntax = |place: String, error: &toml::de::Error| ConfigError::Syntax {
            place,
            message: error.message().to_owned(),
        };
        let in_file = |error: &toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let (line, column) = position(&text, start);
            syntax(format!("{}:{line}:{column}", path.display()), error)
        };
        let overrides: Vec<_> = environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        let config = if overrides.is_empty() {
            toml::from_str::<Config>(&text).map_err(|e| in_file(&e))?
        } else {
            let mut table: toml::Table = toml::from_str(&text).map_err(|e| in_file(&e))?;
            for (name, value) in &overrides {
                set(&mut table, name, value)?;
            }
            // What the file alone gets wrong is better reported with its line.
            Config::deserialize_table(table).map_err(|error| {
                match toml::from_str::<Config>(&text) {
                    Err(alone) if alone.message() == error.message() => in_file(&alone),
                    _ => {
                        let names: Vec<_> =
                            overrides.iter().map(|(name, _)| name.as_str()).collect();
                        let place = format!("{} with {}", path.display(), names.join(", "));
                        syntax(place, &error)
                    }
                }
            })?
        };
        let variables = overrides.into_iter().map(|(name, _)| name).collect();
        Ok(Self { path: path.to_owned(), text, variables, config })
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`ConfigError::Setting`] for the first that cannot be right.
    pub fn into_config(mut self) -> Result<Config, ConfigError> {
        self.config.check().map_err(|problem| self.locate(problem))?;
        let folder = self.path.parent().unwrap_or(Path::new(""));
        self.config.resolve_paths(folder);
        Ok(self.config)
    }

    fn locate(&self, problem: Problem) -> ConfigError {
        let file = self.path.display();
        let variable = self.variables.iter().find(|name| sets(name, &problem.setting));
        let place = match (variable, offset_of(&self.text, &problem.setting)) {
            (Some(name), _) => format!("environment variable {name}"),
            (None, Some(offset)) => format!("{file}:{}", position(&self.text, offset).0),
            (None, None) => file.to_string(),
        };
        ConfigError::Setting {
            place,
            setting: problem.setting,
            what: problem.what,
            remedy: problem.remedy,
        }
    }
}

impl Config {
    fn deserialize_table(table: toml::Table) -> Result<Self, toml::de::Error> {
        table.try_into()
    }
}

/// The variables that set something. Others may hold what they like.
pub(super) fn environment() -> Result<Vec<(String, String)>, ConfigError> {
    let names = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
    std::env::vars_os()
        .filter_map(names)
        .filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ConfigError::Syntax {
                place: format!("environment variable {name}"),
                message: "is no Unicode text; write it anew".to_owned(),
            }),
        })
        .collect()
}

/// Sets one value of the tree by the name of its variable.
fn set(table: &mut toml::Table, name: &str, value: &str) -> Result<(), ConfigError> {
    let path = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
    let mut parts: Vec<&str> = path.split("__").collect();
    let last = parts.pop().filter(|part| !part.is_empty());
    let error = |message: &str| ConfigError::Syntax {
        place: format!("environment variable {name}"),
        message: message.to_owned(),
    };
    let last = last.ok_or_else(|| error("names no setting; write BULKHEAD__SECTION__KEY"))?;
    let mut table = table;
    for part in parts {
        table = table
            .entry(part)
            .or_insert_with(|| Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| error("goes below a setting that is no table; set it in the file"))?;
    }
    let parsed = toml::from_str::<toml::Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    table.insert(last.to_owned(), parsed);
    Ok(())
}

/// Whether a variable sets this setting, or something above or below it.
fn sets(variable: &str, setting: &str) -> bool {
    let path = variable.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase();
    let setting = setting.split(['.', '[']).map(|step| step.trim_end_matches(']'));
    path.split("__").zip(setting).all(|(a, b)| a == b)
}

/// Line and column of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    (line, column)
}

/// Where a setting stands, or the nearest table above it that does.
fn offset_of(text: &str, setting: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut here: Option<&DeValue<'_>> = None;
    for step in setting.split(['.', '[']) {
        let next = match (step.strip_suffix(']'), here) {
            (Some(index), Some(value)) => {
                value.as_array().and_then(|a| a.get(index.parse::<usize>().ok()?))
            }
            (None, None) => root.get_ref().get(step),
            (None, Some(value)) => value.as_table().and_then(|t| t.get(step)),
            (Some(_), None) => None,
        };
        let Some(next) = next else { break };
        found = Some(next.span().start);
        here = Some(next.get_ref());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{ConfigError, Loaded};
    use std::path::Path;

    const GOOD: &str = r#"
[directory]
file = "tenants.toml"

[[issuers]]
name = "corp"
issuer = "https://idp.example"
audiences = ["bulkhead"]
algorithms = ["EdDSA"]
keys.jwks_file = "keys.json"
tenants = ["acme"]
"#;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<super::Config, ConfigError> {
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Loaded::parse(Path::new("/etc/bulkhead/bulkhead.toml"), text.to_owned(), variables)?
            .into_config()
    }

    fn message(text: &str, variables: &[(&str, &str)]) -> String {
        load(text, variables).unwrap_err().to_string()
    }

    #[test]
    fn reads_a_small_file_and_completes_it() {
        let config = load(GOOD, &[]).unwrap();
        assert!(config.admin.listen.ip().is_loopback());
        assert!(format!("{:?}", config.issuers[0].keys).contains("/etc/bulkhead/keys.json"));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let text = format!("{GOOD}\n[admin]\nlsten = \"127.0.0.1:1\"\n");
        let message = message(&text, &[]);
        assert!(message.starts_with("/etc/bulkhead/bulkhead.toml:14:1"), "{message}");
        assert!(message.contains("lsten") && message.contains("listen"), "{message}");
    }

    #[test]
    fn a_wrong_setting_is_an_error_with_its_line_and_a_remedy() {
        let text = GOOD.replace("[\"EdDSA\"]", "[]");
        let message = message(&text, &[]);
        assert!(message.contains("bulkhead.toml:9: issuers[0].algorithms"), "{message}");
        assert!(message.contains("EdDSA"), "the remedy names what can stand there: {message}");
    }

    #[test]
    fn a_registry_at_the_broker_behind_a_front_with_a_prefix_is_an_error() {
        let of = |upstream: &str, mount: &str, registry: &str| {
            format!(
                "{GOOD}\n[mqtt]\nlisteners = [\"tcp://127.0.0.1:1883\"]\n{mount}\n\
                 upstream = {{ url = \"mqtts://Broker:8883\", {upstream} }}\n[registry]\n\
                 store = {{ file = \"r.redb\" }}\nmqtt = {{ url = \"{registry}\" }}\n"
            )
        };
        let (front, behind) = ("mqtt://127.0.0.1:1883", "mqtts://broker");
        let message = message(&of("prefix = \"{tenant}/\"", "", behind), &[]);
        for part in ["registry.mqtt.url", "mqtt.upstream.prefix", "a listener of the front"] {
            assert!(message.contains(part), "{message}");
        }
        let loses = |upstream: &str, mount: &str, registry: &str| {
            load(&of(upstream, mount, registry), &[]).unwrap().loses_registry_answers()
        };
        assert!(!loses("prefix = \"{tenant}/\"", "", front));
        let mount = "mount = \"x/{tenant}\"";
        assert!(loses("user = \"front\"", "", behind), "replies are private by default");
        assert!(loses("private = []", mount, behind) && !loses("private = []", mount, front));
        assert!(!loses("private = []", "", behind) && !loses("private = [\"x\"]", "", behind));
        assert!(!loses("user = \"front\"", "", "mqtts://broker:8884"), "it is another broker");
    }

    #[test]
    fn a_role_of_tenants_that_names_a_routers_own_keys_is_an_error() {
        let admin = "zenoh = { subscribe = [\"@/{literal}/router/**\"] }";
        let zenoh = "[zenoh]\nlisteners = [\"tcp/127.0.0.1:0\"]\n";
        let of = |role: &str, rest: &str| format!("{GOOD}\n[roles.{role}]\n{admin}\n{rest}");
        let message = message(&of("device", zenoh), &[]);
        for part in ["roles.device", "'@/{literal}/router/**'", "take it out", "issuer 'corp'"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        // One that no issuer of tenants hands out, and one without Zenoh.
        load(&of("platform", zenoh), &[]).unwrap();
        load(&of("device", ""), &[]).unwrap();
    }

    #[test]
    fn roles_that_take_names_for_different_tenants_are_an_error() {
        let mqtt = "[mqtt]\nlisteners = [\"tcp://127.0.0.1:1883\"]\n";
        let zenoh = "[zenoh]\nlisteners = [\"tcp/127.0.0.1:0\"]\n";
        let of = |own: &str, broker: &str| format!("{GOOD}\n[roles.odd]\n{own}\n{broker}");
        let publishes = "publish = [\"device-connect/*/*/{tenant}\"]";
        let listens = "subscribe = [\"device-connect/*/*/{tenant}\"]";
        for own in [publishes, listens] {
            for broker in [mqtt, zenoh] {
                let message = message(&of(own, broker), &[]);
                for part in ["roles.odd", "'device-connect/*/*/{tenant}'", "at the same place"] {
                    assert!(message.contains(part), "{part}: {message}");
                }
            }
            // There nothing is shared.
            load(&of(own, ""), &[]).unwrap();
        }
        load(&of("publish = [\"device-connect/{tenant}/*/x\"]", zenoh), &[]).unwrap();
    }

    #[test]
    fn the_environment_wins_and_is_checked_alike() {
        let config = load(GOOD, &[("BULKHEAD__ADMIN__LISTEN", "127.0.0.1:9999")]).unwrap();
        assert_eq!(config.admin.listen.port(), 9999);
        let config = load(GOOD, &[("BULKHEAD__QUOTAS__CONNECTIONS", "7")]).unwrap();
        assert_eq!(config.quotas.connections, Some(7));
        let wrong = message(GOOD, &[("BULKHEAD__DIRECTORY__STALE_AFTER", "0s")]);
        assert!(wrong.contains("variable BULKHEAD__DIRECTORY__STALE_AFTER"), "{wrong}");
        let wrong = message(GOOD, &[("BULKHEAD__ADMIN__LSTEN", "x")]);
        assert!(wrong.contains("BULKHEAD__ADMIN__LSTEN"), "{wrong}");
    }

    #[test]
    fn a_file_that_is_not_there_says_what_to_do() {
        let error = Loaded::read(Path::new("/nowhere/bulkhead.toml"), std::iter::empty());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("bulkhead init"), "{message}");
    }
}
