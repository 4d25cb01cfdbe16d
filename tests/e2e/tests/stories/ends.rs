//! What ends under a run: its Deployment, Service or route deleted and made anew, the run or its Rollout deleted in each
//! phase; and what is in its way: an image that is not there, selectors that change, size 0, names that are taken.

use std::time::Duration;

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{eventually, get, kubectl, list},
    exposure::now,
    shop::Shop,
    traffic::Load,
};

use super::{assert_tidy, figures, gateway, open_shop, phase, rollout_status, serin};

const MINUTE: Duration = Duration::from_secs(60);

/// Little is asked of the evidence, and no time to warm up.
fn quick(rollout: &mut Value) {
    rollout["spec"]["limits"]["warmup"] = json!("0s");
    rollout["spec"]["slos"] = json!([{"name": "errors", "errors": {"objective": "95%"}}]);
}

/// Steps that a run stays at until told otherwise.
fn long_steps() -> Value {
    json!([{"weight": 20, "bake": "10m"}])
}

/// A small shop.
fn open(name: &str, steps: &Value) -> (Shop, Load) {
    let (shop, load) = open_shop(name, steps, quick);
    shop.kubectl(&["scale", "deployment/auth", "--replicas=2"]).expect("scale");
    shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=60s"]).expect("a smaller one");
    shop.idle().expect("Ready");
    (shop, load)
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn object(shop: &Shop, kind: &str) -> Value {
    get(&shop.namespace, kind, "auth").expect("kubectl").unwrap_or_else(|| panic!("{kind} auth"))
}

/// The object as its owner would make it anew.
fn as_written(object: &Value) -> Value {
    let mut spec = object["spec"].clone();
    for given in ["clusterIP", "clusterIPs", "paused"] {
        spec.as_object_mut().expect("a spec").remove(given);
    }
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "spec": spec,
        "metadata": {"name": object["metadata"]["name"], "labels": {"app": "auth"}}})
}

/// Waits until the newest run, later than `after`, is so.
fn run_that(shop: &Shop, what: &str, after: &str, so: impl Fn(&Value) -> bool) -> Value {
    let run = eventually(what, MINUTE, || {
        let run = shop.run()?.filter(|run| name_of(run) != after).unwrap_or_default();
        match so(&run["status"]) {
            true => Ok(Some(run)),
            false => Err(format!("found {}: {}", run["metadata"]["name"], run["status"]["message"])),
        }
    });
    run.unwrap_or_else(|error| panic!("{error}"))
}

fn weighted(shop: &Shop, weight: u32, after: &str) -> Value {
    run_that(shop, &format!("weight {weight}"), after, |status| {
        status["weight"]["set"] == weight && status["phase"] == "Shifting"
    })
}

/// The newest run's name; empty if there is none.
fn newest(shop: &Shop) -> String {
    shop.run().expect("kubectl").map(|run| name_of(&run)).unwrap_or_default()
}

fn pods_with(shop: &Shop, hash: &Value) -> Vec<Value> {
    let pods = list(&shop.namespace, "pods").expect("kubectl");
    pods.into_iter().filter(|pod| pod["metadata"]["labels"]["pod-template-hash"] == *hash).collect()
}

/// No pod of this version is left.
fn gone(shop: &Shop, hash: &Value) {
    let gone = eventually("the canary's pods to go", MINUTE, || Ok(pods_with(shop, hash).is_empty().then_some(())));
    gone.unwrap_or_else(|error| panic!("{error}"));
}

/// Waits until the Rollout governs the Deployment that is there now.
fn governed(shop: &Shop) {
    let ready = eventually("a Deployment that is governed", MINUTE, || {
        let label = object(shop, "deployment")["metadata"]["labels"]["serin.dev/rollout"].clone();
        match label == "auth" && phase(shop) == "Idle" {
            true => Ok(Some(())),
            false => Err(format!("found the label {label}, phase {}", phase(shop))),
        }
    });
    ready.unwrap_or_else(|error| panic!("{error}"));
}

/// Requests that failed since then, and answers of this version: after a moment in which gateway and endpoints follow.
fn since(load: &mut Load, from: f64, version: &str) -> (usize, usize) {
    let seen = figures(load, from, version);
    (seen.failed, seen.canary)
}

