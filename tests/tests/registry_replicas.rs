//! Replicas of the registry side by side: what each says of what the other has.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_tests::registry::{Keys, Party, Person};
use bulkhead_tests::{Replica, Stack, Token, WITHIN, eventually_async};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");

/// So many that some change over when a replica joins, wherever they are put.
const TENANTS: usize = 32;

async fn asked(replica: &Replica, path: &str, token: &str) -> Response {
    let url = format!("http://{}{path}", replica.admin());
    reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap()
}

/// Waits until two replicas have everything between them.
async fn shared(stack: &mut Stack) {
    let mut keys = Keys::of(stack).await;
    eventually_async("the partitions are shared", async || {
        let shares = keys.shares().await;
        shares.len() == 2 && shares.values().sum::<usize>() == 64
    })
    .await;
}

/// What a stream says until it ends.
async fn to_the_end(mut stream: Response) -> String {
    let mut heard = Vec::new();
    let all = async {
        while let Some(part) = stream.chunk().await.unwrap() {
            heard.extend_from_slice(&part);
        }
    };
    tokio::time::timeout(WITHIN, all).await.expect("the stream ends");
    String::from_utf8(heard).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_says_who_serves_what_it_does_not() {
    let tenants: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = tenants.iter().map(String::as_str).collect();
    let mut stack = Stack::new().etcd().registry_elsewhere().tenants(&names).start().await;
    let first = stack.registry_replica(PROGRAM, "first").await;
    let viewers: Vec<String> =
        tenants.iter().map(|tenant| stack.token(&Token::role(tenant, "viewer"))).collect();
    let platform = stack.token(&stack.service_token());
    for tenant in &tenants {
        Party::role(&stack, tenant, "member")
            .await
            .register("cam-1", |p| p["device_ttl"] = json!(600))
            .await;
    }
    let whole = asked(&first, "/v1/devices", &platform).await;
    assert_eq!(whole.headers().get("bulkhead-partial"), None);
    assert_eq!(whole.json::<Vec<Value>>().await.unwrap().len(), TENANTS);
    let mut watches = Vec::new();
    for token in &viewers {
        let watch = asked(&first, "/v1/devices/events", token).await;
        assert_eq!(watch.status(), StatusCode::OK);
        watches.push(watch);
    }
    let mut of_all = asked(&first, "/v1/devices/events", &platform).await;

    let second = stack.registry_replica(PROGRAM, "second").await;
    shared(&mut stack).await;
    // Each tenant is answered for by one, and the other says by which.
    let port = |replica: &Replica| replica.admin().rsplit(':').next().unwrap().to_owned();
    let (mut of_first, mut of_second) = (BTreeSet::new(), BTreeSet::new());
    for (n, token) in viewers.iter().enumerate() {
        let mut answers = None;
        eventually_async("one of them serves the tenant", async || {
            let one = asked(&first, "/v1/devices", token).await;
            let other = asked(&second, "/v1/devices", token).await;
            let served = [&one, &other].map(|answer| answer.status() == StatusCode::OK);
            answers = Some((one, other));
            served == [true, false] || served == [false, true]
        })
        .await;
        let (one, other) = answers.unwrap();
        let is_first = one.status() == StatusCode::OK;
        let (right, wrong) = if is_first { (one, other) } else { (other, one) };
        assert_eq!(right.json::<Vec<Value>>().await.unwrap()[0]["device"], "cam-1");
        assert_eq!(wrong.status(), StatusCode::SERVICE_UNAVAILABLE);
        let said: Value = wrong.json().await.unwrap();
        let (server, share) =
            if is_first { (&first, &mut of_first) } else { (&second, &mut of_second) };
        let text = said["error"].as_str().unwrap();
        assert!(text.contains("served by another replica, "), "{text}");
        assert!(text.contains(&format!(":{}#", port(server))), "{text}");
        let silent = if is_first { &second } else { &first };
        let stream = asked(silent, "/v1/devices/events", token).await;
        assert_eq!(stream.status(), StatusCode::SERVICE_UNAVAILABLE);
        share.insert(n);
    }
    assert!(!of_first.is_empty() && !of_second.is_empty());
    // A list of all says how many are not in it, and people are told.
    for (replica, others) in [(&first, &of_second), (&second, &of_first)] {
        let part = asked(replica, "/v1/devices", &platform).await;
        let missing = part.headers().get("bulkhead-partial").unwrap().to_str().unwrap().to_owned();
        assert_eq!(missing, others.len().to_string());
        assert_eq!(part.json::<Vec<Value>>().await.unwrap().len(), TENANTS - others.len());
        let person = Person {
            program: PROGRAM,
            folder: stack.folder(),
            admin: replica.admin(),
            token: &platform,
        };
        let text = person.list(&[]).await;
        assert!(text.contains(&format!("does not serve {missing} of the tenants")), "{text}");
        let elsewhere = &tenants[*others.first().unwrap()];
        let text = person.list(&["--tenant", elsewhere]).await;
        assert!(text.contains("served by another replica, "), "{text}");
        let text = person.list(&["--tenant", "nobody"]).await;
        assert!(text.contains("'nobody' is not in the directory"), "{text}");
        let watch = person.devices("watch", &["--tenant", elsewhere]);
        eventually_async("there is nothing to watch", async || !watch.is_running()).await;
        assert!(watch.log().contains("served by another replica, "), "{}", watch.log());
    }
    // Who watched what has changed over is told so, and the others go on.
    let mut heard = String::new();
    while !heard.contains("event: partial") {
        let part = tokio::time::timeout(WITHIN, of_all.chunk()).await.unwrap().unwrap().unwrap();
        heard += &String::from_utf8_lossy(&part);
    }
    for (n, mut watch) in watches.into_iter().enumerate() {
        if of_second.contains(&n) {
            let said = to_the_end(watch).await;
            assert!(said.contains("event: ended"), "{said}");
        } else {
            let member = Party::role(&stack, &tenants[n], "member").await;
            member.register("cam-2", |_| {}).await;
            let mut heard = String::new();
            while !heard.contains("\"cam-2\"") {
                let part = tokio::time::timeout(WITHIN, watch.chunk()).await.unwrap();
                heard += &String::from_utf8_lossy(&part.unwrap().expect("the watch goes on"));
            }
            assert!(!heard.contains("event: ended"), "{heard}");
        }
    }
}
