//! `bulkhead tenant` and `bulkhead device`: changes of the directory. They need no running service,
//! and running services act on them at once.

use super::{Context, Outcome};
use crate::args::{Device, Limit, QuotaArgs, Tenant as Command};
use crate::output::{relative, table};
use bulkhead_policy::{JetStreamQuota, Quotas, Status, Tenant, TenantId};
use jiff::Timestamp;
use serde_json::json;
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
            context.output.print(&show_json(&id, &tenant), || show_text(&id, &tenant))?;
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
        Command::Quota { tenant: id, quotas } => {
            let tenant = if quotas.is_empty() {
                store.get(&id).await?
            } else {
                quotas.check(&store.get(&id).await?.quotas)?;
                store.update(&id, |tenant| quotas.apply(&mut tenant.quotas)).await?
            };
            context.output.print(&json!(tenant.quotas), || quota_text(&tenant.quotas))?;
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
    fn apply(&self, quotas: &mut Quotas) {
        let plain = [
            (self.connections, &mut quotas.connections),
            (self.subscriptions, &mut quotas.subscriptions),
            (self.messages_per_second, &mut quotas.messages_per_second),
            (self.bytes_per_second, &mut quotas.bytes_per_second),
            (self.payload_bytes, &mut quotas.payload_bytes),
            (self.retained_messages, &mut quotas.retained_messages),
            (self.retained_bytes, &mut quotas.retained_bytes),
            (self.queued_bytes, &mut quotas.queued_bytes),
            (self.authentications_per_minute, &mut quotas.authentications_per_minute),
        ];
        for (given, quota) in plain {
            if let Some(limit) = given {
                *quota = limit.0;
            }
        }
        if let Some(streams) = self.jetstream_streams {
            quotas.jetstream = streams.0.map(|streams| {
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
    }

    /// Refuses what would have no effect.
    fn check(&self, before: &Quotas) -> Result<(), &'static str> {
        let Some(Limit(streams)) = self.jetstream_streams else {
            return Ok(());
        };
        let others =
            [self.jetstream_consumers, self.jetstream_storage_bytes, self.jetstream_memory_bytes];
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
        // The rest of JetStream's cannot stand without the number of streams.
        [
            self.connections,
            self.subscriptions,
            self.messages_per_second,
            self.bytes_per_second,
            self.payload_bytes,
            self.retained_messages,
            self.retained_bytes,
            self.queued_bytes,
            self.authentications_per_minute,
            self.jetstream_streams,
        ]
        .iter()
        .all(Option::is_none)
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

fn show_text(id: &TenantId, tenant: &Tenant) -> String {
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
    for role in tenant.roles.keys() {
        text += &format!("role    {role} is its own\n");
    }
    text + &quota_text(&tenant.quotas)
}

fn quota_text(quotas: &Quotas) -> String {
    if quotas.is_empty() {
        return "quotas  as configured for every tenant\n".to_owned();
    }
    let value = json!(quotas);
    let rows = value.as_object().into_iter().flatten().flat_map(|(name, value)| match value {
        serde_json::Value::Object(nested) => nested
            .iter()
            .map(|(inner, value)| vec![format!("{name}.{inner}"), value.to_string()])
            .collect(),
        value => vec![vec![name.clone(), value.to_string()]],
    });
    table(&["QUOTA", "LIMIT"], rows.collect::<Vec<_>>())
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
