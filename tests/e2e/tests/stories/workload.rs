//! Every way of deploying becomes a held release: by the latch policy, and by its fallback.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{SERIN, eventually, get, helm, kubectl_with, list},
    exposure::now,
    shop::{Shop, repository},
    traffic::Load,
};

use super::{assert_tidy, figures, gateway, rollout_status, serin};

const MINUTE: Duration = Duration::from_secs(60);

/// A shop with one short step and an objective that few requests are enough for.
fn open(name: &str) -> (Shop, Load) {
    serin();
    let shop = Shop::open(name).expect("a shop");
    shop.rollout(&json!([{"weight": 50, "bake": "0s"}]), quick).expect("a Rollout");
    shop.idle().expect("Ready");
    let load = Load::start(&gateway(), &shop.host, 100, 600, &[]).expect("load");
    (shop, load)
}

/// Little is asked of the evidence, and no time to warm up.
fn quick(rollout: &mut Value) {
    rollout["spec"]["limits"]["warmup"] = json!("0s");
    rollout["spec"]["slos"] = json!([{"name": "errors", "errors": {"objective": "95%"}}]);
}

fn deployment(shop: &Shop) -> Value {
    get(&shop.namespace, "deployment", "auth").expect("kubectl").expect("a Deployment")
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// The newest run's name; empty if there is none.
fn newest(shop: &Shop) -> String {
    shop.run().expect("kubectl").map(|run| name_of(&run)).unwrap_or_default()
}

/// ReplicaSets, and of which kind their owner is.
fn sets(shop: &Shop) -> Vec<(String, String)> {
    let sets = list(&shop.namespace, "replicasets").expect("kubectl");
    let mut all: Vec<_> = sets
        .iter()
        .map(|set| {
            (name_of(set), set["metadata"]["ownerReferences"][0]["kind"].as_str().unwrap_or_default().to_owned())
        })
        .collect();
    all.sort();
    all
}

/// The one ReplicaSet that serves.
fn serving(shop: &Shop) -> String {
    let sets = eventually("one ReplicaSet that serves", MINUTE, || {
        Ok(Some(shop.active_sets()?).filter(|sets| sets.len() == 1))
    });
    sets.expect("one ReplicaSet").remove(0)
}

/// Deploys in this way: a run starts with the Deployment held from the first moment, and is promoted without a loss.
fn promoted(shop: &Shop, load: &mut Load, way: &str, deploy: impl FnOnce(&Shop)) -> Value {
    assert_ne!(deployment(shop)["spec"]["paused"], true, "between runs it is an ordinary Deployment");
    let (before, began) = (newest(shop), now());
    deploy(shop);
    assert_eq!(deployment(shop)["spec"]["paused"], true, "{way}: paused in the very request that changed the template");
    let run = shop.run_in("Succeeded", Some(&before), 2 * MINUTE).unwrap_or_else(|error| panic!("{way}: {error}"));
    shop.idle().expect("Ready");
    println!("    {way}: promoted after {:.1} s", now() - began);
    let seen = figures(load, began, "-");
    assert_eq!((seen.failed, seen.lost), (0, 0), "{way}: no request is lost");
    assert_eq!(rollout_status(shop), Some(0), "{way}: kubectl rollout status ends well");
    assert_ne!(deployment(shop)["spec"]["paused"], true, "{way}: unpaused again");
    assert_tidy(shop);
    run
}

/// The example's Deployment in this version.
fn manifest(version: &str) -> String {
    let file = repository().join("examples/auth/manifests/deployment.yaml");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let environment = format!("        env:\n        - {{name: VERSION, value: {version}}}\n");
    text.replace("        env:\n", &environment)
}

#[test]
fn whoever_deploys_and_however_it_is_a_held_run() {
    let _stage = super::beside();
    let (shop, mut load) = open("ways");
    let shop = &shop;
    let load = &mut load;

    promoted(shop, load, "kubectl set image", |shop| {
        shop.kubectl(&["set", "image", "deployment/auth", "auth=serin.local/auth:v2"]).expect("set image");
    });
    let second = serving(shop);

    promoted(shop, load, "kubectl rollout restart", |shop| {
        shop.kubectl(&["rollout", "restart", "deployment/auth"]).expect("restart");
    });
    assert_ne!(serving(shop), second);

    // undo: the ReplicaSet that was kept is borrowed, and the Deployment's own again afterwards
    let kept = sets(shop);
    promoted(shop, load, "kubectl rollout undo", |shop| {
        shop.kubectl(&["rollout", "undo", "deployment/auth"]).expect("undo");
    });
    assert_eq!(serving(shop), second, "the same ReplicaSet serves again");
    assert_eq!(sets(shop), kept, "no further ReplicaSet, and all are the Deployment's");
    assert!(kept.iter().all(|(_, owner)| owner == "Deployment"), "{kept:?}");

    promoted(shop, load, "kubectl apply", |shop| {
        shop.apply(&manifest("applied")).expect("apply");
    });

    // server-side, by another field manager
    let server_side = |shop: &Shop| {
        let args =
            ["-n", &shop.namespace, "apply", "--server-side", "--force-conflicts", "--field-manager=ci", "-f", "-"];
        kubectl_with(&args, &manifest("server-side")).expect("apply --server-side");
    };
    promoted(shop, load, "kubectl apply --server-side", |shop| {
        server_side(shop);
        let held = eventually("a run that holds the Deployment", MINUTE, || {
            Ok(Some(deployment(shop)).filter(|held| held["metadata"]["labels"]["serin.dev/run"].is_string()))
        });
        let held = held.expect("a run");
        server_side(shop);
        let after = deployment(shop);
        assert_eq!(after["spec"], held["spec"], "applied again in mid-run it stays as it is");
        assert_eq!(after["metadata"]["labels"], held["metadata"]["labels"]);
    });
    let (before, run) = (deployment(shop), newest(shop));
    server_side(shop);
    std::thread::sleep(Duration::from_secs(3));
    let after = deployment(shop);
    assert_eq!(after["spec"], before["spec"], "applied again between runs it stays as it is");
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    assert_eq!(newest(shop), run, "and no run starts");
}

/// A chart that holds the Deployment, in a folder of its own.
struct Chart(std::path::PathBuf);

impl Chart {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("serin-chart-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("templates")).expect("a folder");
        fs::write(folder.join("Chart.yaml"), "apiVersion: v2\nname: auth\nversion: 0.1.0\n").expect("Chart.yaml");
        fs::write(folder.join("values.yaml"), "version: first\n").expect("values.yaml");
        fs::write(folder.join("templates/deployment.yaml"), manifest("{{ .Values.version }}")).expect("a template");
        Self(folder)
    }
    fn upgrade(&self, shop: &Shop, version: &str) {
        let (folder, value) = (self.0.display().to_string(), format!("version={version}"));
        helm(&["upgrade", "--install", "auth", &folder, "--namespace", &shop.namespace, "--set", &value])
            .expect("helm upgrade");
    }
}

impl Drop for Chart {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn helm_upgrade_is_a_held_run() {
    let _stage = super::beside();
    serin();
    let shop = Shop::open("helmed").expect("a shop");
    let chart = Chart::new("helmed");
    shop.kubectl(&["delete", "deployment", "auth", "--timeout=60s"]).expect("delete");
    chart.upgrade(&shop, "first");
    shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=60s"]).expect("a Deployment");
    shop.rollout(&json!([{"weight": 50, "bake": "0s"}]), quick).expect("a Rollout");
    shop.idle().expect("Ready");
    let mut load = Load::start(&gateway(), &shop.host, 100, 600, &[]).expect("load");
    promoted(&shop, &mut load, "helm upgrade", |_| chart.upgrade(&shop, "second"));
    promoted(&shop, &mut load, "helm upgrade once more", |_| chart.upgrade(&shop, "third"));
}

#[test]
fn a_deployment_scaled_in_mid_run_is_promoted_at_its_new_size() {
    let _stage = super::beside();
    let (shop, mut load) = open("scaled");
    shop.rollout(&json!([{"weight": 50, "bake": "8s"}]), quick).expect("a Rollout");
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    eventually("weight 50", MINUTE, || Ok(shop.run()?.filter(|run| run["status"]["weight"]["set"] == 50)))
        .expect("weight");
    shop.kubectl(&["scale", "deployment/auth", "--replicas=6"]).expect("scale");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    let served = serving(&shop);
    let set = get(&shop.namespace, "replicaset", &served).expect("kubectl").expect("a ReplicaSet");
    assert_eq!((&deployment(&shop)["spec"]["replicas"], &set["spec"]["replicas"]), (&json!(6), &json!(6)));
    assert_tidy(&shop);
}

/// How templates are held, as the chart's value.
fn latch(word: &str) -> Result<(), String> {
    let (chart, value) = (repository().join("charts/serin").display().to_string(), format!("latch={word}"));
    let args = [
        "upgrade",
        "serin",
        &chart,
        "--namespace",
        SERIN,
        "--reuse-values",
        "--set",
        &value,
        "--wait",
        "--timeout",
        "90s",
    ];
    helm(&args).map(drop)
}

/// The fallback latch for as long as it lives.
struct Fallback;

impl Fallback {
    fn new() -> Self {
        latch("pause").expect("helm upgrade");
        Self
    }
}

impl Drop for Fallback {
    fn drop(&mut self) {
        let back = latch("policy");
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}

fn paused(shop: &Shop, wanted: bool) {
    let so = eventually(&format!("a Deployment with paused = {wanted}"), MINUTE, || {
        Ok(Some(()).filter(|()| (deployment(shop)["spec"]["paused"] == true) == wanted))
    });
    so.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn without_the_policy_the_deployment_stays_paused_between_runs_and_all_else_is_the_same() {
    let _stage = super::alone();
    let (shop, mut load) = open("fallback");
    let began = now();
    let fallback = Fallback::new();
    let gone = list("", "mutatingadmissionpolicies.admissionregistration.k8s.io").expect("kubectl");
    assert!(gone.iter().all(|policy| !name_of(policy).starts_with("serin")), "the policy is gone");
    paused(&shop, true);
    shop.idle().expect("Ready");

    // a good release
    shop.release(&["VERSION=good"]).expect("release");
    let good = shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    paused(&shop, true);
    assert_tidy(&shop);
    assert_eq!(figures(&mut load, began, "good").failed, 0);
    assert_eq!(rollout_status(&shop), Some(0));

    // kubectl's own undo and restart refuse, ours stands in
    for verb in ["undo", "restart"] {
        let refusal = shop.kubectl(&["rollout", verb, "deployment/auth"]).expect_err("refused");
        println!("      {refusal}");
        assert!(refusal.contains("paused"), "{refusal}");
    }
    let again = now();
    shop.serin(&["restart", "auth"]).expect("serin restart");
    let restarted = shop.run_in("Succeeded", Some(&name_of(&good)), 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    paused(&shop, true);
    assert_eq!(figures(&mut load, again, "good").failed, 0);

    // a bad release
    let began = now();
    shop.release(&["VERSION=bad", "FAULT_ERRORS=50%"]).expect("release");
    let bad = shop.run_in("RolledBack", Some(&name_of(&restarted)), 2 * MINUTE).expect("RolledBack");
    assert_eq!(bad["status"]["reason"], "SloViolated", "{}", bad["status"]["message"]);
    assert_eq!(rollout_status(&shop), Some(1));
    assert_eq!(figures(&mut load, began, "bad").lost, 0);
    assert_tidy(&shop);
    shop.serin(&["undo", "auth"]).expect("serin undo");
    shop.idle().expect("Ready");

    // and back to the policy: an ordinary Deployment between runs
    let began = now();
    drop(fallback);
    paused(&shop, false);
    shop.idle().expect("Ready");
    assert_eq!(deployment(&shop)["metadata"]["annotations"]["serin.dev/latched"], Value::Null);
    promoted(&shop, &mut load, "with the policy again", |shop| {
        shop.release(&["VERSION=last", "FAULT_ERRORS-"]).expect("release")
    });
    assert_eq!(figures(&mut load, began, "last").failed, 0);
}