/// A release of this version goes through without a loss.
fn promoted(shop: &Shop, load: &mut Load, version: &str) {
    let (before, began) = (newest(shop), now());
    shop.rollout(&json!([{"weight": 50, "bake": "0s"}]), quick).expect("a Rollout");
    shop.release(&[&format!("VERSION={version}")]).expect("release");
    assert_eq!(object(shop, "deployment")["spec"]["paused"], true, "{version}: held in the very request");
    shop.run_in("Succeeded", Some(&before), 2 * MINUTE).unwrap_or_else(|error| panic!("{version}: {error}"));
    shop.idle().expect("Ready");
    assert_eq!(since(load, began, version).0, 0, "{version}: no request is lost");
    assert_tidy(shop);
}

#[test]
fn a_deployment_made_anew_in_mid_run_is_governed_again() {
    let _stage = super::beside();
    let (shop, mut load) = open("anew", &long_steps());
    let owners = as_written(&object(&shop, "deployment"));
    for cascade in ["background", "foreground", "orphan"] {
        let (before, began, version) = (newest(&shop), now(), format!("canary-{cascade}"));
        shop.release(&[&format!("VERSION={version}")]).expect("release");
        assert_eq!(object(&shop, "deployment")["spec"]["paused"], true, "the release is held");
        let run = weighted(&shop, 20, &before);
        shop.kubectl(&["delete", "deployment", "auth", &format!("--cascade={cascade}"), "--timeout=60s"])
            .expect("deleted");
        shop.apply(&owners.to_string()).expect("made anew");
        shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=60s"]).expect("it serves");
        let serves = now() + 3.0;
        let ended = shop.run_in("Cancelled", Some(&before), MINUTE).expect("Cancelled");
        println!(
            "      {cascade}: {} {:.1} s after it served again",
            ended["status"]["message"],
            now() - (serves - 3.0)
        );
        assert_eq!(ended["status"]["reason"], "WorkloadMissing");
        gone(&shop, &run["spec"]["to"]["hash"]);
        governed(&shop);
        assert_tidy(&shop);
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(newest(&shop), name_of(&run), "no other run began");
        assert_eq!(shop.active_sets().expect("kubectl").len(), 1);
        assert_eq!(since(&mut load, serves, &version), (0, 0), "{cascade}: (failed, answers of the canary)");
        if cascade == "orphan" {
            assert_eq!(since(&mut load, began, &version).0, 0, "its pods stayed, and no request is lost");
        }
    }
    promoted(&shop, &mut load, "after");
}

fn selector(shop: &Shop) -> Value {
    object(shop, "service")["spec"]["selector"].clone()
}

/// Weight of the canary in the route, as it stands.
fn route_weight(shop: &Shop) -> Option<i64> {
    let refs = object(shop, "httproute")["spec"]["rules"][0]["backendRefs"].clone();
    let refs = refs.as_array().cloned().unwrap_or_default();
    refs.iter().find(|to| to["name"] == "auth-canary").and_then(|to| to["weight"].as_i64())
}

/// The run is where it was: the Service pinned to stable, weight 20 in the route.
fn back_in_place(shop: &Shop, run: &Value) {
    let pinned = json!({"app": "auth", "pod-template-hash": run["spec"]["from"]["hash"]});
    let back = eventually("pin and weight again", MINUTE, || {
        match selector(shop) == pinned && route_weight(shop) == Some(20) {
            true => Ok(Some(())),
            false => Err(format!("found {} and weight {:?}", selector(shop), route_weight(shop))),
        }
    });
    back.unwrap_or_else(|error| panic!("{error}"));
    let same = weighted(shop, 20, "");
    assert_eq!(name_of(&same), name_of(run));
}

