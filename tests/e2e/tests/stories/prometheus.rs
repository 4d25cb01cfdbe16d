//! Counts from a real Prometheus: verdicts by it, and what is done while it is away. It scrapes each 5 s.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{SERIN, eventually, get, helm, kubectl},
    exposure::now,
    shop::{Shop, repository},
    traffic::Load,
};

use super::{assert_tidy, figures, gateway, held, node, serin};

const MINUTE: Duration = Duration::from_secs(60);

/// Where it is, for tests and for pods.
fn address() -> String {
    std::env::var("PROMETHEUS_URL").expect("PROMETHEUS_URL: run these by tests/run")
}

/// A shop whose pods Prometheus scrapes and whose Rollout asks it, with load through the gateway.
fn open(name: &str, steps: &Value, source: &Value) -> (Shop, Load) {
    serin();
    let shop = Shop::open(name).expect("a shop");
    let annotated =
        json!({"spec": {"template": {"metadata": {"annotations": {"prometheus.io/scrape": "true"}}}}}).to_string();
    shop.kubectl(&["patch", "deployment", "auth", "--type=merge", "-p", &annotated]).expect("annotated");
    shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=90s"]).expect("the pods");
    shop.rollout(steps, |rollout| {
        let telemetry = &mut rollout["spec"]["telemetry"];
        telemetry["prometheus"] = source.clone();
        telemetry.as_object_mut().expect("telemetry").remove("scrape");
    })
    .expect("a Rollout");
    shop.idle().expect("Ready");
    let load = Load::start(&gateway(), &shop.host, 200, 600, &[]).expect("load");
    (shop, load)
}

/// The chart's telemetry values for as long as it lives.
pub(crate) struct Telemetry;

impl Telemetry {
    fn set(how: &str, values: &str) -> Result<(), String> {
        let chart = repository().join("charts/serin").display().to_string();
        let args = ["upgrade", "serin", &chart, "-n", SERIN, "--reuse-values", how, values, "--wait"];
        helm(&[&args[..], &["--timeout", "90s"]].concat()).map(drop)
    }
    pub(crate) fn with(values: &str) -> Self {
        serin();
        Self::set("--set", values).expect("helm upgrade");
        Self
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let back = Self::set("--set-json", &format!("telemetry={}", super::telemetry()));
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}

/// Waits until the newest run holds without data, and says so in these words.
fn blind(shop: &Shop, words: &str) -> Value {
    held(shop, None, "NoData", words)
}

/// A query of one's own: the share of errors.
fn query() -> Value {
    let requests = |only: &str| {
        format!("sum(rate(http_requests_total{{namespace=\"{{namespace}}\",pod=~\"{{pods}}\"{only}}}[20s]))")
    };
    let query = format!("({} or vector(0)) / {}", requests(",code=~\"5..\""), requests(""));
    json!({"name": "answers", "query": query, "most": "2%", "window": "10s", "windows": 2})
}

fn name_of(run: &Value) -> String {
    run["metadata"]["name"].as_str().expect("a name").to_owned()
}

#[test]
fn a_release_is_judged_by_the_counts_of_prometheus() {
    let _stage = super::beside();
    let steps = json!([{"weight": 20, "bake": "5s"}, {"weight": 50, "bake": "5s"}]);
    let (shop, mut load) = open("prometheus", &steps, &json!({"address": address(), "interval": "2s"}));
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = shop.run_in("Succeeded", None, 3 * MINUTE).expect("Succeeded");
    println!("      promoted after {:.1} s", now() - began);
    let slo = &run["status"]["slos"][0];
    assert!(slo["canary"]["requests"].as_u64() > Some(100) && slo["stable"]["requests"].as_u64() > Some(100), "{slo}");
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);

    // and a bad one is rolled back
    let (first, began) = (name_of(&run), now());
    shop.idle().expect("Ready");
    shop.release(&["VERSION=bad", "FAULT_ERRORS=20%"]).expect("release");
    let run = shop.run_in("RolledBack", Some(&first), 2 * MINUTE).expect("RolledBack");
    println!("      {}", run["status"]["message"]);
    assert_eq!(run["status"]["reason"], "SloViolated", "{}", run["status"]["message"]);
    let seen = figures(&mut load, began, "bad");
    assert_eq!(seen.lost, 0);
    assert!(seen.seconds.is_some_and(|seconds| seconds < 30.0), "{seen:?}");
    assert_tidy(&shop);
}

