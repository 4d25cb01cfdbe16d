//! Counts of the gateway: what the pods don't say, and callers that go round it.

use std::time::Duration;

use serde_json::{Value, json};
use serin_e2e::{exposure::now, shop::Shop, traffic::Load};

use super::{
    assert_tidy, direct_callers, envoy_gateway,
    evidence::{events, told},
    figures, gateway, held, node, open_shop,
    prometheus::Telemetry,
    serin,
};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_release_is_judged_by_what_the_gateway_counts() {
    let _stage = super::alone();
    serin();
    let unnamed = Telemetry::with("telemetry.router=");
    let shop = Shop::open("router").expect("a shop");
    let steps = json!([{"weight": 20, "bake": "5s"}, {"weight": 50, "bake": "5s"}]);
    shop.rollout(&steps, |rollout| rollout["spec"]["telemetry"] = json!({"router": {}})).expect("a Rollout");
    shop.idle().expect("Ready");
    let mut load = Load::start(&gateway(), &shop.host, 200, 600, &[]).expect("load");
    // given direct callers of the Service, of which the gateway knows nothing
    let (_, _callers) = direct_callers(&shop, 95);

    // when nobody has said where the gateway's counters are, a release is held
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    held(&shop, None, "NoData", "names no gateway to ask (telemetry.router of the chart)");
    // and goes on once it is said
    drop(unnamed);
    let run = shop.run_in("Succeeded", None, 3 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    for slo in run["status"]["slos"].as_array().expect("SLOs") {
        println!("      {slo}");
        assert_eq!(slo["verdict"], "Good", "{slo}");
    }
    assert_eq!(events(&shop, "MixedTraffic"), Vec::<String>::new(), "like is compared with like");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    shop.idle().expect("Ready again");

    // and a version whose pods keep their errors to themselves is taken back
    let began = now();
    let first = run["metadata"]["name"].as_str();
    shop.release(&["VERSION=silent", "FAULT_ERRORS=20%", "FAULT_METRICS=frozen"]).expect("release");
    let run = shop.run_in("RolledBack", first, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      {}", run["status"]["message"]);
    assert_eq!(run["status"]["reason"], "SloViolated", "{}", run["status"]["message"]);
    let seen = figures(&mut load, began, "silent");
    assert_eq!(seen.lost, 0);
    assert!(seen.seconds.is_some_and(|seconds| seconds < 20.0), "{seen:?}");

    // as is one that is slow
    let (second, began) = (run["metadata"]["name"].as_str(), now());
    shop.release(&["VERSION=slow", "FAULT_ERRORS=0%", "FAULT_LATENCY=400ms", "FAULT_LATENCY_SHARE=30%"])
        .expect("release");
    let run = shop.run_in("RolledBack", second, 2 * MINUTE);
    let run =
        run.unwrap_or_else(|error| panic!("{error}: {:?}", shop.run().map(|run| run.map(|run| run["status"].clone()))));
    println!("      {}", run["status"]["message"]);
    assert!(run["status"]["message"].to_string().contains("SLO latency"), "{}", run["status"]["message"]);
    figures(&mut load, began, "slow");
    assert_tidy(&shop);
}

#[test]
fn requests_that_the_canarys_pods_do_not_count_hold_the_run() {
    let _stage = super::beside();
    let steps = json!([{"weight": 20, "bake": "30s"}, {"weight": 50, "bake": "5s"}]);
    let (shop, mut load) = open_shop("uncounted", &steps, |rollout| {
        rollout["spec"]["limits"]["failedRequests"] = json!(200);
    });

    // when a version closes connections instead of answering, its pods report no errors
    let began = now();
    shop.release(&["VERSION=dropping", "FAULT_DROP=20%"]).expect("release");
    let run = held(&shop, None, "RequestsLost", "");
    println!("      after {:.1} s", now() - began);
    assert_eq!(run["status"]["slos"][0]["canary"]["bad"], 0, "{}", run["status"]["slos"]);
    assert_eq!(told(&shop, "RequestsLost").len(), 1);

    // then, before they are too many, it is taken back, and the next version is promoted
    let first = run["metadata"]["name"].as_str();
    let run = shop.run_in("RolledBack", None, MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      {}", run["status"]["message"]);
    assert_eq!(run["status"]["reason"], "FailedRequests", "{}", run["status"]);
    let seen = figures(&mut load, began, "dropping");
    assert!(seen.lost < 400, "twice the cap: {seen:?}");
    shop.release(&["VERSION=answering", "FAULT_DROP=0%"]).expect("release");
    shop.run_in("Succeeded", first, 3 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(events(&shop, "RequestsLost").len(), 1, "once");
    assert_tidy(&shop);
}

#[test]
fn copies_are_judged_by_what_the_gateway_counts_of_them() {
    let _stage = super::beside();
    let steps = json!([{"mirror": {"percent": 20}, "bake": "10s"}, {"weight": 50, "bake": "5s"}]);
    let (shop, mut load) = open_shop("copies", &steps, |rollout| rollout["spec"]["telemetry"] = json!({"router": {}}));
    // given a version whose pods keep their errors to themselves, no caller meets one of them
    let began = now();
    shop.release(&["VERSION=silent", "FAULT_ERRORS=20%", "FAULT_METRICS=frozen"]).expect("release");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      after {:.1} s: {}", now() - began, run["status"]["message"]);
    assert_eq!((&run["status"]["reason"], &run["status"]["step"]), (&json!("SloViolated"), &json!(1)), "{run}");
    let seen = figures(&mut load, began, "silent");
    assert_eq!((seen.failed, seen.lost, seen.canary), (0, 0, 0));
    // and a good one goes on
    let (first, began) = (run["metadata"]["name"].as_str(), now());
    shop.release(&["VERSION=good", "FAULT_ERRORS=0%", "FAULT_METRICS=right"]).expect("release");
    shop.run_in("Succeeded", first, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    let seen = figures(&mut load, began, "good");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

#[test]
fn a_gateway_that_counts_endpoints_one_by_one_is_asked_by_pods() {
    let _stage = super::alone();
    let _router = Telemetry::with(&format!("telemetry.router={}:18014", node()));
    let shop = Shop::open("endpoints").expect("a shop");
    let parents = json!({"spec": {"parentRefs": [{"name": "gw-eg", "namespace": "gateway"}]}}).to_string();
    shop.kubectl(&["patch", "httproute", "auth", "--type=merge", "-p", &parents]).expect("Envoy Gateway's");
    let counted_by_pods = shop
        .rollout(&json!([{"weight": 20, "bake": "10s"}, {"weight": 50, "bake": "10s"}]), |rollout| {
            let slos = rollout["spec"]["slos"].as_array_mut().expect("SLOs");
            slos.retain(|slo| slo["name"] == "errors");
        })
        .expect("a Rollout");
    let telemetry = |telemetry: &Value| {
        // Lists and maps of a merge patch leave what is not named.
        let patch = json!([{"op": "replace", "path": "/spec/telemetry", "value": telemetry}]).to_string();
        shop.kubectl(&["patch", "rollouts.serin.dev", "auth", "--type=json", "-p", &patch]).expect("patched");
    };
    telemetry(&json!({"router": {}}));
    shop.idle().expect("Ready");
    let mut load = Load::start(&envoy_gateway(), &shop.host, 200, 600, &[]).expect("load");

    // a healthy version is promoted by what the gateway counts
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = shop.run_in("Succeeded", None, 3 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      {}", run["status"]["slos"]);
    let slo = &run["status"]["slos"][0];
    assert!(slo["canary"]["requests"].as_u64() > Some(500) && slo["canary"]["bad"] == 0, "{slo}");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    shop.idle().expect("Ready again");

    // and one whose pods keep their errors to themselves is taken back
    let (first, began) = (run["metadata"]["name"].as_str(), now());
    shop.release(&["VERSION=silent", "FAULT_ERRORS=20%", "FAULT_METRICS=frozen"]).expect("release");
    let run = shop.run_in("RolledBack", first, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      {}", run["status"]["message"]);
    assert_eq!(run["status"]["reason"], "SloViolated", "{}", run["status"]["message"]);
    assert!(figures(&mut load, began, "silent").seconds.is_some_and(|seconds| seconds < 20.0));

    // besides the pods, it tells what these do not count
    telemetry(&counted_by_pods["spec"]["telemetry"]);
    let (second, began) = (run["metadata"]["name"].as_str(), now());
    shop.release(&["VERSION=dropping", "FAULT_ERRORS=0%", "FAULT_METRICS=right", "FAULT_DROP=20%"]).expect("release");
    held(&shop, second, "RequestsLost", "");
    println!("      after {:.1} s", now() - began);
    shop.serin(&["abort", "auth"]).expect("abort");
    shop.run_in("RolledBack", second, MINUTE).unwrap_or_else(|error| panic!("{error}"));
    assert_tidy(&shop);
}
