//! What people read when their input is wrong: refused by the API server, or said by condition and event until mended.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{eventually, get, kubectl, list},
    shop::{Shop, repository},
    traffic::Load,
};

use super::{assert_tidy, gateway, held, open_shop, serin, short_steps};

const MINUTE: Duration = Duration::from_secs(60);

/// What to replace in a manifest, and by what.
type Changes = &'static [(&'static str, &'static str)];

/// A manifest of the example, with changes: what to replace, and by what.
fn example(manifest: &str, changes: &[(&str, &str)]) -> String {
    let file = repository().join(format!("examples/auth/manifests/{manifest}.yaml"));
    let mut text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    for (from, to) in changes {
        assert!(text.contains(from), "{manifest}.yaml has no {from}");
        text = text.replace(from, to);
    }
    text
}

/// A namespace with nothing in it.
pub struct Bare(pub &'static str);

impl Bare {
    pub fn open(name: &'static str) -> Self {
        let _ = kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=60s"]);
        kubectl(&["create", "namespace", name]).expect("a namespace");
        Self(name)
    }
    pub fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        kubectl(&[&["-n", self.0], args].concat())
    }
    pub fn apply(&self, text: &str) -> Result<String, String> {
        serin_e2e::cluster::kubectl_with(&["-n", self.0, "apply", "-f", "-"], text)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.kubectl(&["delete", "rollouts.serin.dev", "--all", "--timeout=60s"]);
        let _ = kubectl(&["delete", "namespace", self.0, "--wait=false"]);
    }
}

