//! Routes of every shape: gRPC with real calls, several rules, several routes, several ports, a reference in Git.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{SERIN, eventually, get, kubectl},
    exposure::now,
    serin::leader,
    shop::Shop,
    traffic::Load,
};

use super::{assert_tidy, figures, gateway, held, input::Bare, open_shop, serin, steps::in_step};

const MINUTE: Duration = Duration::from_secs(60);

/// Calls by gRPC, in a row, until it has made so many.
struct Calls(Child);

impl Calls {
    fn start(host: &str, calls: u32) -> Self {
        let url = format!("{}/test.Web/Ask", gateway());
        let child = Command::new("web")
            .args(["count", "-grpc", "-host", host, "-n", &calls.to_string(), &url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("web, the client: run these by tests/run"))
    }
    /// Answers by version, and what was no good answer.
    fn end(mut self) -> BTreeMap<String, u32> {
        let mut text = String::new();
        let mut out = self.0.stdout.take().expect("its output");
        std::io::Read::read_to_string(&mut out, &mut text).expect("read");
        self.0.wait().expect("ended");
        let lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        lines.filter_map(|(what, count)| Some((what.to_owned(), count.trim().parse().ok()?))).collect()
    }
}

fn grpc_objects() -> Value {
    let labels = json!({"app": "web"});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{
                "name": "web", "image": "serin.local/web:v1", "imagePullPolicy": "IfNotPresent",
                "env": [{"name": "VERSION", "value": "v1"}], "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                // it ends at once, so it leaves the endpoints first
                "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}
            }]}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
            "selector": labels, "ports": [{"name": "grpc", "port": 80, "targetPort": 8080, "appProtocol": "kubernetes.io/h2c"}]}},
        {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"name": "web"}, "spec": {
            "parentRefs": [{"name": "gw", "namespace": "gateway"}], "hostnames": ["grpc.example.com"],
            "rules": [{"matches": [{"method": {"service": "test.Web", "method": "Ask"}}], "backendRefs": [{"name": "web", "port": 80}]}]}},
        {"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "web"}, "spec": {
            "workloadRef": {"kind": "Deployment", "name": "web"}, "service": "web", "routes": [{"kind": "GRPCRoute", "name": "web"}],
            "telemetry": {"scrape": {"port": "http"}, "requests": {"counter": "web_requests_total", "errors": {"version": "broken"}}},
            "slos": [{"name": "errors", "errors": {"objective": "95%"}}],
            "steps": [{"weight": 20, "bake": "3s"}, {"weight": 50, "bake": "12s"}],
            // calls come as fast as they are answered: no cap is to be there before the verdict
            "limits": {"warmup": "0s", "failedRequests": 100_000}}}
    ]})
}

#[test]
fn a_grpc_route_carries_the_weights_of_real_calls() {
    let _stage = super::beside();
    serin();
    let bare = Bare::open("grpc");
    bare.apply(&grpc_objects().to_string()).expect("objects");
    bare.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).expect("ready");
    bare.kubectl(&["wait", "rollouts.serin.dev/web", "--for=condition=Ready", "--timeout=60s"]).expect("Ready");
    let run = |number: u32| get("grpc", "rolloutruns.serin.dev", &format!("web-{number}"));
    eventually("an answer", MINUTE, || {
        Ok((Calls::start("grpc.example.com", 1).end().get("v1") == Some(&1)).then_some(()))
    })
    .expect("an answer");

    // a good version under calls that never stop
    let calls = Calls::start("grpc.example.com", 40_000);
    bare.kubectl(&["set", "env", "deployment/web", "VERSION=v2"]).expect("release");
    eventually("weight 50", 2 * MINUTE, || Ok(run(1)?.filter(|run| run["status"]["weight"]["set"] == 50)))
        .expect("weight 50");
    let of_both = Calls::start("grpc.example.com", 1000).end();
    eventually("the promotion", 2 * MINUTE, || Ok(run(1)?.filter(|run| run["status"]["phase"] == "Succeeded")))
        .expect("Succeeded");
    let after = Calls::start("grpc.example.com", 200).end();
    let all = calls.end();
    println!("      at weight 50: {of_both:?}; after it {after:?}; all the time {all:?}");
    let share = f64::from(of_both.get("v2").copied().unwrap_or(0)) / 1000.0;
    assert!((0.35..0.65).contains(&share), "{of_both:?}");
    assert_eq!(after.get("v2"), Some(&200));
    assert!(all.keys().all(|version| version.starts_with('v')), "no call fails: {all:?}");

    // a bad one is taken back
    let calls = Calls::start("grpc.example.com", 20_000);
    bare.kubectl(&["set", "env", "deployment/web", "VERSION=broken"]).expect("release");
    let refused =
        eventually("the rollback", 2 * MINUTE, || Ok(run(2)?.filter(|run| run["status"]["phase"] == "RolledBack")));
    let refused = refused.expect("RolledBack");
    assert_eq!(refused["status"]["reason"], "SloViolated", "{}", refused["status"]["message"]);
    println!("      {:?}", calls.end());

    // and a preview with a host name of its own
    let steps = json!({"spec": {"steps": [{"blueGreen": {"previewHost": "grpc-preview.example.com"}, "bake": "10s"}]}});
    let patch = ["patch", "rollouts.serin.dev", "web", "--type=merge", "-p", &steps.to_string()];
    bare.kubectl(&patch).expect("a preview");
    bare.kubectl(&["set", "env", "deployment/web", "VERSION=v3"]).expect("release");
    eventually("the preview", 2 * MINUTE, || {
        let run = run(3)?.filter(|run| run["status"]["step"] == 1 && run["status"]["stepSince"].is_string());
        Ok(run.map(drop))
    })
    .expect("the preview");
    let of_callers = Calls::start("grpc.example.com", 200);
    let previewed = Calls::start("grpc-preview.example.com", 200).end();
    assert_eq!(previewed, BTreeMap::from([("v3".to_owned(), 200)]));
    assert_eq!(of_callers.end(), BTreeMap::from([("v2".to_owned(), 200)]));
    eventually("the promotion", 2 * MINUTE, || Ok(run(3)?.filter(|run| run["status"]["phase"] == "Succeeded")))
        .expect("Succeeded");
    assert!(get("grpc", "grpcroute", "web-preview").expect("kubectl").is_none(), "the preview's route is gone");
    assert_eq!(Calls::start("grpc.example.com", 200).end(), BTreeMap::from([("v3".to_owned(), 200)]));
}

