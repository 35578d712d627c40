//! `bulkhead dev`.

use super::{Context, Outcome};
use crate::args::Dev;
use crate::dev::{Environment, Matrix};
use crate::output::{complain, line, table};
use bulkhead_control::config::LogConfig;
use bulkhead_control::log;
use bulkhead_control::program::interrupted;
use std::pin::pin;
use std::process::ExitCode;

pub(super) async fn run(context: &Context, args: Dev) -> Outcome {
    let quiet = LogConfig {
        filter: "warn,async_nats=error,rumqttc=error".to_owned(),
        ..LogConfig::default()
    };
    log::init(&quiet)?;
    complain(
        "bulkhead dev: tokens are signed by an issuer of this machine's own, and everything listens \
         on loopback; this is for trying things out, not for anybody's data",
    );
    let mut interrupted = pin!(interrupted());
    let environment = tokio::select! {
        started = Environment::start(&args.dir) => started?,
        () = &mut interrupted => return Ok(ExitCode::from(crate::FAILED)),
    };
    let matrix = tokio::select! {
        measured = Matrix::measure(&environment) => measured?,
        () = &mut interrupted => {
            environment.stop().await;
            return Ok(ExitCode::from(crate::FAILED));
        }
    };
    context.output.print(&matrix.rows(), || show(&matrix))?;
    let code = ExitCode::from(if matrix.holds() { 0 } else { crate::NOT_AS_IT_SHOULD_BE });
    if args.once {
        environment.stop().await;
        return Ok(code);
    }
    if !context.output.json {
        line(&environment.invitation()?)?;
    }
    environment.wait(interrupted).await;
    environment.stop().await;
    Ok(code)
}

fn show(matrix: &Matrix) -> String {
    let rows = matrix.rows().iter().map(|row| {
        vec![
            row.backend.to_owned(),
            row.action.to_owned(),
            row.own.to_string(),
            row.foreign.to_string(),
            if row.holds() { "holds" } else { "DOES NOT HOLD" }.to_owned(),
        ]
    });
    let verdict = if matrix.holds() {
        "Every row holds: within its tenant a client can do it, across tenants it cannot."
    } else {
        "Some row does not hold: do not use this build."
    };
    format!(
        "\n{}\n{verdict}\n",
        table(&["BACKEND", "ACTION", "OWN TENANT", "OTHER TENANT", ""], rows)
    )
}
