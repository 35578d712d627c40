//! probe
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "probe")]
use bulkhead_policy::JetStreamQuota;
use bulkhead_tests::{Actor, Stack, Token};
use serde_json::Value;

const QUOTA: JetStreamQuota =
    JetStreamQuota { memory_bytes: 0, storage_bytes: 8 << 20, streams: 20, consumers: 20 };

#[tokio::test]
async fn probe() {
    for round in 0..40 {
        let mut stack =
            Stack::new().server_config("jetstream { max_mem: 64MB, max_file: 64MB }").start().await;
        stack.change("acme", |t| t.quotas.jetstream = Some(QUOTA)).await;
        let actor = Actor::connect(stack.url(), &stack.token(&Token::role("acme", "member"))).await;
        let started = std::time::Instant::now();
        let mut ok = false;
        let mut last = String::new();
        while started.elapsed().as_secs() < 4 {
            match actor.client.request("$JS.API.INFO", "".into()).await {
                Ok(answer) => {
                    let v: Value = serde_json::from_slice(&answer.payload).unwrap();
                    last = v.to_string();
                    if v["limits"]["max_streams"] == 20 {
                        ok = true;
                        break;
                    }
                }
                Err(e) => last = e.to_string(),
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        println!("{round} {ok} {:?}", started.elapsed());
        if !ok {
            println!("last {last}");
            println!("events {:?}", actor.events());
            println!(
                "tenants: {}",
                std::fs::read_to_string(stack.folder().join("tenants.toml")).unwrap()
            );
            println!(
                "audit: {}",
                std::fs::read_to_string(stack.folder().join("audit.jsonl")).unwrap()
            );
            let base = stack.servers()[0].monitor_url().to_owned();
            let keys = bulkhead_auth_callout::Keyring::read(&stack.folder().join("nats")).unwrap();
            let acc = keys.account_of(&"acme".parse().unwrap()).unwrap();
            let text = reqwest::get(format!("{base}/accountz?acc={acc}"))
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
            println!("{text}");
            for f in std::fs::read_dir(stack.folder().join("servers/s0/accounts")).unwrap() {
                let f = f.unwrap().path();
                println!("{} {}", f.display(), std::fs::read_to_string(&f).unwrap());
            }
            // does a second change help?
            stack
                .change("acme", |t| {
                    t.quotas.jetstream = Some(JetStreamQuota { streams: 21, ..QUOTA })
                })
                .await;
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            let answer = actor.client.request("$JS.API.INFO", "".into()).await;
            println!("after a second change {answer:?}");
            break;
        }
    }
}
