//! `bulkhead verify`.

use super::{Context, Outcome};
use crate::args::Verify;
use crate::output::{complain, line, table};
use crate::verify::{Deployment, EXAMPLE, Outcome as Verdict, Report, Row, Seen};
use bulkhead_control::program::interrupted;
use std::pin::pin;
use std::process::ExitCode;

/// Exit code for a leak.
const LEAK: u8 = 1;

/// Exit code for a file that says it wrong, as for a command that was typed wrong.
const WRONG: u8 = 2;

/// Exit code for what could not be told.
const UNKNOWN: u8 = 3;

pub(super) async fn run(context: &Context, args: Verify) -> Outcome {
    let Some(path) = args.deployment.filter(|_| !args.example) else {
        line(EXAMPLE.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    let deployment = match Deployment::read(&path) {
        Ok(deployment) => deployment,
        Err(error) => {
            complain(format_args!("bulkhead: {error}"));
            return Ok(ExitCode::from(WRONG));
        }
    };
    let mut running = pin!(crate::verify::run(&deployment));
    let report = tokio::select! {
        report = &mut running => report,
        () = interrupted() => {
            complain("bulkhead: interrupted; what was begun is removed first");
            deployment.stop().set();
            running.await
        }
    };
    // A verdict that nobody could read is none, and no leak either.
    if let Err(error) = context.output.print(&report, || show(&report)) {
        complain(format_args!("bulkhead: {error}"));
        return Ok(ExitCode::from(UNKNOWN));
    }
    Ok(ExitCode::from(match report.result() {
        Verdict::Isolated => 0,
        Verdict::Leak => LEAK,
        Verdict::Unknown => UNKNOWN,
    }))
}

/// A report for a person: the matrix, then what is to be said about it, then the verdict.
pub(super) fn show(report: &Report) -> String {
    let seen = |seen: Option<Seen>| seen.map_or_else(|| "-".to_owned(), |seen| seen.to_string());
    let result = |row: &Row| match row.result {
        Verdict::Isolated => "isolated",
        Verdict::Leak => "LEAK",
        Verdict::Unknown => "UNKNOWN",
    };
    let rows = report.rows().iter().map(|row| {
        let texts =
            [row.backend.to_owned(), row.action.to_owned(), seen(row.own), seen(row.foreign)];
        texts.into_iter().chain([result(row).to_owned()]).collect()
    });
    let mut text =
        format!("\n{}\n", table(&["BACKEND", "ROW", "OWN TENANT", "OTHER TENANT", ""], rows));
    for row in report.rows().iter().filter(|row| row.result != Verdict::Isolated) {
        text += &format!("{} {}: {}: {}\n", result(row), row.backend, row.action, row.reason);
    }
    for row in report.not_tried() {
        text += &format!("not tried: {}: {}: {}\n", row.backend, row.action, row.reason);
    }
    text += match report.result() {
        Verdict::Isolated => {
            "Every row holds: within its tenant a client can do it, across tenants it cannot."
        }
        Verdict::Leak => "The tenants are not isolated: see the rows with LEAK.",
        Verdict::Unknown => {
            "It cannot be told whether the tenants are isolated: see the rows with UNKNOWN."
        }
    };
    text
}
