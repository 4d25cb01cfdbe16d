//! What goes wrong around a run: Serin killed, the API server away, other managers at the same objects, Serin removed.

use std::{fs, process::Command, time::Duration};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{SERIN, eventually, get, helm, kubectl, kubectl_with, list},
    exposure::now,
    serin::{Audit, leader, memory},
    shop::{Shop, repository},
    watch::{View, Watch},
};

use super::{assert_tidy, figures, install_serin, open_shop, phase, serin, short_steps};

const MINUTE: Duration = Duration::from_secs(60);

/// Steps that a run stays at until told otherwise.
fn long_steps() -> Value {
    json!([{"weight": 20, "bake": "10m"}])
}

/// Waits until the newest run has this weight.
fn weighted(shop: &Shop, weight: u32) -> Value {
    let run = eventually(&format!("weight {weight}"), MINUTE, || {
        let run = shop.run()?.unwrap_or_default();
        match run["status"]["weight"]["set"] == weight {
            true => Ok(Some(run)),
            false => Err(format!("found {}", run["status"]["message"])),
        }
    });
    run.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until one controller leads and another stands by.
fn standby() {
    kubectl(&["-n", SERIN, "rollout", "status", "deployment/serin", "--timeout=60s"]).expect("two controllers");
}

/// Waits until the Rollout is so, and at once SIGKILL for the leader, whose pod does not come back. When that was.
fn kill_when(watch: &Watch, what: &str, so: impl Fn(&View) -> bool) -> f64 {
    let (leader, process) = leader().expect("a leader");
    let view = watch.until(what, MINUTE, |_| {}, so).unwrap_or_else(|error| panic!("{error}"));
    let at = now();
    // A forced delete alone leaves the process its time to say goodbye.
    if let Some(process) = process {
        let killed = Command::new("kill").args(["-9", &process.to_string()]).status().expect("kill");
        assert!(killed.success(), "could not kill process {process}");
    }
    kubectl(&["-n", SERIN, "delete", "pod", &leader, "--grace-period=0", "--force", "--wait=false"]).expect("delete");
    println!("      killed {leader}, process {process:?}, in {}, weight {:?}", view.phase, view.weight);
    at
}

fn in_phase(watch: &Watch, phase: &str) -> f64 {
    kill_when(watch, phase, |view| view.phase == phase)
}

#[test]
fn killed_in_each_phase_of_a_good_release_it_is_promoted_all_the_same() {
    let _stage = super::alone();
    let (shop, mut load) = open_shop("killgood", &json!([{"weight": 50, "bake": "12s"}]), |_| {});
    standby();
    let sets = list(&shop.namespace, "replicasets").expect("kubectl").len();
    let (watch, began) = (Watch::start(&shop.namespace, "auth").expect("a watch"), now());
    shop.release_slowly(&json!([{"name": "VERSION", "value": "canary"}])).expect("release");
    in_phase(&watch, "Preparing");
    standby();
    kill_when(&watch, "weight 50", |view| view.phase == "Shifting" && view.weight == Some(50));
    standby();
    in_phase(&watch, "Promoting");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    println!("      promoted after {:.1} s and three kills", now() - began);
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_eq!(list(&shop.namespace, "replicasets").expect("kubectl").len(), sets + 1, "one new ReplicaSet");
    assert_tidy(&shop);
}

#[test]
fn killed_in_each_phase_of_a_bad_release_it_is_taken_back_all_the_same() {
    let _stage = super::alone();
    let (shop, mut load) = open_shop("killbad", &short_steps(), |_| {});
    standby();
    let (watch, began) = (Watch::start(&shop.namespace, "auth").expect("a watch"), now());
    shop.release_slowly(&json!([{"name": "VERSION", "value": "canary"}, {"name": "FAULT_ERRORS", "value": "50%"}]))
        .expect("release");
    in_phase(&watch, "Preparing");
    standby();
    let killed = kill_when(&watch, "weight", |view| view.phase == "Shifting" && view.weight > Some(0));
    in_phase(&watch, "RollingBack");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    assert_eq!(run["status"]["reason"], "SloViolated", "{}", run["status"]["message"]);
    let seen = figures(&mut load, began, "canary");
    assert_eq!(seen.lost, 0);
    let of_canary = load.read().expect("records").iter().filter(|record| record.version.as_deref() == Some("canary"));
    let last = of_canary.map(|record| record.t + record.ms / 1000.0).fold(0.0, f64::max);
    println!("      the canary's last answer came {:.1} s after the kill", last - killed);
    assert!(last - killed < 15.0, "{:.1} s", last - killed);
    assert_tidy(&shop);
}

/// The example's manifest of this kind, as it was given to the shop.
fn manifest(shop: &Shop, kind: &str) -> String {
    let file = repository().join(format!("examples/auth/manifests/{kind}.yaml"));
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.replace("auth.example.com", &shop.host)
}

/// Applies as Flux does.
fn reset(shop: &Shop, kind: &str) {
    let manager = "--field-manager=kustomize-controller";
    let args = ["-n", &shop.namespace, "apply", "--server-side", "--force-conflicts", manager, "-f", "-"];
    kubectl_with(&args, &manifest(shop, kind)).expect("apply --server-side");
}

/// Messages of the events with this reason, and whether they warn.
fn events(shop: &Shop, reason: &str) -> Vec<(bool, String)> {
    let events = list(&shop.namespace, "events").expect("kubectl");
    let of_reason = events.iter().filter(|event| event["reason"] == reason);
    of_reason
        .map(|event| (event["type"] == "Warning", event["message"].as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// Weight of the canary in the route, as it stands.
fn route_weight(shop: &Shop) -> Option<i64> {
    let route = get(&shop.namespace, "httproute", "auth").expect("kubectl").expect("a route");
    let refs = route["spec"]["rules"][0]["backendRefs"].as_array().cloned().unwrap_or_default();
    refs.iter().find(|to| to["name"] == "auth-canary").and_then(|to| to["weight"].as_i64())
}

fn pin(shop: &Shop) -> Value {
    get(&shop.namespace, "service", "auth")
        .expect("kubectl")
        .expect("a Service")["spec"]["selector"]["pod-template-hash"]
        .clone()
}

#[test]
fn another_manager_is_repaired_once_and_not_fought() {
    let _stage = super::alone();
    let (shop, mut load) = open_shop("contested", &long_steps(), |_| {});
    // Once before the run, as kubectl's first server-side apply of an object that it applied otherwise comes twice.
    for kind in ["httproute", "service"] {
        reset(&shop, kind);
    }
    let began = now();
    let mut resets = Vec::new();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = weighted(&shop, 20);
    let pinned = run["spec"]["from"]["hash"].clone();

    // forced, as Flux: put back, and the run goes on
    for kind in ["httproute", "service"] {
        let (repaired, at) = (events(&shop, "Repaired").len(), now());
        resets.extend((kind == "httproute").then_some(at));
        reset(&shop, kind);
        let back = eventually("weight and pin again, and the event", MINUTE, || {
            let all =
                route_weight(&shop) == Some(20) && pin(&shop) == pinned && events(&shop, "Repaired").len() > repaired;
            Ok(all.then_some(()))
        });
        back.unwrap_or_else(|error| panic!("{kind}: {error}"));
        println!("      {kind} repaired after {:.1} s: {:?}", now() - at, events(&shop, "Repaired").last());
        let run = weighted(&shop, 20);
        assert_eq!(run["status"]["phase"], "Shifting");
        std::thread::sleep(Duration::from_secs(2));
    }
    let said = events(&shop, "Repaired");
    assert!(said.iter().all(|(warning, said)| *warning && said.contains("kustomize-controller changed")), "{said:?}");

    // client-side apply, as Argo CD: it leaves alone what it never wrote
    shop.apply(&manifest(&shop, "service")).expect("apply");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(pin(&shop), pinned);
    assert_eq!(events(&shop, "Repaired").len(), said.len());

    // again and again: not fought, and the safe place is theirs
    let held = eventually("a run that waits for RouteContested", MINUTE, || {
        resets.push(now());
        reset(&shop, "httproute");
        std::thread::sleep(Duration::from_secs(1));
        Ok(shop.run()?.filter(|run| run["status"]["waiting"]["reason"] == "RouteContested"))
    });
    let held = held.unwrap_or_else(|error| panic!("{error}"));
    println!("      {}", held["status"]["waiting"]["message"]);
    std::thread::sleep(Duration::from_secs(2));
    let quiet = now();
    for _ in 0..4 {
        reset(&shop, "httproute");
        std::thread::sleep(Duration::from_secs(1));
    }
    let run = shop.run().expect("kubectl").expect("a run");
    assert_eq!(run["status"]["waiting"]["reason"], "RouteContested");
    assert!(matches!(route_weight(&shop), None | Some(0)), "the canary has no weight");
    assert_eq!(figures(&mut load, quiet, "canary").canary, 0, "nobody but stable answers");
    assert_eq!(events(&shop, "Repaired").len(), 3, "nothing was put back after the third time");
    let said = events(&shop, "RouteContested");
    assert!(!said.is_empty(), "an event tells of it");
    for (warning, said) in said {
        assert!(
            warning && said.contains("kustomize-controller keeps changing") && said.contains("let it ignore"),
            "{said}"
        );
    }
    let seen = figures(&mut load, began, "canary");
    assert_eq!(seen.failed, seen.lost, "no version answered anything wrong");
    // Who takes a backend out of a route at full weight, not by way of 0, may lose a request that is on its way to it.
    let lost: Vec<f64> =
        load.read().expect("records").iter().filter(|one| one.t >= began && one.failed()).map(|one| one.t).collect();
    let theirs = |lost: &f64| resets.iter().any(|reset| (*reset..*reset + 1.0).contains(lost));
    assert!(lost.iter().all(theirs) && lost.len() <= 2, "lost at {lost:?}, the route was reset at {resets:?}");

    shop.serin(&["abort", "auth"]).expect("abort");
    let run = shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    assert_tidy(&shop);
    // what a person said is in the record when it was said
    let name = run["metadata"]["name"].as_str().unwrap_or_default();
    let told = eventually("the end in the record", MINUTE, || {
        Ok(shop.serin(&["why", name]).ok().filter(|told| told.contains("the run is RolledBack")))
    });
    let told = told.expect("why");
    let aborts = told.lines().filter(|line| line.ends_with("Z  Aborted: a person aborted the run (spec.abort)"));
    assert_eq!(aborts.count(), 1, "{told}");
    let again = shop.serin(&["replay", name]).expect("replay");
    assert!(again.contains("the same to the byte"), "{again}");
}

#[test]
fn at_rest_it_asks_for_nothing_and_is_small() {
    let _stage = super::alone();
    let (shop, _load) = open_shop("atrest", &short_steps(), |_| {});
    // the last words of what came before
    std::thread::sleep(Duration::from_secs(8));
    let audit = Audit::start().expect("the audit log");
    std::thread::sleep(MINUTE);
    let asked = audit.asked().expect("the audit log");
    println!(
        "      in a minute: {} for leases, {} watches ended, {} others",
        asked.leases,
        asked.watches,
        asked.others.len()
    );
    assert!(asked.leases > 0, "its requests are in the audit log");
    assert_eq!(asked.others, Vec::<String>::new());
    assert_eq!(phase(&shop), "Idle");

    let memory = memory().expect("its memory");
    assert!(!memory.is_empty(), "its memory is known");
    for (pod, bytes) in memory {
        let mebibytes = bytes / 1024 / 1024;
        println!("      {pod}: {mebibytes} MiB resident");
        assert!(mebibytes < 40, "{pod}: {mebibytes} MiB resident");
    }
}

/// Serin is there again at the end, whatever happens in between.
struct Reinstalled;

impl Drop for Reinstalled {
    fn drop(&mut self) {
        let installed = install_serin();
        assert!(installed.is_ok() || std::thread::panicking(), "{installed:?}");
    }
}

#[test]
fn uninstalled_in_mid_run_it_puts_everything_back() {
    let _stage = super::alone();
    serin();
    let (shop, mut load) = open_shop("uninstalled", &long_steps(), |_| {});
    let route = get(&shop.namespace, "httproute", "auth").expect("kubectl").expect("a route")["spec"].clone();
    let service = get(&shop.namespace, "service", "auth").expect("kubectl").expect("a Service")["spec"].clone();
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = weighted(&shop, 20);
    let again = Reinstalled;
    helm(&["uninstall", "serin", "--namespace", SERIN, "--wait", "--timeout", "5m"]).expect("helm uninstall");
    println!("      uninstalled {:.1} s after the release", now() - began);

    for kind in ["rollouts.serin.dev", "rolloutruns.serin.dev"] {
        assert_eq!(list(&shop.namespace, kind).expect("its CRD stays"), Vec::<Value>::new(), "none of {kind} is left");
    }
    assert_eq!(
        get(&shop.namespace, "httproute", "auth").expect("kubectl").expect("a route")["spec"],
        route,
        "the route is as it was"
    );
    assert_eq!(
        get(&shop.namespace, "service", "auth").expect("kubectl").expect("a Service")["spec"],
        service,
        "the Service is as it was"
    );
    assert_tidy(&shop);
    let deployment = get(&shop.namespace, "deployment", "auth").expect("kubectl").expect("a Deployment");
    assert!(
        !deployment["metadata"]["labels"].to_string().contains("serin.dev/"),
        "{}",
        deployment["metadata"]["labels"]
    );
    let gone = eventually("the canary to be gone", MINUTE, || {
        let pods = list(&shop.namespace, "pods")?;
        Ok((!pods.iter().any(|pod| pod["metadata"]["labels"]["pod-template-hash"] == run["spec"]["to"]["hash"]))
            .then_some(()))
    });
    gone.expect("no canary");
    let quiet = now();
    assert_eq!(figures(&mut load, quiet, "canary").canary, 0);
    assert_eq!(figures(&mut load, began, "canary").failed, 0, "no request is lost");
    let policies =
        kubectl(&["get", "mutatingadmissionpolicies,validatingadmissionpolicies", "-o", "name"]).expect("kubectl");
    assert!(!policies.contains("serin"), "{policies}");

    // and installed once more it governs again
    drop(again);
    shop.release(&["VERSION-"]).expect("the old version");
    shop.kubectl(&["rollout", "resume", "deployment/auth"]).expect("resume");
    shop.rollout(&short_steps(), |_| {}).expect("a Rollout");
    shop.idle().expect("Ready");
}

/// The API server stops answering for as long as this lives.
struct Silence;

impl Silence {
    fn daemon(what: &str) {
        let daemon = repository().join("tests/cluster/daemon");
        let done = Command::new(&daemon).args(["kube-apiserver", what]).status().expect("tests/cluster/daemon");
        assert!(done.success() || std::thread::panicking(), "daemon kube-apiserver {what}");
    }
    fn new() -> Self {
        Self::daemon("pause");
        Self
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        Self::daemon("resume");
    }
}

#[test]
fn the_api_server_may_be_away_for_ten_seconds_of_a_good_release() {
    let _stage = super::alone();
    if std::env::var_os("SERIN_STATE").is_none() {
        println!("      left out: SERIN_STATE names no test cluster whose API server could be paused");
        return;
    }
    let (shop, mut load) =
        open_shop("silence", &json!([{"weight": 20, "bake": "4s"}, {"weight": 50, "bake": "4s"}]), |_| {});
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    weighted(&shop, 20);
    let silence = Silence::new();
    std::thread::sleep(Duration::from_secs(10));
    drop(silence);
    shop.run_in("Succeeded", None, 3 * MINUTE).expect("Succeeded");
    println!("      promoted after {:.1} s", now() - began);
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}
