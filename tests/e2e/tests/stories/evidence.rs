//! What the counts show, and what is made of it: one bad pod, a slow tail, callers that go round the route.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{eventually, list},
    exposure::now,
    shop::Shop,
};

use super::{assert_tidy, figures, open_shop};

const MINUTE: Duration = Duration::from_secs(60);

/// Name and UID of the canary's pods that are there and not going.
fn canary_pods(shop: &Shop, run: &Value) -> Vec<(String, String)> {
    pods_of(shop, &run["spec"]["to"])
}

fn pods_of(shop: &Shop, version: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = list(&shop.namespace, "pods").expect("kubectl");
    let pods = pods.iter().filter(|pod| {
        let metadata = &pod["metadata"];
        metadata["labels"]["pod-template-hash"] == version["hash"] && metadata["deletionTimestamp"].is_null()
    });
    pods.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]))).collect()
}

/// Waits until the newest run shifts and has this weight.
fn weighted(shop: &Shop, weight: u32) -> Value {
    eventually(&format!("weight {weight}"), 2 * MINUTE, || {
        let run = shop.run()?.unwrap_or_default();
        match run["status"]["weight"]["set"] == weight && run["status"]["phase"] == "Shifting" {
            true => Ok(Some(run)),
            false => Err(format!("found {}", run["status"]["message"])),
        }
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Messages of the events with this reason.
pub(super) fn events(shop: &Shop, reason: &str) -> Vec<String> {
    let events = list(&shop.namespace, "events").expect("kubectl");
    let of_reason = events.iter().filter(|event| event["reason"] == reason);
    of_reason.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The same, once there is one: an event is sent when the status that tells of it is written.
pub(super) fn told(shop: &Shop, reason: &str) -> Vec<String> {
    let told = eventually(&format!("an event {reason}"), Duration::from_secs(10), || {
        Ok(Some(events(shop, reason)).filter(|events| !events.is_empty()))
    });
    told.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn one_bad_pod_of_five_is_named_and_replaced_and_the_version_is_promoted() {
    let _stage = super::beside();
    let steps = json!([{"weight": 50, "bake": "10s", "pods": 5}]);
    let (shop, mut load) = open_shop("badpod", &steps, |_| {});
    shop.kubectl(&["scale", "deployment/auth", "--replicas=5"]).expect("scale");
    shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=90s"]).expect("five pods");
    // given a healthy version with five pods, one of which is on a bad node
    let began = now();
    shop.release(&["VERSION=v2"]).expect("release");
    let run = weighted(&shop, 50);
    let before = canary_pods(&shop, &run);
    assert_eq!(before.len(), 5, "{before:?}");
    let (name, uid) = before[2].clone();
    shop.faults_of(&name, &json!({"errors": "50%"})).expect("faults");
    let ill = now();
    // then it is named and replaced, and the others stay
    let named =
        eventually("a pod that is named", MINUTE, || Ok(shop.run()?.filter(|run| run["status"]["badPod"].is_object())))
            .unwrap_or_else(|error| panic!("{error}"));
    println!("      named after {:.1} s: {}", now() - ill, named["status"]["message"]);
    assert_eq!(named["status"]["badPod"], json!({"name": name, "uid": uid}));
    let after = eventually("another pod", MINUTE, || {
        let pods = canary_pods(&shop, &named);
        Ok((pods.len() == 5 && pods.iter().all(|(_, other)| *other != uid)).then_some(pods))
    })
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(after.iter().filter(|pod| before.contains(pod)).count(), 4, "{before:?}, {after:?}");
    // and the version is not blamed for it
    let run = shop.run_in("Succeeded", None, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    assert!(run["status"]["slos"][0]["suspect"].is_null(), "{run}");
    let told = told(&shop, "BadPod");
    assert!(told.len() == 1 && told[0].contains(&name), "{told:?}");
    let seen = figures(&mut load, began, "v2");
    assert_eq!(seen.lost, 0);
    shop.idle().expect("Ready again");
    assert_tidy(&shop);
}

/// By a bound below the threshold, which next to nothing crosses: a busy machine is slow now and then, too.
pub(super) fn assert_bad_by_its_tail(run: &Value) {
    let latency = &run["status"]["slos"][1];
    let count = |field: &str| latency["canary"][field].as_u64().unwrap_or_default();
    assert!(latency["verdict"] == "Bad" && count("bad").saturating_mul(100) < count("requests"), "{latency}");
    assert!(latency["worse"].as_array().is_some_and(|worse| worse.contains(&json!("slower than 0.1 s"))), "{latency}");
}

#[test]
fn a_slow_tail_that_the_threshold_does_not_see_is_taken_back() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("tail", &json!([{"weight": 50, "bake": "3m"}]), |_| {});
    // given 3 % of the requests at 150 ms, which the SLO's 250 ms do not see
    let began = now();
    shop.release(&["VERSION=v2", "FAULT_LATENCY=150ms", "FAULT_LATENCY_SHARE=3%"]).expect("release");
    weighted(&shop, 50);
    let at = now();
    let run = shop.run_in("RolledBack", None, 3 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      after {:.1} s: {}", now() - at, run["status"]["decisions"]);
    assert_eq!(run["status"]["reason"], "SloViolated");
    assert_bad_by_its_tail(&run);
    let why = run["status"]["decisions"].to_string();
    assert!(why.contains("slower than 0.1 s: canary"), "{why}");
    let seen = figures(&mut load, began, "v2");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

#[test]
fn each_route_has_a_threshold_of_its_own() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("thresholds", &json!([{"weight": 50, "bake": "10s"}]), |rollout| {
        let slo = |name: &str, route: &str, threshold: &str| {
            let latency = json!({"only": {"route": route}, "threshold": threshold, "objective": "95%", "tail": false});
            json!({"name": name, "latency": latency})
        };
        rollout["spec"]["slos"] = json!([slo("login", "/login", "500ms"), slo("session", "/session", "100ms")]);
    });
    // given a healthy version, each SLO counts its own requests
    let began = now();
    shop.release(&["VERSION=v2"]).expect("release");
    let run = shop.run_in("Succeeded", None, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    let requests = |slo: usize| run["status"]["slos"][slo]["canary"]["requests"].as_u64().unwrap_or_default();
    println!("      {}", run["status"]["slos"]);
    assert!(requests(0) > 0 && requests(1) > 3 * requests(0), "one of ten requests is a login: {run}");
    figures(&mut load, began, "v2");
    shop.idle().expect("Ready again");
    // when a third of all requests take 200 ms, which logins may and sessions may not
    let began = now();
    let first = run["metadata"]["name"].as_str();
    shop.release(&["VERSION=v3", "FAULT_LATENCY=200ms", "FAULT_LATENCY_SHARE=33%"]).expect("release");
    let run = shop.run_in("RolledBack", first, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      taken back after {:.1} s: {}", now() - began, run["status"]["message"]);
    let verdicts = [0, 1].map(|slo| run["status"]["slos"][slo]["verdict"].as_str().unwrap_or_default());
    assert!(verdicts[0] != "Bad" && verdicts[1] == "Bad", "{verdicts:?}");
    figures(&mut load, began, "v3");
    assert_tidy(&shop);
}

#[test]
fn logins_that_fail_are_found_in_a_sum_that_is_within_its_tolerance() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("strata", &json!([{"weight": 25, "bake": "20s"}]), |rollout| {
        rollout["spec"]["slos"] = json!([{
            "name": "errors", "by": {"label": "route", "values": ["/login", "/session", "/never"]},
            "errors": {"objective": "90%", "tolerance": {"relative": 1.5, "absolute": "8%"}}
        }]);
    });
    // given a healthy version: a route that nobody asks for blocks nothing
    let began = now();
    shop.release(&["VERSION=v2"]).expect("release");
    let run = shop.run_in("Succeeded", None, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    let healthy = figures(&mut load, began, "v2");
    assert_eq!((healthy.failed, healthy.lost), (0, 0));
    // which leaves to the next run what it has learnt of stable, and nothing else
    let left = (&run["status"]["ledger"], run["status"]["learnt"].as_str().unwrap_or_default());
    assert!(left.0.is_null() && left.1.contains("errors errors"), "{left:?}");
    shop.idle().expect("Ready again");
    // when half of the logins fail, which are a tenth of the requests: 5 % of all, of which 8 % may
    let began = now();
    let first = run["metadata"]["name"].as_str();
    shop.release(&["VERSION=v3", "FAULT_LOGIN_ERRORS=50%"]).expect("release");
    let run = shop.run_in("RolledBack", first, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      taken back after {:.1} s: {}", now() - began, run["status"]["message"]);
    assert_eq!(run["status"]["reason"], "SloViolated");
    let why = run["status"]["decisions"].to_string();
    assert!(why.contains("route=/login: canary") && !why.contains("route=/session"), "{why}");
    figures(&mut load, began, "v3");
    assert_tidy(&shop);
}

#[test]
fn counters_that_stand_still_hold_the_run_and_counters_that_begin_anew_do_not() {
    let _stage = super::beside();
    let (shop, mut load) =
        open_shop("counters", &json!([{"weight": 20, "bake": "5s"}, {"weight": 50, "bake": "10s"}]), |rollout| {
            rollout["spec"]["limits"]["failedRequests"] = json!(50);
        });
    let began = now();
    shop.release(&["VERSION=v2"]).expect("release");
    weighted(&shop, 20);
    // given all pods' pages as they are now, for much longer than the bake
    shop.faults(&json!({"metrics": "frozen"})).expect("faults");
    std::thread::sleep(Duration::from_secs(15));
    let run = shop.run().expect("kubectl").expect("a run");
    let waiting = &run["status"]["waiting"];
    println!("      frozen: {waiting}");
    assert_eq!(
        (&run["status"]["phase"], &run["status"]["weight"]["set"]),
        (&json!("Shifting"), &json!(20)),
        "{waiting}"
    );
    let names = ["NoData", "SilentArm", "FewRequests", "RequestsLost"];
    assert!(names.contains(&waiting["reason"].as_str().unwrap_or_default()), "{waiting}");
    // those of the canary alone, which the gateway sees answer, are no reason to take it back
    for (pod, _) in pods_of(&shop, &run["spec"]["from"]) {
        shop.faults_of(&pod, &json!({"metrics": "right"})).expect("faults");
    }
    super::held(&shop, None, "SilentArm", "the counters of its pods stand still");
    // when they go on, all that came meanwhile is counted, and so does the run
    shop.faults(&json!({"metrics": "right"})).expect("faults");
    let run = weighted(&shop, 50);
    // and those of stable alone are no wider share of the canary
    for (pod, _) in pods_of(&shop, &run["spec"]["from"]) {
        shop.faults_of(&pod, &json!({"metrics": "frozen"})).expect("faults");
    }
    super::held(&shop, None, "SilentArm", "due to stable");
    shop.faults(&json!({"metrics": "right"})).expect("faults");
    // and counters that begin anew on every pod at once are no wave of anything
    shop.faults(&json!({"metrics": "forgetful"})).expect("faults");
    let run = shop.run_in("Succeeded", None, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      promoted after {:.1} s: {}", now() - began, run["status"]["slos"]);
    let seen = figures(&mut load, began, "v2");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

/// Callers of the Service itself whose requests are wrong: 5 a second, answered 401. They end with this value.
struct WrongCallers {
    ends: Arc<AtomicBool>,
    task: Option<JoinHandle<u32>>,
}

impl WrongCallers {
    fn start(address: SocketAddr) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ends);
        let task = std::thread::spawn(move || {
            let mut answered = 0;
            while !stop.load(Ordering::Relaxed) {
                answered += u32::from(is_refused(address).unwrap_or(false));
                std::thread::sleep(Duration::from_millis(200));
            }
            answered
        });
        Self { ends, task: Some(task) }
    }

    /// How many were answered 401.
    fn end(mut self) -> u32 {
        self.ends.store(true, Ordering::Relaxed);
        self.task.take().and_then(|task| task.join().ok()).unwrap_or(0)
    }
}

impl Drop for WrongCallers {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn is_refused(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /session HTTP/1.1\r\nHost: direct.example.com\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 401"))
}

#[test]
fn callers_with_errors_of_their_own_at_stable_only_are_told_and_mislead_nobody() {
    let _stage = super::beside();
    let steps = json!([{"weight": 20, "bake": "10s"}, {"weight": 50, "bake": "5s"}]);
    let (shop, mut load) = open_shop("mixed", &steps, |rollout| {
        rollout["spec"]["telemetry"]["requests"]["errors"] = json!({"code": "401|5.."});
    });
    // given direct callers of the Service, of whose requests 5 % are errors whatever version answers
    let (address, _callers) = super::direct_callers(&shop, 95);
    let wrong = WrongCallers::start(SocketAddr::new(address.parse().expect("an address"), 80));

    // when a healthy version comes, it is promoted, and it is said that the versions serve different mixes
    let began = now();
    shop.release(&["VERSION=v2"]).expect("release");
    let run = shop.run_in("Succeeded", None, 3 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    let told = told(&shop, "MixedTraffic");
    println!("      {told:?}");
    assert!(told.len() == 1 && told[0].contains("other callers reach stable without the route"), "{told:?}");
    let stable = &run["status"]["slos"][0]["stable"];
    assert!(stable["bad"].as_u64() > Some(0), "their errors count for stable: {stable}");
    let seen = figures(&mut load, began, "v2");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    shop.idle().expect("Ready again");

    // and a bad one is caught all the same
    let first = run["metadata"]["name"].as_str();
    shop.release(&["VERSION=v3", "FAULT_ERRORS=20%"]).expect("release");
    let run = shop.run_in("RolledBack", first, 2 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(run["status"]["reason"], "SloViolated", "{}", run["status"]["message"]);
    let answered = wrong.end();
    assert!(answered > 50, "{answered} direct requests were answered 401");
    assert_tidy(&shop);
}