#[test]
fn a_service_and_a_route_made_anew_in_mid_run_are_taken_up_again() {
    let _stage = super::beside();
    let (shop, mut load) = open("renewed", &long_steps());
    let (service, route) = (as_written(&object(&shop, "service")), as_written(&object(&shop, "httproute")));
    shop.release(&["VERSION=canary"]).expect("release");
    let run = weighted(&shop, 20, "");
    for (kind, owners) in [("service", &service), ("httproute", &route)] {
        shop.kubectl(&["delete", kind, "auth"]).expect("deleted");
        std::thread::sleep(Duration::from_secs(3));
        let held = shop.run().expect("kubectl").expect("a run");
        println!("      without its {kind}: {}", held["status"]["message"]);
        assert_eq!((&held["status"]["phase"], &held["status"]["step"]), (&json!("Shifting"), &json!(1)));
        shop.apply(&owners.to_string()).expect("made anew");
        back_in_place(&shop, &run);
        std::thread::sleep(Duration::from_secs(2));
        let (failed, canary) = {
            let from = now();
            std::thread::sleep(Duration::from_secs(3));
            since(&mut load, from, "canary")
        };
        assert_eq!(failed, 0, "{kind}: no request is lost once all is in place");
        assert!(canary > 0, "{kind}: the canary has its share again");
    }
    assert_eq!(shop.run().expect("kubectl").expect("a run")["status"]["contested"], Value::Null, "nobody is blamed");

    // aborted while there is no route: nothing is waited for
    shop.kubectl(&["delete", "httproute", "auth"]).expect("deleted");
    shop.serin(&["abort", "auth"]).expect("abort");
    let aborted = now();
    shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    println!("      rolled back {:.1} s after the abort, without a route", now() - aborted);
    assert!(now() - aborted < 40.0, "{:.1} s", now() - aborted);
    assert_tidy(&shop);
    shop.apply(&route.to_string()).expect("made anew");
    shop.serin(&["undo", "auth"]).expect("undo");
    governed(&shop);
    std::thread::sleep(Duration::from_secs(2));
    promoted(&shop, &mut load, "after");
}

/// Where a run is when it is deleted.
const PHASES: [&str; 5] = ["Preparing", "Bake", "Approval", "Promoting", "RollingBack"];

/// Leads a run, later than `after`, to that place.
fn lead_to(shop: &Shop, place: &str, version: &str, after: &str) -> Value {
    shop.release(&[&format!("VERSION={version}")]).expect("release");
    let is = |place: &'static str| {
        run_that(shop, place, after, move |status| status["phase"] == place || status["waiting"]["reason"] == place)
    };
    match place {
        "Preparing" => is("Preparing"),
        "Bake" => weighted(shop, 20, after),
        "Approval" => is("Approval"),
        "Promoting" => {
            is("Approval");
            shop.serin(&["approve", "auth"]).expect("approve");
            is("Promoting")
        }
        _ => {
            weighted(shop, 20, after);
            shop.serin(&["abort", "auth"]).expect("abort");
            // It takes about a second: on a busy machine it may be over before it is seen.
            run_that(shop, place, after, |status| status["phase"] == "RollingBack" || status["phase"] == "RolledBack")
        }
    }
}

fn phased_steps() -> Value {
    json!([{"weight": 20, "bake": "2s"}, {"approval": {}}])
}

/// One version serves, and the Deployment is paused if it is not its own.
fn assert_whole(shop: &Shop, run: &Value, what: &str) {
    gone(shop, &run["spec"]["to"]["hash"]);
    assert_tidy(shop);
    let from = run["spec"]["from"]["hash"].as_str().unwrap_or_default();
    assert_eq!(shop.active_sets().expect("kubectl"), [format!("auth-{from}")], "{what}: stable serves");
    assert_eq!(object(shop, "deployment")["spec"]["paused"], true, "{what}: what was not released is held");
    let services = list(&shop.namespace, "services").expect("kubectl");
    assert_eq!(services.iter().map(name_of).collect::<Vec<_>>(), ["auth"], "{what}");
}