/// What each mistake is answered with.
const REFUSED: &[(Changes, &[&str])] = &[
    (&[("weight: 25", "weight: 3")], &["spec.steps", "weights must not go down from step to step"]),
    (&[("weight: 50", "weight: 101")], &["spec.steps[2].weight", "less than or equal to 100"]),
    (
        &[
            ("  - {weight: 5, bake: 1m}\n", ""),
            ("  - {weight: 25, bake: 2m}\n", ""),
            ("  - {weight: 50, bake: 2m}\n", ""),
            ("steps:", "steps: []"),
        ],
        &["spec.steps", "at least one step must set a weight"],
    ),
    (&[("confidence:", "confidense:")], &["unknown field \"spec.confidense\""]),
    (&[("bake: 1m", "bake: 1m, wait: 1m")], &["unknown field \"spec.steps[0].wait\""]),
    (
        &[("errors: {objective: \"99%\"", "errors: {objective: \"99\"")],
        &["spec.slos[0].errors.objective", "a percent with its sign, such as 99.5%"],
    ),
    (&[("bake: 1m", "bake: 1 minute")], &["spec.steps[0].bake", "a duration such as 250ms, 10s, 1m30s, 2h or 1d"]),
    (
        &[("errors: {objective: \"99%\"", "errors: {objective: \"100%\"")],
        &["spec.slos[0].errors.objective", "at least 50% and below 100%"],
    ),
    (
        &[("latency: {threshold: 250ms, objective: \"99%\"", "latency: {threshold: 250ms, objective: \"0.99%\"")],
        &["spec.slos[1].latency.objective", "at least 50% and below 100%"],
    ),
    (&[("- name: latency", "- name: errors")], &["spec.slos", "each SLO needs a name of its own"]),
    (&[("confidence: \"99%\"", "confidence: \"100%\"")], &["spec.confidence", "below 100%", "endless data"]),
    (
        &[("code: \"5..\"", "code: \"5(\"")],
        &["spec.telemetry.requests.errors[code]", "missing closing )", "must be a regular expression"],
    ),
    (
        &[("  routes:\n  - {kind: HTTPRoute, name: auth}\n", ""), ("weight: 50", "weight: 60")],
        &["without routes", "at most 50", "name a route"],
    ),
    (
        &[
            ("counter: http_requests_total", ""),
            ("requests:", ""),
            ("errors: {code: \"5..\"}", ""),
            ("only: {route: \"/login|/session\"}", ""),
        ],
        &["an SLO on errors needs telemetry.requests"],
    ),
    (
        &[("weight: 25,", "weight: 25, approval: {},")],
        &["spec.steps[1]", "a step sets a weight or asks for approval", "exactly one of them"],
    ),
    (
        &[("    scrape: {port: http, path: /metrics, interval: 1s}\n", "")],
        &["spec.telemetry", "counts come from one place: give exactly one of scrape, prometheus, http and router"],
    ),
    (
        &[("interval: 1s}", "interval: 1s}\n    prometheus: {address: \"http://prometheus.shop.svc\"}")],
        &["spec.telemetry", "counts come from one place: give exactly one of scrape, prometheus, http and router"],
    ),
    (
        &[("scrape: {port: http, path: /metrics, interval: 1s}", "router: {}"), ("kind: HTTPRoute", "kind: GRPCRoute")],
        &["telemetry.router counts what HTTPRoutes send", "no GRPCRoute"],
    ),
    (
        &[("scrape: {port: http, path: /metrics, interval: 1s}", "router: {interval: 100ms}")],
        &["spec.telemetry.router.interval", "must be between 1s and 1m"],
    ),
    (
        &[("scrape: {port: http, path: /metrics, interval: 1s}", "prometheus: {address: prometheus}")],
        &["spec.telemetry.prometheus.address", "must be http:// or https:// and a host"],
    ),
    (
        &[(
            "scrape: {port: http, path: /metrics, interval: 1s}",
            "prometheus: {address: \"http://p\", interval: 500ms}",
        )],
        &["spec.telemetry.prometheus.interval", "must be between 1s and 1m"],
    ),
    (
        &[("scrape: {port: http, path: /metrics, interval: 1s}", "prometheus: {address: \"http://p\", podLabel: a-b}")],
        &["spec.telemetry.prometheus.podLabel", "must be the name of a label"],
    ),
    (
        &[(
            "scrape: {port: http, path: /metrics, interval: 1s}",
            "prometheus: {address: \"http://p\", bearerToken: {name: a, key: b}}",
        )],
        &["spec.telemetry.prometheus", "tls, bearerToken and basicAuth need an address with https://"],
    ),
    (
        &[(
            "scrape: {port: http, path: /metrics, interval: 1s}",
            "prometheus: {address: \"http://p\", queries: [{name: a, query: \"sum(bad) / sum(all)\", most: 2%}]}",
        )],
        &[
            "spec.telemetry.prometheus.queries[0].query",
            "must tell the versions apart: name {hash}, {pods} or {service} in it",
        ],
    ),
    (
        &[(
            "scrape: {port: http, path: /metrics, interval: 1s}",
            "http: {url: \"http://p\", requests: \"/{arm}\", errors: \"/{arm}\", slow: \"/{arm}\", bearerToken: {name: a, key: b}}",
        )],
        &["spec.telemetry.http", "tls, bearerToken and basicAuth need a url with https://"],
    ),
    (
        &[("workloadRef: {kind: Deployment", "workloadRef: {kind: StatefulSet")],
        &["spec.workloadRef.kind", "only Deployment is supported"],
    ),
];