#[test]
fn a_preview_answers_at_its_own_host_while_it_runs_and_at_no_other_time() {
    let _stage = super::alone();
    let host = "look.preview.example.com";
    let steps = json!([{"blueGreen": {"previewHost": host}, "bake": "15s"}]);
    let (shop, mut load) = open_shop("preview", &steps, |_| {});
    let answers = |from: f64, look: &mut Load| -> (usize, usize) {
        std::thread::sleep(Duration::from_millis(1500));
        let records = look.read().expect("records");
        let since: Vec<_> = records.iter().filter(|record| record.t >= from).collect();
        (since.iter().filter(|record| record.version.as_deref() == Some("canary")).count(), since.len())
    };
    let route = || get(&shop.namespace, "httproute", "auth-preview").expect("kubectl");
    let began = now();

    // the host name is somebody else's: said, and no run begins
    let other = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "other"},
        "spec": {"parentRefs": [{"name": "gw", "namespace": "gateway"}], "hostnames": [host],
                 "rules": [{"backendRefs": [{"name": "auth", "port": 80}]}]}
    });
    shop.apply(&other.to_string()).expect("a route");
    let taken = [
        "wait",
        "rollouts.serin.dev/auth",
        "--for=jsonpath={.status.conditions[?(@.type==\"Stalled\")].reason}=PreviewTaken",
        "--timeout=30s",
    ];
    shop.kubectl(&taken).expect("PreviewTaken");
    shop.release(&["VERSION=canary"]).expect("release");
    std::thread::sleep(Duration::from_secs(3));
    assert!(shop.run().expect("kubectl").is_none(), "no run");
    shop.kubectl(&["delete", "httproute", "other"]).expect("mended");

    // the preview has it, callers don't; the controller that made it is killed
    in_step(&shop, 1);
    let mut look = Load::start(&gateway(), host, 50, 120, &[]).expect("the preview answers");
    let from = now();
    let (pod, _) = leader().expect("a leader");
    kubectl(&["-n", SERIN, "delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"]).expect("killed");
    std::thread::sleep(Duration::from_secs(4));
    let (canary, requests) = answers(from, &mut look);
    println!("      by the preview's host: {canary} of {requests} by the new version");
    assert!(requests > 100 && canary == requests, "{canary} of {requests}");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.canary, seen.failed), (0, 0), "callers have none of it");

    // aborted: nobody has it any more
    shop.serin(&["abort", "auth"]).expect("abort");
    let run = shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    assert!(route().is_none(), "its route is gone");
    std::thread::sleep(Duration::from_secs(1));
    let from = now();
    std::thread::sleep(Duration::from_secs(2));
    let (canary, requests) = answers(from, &mut look);
    assert_eq!(canary, 0, "of {requests} by the preview's host");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);

    // again, and promoted
    shop.serin(&["retry", "auth"]).expect("retry");
    let name = run["metadata"]["name"].as_str().expect("a name").to_owned();
    let from = now();
    shop.run_in("Succeeded", Some(&name), 2 * MINUTE).expect("Succeeded");
    let (canary, requests) = answers(from, &mut look);
    println!("      by the preview's host, of the second run: {canary} of {requests}");
    assert!(canary > 200, "{canary} of {requests}");
    assert!(route().is_none(), "its route is gone");
    assert_eq!(figures(&mut load, began, "canary").failed, 0, "no caller is lost");
    assert_tidy(&shop);
}