#[test]
fn a_rollout_deleted_in_each_phase_puts_everything_back() {
    let _stage = super::beside();
    let (shop, mut load) = open("endrollout", &phased_steps());
    for (at, place) in PHASES.into_iter().enumerate() {
        let cascade = if at % 2 == 0 { "foreground" } else { "background" };
        let (began, version) = (now(), format!("canary-{at}"));
        let run = lead_to(&shop, place, &version, "");
        let what = format!("{cascade}, in {place}");
        let deleted = now();
        shop.kubectl(&["delete", "rollouts.serin.dev", "auth", &format!("--cascade={cascade}"), "--timeout=60s"])
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        println!("      {what}: gone after {:.1} s", now() - deleted);
        assert_whole(&shop, &run, &what);
        let labels = object(&shop, "deployment")["metadata"]["labels"].to_string();
        assert!(!labels.contains("serin.dev/"), "{what}: {labels}");
        eventually("no runs", MINUTE, || Ok(list(&shop.namespace, "rolloutruns.serin.dev")?.is_empty().then_some(())))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(since(&mut load, began, &version).0, 0, "{what}: no request is lost");
        // its owner's again
        shop.release(&["VERSION-"]).expect("the old version");
        shop.kubectl(&["rollout", "resume", "deployment/auth"]).expect("resume");
        assert_eq!(rollout_status(&shop), Some(0));
        shop.rollout(&phased_steps(), quick).expect("a Rollout");
        governed(&shop);
    }
    // made anew at once, each time it is taken up: the watch that tells of it may be ahead of the others
    for _ in 0..10 {
        shop.kubectl(&["delete", "rollouts.serin.dev", "auth", "--timeout=60s"]).expect("deleted");
        shop.rollout(&phased_steps(), quick).expect("a Rollout");
        governed(&shop);
    }
}

#[test]
fn a_run_deleted_in_each_phase_ends_and_is_not_begun_again() {
    let _stage = super::beside();
    let (shop, mut load) = open("endrun", &phased_steps());
    for (at, place) in PHASES.into_iter().enumerate() {
        let cascade = if at % 2 == 0 { "background" } else { "foreground" };
        let (began, version) = (now(), format!("canary-{at}"));
        let run = lead_to(&shop, place, &version, &newest(&shop));
        let what = format!("{cascade}, in {place}");
        if place == "Bake" {
            let orphaned = shop.kubectl(&["delete", "rolloutruns.serin.dev", &name_of(&run), "--cascade=orphan"]);
            let refusal = orphaned.expect_err("a canary is not orphaned");
            assert!(refusal.contains("delete it without --cascade=orphan"), "{refusal}");
        }
        let deleted = now();
        let args =
            ["delete", "rolloutruns.serin.dev", &name_of(&run), &format!("--cascade={cascade}"), "--timeout=60s"];
        shop.kubectl(&args).unwrap_or_else(|error| panic!("{what}: {error}"));
        println!("      {what}: gone after {:.1} s", now() - deleted);
        assert_whole(&shop, &run, &what);
        std::thread::sleep(Duration::from_secs(2));
        let runs = list(&shop.namespace, "rolloutruns.serin.dev").expect("kubectl");
        assert!(runs.is_empty(), "{what}: no other run began");
        assert_eq!(phase(&shop), "Refused", "{what}");
        assert_eq!(rollout_status(&shop), Some(1), "{what}: a pipeline hears of it");
        assert_eq!(since(&mut load, began, &version).0, 0, "{what}: no request is lost");
        shop.serin(&["undo", "auth"]).expect("undo");
        governed(&shop);
    }
    let labelled = object(&shop, "deployment")["metadata"]["labels"]["serin.dev/run"].clone();
    assert_eq!(labelled, Value::Null);

    // the record of a refusal may go, too
    shop.release(&["VERSION=refused"]).expect("release");
    weighted(&shop, 20, "");
    shop.serin(&["abort", "auth"]).expect("abort");
    let run = shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    eventually("Refused", MINUTE, || Ok((phase(&shop) == "Refused").then_some(()))).expect("Refused");
    let quiet = now();
    shop.kubectl(&["delete", "rolloutruns.serin.dev", &name_of(&run), "--timeout=30s"]).expect("deleted");
    shop.kubectl(&["annotate", "deployment/auth", "somebody=looks"]).expect("annotate");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(phase(&shop), "Refused");
    assert!(list(&shop.namespace, "rolloutruns.serin.dev").expect("kubectl").is_empty());
    assert_eq!(since(&mut load, quiet, "refused").1, 0, "the refused version has no callers");
    shop.serin(&["restart", "auth"]).expect("restart");
    let again = weighted(&shop, 20, "");
    assert_ne!(name_of(&again), name_of(&run), "a name is not given twice");
}

