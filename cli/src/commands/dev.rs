//! `bulkhead dev`.

use super::verify::show;
use super::{Context, Outcome};
use crate::args::Dev;
use crate::dev::{Environment, measure};
use crate::output::{complain, line};
use crate::verify::Outcome as Verdict;
use bulkhead_control::config::LogConfig;
use bulkhead_control::log;
use bulkhead_control::program::interrupted;
use std::pin::pin;
use std::process::ExitCode;

pub(super) async fn run(context: &Context, args: Dev) -> Outcome {
    let quiet = LogConfig {
        // That clients are refused is what the matrix shows.
        filter: "warn,async_nats=off,rumqttc=off,zenoh=error,zenoh_transport=off".to_owned(),
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
    let report = tokio::select! {
        measured = measure(&environment) => measured?,
        () = &mut interrupted => {
            environment.stop().await;
            return Ok(ExitCode::from(crate::FAILED));
        }
    };
    context.output.print(&report, || show(&report))?;
    let holds = report.result() == Verdict::Isolated;
    let code = ExitCode::from(if holds { 0 } else { crate::NOT_AS_IT_SHOULD_BE });
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
