//! Good and bad releases under load.

use std::time::Duration;

use serde_json::json;
use serin_e2e::{
    cluster::{eventually, list},
    exposure::now,
    stage::Stage,
};

use super::{assert_tidy, figures, gateway, open_shop, rollout_status, short_steps};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_good_release_is_promoted_and_no_request_is_lost() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("good", &short_steps(), |_| {});
    // given direct in-cluster callers of the apex, all the time
    let (_, mut callers) = super::direct_callers(&shop, 50);
    let before = list(&shop.namespace, "replicasets").expect("kubectl").len();
    let began = now();

    // when a new image is set as always
    shop.kubectl(&["set", "image", "deployment/auth", "auth=serin.local/auth:v2"]).expect("set image");
    let promoting = eventually("the promotion", 3 * MINUTE, || {
        let run = shop.run()?;
        Ok(run
            .filter(|run| run["status"]["phase"] == "Promoting" || run["status"]["phase"] == "Succeeded")
            .map(|_| now()))
    })
    .expect("promoting");
    let code = rollout_status(&shop);
    shop.run_in("Succeeded", None, MINUTE).expect("Succeeded");

    // then it serves, nothing was lost, no pod restarted, and there is exactly one new ReplicaSet
    assert_eq!(code, Some(0), "kubectl rollout status ends well");
    let seen = figures(&mut load, began, "v2");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    let direct = figures(&mut callers, began, "v2");
    assert_eq!(direct.failed, 0, "direct callers lose nothing");
    let early = callers
        .read()
        .expect("records")
        .iter()
        .filter(|record| record.t < promoting - 1.0 && record.version.as_deref() == Some("v2"))
        .count();
    assert_eq!(early, 0, "direct callers see no canary before the promotion");
    assert_eq!(list(&shop.namespace, "replicasets").expect("kubectl").len(), before + 1);
    for pod in list(&shop.namespace, "pods").expect("kubectl") {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
    shop.idle().expect("Ready again");
    assert_tidy(&shop);
}

/// Releases a version with these faults and checks that it is refused for this reason, and fast.
fn refused(name: &str, environment: &[&str], reason: &str, within: f64) {
    let (shop, mut load) = open_shop(name, &short_steps(), |_| {});
    let began = now();
    let mut all = vec!["VERSION=canary"];
    all.extend(environment);
    shop.release(&all).expect("release");
    let run = shop.run_in("RolledBack", None, 3 * MINUTE).expect("RolledBack");
    assert_eq!(run["status"]["reason"], reason, "{}", run["status"]["message"]);
    assert_eq!(rollout_status(&shop), Some(1), "kubectl rollout status fails");
    let seen = figures(&mut load, began, "canary");
    if let Some(seconds) = seen.seconds {
        assert!(seconds < within, "callers were exposed for {seconds:.1} s");
    }
    assert_tidy(&shop);
    // and the old version's template brings it all together again
    shop.serin(&["undo", "auth"]).expect("undo");
    shop.idle().expect("Ready");
    assert_eq!(rollout_status(&shop), Some(0));
}

#[test]
fn twenty_percent_errors_are_taken_back_within_seconds() {
    let _stage = super::beside();
    refused("bad20", &["FAULT_ERRORS=20%"], "SloViolated", 12.0);
}

#[test]
fn all_errors_are_taken_back_within_seconds() {
    let _stage = super::beside();
    refused("bad100", &["FAULT_ERRORS=100%"], "SloViolated", 9.0);
}

#[test]
fn a_slow_release_is_taken_back() {
    let _stage = super::beside();
    refused("slow", &["FAULT_LATENCY=400ms", "FAULT_LATENCY_SHARE=30%"], "SloViolated", 15.0);
}

#[test]
fn a_version_that_never_gets_ready_is_refused_without_traffic() {
    let _stage = super::beside();
    let (shop, mut load) =
        open_shop("unready", &short_steps(), |rollout| rollout["spec"]["limits"]["readyWithin"] = json!("8s"));
    let began = now();
    shop.release(&["VERSION=canary", "FAULT_NEVER_READY=true"]).expect("release");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    assert_eq!(run["status"]["reason"], "NeverReady");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.canary), (0, 0));
    assert_tidy(&shop);
}

#[test]
fn a_version_that_crashes_is_refused() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("crash", &short_steps(), |_| {});
    let began = now();
    shop.release(&["VERSION=canary", "FAULT_CRASH=start"]).expect("release");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    assert_eq!(run["status"]["reason"], "Crashing", "{}", run["status"]["message"]);
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);
}

/// The canary gets traffic and answers nothing.
fn silent(name: &str, fault: &str) {
    let (shop, load) = open_shop(name, &short_steps(), |_| {});
    let mut stage = Stage::new(shop, load).expect("a stage");
    stage.deploy(&["VERSION=canary", fault]).expect("release");
    let (took, said) = stage.taken_back().expect("weight 0");
    println!("      weight 0 after {took:.1} s: {said}");
    assert!(took < 15.0, "weight 0 after {took:.1} s");
    stage.shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    assert_tidy(&stage.shop);
}

#[test]
fn a_canary_that_never_answers_loses_its_traffic() {
    let _stage = super::beside();
    silent("hang", "FAULT_HANG=true");
}

#[test]
fn a_canary_that_refuses_connections_loses_its_traffic() {
    let _stage = super::beside();
    silent("refuse", "FAULT_REFUSE=true");
}

#[test]
fn an_outage_of_both_versions_is_held_and_goes_on_by_itself() {
    let _stage = super::beside();
    let (shop, load) = open_shop("outage", &short_steps(), |_| {});
    let mut stage = Stage::new(shop, load).expect("a stage");
    let outage = stage.outage("canary", Duration::from_secs(20)).expect("an outage");
    assert!(outage.held, "the run says that it holds for it");
    assert_eq!(outage.end.last_run_phase, "Succeeded", "{}", outage.end.message);
    assert_tidy(&stage.shop);
}

#[test]
fn without_a_route_the_weight_is_a_share_of_pods() {
    let _stage = super::beside();
    let (shop, mut load) =
        open_shop("routeless", &json!([{"weight": 20, "bake": "3s"}, {"weight": 50, "bake": "3s"}]), |rollout| {
            rollout["spec"]["routes"] = json!([]);
        });
    let began = now();
    shop.release(&["VERSION=next"]).expect("release");
    shop.run_in("Succeeded", None, 4 * MINUTE).expect("Succeeded");
    assert_eq!(figures(&mut load, began, "next").failed, 0);
    assert_tidy(&shop);
    // and a bad one goes
    shop.release(&["VERSION=worse", "FAULT_ERRORS=50%"]).expect("release");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    assert_eq!(run["status"]["reason"], "SloViolated");
    assert_tidy(&shop);
    let _ = gateway();
}