#[test]
fn a_slow_tail_is_found_in_the_histograms_of_prometheus() {
    let _stage = super::beside();
    let source = json!({"address": address(), "interval": "2s"});
    let (shop, mut load) = open("promtail", &json!([{"weight": 50, "bake": "3m"}]), &source);
    // given 3 % of the requests at 150 ms, which the SLO's 250 ms do not see
    let began = now();
    shop.release(&["VERSION=v2", "FAULT_LATENCY=150ms", "FAULT_LATENCY_SHARE=3%"]).expect("release");
    let run = shop.run_in("RolledBack", None, 4 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      taken back after {:.1} s: {}", now() - began, run["status"]["decisions"]);
    super::evidence::assert_bad_by_its_tail(&run);
    let seen = figures(&mut load, began, "v2");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

#[test]
fn a_query_of_ones_own_holds_a_step_for_a_good_window_and_refuses_after_bad_ones() {
    let _stage = super::beside();
    let source = json!({"address": address(), "interval": "2s", "queries": [query()]});
    let (shop, mut load) = open("promquery", &json!([{"weight": 50, "bake": "5s"}]), &source);
    // given an SLO on latency only
    let rollout = get(&shop.namespace, "rollouts.serin.dev", "auth").expect("kubectl").expect("a Rollout");
    let slos: Vec<&Value> =
        rollout["spec"]["slos"].as_array().expect("SLOs").iter().filter(|slo| slo["name"] == "latency").collect();
    let patch = json!({"spec": {"slos": slos}}).to_string();
    shop.kubectl(&["patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &patch]).expect("patched");
    shop.idle().expect("Ready");

    // a healthy version is promoted
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = shop.run_in("Succeeded", None, 3 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      {}", run["status"]["queries"]);
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    shop.idle().expect("Ready");

    // and a version that fails is refused by the query alone
    let (first, began) = (name_of(&run), now());
    shop.release(&["VERSION=bad", "FAULT_ERRORS=20%"]).expect("release");
    let run = shop.run_in("RolledBack", Some(&first), 3 * MINUTE).unwrap_or_else(|error| panic!("{error}"));
    println!("      after {:.1} s: {}", now() - began, run["status"]["message"]);
    let message = run["status"]["message"].to_string();
    assert!(message.contains("query answers: the canary was above 2.0 % in 2 windows in a row"), "{message}");
    assert_eq!(run["status"]["queries"][0]["verdict"], "Bad", "{}", run["status"]["queries"]);
    figures(&mut load, began, "bad");

    // afterwards it is told when a policy with an SLO on errors would have taken it back, and that it does so by no chance
    let mut policy = json!({"apiVersion": "serin.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "auth"}});
    policy["spec"] = rollout["spec"].clone();
    let file = std::env::temp_dir().join(format!("serin-backtest-{}.yaml", std::process::id()));
    std::fs::write(&file, policy.to_string()).expect("written");
    let hash = |which: &str| run["spec"][which]["hash"].as_str().expect("a hash").to_owned();
    let (stable, canary) = (hash("from"), hash("to"));
    let past = |canary: &str| {
        let policy = file.display().to_string();
        let versions = ["--from", "4m", "--stable", &stable, "--canary", canary];
        shop.serin(&[&["backtest", &policy, "--prometheus", &address()][..], &versions].concat()).expect("a backtest")
    };
    let told = past(&canary);
    println!("{told}");
    assert!(told.contains("takes the traffic back: SloViolated: SLO errors"), "{told}");
    let told = past(&stable);
    println!("{told}");
    assert!(told.contains("two halves of the pods of version") && !told.contains("takes the traffic back"), "{told}");
    let _ = std::fs::remove_file(&file);
    assert_tidy(&shop);
}

/// Prometheus as the cluster runs it; it runs again when this ends.
struct Daemon;

impl Daemon {
    fn tell(what: &str) {
        let daemon = repository().join("tests/cluster/daemon");
        let done = Command::new(&daemon).args(["prometheus", what]).status().expect("tests/cluster/daemon");
        assert!(done.success() || std::thread::panicking(), "daemon prometheus {what}");
        println!("      daemon prometheus {what}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            Self::tell("restart");
        }
    }
}

#[test]
fn while_prometheus_is_not_to_be_asked_or_away_the_run_is_held_and_goes_on_when_it_answers() {
    let _stage = super::alone();
    let steps = json!([{"weight": 20, "bake": "10s"}, {"weight": 50, "bake": "5s"}]);
    let source = json!({"address": address(), "interval": "2s", "queries": [query()]});
    let (shop, mut load) = open("prometheusaway", &steps, &source);
    // an address that the operator does not allow is not asked, nor is a query of one's own
    let telemetry = Telemetry::with("telemetry.hosts={elsewhere.example.com},telemetry.queries=false");
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = blind(&shop, "among those that the operator's configuration allows (telemetry.hosts of the chart)");
    assert_eq!((&run["status"]["phase"], &run["status"]["step"]), (&json!("Shifting"), &json!(1)));
    let other = Telemetry::with(&format!("telemetry.hosts={{{}}}", node()));
    blind(&shop, "lets Rollouts ask nothing in PromQL of their own (telemetry.queries of the chart)");
    // allowed, the same run goes on
    drop((telemetry, other));
    eventually("verdicts at weight 20", MINUTE, || {
        let run = shop.run()?.unwrap_or_default();
        let judged = run["status"]["slos"][0]["canary"]["requests"].as_u64() > Some(0);
        Ok((run["status"]["weight"]["set"] == 20 && judged).then_some(()))
    })
    .expect("verdicts");
    let daemon = Daemon;
    // it hangs
    Daemon::tell("pause");
    blind(&shop, "expected an answer within 5s, found none");
    // it is gone, for longer than a silent canary would be given
    Daemon::tell("kill");
    blind(&shop, "could not connect: ");
    std::thread::sleep(Duration::from_secs(20));
    let run = blind(&shop, "could not connect: ");
    assert_eq!((&run["status"]["phase"], &run["status"]["weight"]["set"]), (&json!("Shifting"), &json!(20)));
    assert_eq!(run["status"]["step"], 1, "it does not go on without counts");
    Daemon::tell("start");
    drop(daemon);
    let back = now();
    shop.run_in("Succeeded", None, 3 * MINUTE).expect("Succeeded");
    println!("      promoted {:.1} s after it was back", now() - back);
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.failed, seen.lost), (0, 0));
    assert_tidy(&shop);
}

#[test]
fn a_secret_can_be_named_by_those_only_who_may_read_it() {
    let _stage = super::alone();
    serin();
    let steps = json!([{"weight": 20, "bake": "1s"}]);
    let source = json!({"address": address().replace("http:", "https:")});
    let (shop, _load) = open("prometheussecret", &steps, &source);
    shop.kubectl(&["create", "secret", "generic", "prometheus", "--from-literal=ca.crt=no PEM"]).expect("a Secret");
    shop.kubectl(&["create", "serviceaccount", "author"]).expect("an account");
    let may = |name: &str, what: &[&str]| {
        let account = format!("--serviceaccount={}:author", shop.namespace);
        shop.kubectl(&[&["create", "role", name], what].concat()).expect("a role");
        shop.kubectl(&["create", "rolebinding", name, &format!("--role={name}"), &account]).expect("bound");
    };
    may("author", &["--verb=get,patch,update", "--resource=rollouts.serin.dev"]);
    let account = format!("system:serviceaccount:{}:author", shop.namespace);
    let patched = |prometheus: Value| {
        let patch = json!({"spec": {"telemetry": {"prometheus": prometheus}}}).to_string();
        let change = ["patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &patch, "--as", &account];
        kubectl(&[&["-n", &shop.namespace][..], &change].concat())
    };
    let named = || patched(json!({"tls": {"ca": {"name": "prometheus", "key": "ca.crt"}}}));
    let elsewhere = |to: u32| patched(json!({"address": format!("https://elsewhere-{to}.prometheussecret.svc")}));

    // as it is installed nobody names one
    let refusal = eventually("the author's rights", Duration::from_secs(20), || {
        let refusal = named().expect_err("refused");
        Ok((!refusal.contains("cannot patch resource")).then_some(refusal))
    })
    .expect("refused");
    println!("      {refusal}");
    assert!(refusal.contains("Serin may read none: leave it out, or ask for telemetry.secrets"), "{refusal}");

    // then it takes the right to read it
    let _telemetry = Telemetry::with("telemetry.secrets=true");
    let refusal = eventually("the changed policy", Duration::from_secs(20), || {
        let refusal = named().expect_err("refused");
        Ok(refusal.contains("you may not read all of the Secrets prometheus of namespace").then_some(refusal))
    })
    .expect("refused");
    println!("      {refusal}");
    // of JSON, too
    let json = json!({"spec": {"telemetry": {"prometheus": null, "http": {
        "url": "https://elsewhere.prometheussecret.svc", "requests": "/{arm}", "errors": "/{arm}/errors", "slow": "/{arm}/slow",
        "bearerToken": {"name": "prometheus", "key": "ca.crt"}}}}});
    let change = ["patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &json.to_string(), "--as", &account];
    let refusal = kubectl(&[&["-n", &shop.namespace][..], &change].concat()).expect_err("refused");
    assert!(refusal.contains("you may not read all of the Secrets prometheus of namespace"), "{refusal}");
    may("reader", &["--verb=get", "--resource=secrets", "--resource-name=prometheus"]);
    eventually("the right to be known", Duration::from_secs(20), || named().map(Some)).expect("allowed");
    // without it the way of the Secret can't be changed either, but what does not concern it
    shop.kubectl(&["delete", "rolebinding", "reader"]).expect("taken back");
    let mut tries = 0;
    let refusal = eventually("the right to be gone", Duration::from_secs(20), || {
        tries += 1;
        Ok(elsewhere(tries).err())
    });
    assert!(refusal.expect("refused").contains("you may not read all of the Secrets"));
    let other = json!({"spec": {"historyLimit": 5}}).to_string();
    let change = ["patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &other, "--as", &account];
    kubectl(&[&["-n", &shop.namespace][..], &change].concat()).expect("allowed");

    // Serin reads it, for it says what is wrong with it
    let address = json!({"spec": {"telemetry": {"prometheus": {"address": address().replace("http:", "https:")}}}});
    shop.kubectl(&["patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &address.to_string()])
        .expect("patched");
    shop.release(&["VERSION=canary"]).expect("release");
    blind(&shop, "telemetry.prometheus.tls.ca: expected CA certificates as PEM");
    shop.serin(&["abort", "auth"]).expect("abort");
    shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    assert_tidy(&shop);
}