#[test]
fn a_namespace_deleted_in_mid_run_goes() {
    let _stage = super::beside();
    let (shop, _load) = open("endspace", &long_steps());
    shop.release(&["VERSION=canary"]).expect("release");
    weighted(&shop, 20, "");
    let deleted = now();
    kubectl(&["delete", "namespace", &shop.namespace, "--timeout=90s"]).expect("the namespace goes");
    println!("      gone after {:.1} s", now() - deleted);
}

/// Messages of Warning events with this reason.
fn warnings(shop: &Shop, reason: &str) -> Vec<String> {
    let events = list(&shop.namespace, "events").expect("kubectl");
    let of_reason = events.iter().filter(|event| event["reason"] == reason && event["type"] == "Warning");
    of_reason.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn an_image_that_is_not_there_is_refused_in_the_kubelets_own_words() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("noimage", &long_steps(), |rollout| {
        quick(rollout);
        rollout["spec"]["limits"]["readyWithin"] = json!("20s");
    });
    let began = now();
    shop.kubectl(&["set", "image", "deployment/auth", "auth=serin.local/auth:nowhere"]).expect("set image");
    let says = |text: &str| {
        ["ErrImagePull", "ImagePullBackOff"].iter().any(|word| text.contains(word))
            && text.contains("serin.local/auth:nowhere")
    };
    let held = run_that(&shop, "a hold in the kubelet's words", "", |status| {
        says(status["waiting"]["message"].as_str().unwrap_or_default())
    });
    println!("      {}", held["status"]["waiting"]["message"]);
    assert_eq!(held["status"]["waiting"]["reason"], "Capacity");
    let run = shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    let message = run["status"]["message"].as_str().unwrap_or_default();
    assert_eq!(run["status"]["reason"], "NeverReady");
    assert!(says(message) && message.contains("limits.readyWithin"), "{message}");
    let told = eventually("an event that says so", MINUTE, || {
        Ok(warnings(&shop, "RolledBack").into_iter().find(|told| says(told)))
    });
    println!("      {}", told.expect("an event"));
    assert_eq!(phase(&shop), "Refused");
    assert_eq!(rollout_status(&shop), Some(1));
    let seen = figures(&mut load, began, "-");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

fn patch(shop: &Shop, kind: &str, patch: &Value) {
    shop.kubectl(&["patch", kind, "auth", "--type=merge", "-p", &patch.to_string()]).expect("patched");
}

#[test]
fn selectors_and_strategy_may_change_in_mid_run() {
    let _stage = super::beside();
    let (shop, mut load) = open("edits", &json!([{"weight": 20, "bake": "1s"}, {"approval": {}}]));
    let owners = as_written(&object(&shop, "deployment"));
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = run_that(&shop, "Approval", "", |status| status["waiting"]["reason"] == "Approval");

    // the Service turned to other pods: the pin goes, and the run says what it waits for
    patch(&shop, "service", &json!({"spec": {"selector": {"app": "other"}}}));
    let unpinned =
        eventually(
            "a Service without a pin",
            MINUTE,
            || Ok((selector(&shop) == json!({"app": "other"})).then_some(())),
        );
    unpinned.unwrap_or_else(|error| panic!("{error}, found {}", selector(&shop)));
    let held = run_that(&shop, "Blocked", "", |status| status["waiting"]["reason"] == "Blocked");
    println!("      {}", held["status"]["waiting"]["message"]);
    patch(&shop, "service", &json!({"spec": {"selector": {"app": "auth"}}}));
    back_in_place(&shop, &run);
    std::thread::sleep(Duration::from_secs(3));

    // the strategy: one that allows no canary holds the run until it is another; the handover goes by that
    let again = now();
    patch(&shop, "deployment", &json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}));
    let held = run_that(&shop, "Blocked", "", |status| status["waiting"]["reason"] == "Blocked");
    println!("      {}", held["status"]["waiting"]["message"]);
    patch(
        &shop,
        "deployment",
        &json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
    );
    run_that(&shop, "Approval", "", |status| status["waiting"]["reason"] == "Approval");
    shop.serin(&["approve", "auth"]).expect("approve");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    governed(&shop);
    assert_eq!(since(&mut load, again, "canary").0, 0, "no request is lost");
    assert_eq!(object(&shop, "deployment")["spec"]["strategy"]["rollingUpdate"]["maxSurge"], 1);
    assert_tidy(&shop);
    println!("      promoted {:.1} s after the release", now() - began);

    // another selector takes another Deployment; its Service follows later
    shop.rollout(&long_steps(), quick).expect("a Rollout");
    shop.release(&["VERSION=second"]).expect("release");
    let second = weighted(&shop, 20, &name_of(&run));
    let mut other = owners;
    other["spec"]["selector"]["matchLabels"] = json!({"app": "auth2"});
    other["spec"]["template"]["metadata"]["labels"] = json!({"app": "auth2"});
    shop.kubectl(&["delete", "deployment", "auth", "--timeout=60s"]).expect("deleted");
    shop.apply(&other.to_string()).expect("made anew");
    shop.run_in("Cancelled", Some(&name_of(&run)), MINUTE).expect("Cancelled");
    gone(&shop, &second["spec"]["to"]["hash"]);
    assert_tidy(&shop);
    patch(&shop, "service", &json!({"spec": {"selector": {"app": "auth2"}}}));
    shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=60s"]).expect("it serves");
    governed(&shop);
    std::thread::sleep(Duration::from_secs(2));
    promoted(&shop, &mut load, "third");
}

