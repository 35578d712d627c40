//! Replicas of the registry side by side: what each says of what the other has.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at a surprise")]

use bulkhead_tests::registry::{Keys, Party, Person};
use bulkhead_tests::{Passage, Replica, Stack, Token, WITHIN, eventually_async};
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
    tokio::time::timeout(WITHIN, all).await.unwrap();
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

/// Waits until so many replicas are there, and have everything.
async fn settled(stack: &mut Stack, replicas: i64) {
    let mut keys = Keys::of(stack).await;
    let partitions = if replicas > 0 { 64 } else { 0 };
    eventually_async(&format!("{replicas} replicas have everything"), async || {
        keys.count("/bulkhead/registry/replicas/members/").await == replicas
            && keys.count("/bulkhead/registry/replicas/partitions/").await == partitions
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_cut_off_from_etcd_alone_stands_back() {
    let tenants: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = tenants.iter().map(String::as_str).collect();
    let mut stack = Stack::new().etcd().registry_elsewhere().tenants(&names).start().await;
    let target = stack.etcd().endpoint().trim_start_matches("http://").parse().unwrap();
    let passage = Passage::to(target).await;
    let by = format!("http://{}", passage.address());
    let cut_off = stack.registry_replica_by(PROGRAM, "cut-off", &by).await;
    // Whatever the other has, this one has given it, all at a time.
    settled(&mut stack, 1).await;
    let second = stack.registry_replica(PROGRAM, "second").await;
    shared(&mut stack).await;
    // A tenant of the one that will be cut off.
    let platform = stack.token(&stack.service_token());
    let mut tenant = None;
    eventually_async("it has a tenant", async || {
        let list = asked(&cut_off, "/v1/devices", &platform).await;
        let missing = list.headers().contains_key("bulkhead-partial");
        for name in &names {
            let path = format!("/v1/devices?tenant={name}");
            if asked(&cut_off, &path, &platform).await.status() == StatusCode::OK {
                tenant = Some((*name).to_owned());
            }
        }
        missing && tenant.is_some()
    })
    .await;
    let tenant = tenant.unwrap();
    let path = format!("/v1/devices?tenant={tenant}");
    let member = Party::role(&stack, &tenant, "member").await;
    let mut lifecycle = member.lifecycle().await;
    member.register("cam-1", |params| params["device_ttl"] = json!(600)).await;
    assert_eq!(lifecycle.next().await, "online cam-1");
    member.register("leaves", |params| params["device_ttl"] = json!(6)).await;
    assert_eq!(lifecycle.next().await, "online leaves");

    passage.cut().await;
    settled(&mut stack, 1).await;
    eventually_async("the other hears the tenant", async || {
        member.register("cam-1", |params| params["device_ttl"] = json!(600)).await;
        let metrics = asked(&second, "/metrics", &platform).await.text().await.unwrap();
        metrics.contains(
            "bulkhead_registry_registrations_total{backend=\"nats\",outcome=\"registered\"}",
        )
    })
    .await;
    // Both hear everything. What a device is told is what is written.
    let mut keys = Keys::of(&mut stack).await;
    for n in 0..10 {
        let device = format!("late-{n}");
        let answer = member.register(&device, |params| params["device_ttl"] = json!(600)).await;
        let mut stored = None;
        eventually_async("it is written", async || {
            stored = keys.get(&tenant, &device).await;
            stored.is_some()
        })
        .await;
        assert_eq!(
            answer["result"]["device_registration_id"],
            stored.unwrap().0["registry"]["device_registration_id"]
        );
    }
    let mut expected: Vec<String> = (0..10).map(|n| format!("online late-{n}")).collect();
    expected.insert(0, "offline leaves".to_owned());
    let mut told = Vec::new();
    while told.len() < expected.len() {
        told.push(lifecycle.next().await);
        told.retain(|told| told != "online cam-1");
    }
    told.sort();
    assert_eq!(told, expected);
    // It is silent by the clock of the one that is cut off too.
    let own = asked(&cut_off, &path, &platform).await;
    assert!(own.headers().contains_key("bulkhead-store-behind-seconds"));
    eventually_async("both have noticed who left", async || {
        let text = asked(&cut_off, &path, &platform).await.text().await.unwrap();
        text.contains("late-9") && !text.contains("leaves")
    })
    .await;

    // Its tenants come back to it, with what the other has written and told of them.
    second.kill().unwrap();
    settled(&mut stack, 0).await;
    passage.mend();
    settled(&mut stack, 1).await;
    eventually_async("it is there again", async || {
        let list = asked(&cut_off, &path, &platform).await;
        list.status() == StatusCode::OK
            && !list.headers().contains_key("bulkhead-store-behind-seconds")
    })
    .await;
    lifecycle.nothing_but(&member, "marker").await;
    for n in 0..10 {
        let (stored, lease) = keys.get(&tenant, &format!("late-{n}")).await.unwrap();
        assert_eq!(stored, member.get(&format!("late-{n}")).await);
        assert_ne!(lease, 0);
    }
    assert_eq!(member.get("leaves").await, Value::Null);
    assert_eq!(member.get("cam-1").await["device_id"], "cam-1");
}
