//! `bulkhead audit`.

use super::{Context, Outcome};
use crate::args::Audit;
use bulkhead_control::audit::{AuditError, verify};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(super) fn run(context: &Context, command: Audit) -> Outcome {
    let Audit::Verify { path } = command;
    let logs = match path {
        Some(path) => vec![path],
        None => {
            let path = context
                .config()?
                .audit
                .path
                .ok_or("no audit log is configured; set audit.path, or name the log")?;
            let own = super::cli_log(&path);
            // A log that is gone while its head is there was not always missing.
            [path, own].into_iter().filter(|log| log.exists() || head(log).exists()).collect()
        }
    };
    let mut results = Vec::new();
    let mut broken = false;
    for path in logs {
        let shown = path.display().to_string();
        results.push(match verify(&path) {
            Ok(verified) => json!({"log": shown, "ok": true, "records": verified.records, "head": verified.head}),
            Err(AuditError::Io { .. }) if !path.exists() && head(&path).exists() => {
                broken = true;
                let error = format!("{shown}: it is gone, but {} was written with it", head(&path).display());
                json!({"log": shown, "ok": false, "error": error})
            }
            Err(error @ AuditError::Io { .. }) => return Err(error.into()),
            Err(error) => {
                broken = true;
                json!({"log": shown, "ok": false, "error": error.to_string()})
            }
        });
    }
    context.output.print(&results, || match results.as_slice() {
        [] => "nothing was written down yet".to_owned(),
        results => results.iter().map(line).collect(),
    })?;
    Ok(ExitCode::from(if broken { crate::NOT_AS_IT_SHOULD_BE } else { 0 }))
}

/// What tells where a log ended.
fn head(log: &Path) -> PathBuf {
    super::beside(log, ".head")
}

fn line(result: &Value) -> String {
    let field = |name: &str| match result.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    if result.get("ok") == Some(&Value::Bool(true)) {
        format!("ok    {}: {} records, head {}\n", field("log"), field("records"), field("head"))
    } else {
        format!("FAIL  {}\n", field("error"))
    }
}