/// Scales to 0 and, once the version that serves has no pods, back. (A canary keeps one meanwhile.)
fn asleep_and_awake(shop: &Shop, set: &str, replicas: i32) {
    shop.kubectl(&["scale", "deployment/auth", "--replicas=0"]).expect("scale");
    let empty = eventually("no pods that serve", MINUTE, || {
        let found = get(&shop.namespace, "replicaset", set)?.unwrap_or_default();
        Ok((found["spec"]["replicas"] == 0 && found["status"]["replicas"] == 0).then_some(()))
    });
    empty.unwrap_or_else(|error| panic!("{error}"));
    shop.kubectl(&["scale", "deployment/auth", &format!("--replicas={replicas}")]).expect("scale");
}

/// Waits until this ReplicaSet alone serves, at this size.
fn serves(shop: &Shop, set: &str, replicas: i64) {
    let serves = eventually(&format!("{set} with {replicas} ready pods"), MINUTE, || {
        let found = get(&shop.namespace, "replicaset", set)?.unwrap_or_default();
        let active = shop.active_sets()?;
        match found["status"]["readyReplicas"] == replicas && active == [set] {
            true => Ok(Some(())),
            false => Err(format!("found {active:?}")),
        }
    });
    serves.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn scaled_to_zero_and_back_what_served_serves_again() {
    let _stage = super::beside();
    let (shop, mut load) = open("zero", &long_steps());
    let first = shop.active_sets().expect("kubectl").remove(0);
    // the ReplicaSet that was made last is not the one that serves: Kubernetes alone would wake it
    promoted(&shop, &mut load, "undone");
    let before = newest(&shop);
    shop.release(&["VERSION-"]).expect("the first version");
    shop.run_in("Succeeded", Some(&before), 2 * MINUTE).expect("Succeeded");
    governed(&shop);
    serves(&shop, &first, 2);

    // in mid-run
    let before = newest(&shop);
    shop.rollout(&long_steps(), quick).expect("a Rollout");
    shop.release(&["VERSION=canary"]).expect("release");
    let run = weighted(&shop, 20, &before);
    asleep_and_awake(&shop, &first, 2);
    let again = eventually("weight 20 again", MINUTE, || {
        let run = shop.run()?.unwrap_or_default();
        let set = get(&shop.namespace, "replicaset", &first)?.unwrap_or_default();
        Ok((run["status"]["weight"]["set"] == 20
            && set["status"]["readyReplicas"] == 2
            && route_weight(&shop) == Some(20))
        .then_some(run))
    });
    let again = again.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(name_of(&again), name_of(&run), "the run goes on");
    std::thread::sleep(Duration::from_secs(2));
    let began = now();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(since(&mut load, began, "undone"), (0, 0), "(failed, answers of the version that was undone)");

    // refused: it must not wake
    shop.serin(&["abort", "auth"]).expect("abort");
    shop.run_in("RolledBack", Some(&before), MINUTE).expect("RolledBack");
    let refused = now();
    asleep_and_awake(&shop, &first, 3);
    serves(&shop, &first, 3);
    std::thread::sleep(Duration::from_secs(2));
    let awake = now();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(since(&mut load, awake, "canary"), (0, 0));
    let records = load.read().expect("records").iter().filter(|record| record.t > refused + 2.0);
    let others: Vec<_> =
        records.filter_map(|record| record.version.clone()).filter(|version| version != "v1").collect();
    assert_eq!(others, Vec::<String>::new(), "no other version answered");
    assert_eq!(phase(&shop), "Refused");
    assert_tidy(&shop);
}

/// A ReplicaSet of somebody else's, with no pods.
fn intruder(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "other", "image": "serin.local/auth:v1"}]}}}})
}