#[test]
fn a_wrong_policy_is_refused_with_the_field_and_what_it_should_be() {
    let _stage = super::beside();
    serin();
    let bare = Bare::open("refused");
    for (changes, says) in REFUSED {
        let refusal = bare.apply(&example("rollout", changes)).expect_err(&format!("{changes:?} is refused"));
        println!("      {}", refusal.replace('\n', " "));
        for said in *says {
            assert!(refusal.contains(said), "{changes:?}: expected {said:?} in: {refusal}");
        }
    }
    // the example itself is right, and names its workload and Service for good
    bare.apply(&example("rollout", &[])).expect("the example is valid");
    for change in [
        ("workloadRef: {kind: Deployment, name: auth}", "workloadRef: {kind: Deployment, name: web}"),
        ("service: auth", "service: web"),
    ] {
        let refusal = bare.apply(&example("rollout", &[change])).expect_err("the workload stays");
        assert!(
            refusal.contains("workloadRef and service can't be changed: delete this Rollout and make another"),
            "{refusal}"
        );
    }
    let explained = kubectl(&["explain", "rollout.spec.slos"]).expect("explain");
    for said in [
        "What a new version is judged by",
        "errors\t<Object>",
        "Share of requests that succeed",
        "latency\t<Object>",
        "name\t<string> -required-",
    ] {
        assert!(explained.contains(said), "expected {said:?} in: {explained}");
    }
    let explained = kubectl(&["explain", "rollout.spec.slos.errors.objective"]).expect("explain");
    assert!(explained.contains("At least this share of requests is no error"), "{explained}");
}

fn condition(namespace: &str, rollout: &str, kind: &str) -> Result<Option<Value>, String> {
    let rollout = get(namespace, "rollouts.serin.dev", rollout)?;
    let conditions = rollout.as_ref().and_then(|rollout| rollout["status"]["conditions"].as_array());
    Ok(conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind)).cloned())
}

