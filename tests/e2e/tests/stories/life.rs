//! The workload's life in mid-run: autoscalers, drains, evictions, budgets, quotas, and settings of the Deployment.

use std::{io::Write as _, net::TcpStream, time::Duration};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{eventually, get, list},
    exposure::now,
    life::{self, Autoscaler, Drain},
    shop::Shop,
};

use super::{assert_tidy, figures, open_shop, open_shop_at};

const MINUTE: Duration = Duration::from_secs(60);

/// Little is asked of the evidence, and no time to warm up.
fn quick(rollout: &mut Value) {
    rollout["spec"]["limits"]["warmup"] = json!("0s");
    rollout["spec"]["slos"] = json!([{"name": "errors", "errors": {"objective": "95%"}}]);
}

/// Waits until the newest run is so.
fn until(shop: &Shop, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let run = eventually(what, 2 * MINUTE, || {
        let run = shop.run()?.unwrap_or_default();
        match so(&run) {
            true => Ok(Some(run)),
            false => Err(format!("found {} {}", run["status"]["phase"], run["status"]["message"])),
        }
    });
    run.unwrap_or_else(|error| panic!("{error}"))
}

fn weighted(shop: &Shop, weight: u32) -> Value {
    until(shop, &format!("weight {weight}"), |run| run["status"]["weight"]["set"] == weight)
}

/// Waits until the run asks for the approval that is this step.
fn asks(shop: &Shop, step: u32) -> Value {
    until(shop, &format!("approval at step {step}"), |run| {
        run["status"]["step"] == step && run["status"]["waiting"]["reason"] == "Approval"
    })
}

/// Pods of a version that are ready and not going.
fn ready(shop: &Shop, hash: &Value) -> Vec<Value> {
    let pods = list(&shop.namespace, "pods").expect("kubectl");
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    pods.into_iter().filter(|pod| pod["metadata"]["labels"]["pod-template-hash"] == *hash && is_ready(pod)).collect()
}

