//! `bulkhead audit`.

use super::{Context, Outcome};
use crate::args::Audit;
use bulkhead_control::audit::{AuditError, verify};
use serde_json::{Value, json};
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
            let beside = super::cli_log(&path);
            [path, beside].into_iter().filter(|path| path.exists()).collect()
        }
    };
    let mut results = Vec::new();
    let mut broken = false;
    for path in logs {
        let shown = path.display().to_string();
        results.push(match verify(&path) {
            Ok(verified) => json!({"log": shown, "ok": true, "records": verified.records, "head": verified.head}),
            Err(error @ AuditError::Io { .. }) => return Err(error.into()),
            Err(error) => {
                broken = true;
                json!({"log": shown, "ok": false, "error": error.to_string()})
            }
        });
    }
    context.output.print(&results, || results.iter().map(line).collect());
    Ok(ExitCode::from(if broken { crate::NOT_AS_IT_SHOULD_BE } else { 0 }))
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
        format!("FAIL  {}: {}\n", field("log"), field("error"))
    }
}