/// The Rollout stalls for this reason, says so in these words, and tells it by an event.
fn stalls(namespace: &str, rollout: &str, reason: &str, says: &[&str]) {
    let stalled = eventually(&format!("Stalled for {reason}"), Duration::from_secs(20), || {
        let is = condition(namespace, rollout, "Stalled")?;
        match is {
            Some(is) if is["status"] == "True" && is["reason"] == reason => Ok(Some(is)),
            other => Err(format!("found {}", other.unwrap_or_default())),
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let message = stalled["message"].as_str().unwrap_or_default();
    println!("      {reason}: {message}");
    for said in says {
        assert!(message.contains(said), "{reason}: expected {said:?} in: {message}");
    }
    let ready = condition(namespace, rollout, "Ready").expect("kubectl").expect("Ready");
    assert_eq!(ready["status"], "False", "{reason}: Ready");
    eventually("a Warning event", Duration::from_secs(10), || {
        let described = kubectl(&["-n", namespace, "describe", "rollouts.serin.dev", rollout])?;
        let told = described.lines().find(|line| {
            line.trim_start().starts_with("Warning")
                && line.contains(reason)
                && says.iter().all(|said| line.contains(said))
        });
        Ok(told.map(drop))
    })
    .unwrap_or_else(|error| panic!("{reason}: {error}"));
}

/// Once mended it is Ready by itself.
fn mended(namespace: &str, rollout: &str, reason: &str) {
    let ready =
        ["-n", namespace, "wait", &format!("rollouts.serin.dev/{rollout}"), "--for=condition=Ready", "--timeout=20s"];
    kubectl(&ready).unwrap_or_else(|error| panic!("after {reason} was mended: {error}"));
}

#[test]
fn what_is_missing_is_named_one_after_another_until_it_is_ready() {
    let _stage = super::beside();
    serin();
    let bare = Bare::open("missing");
    bare.apply(&example("rollout", &[])).expect("a Rollout");
    stalls(bare.0, "auth", "WorkloadMissing", &["expected Deployment auth", "create it", "spec.workloadRef.name"]);
    bare.apply(&example("deployment", &[("replicas: 4", "replicas: 1")])).expect("a Deployment");
    stalls(bare.0, "auth", "ServiceMissing", &["expected Service auth", "create it", "spec.service"]);
    bare.apply(&example("service", &[])).expect("a Service");
    stalls(bare.0, "auth", "RouteMissing", &["expected HTTPRoute auth", "create it", "spec.routes"]);
    bare.apply(&example("httproute", &[("auth.example.com", "missing.example.com")])).expect("a route");
    mended(bare.0, "auth", "RouteMissing");

    // the line that people look at
    let table = bare.kubectl(&["get", "rollouts"]).expect("get");
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["NAME", "PHASE", "STEP", "WEIGHT", "SEEN", "MESSAGE", "AGE"]);
    assert!(table.contains("Idle") && table.contains("serin.local/auth:v1 serves"), "{table}");

    // a second one for the same Deployment waits for the first to go
    bare.apply(&example("rollout", &[("metadata:\n  name: auth", "metadata:\n  name: second")]))
        .expect("another Rollout");
    stalls(
        bare.0,
        "second",
        "WorkloadTaken",
        &["Deployment auth is governed by Rollout auth", "delete one of the two"],
    );
    mended(bare.0, "auth", "nothing");
    bare.kubectl(&["delete", "rollouts.serin.dev", "auth", "--timeout=30s"]).expect("deleted");
    mended(bare.0, "second", "WorkloadTaken");
    let deployment = get(bare.0, "deployment", "auth").expect("kubectl").expect("a Deployment");
    assert_eq!(deployment["metadata"]["labels"]["serin.dev/rollout"], "second");
}

/// A Service like the example's, changed; the old one is deleted first, for some fields can't be changed.
fn service(shop: &Shop, changes: &[(&str, &str)]) {
    shop.kubectl(&["delete", "service", "auth", "--ignore-not-found"]).expect("deleted");
    shop.apply(&example("service", changes)).expect("a Service");
}

#[test]
fn what_does_not_fit_is_named_and_nothing_moves_until_it_is_mended() {
    let _stage = super::beside();
    serin();
    let shop = Shop::open("misfit").expect("a shop");
    shop.rollout(&short_steps(), |_| {}).expect("a Rollout");
    shop.idle().expect("Ready");
    let patch = |kind: &str, patch: Value| {
        shop.kubectl(&["patch", kind, "auth", "--type=merge", "-p", &patch.to_string()]).expect("patched");
    };

    patch("service", json!({"spec": {"selector": {"app": "other"}}}));
    stalls(
        "misfit",
        "auth",
        "ServiceDoesNotSelectPods",
        &["Service auth selects app=other", "have app=auth", "correct one of the two"],
    );
    patch("service", json!({"spec": {"selector": {"app": "auth"}}}));
    mended("misfit", "auth", "ServiceDoesNotSelectPods");

    service(&shop, &[("selector: {app: auth}", "selector: {app: auth}\n  clusterIP: None")]);
    stalls("misfit", "auth", "ServiceHeadless", &["Service auth is headless", "use a Service with a cluster IP"]);
    service(&shop, &[]);
    mended("misfit", "auth", "ServiceHeadless");

    let backend = |name: &str| json!({"spec": {"rules": [{"backendRefs": [{"name": name, "port": 80}]}]}});
    patch("httproute", backend("elsewhere"));
    stalls(
        "misfit",
        "auth",
        "RouteDoesNotNameService",
        &["HTTPRoute auth", "no rule whose backendRefs name Service auth"],
    );
    patch("httproute", backend("auth"));
    mended("misfit", "auth", "RouteDoesNotNameService");

    patch("deployment", json!({"spec": {"revisionHistoryLimit": 0}}));
    stalls("misfit", "auth", "NoRevisionHistory", &["revisionHistoryLimit 0", "set it to 1 or more"]);
    patch("deployment", json!({"spec": {"revisionHistoryLimit": 3}}));
    mended("misfit", "auth", "NoRevisionHistory");

    // a release does not begin over such a trouble, and begins by itself once it is mended
    let port = |name: &str| json!({"spec": {"telemetry": {"scrape": {"port": name}}}});
    let mut load = Load::start(&gateway(), &shop.host, 50, 120, &[]).expect("load");
    patch("rollouts.serin.dev", port("metrics"));
    stalls(
        "misfit",
        "auth",
        "MetricsPortMissing",
        &["no container port of Deployment auth is called metrics", "found: http", "spec.telemetry.scrape.port"],
    );
    let before = shop.active_sets().expect("kubectl");
    shop.release(&["VERSION=canary"]).expect("release");
    std::thread::sleep(Duration::from_secs(4));
    stalls("misfit", "auth", "MetricsPortMissing", &["found: http"]);
    assert_eq!(shop.active_sets().expect("kubectl"), before, "the serving pods stay");
    assert_eq!(list("misfit", "rolloutruns.serin.dev").expect("kubectl").len(), 0);
    assert_tidy(&shop);
    patch("rollouts.serin.dev", port("http"));
    eventually("a run", Duration::from_secs(20), || shop.run()).expect("a run");
    shop.serin(&["undo", "auth"]).expect("undo");
    shop.run_in("Cancelled", None, MINUTE).expect("Cancelled");
    mended("misfit", "auth", "MetricsPortMissing");
    assert_tidy(&shop);
    let failed = load.read().expect("records").iter().filter(|record| record.failed()).count();
    assert_eq!(failed, 0, "traffic stays where it is");
}

/// Serin watches Rollouts twice, and either watch may tell of a change first; what the other one still has must not stand.
#[test]
fn every_change_of_a_rollout_is_taken_up_whichever_watch_tells_of_it_first() {
    let _stage = super::beside();
    serin();
    let bare = Bare::open("changed");
    let many = |limit: usize| -> String {
        let one = |number: usize| {
            let name = format!("metadata:\n  name: auth-{number}");
            let limit = format!("historyLimit: {limit}\n  steps:");
            example("rollout", &[("metadata:\n  name: auth", &name), ("steps:", &limit)])
        };
        (0..20).map(one).collect::<Vec<_>>().join("\n---\n")
    };
    for change in 1..=12 {
        bare.apply(&many(change)).expect("20 Rollouts");
        let seen = || {
            let behind = list(bare.0, "rollouts.serin.dev")?.into_iter().filter(|rollout| {
                rollout["status"]["observedGeneration"] != rollout["metadata"]["generation"]
                    || rollout["status"]["conditions"][0]["observedGeneration"] != rollout["metadata"]["generation"]
            });
            let behind: Vec<_> = behind.map(|rollout| rollout["metadata"]["name"].clone()).collect();
            if behind.is_empty() { Ok(Some(())) } else { Err(format!("not taken up: {behind:?}")) }
        };
        eventually(&format!("change {change} taken up"), Duration::from_secs(15), seen)
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_metric_that_does_not_exist_holds_the_run_and_is_named() {
    let _stage = super::beside();
    serin();
    let shop = Shop::open("nodata").expect("a shop");
    let counter =
        |rollout: &mut Value| rollout["spec"]["telemetry"]["requests"]["counter"] = json!("http_request_count");
    shop.rollout(&json!([{"weight": 20, "bake": "1s"}, {"weight": 50}]), counter).expect("a Rollout");
    shop.idle().expect("Ready");
    let mut load = Load::start(&gateway(), &shop.host, 100, 300, &[]).expect("load");
    shop.release(&["VERSION=canary"]).expect("release");
    held(&shop, None, "NoData", "");
    std::thread::sleep(Duration::from_secs(15));
    let run = shop.run().expect("kubectl").expect("a run");
    let status = &run["status"];
    let message = status["waiting"]["message"].as_str().unwrap_or_default();
    assert_eq!(status["waiting"]["reason"], "NoData", "{message}");
    assert!(message.contains("http_request_count"), "names the metric: {message}");
    assert_eq!(
        (&status["phase"], &status["step"], &status["weight"]["set"]),
        (&json!("Shifting"), &json!(1), &json!(20))
    );
    let view =
        shop.kubectl(&["get", "rollouts.serin.dev", "auth", "-o", "jsonpath={.status.message}"]).expect("kubectl");
    assert!(view.contains("http_request_count"), "the Rollout names it, too: {view}");

    // an edit of the policy changes no run under way, and a run's own copy can't be edited
    let name = run["metadata"]["name"].as_str().unwrap_or_default();
    let edit = json!({"spec": {"policy": {"confidence": "90%"}}}).to_string();
    let refusal =
        shop.kubectl(&["patch", "rolloutruns.serin.dev", name, "--type=merge", "-p", &edit]).expect_err("refused");
    assert!(refusal.contains("a run keeps its versions and the policy it started by"), "{refusal}");
    assert!(refusal.contains("only paused, abort, approved, promote and retry are for people"), "{refusal}");
    shop.rollout(&short_steps(), |_| {}).expect("the policy mended");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(shop.run().expect("kubectl").expect("a run")["status"]["waiting"]["reason"], "NoData");

    shop.serin(&["abort", "auth"]).expect("abort");
    let run = shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    assert_eq!(run["status"]["reason"], "Aborted");
    assert_tidy(&shop);
    let failed = load.read().expect("records").iter().filter(|record| record.failed()).count();
    assert_eq!(failed, 0);
}

/// Kinds of broken metrics pages (examples/auth), and what is read about each.
const PAGES: &[(&str, &[&str])] = &[
    ("cut", &["line ", "and then nothing: the text was cut"]),
    ("huge", &["expected at most 10485760 bytes of metrics", "have the pod expose fewer series"]),
    ("endless", &["expected the whole text within 800ms", "no end; have the path answer faster"]),
    ("binary", &["line 1: expected UTF-8 text, found byte 0x00", "is this the port and path of the metrics?"]),
    ("nan", &["line ", "expected a whole number of requests, 0 or more, found NaN in `http_requests_total{"]),
    ("negative", &["line ", "found the negative -", "name a counter of requests"]),
];

#[test]
fn a_pod_whose_metrics_page_is_broken_holds_the_run_until_it_is_right_again() {
    let _stage = super::beside();
    let (shop, mut load) = open_shop("page", &json!([{"weight": 50, "bake": "10s"}]), |_| {});
    shop.release(&["VERSION=canary"]).expect("release");
    eventually("weight 50", MINUTE, || Ok(shop.run()?.filter(|run| run["status"]["weight"]["set"] == 50)))
        .expect("weight");

    // whatever is wrong with the page, it is said, and nothing moves
    for (page, says) in PAGES {
        shop.faults(&json!({"metrics": page})).expect("faults");
        let held = eventually(&format!("a hold for a page that is {page}"), MINUTE, || {
            let run = shop.run()?.unwrap_or_default();
            let waiting = &run["status"]["waiting"];
            let message = waiting["message"].as_str().unwrap_or_default();
            match waiting["reason"] == "NoData" && says.iter().all(|said| message.contains(said)) {
                true => Ok(Some(run)),
                false => Err(format!("found {message}")),
            }
        });
        let held = held.unwrap_or_else(|error| panic!("{error}"));
        println!("      {page}: {}", held["status"]["waiting"]["message"].as_str().unwrap_or_default());
        assert_eq!(
            (&held["status"]["phase"], &held["status"]["weight"]["set"]),
            (&json!("Shifting"), &json!(50)),
            "{page}"
        );
    }

    // right again, it goes on by itself
    shop.faults(&json!({"metrics": "right"})).expect("faults");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    assert_tidy(&shop);
    let failed = load.read().expect("records").iter().filter(|record| record.failed()).count();
    assert_eq!(failed, 0, "traffic stays where it is");

    // and labels that a careless parser takes for the number hide no error
    shop.release(&["VERSION=worse", "FAULT_METRICS=misread", "FAULT_ERRORS=50%"]).expect("release");
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    assert_eq!(run["status"]["reason"], "SloViolated", "{}", run["status"]["message"]);
    assert_tidy(&shop);
}