#[test]
fn begun_at_zero_with_its_name_or_hash_taken_a_run_says_so_and_waits() {
    let _stage = super::beside();
    serin();
    let shop = Shop::open("taken").expect("a shop");
    shop.kubectl(&["scale", "deployment/auth", "--replicas=0"]).expect("scale");
    shop.rollout(&json!([{"weight": 50, "bake": "0s"}]), quick).expect("a Rollout");
    shop.idle().expect("Ready, at 0");
    let blocked = |words: &str| {
        let held = run_that(&shop, words, "", |status| {
            status["waiting"]["reason"] == "Blocked"
                && status["waiting"]["message"].as_str().unwrap_or_default().contains(words)
        });
        println!("      {}", held["status"]["waiting"]["message"]);
        held
    };
    shop.release(&["VERSION=canary"]).expect("release");
    let run = blocked("scaled to 0");
    let hash = run["spec"]["to"]["hash"].as_str().expect("a hash").to_owned();
    let own = format!("auth-{hash}");

    // the name
    shop.apply(&intruder(&own, &json!({"app": "somebody"})).to_string()).expect("an intruder");
    shop.kubectl(&["scale", "deployment/auth", "--replicas=2"]).expect("scale");
    blocked(&format!("ReplicaSet {own} is there and is not this run's canary"));
    std::thread::sleep(Duration::from_secs(2));
    let theirs = get(&shop.namespace, "replicaset", &own).expect("kubectl").expect("it stays");
    assert_eq!((&theirs["metadata"]["generation"], &theirs["spec"]["replicas"]), (&json!(1), &json!(0)), "untouched");

    // the hash: the Deployment takes it for its own, for it has its labels
    let labels = json!({"app": "auth", "pod-template-hash": hash});
    shop.apply(&intruder("auth-intruder", &labels).to_string()).expect("an intruder");
    shop.kubectl(&["delete", "replicaset", &own]).expect("deleted");
    blocked("ReplicaSet auth-intruder has the label");
    std::thread::sleep(Duration::from_secs(2));
    let theirs = get(&shop.namespace, "replicaset", "auth-intruder").expect("kubectl").expect("it stays");
    assert_eq!(theirs["metadata"]["ownerReferences"][0]["kind"], "Deployment");
    assert_eq!((&theirs["metadata"]["generation"], &theirs["spec"]["replicas"]), (&json!(1), &json!(0)), "untouched");
    assert!(!warnings(&shop, "Holding").is_empty(), "an event names it");

    // mended, it goes on by itself
    let mut load = Load::start(&gateway(), &shop.host, 100, 600, &[]).expect("load");
    shop.kubectl(&["delete", "replicaset", "auth-intruder"]).expect("deleted");
    let began = now();
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    assert_eq!(since(&mut load, began, "canary").0, 0, "no request is lost");
    assert_eq!(shop.active_sets().expect("kubectl"), [own]);
    assert_tidy(&shop);
}
