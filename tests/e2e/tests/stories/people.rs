//! What people say to a run, and what it does then.

use std::time::Duration;

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{eventually, get, list},
    exposure::now,
    shop::Shop,
    traffic::Load,
};

use super::{assert_tidy, figures, gateway, phase, rollout_status, serin};

const MINUTE: Duration = Duration::from_secs(60);

/// A shop that is Ready, with light load.
fn open(name: &str, steps: &Value) -> (Shop, Load) {
    serin();
    let shop = Shop::open(name).expect("a shop");
    shop.rollout(steps, |_| {}).expect("a Rollout");
    shop.idle().expect("Ready");
    let load = Load::start(&gateway(), &shop.host, 100, 600, &[]).expect("load");
    (shop, load)
}

/// Steps that a run stays at until told otherwise.
fn long_steps() -> Value {
    json!([{"weight": 20, "bake": "10m"}])
}

fn name_of(run: &Value) -> String {
    run["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the run, later than `after`, is so.
fn run_that(shop: &Shop, what: &str, after: Option<&str>, so: impl Fn(&Value) -> bool) -> Value {
    let run = eventually(what, MINUTE, || {
        let run = shop.run()?.filter(|run| run["metadata"]["name"].as_str() != after).unwrap_or_default();
        match so(&run["status"]) {
            true => Ok(Some(run)),
            false => Err(format!("found {}: {}", run["metadata"]["name"], run["status"]["message"])),
        }
    });
    run.unwrap_or_else(|error| panic!("{error}"))
}

fn waits_for(shop: &Shop, reason: &str) -> Value {
    run_that(shop, &format!("a run that waits for {reason}"), None, |status| status["waiting"]["reason"] == reason)
}

fn gets_weight(shop: &Shop, weight: u32, after: Option<&str>) -> Value {
    run_that(shop, &format!("weight {weight}"), after, |status| {
        status["weight"]["set"] == weight && status["phase"] == "Shifting"
    })
}

/// Pods of this version wanted.
fn pods_of(shop: &Shop, hash: &Value) -> Option<i64> {
    let sets = list(&shop.namespace, "replicasets").expect("kubectl");
    let set = sets.iter().find(|set| set["metadata"]["labels"]["pod-template-hash"] == *hash);
    set.and_then(|set| set["spec"]["replicas"].as_i64())
}

/// Switches faults of the canary's pods.
fn canary_faults(shop: &Shop, run: &Value, faults: &Value) {
    for pod in list(&shop.namespace, "pods").expect("kubectl") {
        if pod["metadata"]["labels"]["pod-template-hash"] == run["spec"]["to"]["hash"] {
            shop.faults_of(&name_of(&pod), faults).expect("faults");
        }
    }
}

fn deployment(shop: &Shop) -> Value {
    get(&shop.namespace, "deployment", "auth").expect("kubectl").expect("a Deployment")
}

#[test]
fn a_paused_run_stays_and_a_bad_version_is_taken_back_all_the_same() {
    let _stage = super::beside();
    let (shop, mut load) = open("paused", &json!([{"weight": 20, "bake": "2s"}, {"weight": 50, "bake": "10m"}]));
    let began = now();
    // paused before the canary has any traffic
    shop.release_slowly(&json!([{"name": "VERSION", "value": "canary"}])).expect("release");
    eventually("a run", MINUTE, || shop.run()).expect("a run");
    shop.serin(&["pause", "auth"]).expect("pause");
    waits_for(&shop, "Paused");
    std::thread::sleep(Duration::from_secs(12));
    let run = shop.run().expect("kubectl").expect("a run");
    assert_eq!((&run["status"]["weight"]["set"], &run["status"]["waiting"]["reason"]), (&json!(0), &json!("Paused")));
    let said =
        shop.kubectl(&["get", "rollouts.serin.dev", "auth", "-o", "jsonpath={.status.message}"]).expect("kubectl");
    assert!(said.contains("paused by a person"), "{said}");
    assert_eq!(figures(&mut load, began, "canary").canary, 0, "no request reached the canary");

    // resumed, and paused again in mid-run
    shop.serin(&["resume", "auth"]).expect("resume");
    gets_weight(&shop, 20, None);
    shop.serin(&["pause", "auth"]).expect("pause");
    waits_for(&shop, "Paused");
    std::thread::sleep(Duration::from_secs(20));
    let run = shop.run().expect("kubectl").expect("a run");
    assert_eq!(
        (&run["status"]["step"], &run["status"]["weight"]["set"]),
        (&json!(1), &json!(20)),
        "{}",
        run["status"]["message"]
    );

    // and on
    shop.serin(&["resume", "auth"]).expect("resume");
    let run = gets_weight(&shop, 50, None);
    assert_eq!(figures(&mut load, began, "canary").failed, 0);

    // paused, and the version turns bad
    shop.serin(&["pause", "auth"]).expect("pause");
    waits_for(&shop, "Paused");
    let began = now();
    canary_faults(&shop, &run, &json!({"errors": "50%"}));
    let run = shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    assert_eq!(run["status"]["reason"], "SloViolated", "{}", run["status"]["message"]);
    let seconds = figures(&mut load, began, "canary").seconds.expect("bad answers");
    assert!(seconds < 15.0, "callers were exposed for {seconds:.1} s");
    assert_tidy(&shop);
}

#[test]
fn an_approval_is_waited_for_and_the_deployment_may_be_scaled_but_not_resumed_meanwhile() {
    let _stage = super::beside();
    let (shop, mut load) = open("approval", &json!([{"weight": 50, "bake": "1s"}, {"approval": {}}]));
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    // not before it is asked for
    run_that(&shop, "the first step", None, |status| status["step"] == 1);
    let early = shop.serin(&["approve", "auth"]).expect_err("nothing to approve");
    assert!(early.contains("is at step 1, which asks for no approval"), "{early}");
    let run = waits_for(&shop, "Approval");
    assert!(
        run["status"]["waiting"]["message"].as_str().unwrap_or_default().contains("kubectl serin approve auth"),
        "{}",
        run["status"]["waiting"]
    );

    // kubectl's own resume is refused, with the way
    let refusal = shop.kubectl(&["rollout", "resume", "deployment/auth"]).expect_err("refused");
    println!("      {refusal}");
    for said in
        [&format!("held by run {}", name_of(&run)), "only Serin may unpause it", "kubectl serin abort auth -n approval"]
    {
        assert!(refusal.contains(said), "expected {said:?} in: {refusal}");
    }
    assert_eq!(deployment(&shop)["spec"]["paused"], true);

    // scaling works, and the canary follows
    let (stable, canary) = (&run["spec"]["from"]["hash"], &run["spec"]["to"]["hash"]);
    let small = pods_of(&shop, canary).expect("the canary's pods");
    for (replicas, grown) in [(8, true), (4, false)] {
        shop.kubectl(&["scale", "deployment/auth", &format!("--replicas={replicas}")]).expect("scale");
        eventually(&format!("{replicas} stable pods and a canary that follows"), MINUTE, || {
            let (of_stable, of_canary) = (pods_of(&shop, stable), pods_of(&shop, canary));
            let follows = if grown { of_canary > Some(small) } else { of_canary == Some(small) };
            match of_stable == Some(replicas) && follows {
                true => Ok(Some(())),
                false => Err(format!("found {of_stable:?} stable and {of_canary:?} canary, before {small}")),
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    let run = shop.run().expect("kubectl").expect("a run");
    assert_eq!(
        (&run["status"]["waiting"]["reason"], &run["status"]["weight"]["set"]),
        (&json!("Approval"), &json!(50))
    );

    shop.serin(&["approve", "auth"]).expect("approve");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    assert_eq!(rollout_status(&shop), Some(0));
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);
}

#[test]
fn an_aborted_version_is_tried_again_only_when_asked() {
    let _stage = super::beside();
    let (shop, mut load) = open("abort", &long_steps());
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    gets_weight(&shop, 20, None);
    shop.serin(&["abort", "auth"]).expect("abort");
    let aborted = shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    assert_eq!(aborted["status"]["reason"], "Aborted");
    assert_tidy(&shop);
    assert_eq!(rollout_status(&shop), Some(1), "kubectl rollout status fails");

    // the same version is not tried again, whatever else changes
    shop.rollout(&json!([{"weight": 50, "bake": "1s"}]), |_| {}).expect("an edit of the policy");
    shop.kubectl(&["annotate", "deployment/auth", "somebody=looks"]).expect("annotate");
    shop.kubectl(&["scale", "deployment/auth", "--replicas=3"]).expect("scale");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(name_of(&shop.run().expect("kubectl").expect("a run")), name_of(&aborted));
    assert_eq!(phase(&shop), "Refused");
    let said =
        shop.kubectl(&["get", "rollouts.serin.dev", "auth", "-o", "jsonpath={.status.message}"]).expect("kubectl");
    assert!(said.contains("kubectl serin undo|retry auth"), "{said}");

    // until it is asked for
    shop.serin(&["retry", "auth"]).expect("retry");
    let run = shop.run_in("Succeeded", Some(&name_of(&aborted)), 2 * MINUTE).expect("Succeeded");
    assert_eq!(run["spec"]["to"]["template"], aborted["spec"]["to"]["template"]);
    shop.idle().expect("Ready");
    assert_eq!(rollout_status(&shop), Some(0));
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);
}

#[test]
fn a_newer_version_supersedes_and_the_old_one_cancels() {
    let _stage = super::beside();
    let (shop, mut load) = open("newer", &long_steps());
    let began = now();
    shop.release(&["VERSION=second"]).expect("release");
    let first = gets_weight(&shop, 20, None);
    // the edit is for the next run: the one under way goes by its own copy
    shop.rollout(&json!([{"weight": 50, "bake": "1s"}]), |_| {}).expect("an edit of the policy");
    shop.release(&["VERSION=third"]).expect("a newer release");
    let run = shop.run_in("Succeeded", Some(&name_of(&first)), 2 * MINUTE).expect("Succeeded");
    let ended =
        get(&shop.namespace, "rolloutruns.serin.dev", &name_of(&first)).expect("kubectl").expect("the first run");
    assert_eq!(ended["status"]["phase"], "Superseded", "{}", ended["status"]["message"]);
    shop.idle().expect("Ready");
    assert_tidy(&shop);

    // the version that serves, in mid-run
    shop.rollout(&long_steps(), |_| {}).expect("an edit of the policy");
    shop.release(&["VERSION=fourth"]).expect("release");
    gets_weight(&shop, 20, Some(&name_of(&run)));
    shop.serin(&["undo", "auth"]).expect("undo");
    let cancelled = shop.run_in("Cancelled", Some(&name_of(&run)), MINUTE).expect("Cancelled");
    assert_eq!(cancelled["spec"]["from"]["hash"], run["spec"]["to"]["hash"]);
    shop.idle().expect("Ready");
    assert_ne!(deployment(&shop)["spec"]["paused"], true);
    assert_eq!(rollout_status(&shop), Some(0));
    assert_eq!(figures(&mut load, began, "third").failed, 0);
    assert_tidy(&shop);
}

#[test]
fn a_deleted_rollout_puts_everything_back() {
    let _stage = super::beside();
    let (shop, mut load) = open("deleted", &long_steps());
    let began = now();
    let label = |name: &str| deployment(&shop)["metadata"]["labels"][name].clone();
    // between runs
    shop.kubectl(&["delete", "rollouts.serin.dev", "auth", "--timeout=30s"]).expect("deleted");
    assert!(label("serin.dev/rollout").is_null());
    assert_ne!(deployment(&shop)["spec"]["paused"], true);
    shop.rollout(&long_steps(), |_| {}).expect("a Rollout");
    shop.idle().expect("Ready");

    // in mid-run
    shop.release(&["VERSION=canary"]).expect("release");
    let run = gets_weight(&shop, 20, None);
    shop.kubectl(&["delete", "rollouts.serin.dev", "auth", "--timeout=60s"]).expect("deleted");
    assert_tidy(&shop);
    assert_eq!(label("serin.dev/rollout"), Value::Null);
    assert_eq!(label("serin.dev/run"), Value::Null);
    assert_eq!(pods_of(&shop, &run["spec"]["from"]["hash"]), Some(4), "stable serves");
    eventually("no runs", MINUTE, || Ok(list(&shop.namespace, "rolloutruns.serin.dev")?.is_empty().then_some(())))
        .expect("runs gone");
    // its template was not released, so it stays paused, and an event says so
    assert_eq!(deployment(&shop)["spec"]["paused"], true);
    let events =
        shop.kubectl(&["get", "events", "--field-selector=type=Warning,reason=RolloutDeleted"]).expect("events");
    assert!(events.contains("kubectl rollout resume releases it"), "{events}");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    // and it is the user's own again
    shop.kubectl(&["rollout", "resume", "deployment/auth"]).expect("resume");
    assert_eq!(rollout_status(&shop), Some(0));
    assert_eq!(pods_of(&shop, &run["spec"]["from"]["hash"]), Some(0));
}
