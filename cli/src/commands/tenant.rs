//! `bulkhead tenant` and `bulkhead device`: changes of the directory. They need no running service,
//! and running services act on them at once.

use super::{Context, Outcome};
use crate::args::{Assignment, Device, Limit, QuotaArgs, QuotaName, Tenant as Command};
use crate::output::{relative, table};
use bulkhead_control::config::Config;
use bulkhead_control::usage::{self, Report, UsageError};
use bulkhead_policy::{Day, JetStreamQuota, Quotas, Resource, RoleName, Status, Tenant, TenantId};
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

pub(super) async fn run(context: &Context, command: Command) -> Outcome {
    let store = context.store().await?;
    match command {
        Command::Create { tenant: id, quotas } => {
            if id.is_default() && !context.config()?.directory.allow_default_tenant {
                return Err(
                    "the tenant 'default' is what clients fall back to that name none; set \
                            directory.allow_default_tenant = true if that is meant"
                        .into(),
                );
            }
            let mut tenant = Tenant::default();
            quotas.check(&tenant.quotas)?;
            quotas.apply(&mut tenant.quotas);
            let tenant = store.create(&id, tenant).await?;
            context.done(show_json(&id, &tenant), format!("tenant {id} was created"))
        }
        Command::List => {
            let tenants = store.list().await?;
            let all: Vec<_> = tenants.iter().map(|(id, tenant)| show_json(id, tenant)).collect();
            context.output.print(&all, || {
                let row = |(id, tenant): (&TenantId, &Tenant)| {
                    vec![
                        id.to_string(),
                        status(tenant).to_owned(),
                        tenant.revoked_devices.len().to_string(),
                        tenant.revoked_tokens.len().to_string(),
                    ]
                };
                let header = ["TENANT", "STATUS", "REVOKED DEVICES", "REVOKED TOKENS"];
                table(&header, tenants.iter().map(row))
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { tenant: id } => {
            let tenant = store.get(&id).await?;
            let config = context.config()?;
            let use_of = UseOf::read(&config, &id, &tenant).await;
            let mut value = show_json(&id, &tenant);
            if let Some(fields) = value.as_object_mut() {
                fields.insert("usage".to_owned(), use_of.json());
                let refused = refused_roles(&tenant, &config);
                if !refused.is_empty() {
                    fields.insert("refused_roles".to_owned(), json!(refused));
                }
            }
            context.output.print(&value, || show_text(&id, &tenant, &config) + &use_of.text())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Suspend { tenant: id } => {
            let tenant = store.update(&id, |tenant| tenant.status = Status::Suspended).await?;
            context.done(show_json(&id, &tenant), format!("tenant {id} is suspended"))
        }
        Command::Resume { tenant: id } => {
            let tenant = store.update(&id, |tenant| tenant.status = Status::Active).await?;
            context.done(show_json(&id, &tenant), format!("tenant {id} is active"))
        }
        Command::Delete { tenant: id, yes } => {
            store.get(&id).await?;
            if !yes && !confirm(&format!("Delete tenant {id} and cut it off?"))? {
                return Err("nothing was deleted; answer `yes`, or pass --yes".into());
            }
            store.delete(&id).await?;
            context.done(json!({"deleted": id}), format!("tenant {id} was deleted"))
        }
        Command::Quota { tenant: id, set, unset, mut quotas } => {
            quotas.take(&set, &unset)?;
            let tenant = if quotas.is_empty() {
                store.get(&id).await?
            } else {
                quotas.check(&store.get(&id).await?.quotas)?;
                store.update(&id, |tenant| quotas.apply(&mut tenant.quotas)).await?
            };
            let defaults = context.config()?.quotas;
            let effective = tenant.quotas.or(defaults);
            let value = json!({
                "id": id,
                "quotas": tenant.quotas,
                "defaults": defaults,
                "effective": effective,
            });
            context.output.print(&value, || quota_text(&tenant.quotas, &defaults))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(super) async fn run_device(context: &Context, command: Device) -> Outcome {
    let store = context.store().await?;
    match command {
        Device::Revoke { tenant: id, device } => {
            let now = Timestamp::now();
            let revoke = |tenant: &mut Tenant| {
                tenant.revoked_devices.entry(device.clone()).or_insert(now);
            };
            let tenant = store.update(&id, revoke).await?;
            context.done(show_json(&id, &tenant), format!("device {id}/{device} is revoked"))
        }
        Device::Restore { tenant: id, device } => {
            let known = store.get(&id).await?;
            if !known.revoked_devices.contains_key(&device) {
                return Err(format!(
                    "device {id}/{device} is not revoked; see `bulkhead tenant show {id}`"
                )
                .into());
            }
            let restore = |tenant: &mut Tenant| {
                tenant.revoked_devices.remove(&device);
            };
            let tenant = store.update(&id, restore).await?;
            context.done(show_json(&id, &tenant), format!("device {id}/{device} is restored"))
        }
    }
}

impl QuotaArgs {
    fn of(&mut self, resource: Resource) -> &mut Option<Limit> {
        match resource {
            Resource::Connections => &mut self.connections,
            Resource::Subscriptions => &mut self.subscriptions,
            Resource::MessagesPerSecond => &mut self.messages_per_second,
            Resource::BytesPerSecond => &mut self.bytes_per_second,
            Resource::PayloadBytes => &mut self.payload_bytes,
            Resource::RetainedMessages => &mut self.retained_messages,
            Resource::RetainedBytes => &mut self.retained_bytes,
            Resource::QueuedBytes => &mut self.queued_bytes,
            Resource::AuthenticationsPerMinute => &mut self.authentications_per_minute,
            Resource::MessagesPerDay => &mut self.messages_per_day,
            Resource::BytesPerDay => &mut self.bytes_per_day,
            Resource::AuthenticationsPerDay => &mut self.authentications_per_day,
        }
    }

    /// Takes over what was written as `name=value`, and what is to be taken back.
    fn take(&mut self, set: &[Assignment], unset: &[QuotaName]) -> Result<(), String> {
        let unset = unset.iter().map(|name| Assignment { name: *name, limit: Limit(None) });
        for Assignment { name, limit } in set.iter().copied().chain(unset) {
            let number = || {
                let all = "take JetStream's limits back all together, by --unset jetstream";
                limit.0.ok_or_else(|| all.to_owned())
            };
            let is_twice = match name {
                QuotaName::Of(resource) => self.of(resource).replace(limit).is_some(),
                QuotaName::JetStream if limit.0.is_some() => {
                    let parts = "jetstream.streams, jetstream.consumers, jetstream.storage_bytes or \
                                 jetstream.memory_bytes";
                    return Err(format!("jetstream has limits of several kinds; set {parts}"));
                }
                QuotaName::JetStream => self.jetstream_streams.replace(limit).is_some(),
                QuotaName::Streams => {
                    let limit = Limit(Some(number()?));
                    self.jetstream_streams.replace(limit).is_some()
                }
                QuotaName::Consumers => self.jetstream_consumers.replace(number()?).is_some(),
                QuotaName::StorageBytes => {
                    self.jetstream_storage_bytes.replace(number()?).is_some()
                }
                QuotaName::MemoryBytes => self.jetstream_memory_bytes.replace(number()?).is_some(),
            };
            if is_twice {
                return Err("a limit is given twice; say each once".to_owned());
            }
        }
        Ok(())
    }

    fn apply(&self, quotas: &mut Quotas) {
        let mut given = self.clone();
        for resource in Resource::ALL {
            if let Some(limit) = given.of(*resource) {
                quotas.set(*resource, limit.0);
            }
        }
        let has_parts =
            [self.jetstream_consumers, self.jetstream_storage_bytes, self.jetstream_memory_bytes]
                .iter()
                .any(Option::is_some);
        let streams = match self.jetstream_streams {
            Some(Limit(streams)) => streams,
            None if has_parts => quotas.jetstream.map(|before| before.streams),
            None => return,
        };
        quotas.jetstream = streams.map(|streams| {
            let before = quotas.jetstream.unwrap_or_default();
            JetStreamQuota {
                streams,
                consumers: self.jetstream_consumers.unwrap_or(match before.consumers {
                    0 => streams.saturating_mul(10),
                    consumers => consumers,
                }),
                storage_bytes: self.jetstream_storage_bytes.unwrap_or(before.storage_bytes),
                memory_bytes: self.jetstream_memory_bytes.unwrap_or(before.memory_bytes),
            }
        });
    }

    /// Refuses what would have no effect.
    fn check(&self, before: &Quotas) -> Result<(), &'static str> {
        let others =
            [self.jetstream_consumers, self.jetstream_storage_bytes, self.jetstream_memory_bytes];
        let Some(Limit(streams)) = self.jetstream_streams else {
            return match (before.jetstream, others.iter().any(Option::is_some)) {
                (None, true) => Err("without streams there is no JetStream; add jetstream.streams"),
                _ => Ok(()),
            };
        };
        if streams.is_none() && others.iter().any(Option::is_some) {
            return Err(
                "--jetstream-streams none takes all its limits back; leave the other ones out",
            );
        }
        let mut after = *before;
        self.apply(&mut after);
        match after.jetstream {
            Some(JetStreamQuota { streams: 1.., storage_bytes: 0, memory_bytes: 0, .. }) => {
                Err("JetStream without bytes stores nothing; add --jetstream-storage-bytes or \
                     --jetstream-memory-bytes")
            }
            _ => Ok(()),
        }
    }

    fn is_empty(&self) -> bool {
        let mut given = self.clone();
        let plain = Resource::ALL.iter().any(|resource| given.of(*resource).is_some());
        let jetstream =
            [self.jetstream_consumers, self.jetstream_storage_bytes, self.jetstream_memory_bytes];
        !plain && self.jetstream_streams.is_none() && jetstream.iter().all(Option::is_none)
    }
}

fn status(tenant: &Tenant) -> &'static str {
    match tenant.status {
        Status::Active => "active",
        Status::Suspended => "suspended",
    }
}

fn show_json(id: &TenantId, tenant: &Tenant) -> serde_json::Value {
    let mut value = json!(tenant);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("id".to_owned(), json!(id));
    }
    value
}

fn show_text(id: &TenantId, tenant: &Tenant, config: &Config) -> String {
    let now = Timestamp::now();
    let mut text = format!("tenant  {id}\nstatus  {}\n", status(tenant));
    if let Some(created) = tenant.created {
        text += &format!("created {}\n", relative(created, now));
    }
    if let Some(from) = tenant.tokens_valid_from {
        text += &format!("tokens  issued since {from} only ({})\n", relative(from, now));
    }
    for (device, since) in &tenant.revoked_devices {
        text += &format!("revoked device {device} ({})\n", relative(*since, now));
    }
    for (token, until) in &tenant.revoked_tokens {
        text += &format!("revoked token {token} (expires {})\n", relative(*until, now));
    }
    let refused = refused_roles(tenant, config);
    for name in tenant.roles.keys() {
        text += &format!("role    {name} is its own\n");
        if let Some(why) = refused.get(name) {
            text += &format!("        and refused: {why}\n");
        }
    }
    text
}

/// The tenant's own roles that nobody can come in with, and why.
fn refused_roles(tenant: &Tenant, config: &Config) -> BTreeMap<RoleName, String> {
    let known = config.role_set();
    let refused = tenant.roles.iter().filter_map(|(name, role)| {
        let beyond = config.brokers().iter().find_map(|b| role.beyond(&known, *b))?;
        let (verb, pattern) = (beyond.verb, beyond.pattern);
        let why = format!("no role in [roles] may {verb} to all of '{pattern}'; add one that may");
        Some((name.clone(), why))
    });
    refused.collect()
}

/// Every limit, and whether it is the tenant's own.
fn quota_text(own: &Quotas, defaults: &Quotas) -> String {
    let row = |name: &str, own: Option<u64>, default: Option<u64>| {
        vec![name.to_owned(), limit_text(own.or(default)), origin(own, default).to_owned()]
    };
    let plain = Resource::ALL.iter().map(|r| row(r.name(), own.get(*r), defaults.get(*r)));
    let mut rows: Vec<_> = plain.collect();
    match own.jetstream.or(defaults.jetstream) {
        None => rows.push(row("jetstream", None, None)),
        Some(jetstream) => {
            let parts = [
                ("jetstream.streams", jetstream.streams),
                ("jetstream.consumers", jetstream.consumers),
                ("jetstream.storage_bytes", jetstream.storage_bytes),
                ("jetstream.memory_bytes", jetstream.memory_bytes),
            ];
            let is_own = own.jetstream.is_some();
            let row = |(name, n): (&str, u64)| row(name, is_own.then_some(n), Some(n));
            rows.extend(parts.map(row));
        }
    }
    table(&["QUOTA", "LIMIT", "FROM"], rows)
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(|| "none".to_owned(), |n| n.to_string())
}

/// Who set a limit.
fn origin(own: Option<u64>, default: Option<u64>) -> &'static str {
    match (own, default) {
        (Some(_), _) => "tenant",
        (None, Some(_)) => "default",
        (None, None) => "-",
    }
}

/// What a tenant uses of what it may use.
struct UseOf {
    report: Result<Report, UsageError>,
    own: Quotas,
    defaults: Quotas,
}

impl UseOf {
    async fn read(config: &Config, id: &TenantId, tenant: &Tenant) -> Self {
        let report = usage::look(config, id, Day::of(Timestamp::now())).await;
        Self { report, own: tenant.quotas, defaults: config.quotas }
    }

    /// Each resource, how much of it is used, and how much may be.
    fn rows(&self) -> impl Iterator<Item = (Resource, Option<u64>, Option<u64>)> {
        let limits = self.own.or(self.defaults);
        Resource::ALL.iter().map(move |resource| {
            let used = self.report.as_ref().ok().and_then(|report| report.used(*resource));
            (*resource, used, limits.get(*resource))
        })
    }

    fn json(&self) -> serde_json::Value {
        let resources = self.rows().map(|(resource, used, limit)| {
            let from = origin(self.own.get(resource), self.defaults.get(resource));
            let from = Some(from).filter(|from| *from != "-");
            let percent = percent(used, limit);
            let value = json!({"used": used, "limit": limit, "from": from, "percent": percent});
            (resource.name().to_owned(), value)
        });
        let resources: serde_json::Map<_, _> = resources.collect();
        match &self.report {
            Ok(report) => json!({
                "day": report.day.to_string(),
                "processes": report.processes,
                "resources": resources,
            }),
            Err(error) => json!({"error": error.to_string(), "resources": resources}),
        }
    }

    fn text(&self) -> String {
        let known = match &self.report {
            Ok(report) => format!(
                "usage   on {} (UTC), as {} running now {} it\n",
                report.day,
                if report.processes == 1 {
                    "1 process".to_owned()
                } else {
                    format!("{} processes", report.processes)
                },
                if report.processes == 1 { "knows" } else { "know" },
            ),
            Err(error) => format!("usage   unknown: {error}\n"),
        };
        let rows = self.rows().map(|(resource, used, limit)| {
            // Of a rate or a size there is nothing that would be used.
            let is_counted =
                Resource::LIVE.contains(&resource) || Resource::DAILY.contains(&resource);
            let used = match used {
                Some(n) => n.to_string(),
                None if is_counted => "unknown".to_owned(),
                None => "-".to_owned(),
            };
            (resource, used, limit)
        });
        let rows = self.rows().zip(rows).map(|((_, n, _), (resource, used, limit))| {
            let percent = percent(n, limit).map_or_else(|| "-".to_owned(), |p| format!("{p:.1} %"));
            let from = origin(self.own.get(resource), self.defaults.get(resource));
            vec![resource.name().to_owned(), used, limit_text(limit), percent, from.to_owned()]
        });
        let mut text = known + &table(&["QUOTA", "USED", "LIMIT", "USED %", "FROM"], rows);
        if let Some(jetstream) = self.own.jetstream.or(self.defaults.jetstream) {
            text += &format!(
                "JetStream: {} streams, {} consumers each, {} bytes on disk, {} in memory\n",
                jetstream.streams,
                jetstream.consumers,
                jetstream.storage_bytes,
                jetstream.memory_bytes
            );
        }
        text
    }
}

/// How much of a limit is used, in hundredths; of a limit of nothing, all.
fn percent(used: Option<u64>, limit: Option<u64>) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    let share = |used: u64, limit: u64| used as f64 / limit as f64 * 100.0;
    Some(match (used?, limit?) {
        (_, 0) => 100.0,
        (used, limit) => (share(used, limit) * 10.0).round() / 10.0,
    })
}

fn confirm(question: &str) -> std::io::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    // Standard output is for the result.
    let mut terminal = std::io::stderr();
    write!(terminal, "{question} [yes/no] ")?;
    terminal.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