/// Waits for so many ready pods of a version.
fn sized(shop: &Shop, hash: &Value, size: usize) {
    let so = eventually(&format!("{size} pods of {hash}"), MINUTE, || {
        let is = ready(shop, hash).len();
        if is == size { Ok(Some(())) } else { Err(format!("found {is}")) }
    });
    so.unwrap_or_else(|error| panic!("{error}"));
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// KEDA scales by an autoscaler of this kind, so this is its way, too.
#[test]
fn an_autoscaler_scales_a_release_in_every_phase() {
    let _stage = super::alone();
    let steps = json!([{"weight": 20, "bake": "1s"}, {"approval": {}}, {"weight": 50, "bake": "1s"}, {"approval": {}}]);
    let (shop, mut load) = open_shop_at(400, "autoscaled", &steps, quick);
    let autoscaler = Autoscaler::new(&shop, 4).expect("an autoscaler");

    // up while it bakes: the Deployment is paused, and its version grows all the same
    let began = now();
    shop.release(&["VERSION=good"]).expect("release");
    let run = asks(&shop, 2);
    let (from, to) = (run["spec"]["from"]["hash"].clone(), run["spec"]["to"]["hash"].clone());
    autoscaler.to(8).expect("scaled");
    sized(&shop, &from, 8);
    shop.serin(&["approve", "auth"]).expect("approve");
    // down at the next weight
    asks(&shop, 4);
    autoscaler.to(3).expect("scaled");
    sized(&shop, &from, 3);
    shop.serin(&["approve", "auth"]).expect("approve");
    // and up again in the promotion
    until(&shop, "Promoting", |run| run["status"]["phase"] == "Promoting");
    autoscaler.to(6).expect("scaled");
    let good = shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    sized(&shop, &to, 6);
    sized(&shop, &from, 0);
    assert_eq!(shop.active_sets().expect("kubectl").len(), 1);
    assert_tidy(&shop);
    shop.idle().expect("Ready");
    println!("      promoted after {:.1} s", now() - began);

    // in a rollback, and while the refused version is held
    shop.release(&["VERSION=unwanted"]).expect("release");
    let is_next = |run: &Value| run["metadata"]["name"] != good["metadata"]["name"];
    until(&shop, "weight 20", |run| is_next(run) && run["status"]["weight"]["set"] == 20);
    shop.serin(&["abort", "auth"]).expect("abort");
    autoscaler.to(4).expect("scaled");
    shop.run_in("RolledBack", Some(&name_of(&good)), MINUTE).expect("RolledBack");
    sized(&shop, &to, 4);
    autoscaler.to(5).expect("scaled");
    sized(&shop, &to, 5);
    assert_tidy(&shop);
    let seen = figures(&mut load, began, "good");
    assert_eq!((seen.failed, seen.lost), (0, 0));
}

#[test]
fn a_drain_evicts_every_pod_of_both_versions_and_nobody_notices() {
    let _stage = super::alone();
    let steps = json!([{"weight": 10, "bake": "1s"}, {"approval": {}}, {"weight": 50, "bake": "2s"}]);
    let (shop, mut load) = open_shop_at(400, "drained", &steps, quick);
    life::budget(&shop).expect("a budget");
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = asks(&shop, 2);
    let hashes = [&run["spec"]["from"]["hash"], &run["spec"]["to"]["hash"]];
    let before: Vec<String> = hashes.iter().flat_map(|hash| ready(&shop, hash)).map(|pod| name_of(&pod)).collect();
    assert_eq!(before.len(), 6, "four of stable, and a canary of two: {before:?}");

    // the budget knows the pods of both versions
    let counted = eventually("a budget that counts both versions", MINUTE, || {
        let budget = get(&shop.namespace, "poddisruptionbudget", "auth")?.unwrap_or_default();
        let is = (&budget["status"]["expectedPods"], &budget["status"]["disruptionsAllowed"]);
        if is == (&json!(6), &json!(1)) { Ok(Some(())) } else { Err(format!("found {is:?}")) }
    });
    counted.unwrap_or_else(|error| panic!("{error}"));

    // with the only node cordoned the first pod's successor can't start: the budget lets no second one go
    let drain = Drain::begin().expect("kubectl drain");
    let gone = |least: usize| {
        eventually(&format!("{least} evicted"), MINUTE, || {
            let pods = list(&shop.namespace, "pods")?;
            let staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            let staying: Vec<String> = staying.map(name_of).collect();
            Ok(Some(before.iter().filter(|pod| !staying.contains(pod)).count()).filter(|gone| *gone >= least))
        })
    };
    assert_eq!(gone(1).expect("an eviction"), 1);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(gone(1).expect("an eviction"), 1, "the budget holds");
    drain.uncordon().expect("uncordoned");
    gone(before.len()).expect("all evicted");
    drain.end().expect("drained");
    println!("      drained after {:.1} s", now() - began);
    let run = shop.run().expect("kubectl").expect("a run");
    assert_eq!(
        (&run["status"]["waiting"]["reason"], &run["status"]["weight"]["set"]),
        (&json!("Approval"), &json!(10)),
        "the run stands where it stood: {}",
        run["status"]["message"]
    );

    // and once more in the promotion
    shop.serin(&["approve", "auth"]).expect("approve");
    until(&shop, "Promoting", |run| run["status"]["phase"] == "Promoting");
    life::evict_each(&shop).expect("evictions");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

/// Asks a pod for pages of 11 MiB that nobody reads, more than its memory holds.
fn exhaust(shop: &Shop, pod: &Value) -> Vec<TcpStream> {
    shop.faults_of(&name_of(pod), &json!({"metrics": "huge"})).expect("faults");
    let address = format!("{}:8080", pod["status"]["podIP"].as_str().expect("an address"));
    // It may be over before all have asked.
    let ask = |_| {
        let mut stream = TcpStream::connect(&address).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: auth\r\n\r\n").ok()?;
        Some(stream)
    };
    (0..30).filter_map(ask).collect()
}

#[test]
fn a_canary_pod_out_of_memory_costs_what_it_had_in_hand_and_the_release_goes_on() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("oom", &json!([{"weight": 10, "bake": "12s"}]), quick);
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = weighted(&shop, 10);
    let pods = ready(&shop, &run["spec"]["to"]["hash"]);
    let pod = pods.first().expect("a canary pod");
    let streams = exhaust(&shop, pod);
    let killed = eventually("an OOMKilled container", MINUTE, || {
        let pod = get(&shop.namespace, "pod", &name_of(pod))?.unwrap_or_default();
        let status = &pod["status"]["containerStatuses"][0];
        let was = [&status["lastState"]["terminated"]["reason"], &status["state"]["terminated"]["reason"]];
        if was.contains(&&json!("OOMKilled")) { Ok(Some(())) } else { Err(format!("found {status}")) }
    });
    killed.unwrap_or_else(|error| panic!("{error}"));
    println!("      killed after {:.1} s", now() - began);
    drop(streams);
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    let seen = figures(&mut load, began, "canary");
    // Its share is 10 requests a second, until Kubernetes knows.
    assert!(seen.failed < 100, "{seen:?}");
    assert_tidy(&shop);
}

#[test]
fn a_quota_without_room_holds_the_release_in_its_own_words_until_there_is() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("quota", &json!([{"weight": 20, "bake": "2s"}]), |rollout| {
        quick(rollout);
        rollout["spec"]["limits"]["readyWithin"] = json!("6s");
    });
    life::quota(&shop, 4).expect("a quota");
    let full = eventually("four pods counted", MINUTE, || {
        let quota = get(&shop.namespace, "resourcequota", "room")?.unwrap_or_default();
        Ok((quota["status"]["used"]["pods"] == "4").then_some(()))
    });
    full.expect("those of before are gone");
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let words = "exceeded quota: room, requested: pods=1, used: pods=4, limited: pods=4";
    let held = |run: &Value| run["status"]["waiting"]["reason"] == "Quota";
    let run = until(&shop, "a hold for the quota", held);
    let said = run["status"]["waiting"]["message"].as_str().unwrap_or_default();
    println!("      {said}");
    assert!(said.contains(words), "{said}");
    // not the new version's fault: readyWithin does not count
    std::thread::sleep(Duration::from_secs(8));
    let run = shop.run().expect("kubectl").expect("a run");
    assert!(held(&run) && run["status"]["phase"] == "Preparing", "{}", run["status"]);
    let rollout = get(&shop.namespace, "rollouts.serin.dev", "auth").expect("kubectl").expect("a Rollout");
    assert!(rollout["status"]["message"].to_string().contains(words), "{}", rollout["status"]["message"]);
    let told = list(&shop.namespace, "events").expect("kubectl").into_iter().any(|event| {
        event["involvedObject"]["kind"] == "Rollout"
            && event["type"] == "Warning"
            && event["message"].as_str().is_some_and(|message| message.contains(words))
    });
    assert!(told, "an event tells of it");
    assert_eq!(figures(&mut load, began, "canary").canary, 0);

    // room for the canary; and then none for the promotion
    life::quota(&shop, 6).expect("a quota");
    let grows = |run: &Value| held(run) && run["status"]["phase"] == "Promoting";
    let run = until(&shop, "a hold of the promotion for the quota", grows);
    println!("      {}", run["status"]["waiting"]["message"]);
    assert_eq!(run["status"]["weight"]["set"], 20, "the weight stays meanwhile");
    life::quota(&shop, 20).expect("a quota");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

/// Waits until the Rollout stalls for this reason; what it says.
fn stalled(shop: &Shop, reason: &str) -> String {
    let said = eventually(&format!("a Rollout that stalls for {reason}"), MINUTE, || {
        let rollout = get(&shop.namespace, "rollouts.serin.dev", "auth")?.unwrap_or_default();
        let conditions = rollout["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is = conditions.iter().find(|condition| condition["type"] == "Stalled" && condition["status"] == "True");
        Ok(is.filter(|is| is["reason"] == reason).and_then(|is| is["message"].as_str()).map(str::to_owned))
    });
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    println!("      {said}");
    said
}

fn patch(shop: &Shop, spec: &Value) {
    let patch = json!({"spec": spec}).to_string();
    shop.kubectl(&["patch", "deployment", "auth", "--type=merge", "--patch", &patch]).expect("patch");
}

#[test]
fn settings_that_no_release_can_keep_are_refused_before_it_starts() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("settings", &json!([{"weight": 50, "bake": "0s"}]), quick);
    let began = now();
    patch(&shop, &json!({"revisionHistoryLimit": 0, "strategy": {"type": "Recreate", "rollingUpdate": null}}));
    stalled(&shop, "NoRevisionHistory");
    shop.release(&["VERSION=canary"]).expect("release");
    std::thread::sleep(Duration::from_secs(2));
    let said = stalled(&shop, "NoRevisionHistory");
    assert!(said.contains("revisionHistoryLimit 0") && said.contains("set it to 1 or more"), "{said}");
    patch(&shop, &json!({"revisionHistoryLimit": 1}));
    let said = stalled(&shop, "RecreateStrategy");
    assert!(said.contains("strategy Recreate") && said.contains("RollingUpdate"), "{said}");
    assert!(shop.run().expect("kubectl").is_none(), "no run has begun");
    assert_eq!(figures(&mut load, began, "canary").canary, 0);

    patch(&shop, &json!({"strategy": {"type": "RollingUpdate"}}));
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

#[test]
fn pods_count_after_min_ready_seconds_and_are_handed_over_in_one_step() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("minready", &json!([{"weight": 50, "bake": "0s"}]), quick);
    patch(&shop, &json!({"minReadySeconds": 10}));
    shop.idle().expect("Ready");
    let old = shop.active_sets().expect("kubectl").remove(0);
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = until(&shop, "canary pods that are ready and too young", |run| {
        run["status"]["waiting"]["message"].as_str().is_some_and(|words| words.contains("minReadySeconds"))
    });
    println!("      {}", run["status"]["waiting"]["message"]);
    assert_eq!(figures(&mut load, began, "canary").canary, 0, "they get nothing yet");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    let events = list(&shop.namespace, "events").expect("kubectl");
    let scaled = events.iter().filter(|event| event["reason"] == "ScalingReplicaSet");
    let scaled: Vec<&str> = scaled.filter_map(|event| event["message"].as_str()).collect();
    let whole = format!("Scaled down replica set {old} from 4 to 0");
    // Kubernetes may say that it is one of several like it.
    assert!(scaled.iter().any(|said| said.ends_with(&whole)), "{scaled:?}");
    assert_tidy(&shop);
}
