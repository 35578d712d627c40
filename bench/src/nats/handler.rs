//! Answers per CPU-second of the callout itself: operator mode, in this process, one thread.
//!
//! The tenant's account is known to a real server before the clock runs, so no answer waits for one.

use super::fake_server::{FakeServer, Question};
use super::site::{DirectoryIn, Site};
use crate::case::{Case, Goal};
use crate::cpu;
use crate::report::Measured;
use crate::session::Session;
use bulkhead_auth_callout::{Callout, KeyringFile, Mode, Operator, Provisioner, SystemClient};
use bulkhead_control::Control;
use bulkhead_policy::TenantId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Tokens that are asked about in turn where verdicts are cached.
const TOKENS: usize = 16;

/// How long the audit log's writer has to write down a repetition.
const SETTLE: Duration = Duration::from_millis(300);

/// One way to ask.
pub struct Variant {
    /// What it is called.
    pub case: Case,
    sealed: bool,
    cached: bool,
    audited: bool,
}

const fn variant(name: &'static str, goal: Option<Goal>) -> Variant {
    let case = Case { name, unit: "1/CPU-s", goal };
    Variant { case, sealed: false, cached: true, audited: false }
}

/// The ways.
pub const VARIANTS: [Variant; 4] = [
    variant("nats.handler.cached", Some(Goal::ValueAtLeast(8_000.0))),
    Variant { audited: true, ..variant("nats.handler.cached.audit", None) },
    Variant {
        sealed: true,
        ..variant("nats.handler.cached_xkey", Some(Goal::ValueAtLeast(6_500.0)))
    },
    Variant {
        cached: false,
        ..variant("nats.handler.uncached_eddsa", Some(Goal::ValueAtLeast(5_000.0)))
    },
];

/// Measures the cases that are wanted.
pub fn run(session: &mut Session, runtime: &Runtime) {
    if !session.wants_any(VARIANTS.iter().map(|variant| variant.case.name)) {
        return;
    }
    session.note("handler: starting a server");
    let tenant = TenantId::parse("acme").unwrap();
    let site = Site::prepare(runtime, DirectoryIn::File, std::slice::from_ref(&tenant));
    for variant in VARIANTS.iter() {
        if session.wants(variant.case.name) {
            session.note(variant.case.name);
            let measured = measure(session, runtime, &site, &tenant, variant);
            session.record(measured);
        }
    }
}

fn measure(
    session: &Session,
    runtime: &Runtime,
    site: &Site,
    tenant: &TenantId,
    variant: &Variant,
) -> Measured {
    let (runs, count) = session.effort().choose((9, 3_000), (3, 500));
    let keys = keys(site.folder(), variant.sealed);
    let mut config = site.config();
    config.audit.path = variant.audited.then(|| site.folder().join("audit.jsonl"));
    let control = runtime.block_on(Control::start(config, None)).unwrap();
    let (callout, curve) = runtime.block_on(callout(&control, site, &keys, tenant));
    let callout = Arc::new(callout);
    let curve = curve.filter(|_| variant.sealed);

    let text = std::fs::read_to_string(site.folder().join("nats/nats-server.conf")).unwrap();
    let server = FakeServer::new(&text);
    let known: Vec<_> = (0..TOKENS).map(|i| site.token(tenant, &format!("cam-{i}"))).collect();
    let questions = |count: usize| -> Vec<Question> {
        let ask = |i: usize| match variant.cached {
            true => server.ask(&known[i % TOKENS], curve.as_deref()),
            false => server.ask(&site.token(tenant, &format!("cam-{i}")), curve.as_deref()),
        };
        (0..count).map(ask).collect()
    };
    let mut rates = Vec::new();
    let mut process = Vec::new();
    // The first, short one fills the caches.
    for (run, count) in std::iter::once(TOKENS * 8).chain(vec![count; runs]).enumerate() {
        let (answers, thread_cpu, process_cpu) = answer(&callout, questions(count));
        answers.iter().for_each(|answer| server.check(answer, curve.as_deref()));
        if run > 0 {
            let count = f64::from(u32::try_from(count).unwrap());
            rates.push(count / thread_cpu);
            process.push(process_cpu / count * 1e6);
        }
    }
    runtime.block_on(control.shutdown());
    Measured::new(variant.case, rates).cpu_us_per_op(crate::stats::median(&process))
}

/// Answers all questions on a thread of its own. Returns the answers, the CPU time of the thread, and
/// that of the whole process, which includes the audit log's writer.
fn answer(callout: &Arc<Callout>, questions: Vec<Question>) -> (Vec<Vec<u8>>, f64, f64) {
    let callout = Arc::clone(callout);
    let process = cpu::of_this_process();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let started = cpu::of_thread();
        let answers = runtime.block_on(async {
            let mut answers = Vec::with_capacity(questions.len());
            for question in &questions {
                let answer = callout.answer(&question.payload, question.xkey.as_deref()).await;
                answers.push(answer.expect("a question is answered"));
            }
            answers
        });
        (answers, cpu::of_thread() - started)
    };
    let thread = std::thread::Builder::new().name("handler".to_owned()).spawn(work).unwrap();
    let (answers, thread_cpu) = thread.join().unwrap();
    std::thread::sleep(SETTLE);
    (answers, thread_cpu, cpu::of_this_process() - process)
}

/// A callout in operator mode whose server knows the tenant, and the public key that questions can be
/// sealed for.
async fn callout(
    control: &Control,
    site: &Site,
    keys: &Path,
    tenant: &TenantId,
) -> (Callout, Option<String>) {
    while !control.readiness().missing().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let auth = Arc::clone(control.auth());
    let credentials = site.folder().join("nats/system.creds");
    let client = async_nats::ConnectOptions::with_credentials_file(credentials)
        .await
        .unwrap()
        .connect(site.nats().client_url())
        .await
        .unwrap();
    let operator = Arc::new(Operator::open(keys).unwrap());
    let provisioner = Arc::new(Provisioner::new(
        SystemClient::new(client),
        Arc::clone(&operator),
        Arc::clone(&auth),
    ));
    provisioner.ensure(tenant).await.unwrap();
    let curve = operator.keys().curves.first().map(|curve| curve.value.public().to_owned());
    let config = control.config().nats.as_ref().unwrap();
    (Callout::new(auth, Mode::Operator { operator, provisioner }, config), curve)
}

/// The folder of keys: as they were made, or the same without a curve key, so that questions come in
/// the clear.
fn keys(folder: &Path, sealed: bool) -> PathBuf {
    let made = folder.join("nats");
    if sealed {
        return made;
    }
    let plain = folder.join("nats-plain");
    std::fs::create_dir_all(&plain).unwrap();
    let mut file = KeyringFile::read(&made).unwrap();
    file.curves.clear();
    file.write(&plain, true).unwrap();
    plain
}