#[test]
fn a_route_without_room_for_the_steps_is_said_before_the_run_and_in_it() {
    let _stage = super::beside();
    let steps = json!([{"weight": 25, "bake": "5s"}, {"weight": 50, "bake": "3s"}]);
    let (shop, mut load) = open_shop("room", &steps, |rollout| rollout["spec"]["sticky"] = json!({}));
    let rules = |rules: usize| {
        let rule = |path: String| json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": [{"name": "auth", "port": 80}]});
        let all: Vec<Value> = (1..rules).map(|number| rule(format!("/{number}"))).chain([rule("/".into())]).collect();
        let patch = json!({"spec": {"rules": all}}).to_string();
        shop.kubectl(&["patch", "httproute", "auth", "--type=merge", "-p", &patch]).expect("rules");
    };
    let stalled = |reason: &str| {
        let path = format!("--for=jsonpath={{.status.conditions[?(@.type==\"Stalled\")].reason}}={reason}");
        shop.kubectl(&["wait", "rollouts.serin.dev/auth", &path, "--timeout=30s"]).expect("said");
    };
    let began = now();
    rules(6);
    stalled("RouteHasNoRoom");
    shop.release(&["VERSION=canary"]).expect("release");
    std::thread::sleep(Duration::from_secs(3));
    assert!(shop.run().expect("kubectl").is_none(), "no run");
    let events = shop.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).expect("events");
    assert!(events.contains("RouteHasNoRoom"), "{events}");

    // mended, and too much again in mid-run: held with the reason, and no patch is refused
    rules(2);
    in_step(&shop, 1);
    rules(6);
    held(&shop, None, "Blocked", "at most 16 rules");
    std::thread::sleep(Duration::from_secs(2));
    let events = shop.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]).expect("events");
    assert!(!events.contains("ActionFailed"), "{events}");
    rules(1);
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);
}

#[test]
fn several_rules_and_routes_and_a_reference_from_git_shift_together() {
    let _stage = super::beside();
    serin();
    let shop = Shop::open("shapes").expect("a shop");
    // two rules in one route, the canary declared in Git in the other, and a second port of the Service
    let rules = json!([
        {"matches": [{"path": {"type": "PathPrefix", "value": "/login"}}], "backendRefs": [{"name": "auth", "port": 80}]},
        {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [{"name": "auth", "port": 80}]}
    ]);
    let patch = json!({"spec": {"rules": rules}}).to_string();
    shop.kubectl(&["patch", "httproute", "auth", "--type=merge", "-p", &patch]).expect("two rules");
    let port =
        json!([{"op": "add", "path": "/spec/ports/-", "value": {"name": "again", "port": 81, "targetPort": "http"}}])
            .to_string();
    shop.kubectl(&["patch", "service", "auth", "--type=json", "-p", &port]).expect("a second port");
    let declared = json!([{"backendRefs": [
        {"name": "auth", "port": 81, "weight": 1}, {"name": "auth-canary", "port": 81, "weight": 0}]}]);
    let second = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "second"},
        "spec": {"parentRefs": [{"name": "gw", "namespace": "gateway"}], "hostnames": ["second.example.com"], "rules": declared}
    });
    shop.apply(&second.to_string()).expect("a second route");
    shop.rollout(&json!([{"weight": 50, "bake": "8s"}]), |rollout| {
        rollout["spec"]["routes"] =
            json!([{"kind": "HTTPRoute", "name": "auth"}, {"kind": "HTTPRoute", "name": "second"}]);
    })
    .expect("a Rollout");
    shop.idle().expect("Ready");
    let mut load = Load::start(&gateway(), &shop.host, 200, 600, &[]).expect("load");
    let mut by_second = Load::start(&gateway(), "second.example.com", 50, 300, &[]).expect("load");
    let route = |name: &str| {
        get(&shop.namespace, "httproute", name).expect("kubectl").expect("a route")["spec"]["rules"].clone()
    };
    let before = (route("auth"), route("second"));
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    eventually("weight 50", 2 * MINUTE, || Ok(shop.run()?.filter(|run| run["status"]["stepSince"].is_string())))
        .expect("weight 50");
    std::thread::sleep(Duration::from_secs(1));
    let from = now();
    std::thread::sleep(Duration::from_secs(4));
    for (name, load) in [("auth", &mut load), ("second", &mut by_second)] {
        let seen = figures(load, from, "canary");
        let share = seen.canary as f64 / seen.requests as f64;
        println!("      {name}: {share:.2} by the canary");
        assert!((0.35..0.65).contains(&share), "{name}: {seen:?}");
    }
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    assert_eq!((route("auth"), route("second")), before, "both routes are as they were");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_eq!(figures(&mut by_second, began, "canary").failed, 0);
    assert_tidy(&shop);
}
