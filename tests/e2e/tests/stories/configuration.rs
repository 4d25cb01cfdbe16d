//! ConfigMaps and Secrets as a part of the version.

use std::time::Duration;

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{SERIN, eventually, get, helm, kubectl, list},
    exposure::now,
    shop::{Shop, repository},
    traffic::Load,
};

use super::{assert_tidy, figures, gateway, rollout_status, short_steps};

const MINUTE: Duration = Duration::from_secs(60);
const KEY: &str = "only-those-who-may-read-it-know";

/// Lets Rollouts track both kinds for as long as it lives.
struct Tracking;

impl Tracking {
    fn set(value: &str) -> Result<(), String> {
        let chart = repository().join("charts/serin").display().to_string();
        let (maps, secrets) = (format!("configuration.configMaps={value}"), format!("configuration.secrets={value}"));
        let args = ["upgrade", "serin", &chart, "-n", SERIN, "--reuse-values", "--set", &maps, "--set", &secrets];
        helm(&[&args[..], &["--wait", "--timeout", "90s"]].concat()).map(drop)
    }
    fn allow() -> Self {
        super::serin();
        Self::set("true").expect("helm upgrade");
        Self
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        let back = Self::set("false");
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}

fn configure(shop: &Shop, data: &Value) {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": data}).to_string();
    shop.apply(&object).expect("a ConfigMap");
}

fn store(shop: &Shop, key: &str) {
    let object =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"key": key}});
    shop.apply(&object.to_string()).expect("a Secret");
}

/// A shop whose version says what its ConfigMap says, and whose key is in a Secret.
fn open(name: &str) -> Shop {
    let shop = Shop::open(name).expect("a shop");
    configure(&shop, &json!({"VERSION": "one"}));
    store(&shop, KEY);
    let container = json!({
        "name": "auth", "envFrom": [{"configMapRef": {"name": "settings"}}],
        "env": [{"name": "SESSION_KEY", "value": null, "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}}],
        "volumeMounts": [{"name": "files", "mountPath": "/settings"}]
    });
    let sources = json!([{"configMap": {"name": "settings"}}, {"secret": {"name": "keys"}}]);
    let spec = json!({"containers": [container], "volumes": [{"name": "files", "projected": {"sources": sources}}]});
    let patch = json!({"spec": {"template": {"spec": spec}}}).to_string();
    shop.kubectl(&["patch", "deployment", "auth", "--patch", &patch]).expect("patched");
    // The image says v1 by itself: the environment must not.
    shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=90s"]).expect("a Deployment");
    shop
}

fn name_of(run: &Value) -> String {
    run["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn stamp(shop: &Shop) -> String {
    let deployment = get(&shop.namespace, "deployment", "auth").expect("kubectl").expect("a Deployment");
    let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
    annotations["serin.dev/configuration"].as_str().unwrap_or_default().to_owned()
}

/// Names of what the living pods read, in all places.
fn read_by_pods(shop: &Shop) -> Vec<String> {
    let pods = list(&shop.namespace, "pods").expect("kubectl");
    let living = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let mut names: Vec<String> = living
        .flat_map(|pod| {
            let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
            let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
            let files = volumes.into_iter().find(|volume| volume["name"] == "files").unwrap_or_default();
            let environment = container["env"].as_array().cloned().unwrap_or_default();
            let key = environment.into_iter().find(|variable| variable["name"] == "SESSION_KEY").unwrap_or_default();
            [
                container["envFrom"][0]["configMapRef"]["name"].clone(),
                key["valueFrom"]["secretKeyRef"]["name"].clone(),
                files["projected"]["sources"][0]["configMap"]["name"].clone(),
                files["projected"]["sources"][1]["secret"]["name"].clone(),
            ]
        })
        .map(|name| name.as_str().unwrap_or("nothing").to_owned())
        .collect();
    names.sort();
    names.dedup();
    names
}

fn copies_of(digest: &str) -> Vec<String> {
    vec![format!("keys-{digest}"), format!("settings-{digest}")]
}

fn digest(shop: &Shop) -> String {
    stamp(shop).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// The versions that answered since `began`.
fn versions(load: &mut Load, began: f64) -> Vec<String> {
    let records = load.read().expect("records").iter().filter(|record| record.t >= began);
    let mut seen: Vec<String> = records.filter_map(|record| record.version.clone()).collect();
    seen.sort();
    seen.dedup();
    seen
}

#[test]
fn an_edit_of_a_configmap_is_a_release_and_pods_keep_the_data_of_their_version() {
    let _stage = super::alone();
    let _tracking = Tracking::allow();
    let shop = open("configuration");
    let track = |rollout: &mut Value| rollout["spec"]["configuration"] = json!({"track": ["ConfigMap", "Secret"]});
    shop.rollout(&short_steps(), track).expect("a Rollout");
    let mut load = Load::start(&gateway(), &shop.host, 200, 600, &[]).expect("load");
    let began = now();

    // Tracking begins with a release of the same data: from then on pods have copies.
    let first = shop.run_in("Succeeded", None, 3 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    let one = digest(&shop);
    println!("      stamped: {}", stamp(&shop));
    assert!(stamp(&shop).ends_with("ConfigMap/settings Secret/keys"));
    assert_eq!(
        eventually("pods with copies", MINUTE, || Ok(Some(read_by_pods(&shop)).filter(|is| is.len() == 2))),
        Ok(copies_of(&one))
    );

    // A good edit.
    configure(&shop, &json!({"VERSION": "two"}));
    let second = shop.run_in("Succeeded", Some(&name_of(&first)), 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    let two = digest(&shop);
    assert_ne!(one, two);
    let seen = figures(&mut load, began, "two");
    assert_eq!((seen.failed, seen.lost), (0, 0), "no request is lost");
    assert!(seen.canary > 0);

    // A bad one: refused, and it serves nobody, not even by a pod that is made anew.
    let began = now();
    configure(&shop, &json!({"VERSION": "three", "FAULT_ERRORS": "30%"}));
    let third = shop.run_in("RolledBack", Some(&name_of(&second)), 2 * MINUTE).expect("RolledBack");
    println!("      {}", third["status"]["message"]);
    assert_eq!(third["status"]["reason"], "SloViolated");
    let seen = figures(&mut load, began, "three");
    assert_eq!(seen.lost, 0);
    assert_eq!(rollout_status(&shop), Some(1));
    let refused = now();
    let pods = list(&shop.namespace, "pods").expect("kubectl");
    let ready = pods.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null()).expect("a pod");
    shop.kubectl(&["delete", "pod", &name_of(ready)]).expect("deleted");
    shop.kubectl(&["scale", "deployment/auth", "--replicas=6"]).expect("scaled");
    eventually("6 ready pods", MINUTE, || {
        let deployment = get(&shop.namespace, "deployment", "auth")?.unwrap_or_default();
        Ok((deployment["status"]["readyReplicas"] == 6).then_some(()))
    })
    .expect("6 pods");
    let seen = figures(&mut load, refused, "three");
    assert_eq!((seen.failed, seen.lost, seen.canary), (0, 0, 0));
    assert_eq!(versions(&mut load, refused), ["two"], "new pods of the old version have its data");
    assert_eq!(read_by_pods(&shop), copies_of(&two));

    // The old data again: nothing is left to release. The refused data's copies go.
    configure(&shop, &json!({"VERSION": "two"}));
    shop.idle().expect("Ready");
    assert_eq!(digest(&shop), two);
    assert_eq!(shop.run().expect("kubectl").map(|run| name_of(&run)), Some(name_of(&third)), "no further run");
    let kept = eventually("the refused copies to go", MINUTE, || {
        let maps = list(&shop.namespace, "configmaps")?;
        let copies = maps.iter().map(name_of).filter(|name| name.starts_with("settings-"));
        Ok(Some(copies.collect::<Vec<_>>()).filter(|copies| copies.len() == 2))
    })
    .expect("two versions' copies");
    assert!(kept.contains(&format!("settings-{one}")), "the history keeps its data: {kept:?}");

    // A Secret, and back by undo: with the data that the version had.
    let began = now();
    store(&shop, "another-key-that-nobody-knows");
    let fourth = shop.run_in("Succeeded", Some(&name_of(&third)), 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    assert_ne!(digest(&shop), two);
    shop.kubectl(&["rollout", "undo", "deployment/auth"]).expect("undo");
    shop.run_in("Succeeded", Some(&name_of(&fourth)), 2 * MINUTE).expect("Succeeded");
    shop.idle().expect("Ready");
    assert_eq!(digest(&shop), two, "the old data serves, whatever the Secret has");
    let lost = figures(&mut load, began, "-").lost;
    assert_eq!(lost, 0);
    assert_tidy(&shop);

    // Nothing of a Secret's data is anywhere but in Secrets.
    for kind in ["rollouts.serin.dev", "rolloutruns.serin.dev", "events", "deployments", "replicasets", "configmaps"] {
        let all = shop.kubectl(&["get", kind, "-o", "json"]).expect("kubectl");
        assert!(!all.contains("only-those-who-may") && !all.contains("nobody-knows"), "{kind}");
        assert!(!all.contains("b25seS10aG9zZS13aG8") && !all.contains("YW5vdGhlci1rZXktdGhhd"), "{kind}, in base64");
    }

    // Without its Rollout the Deployment is an ordinary one: new pods read what is there now.
    shop.kubectl(&["delete", "rollouts.serin.dev", "auth", "--timeout=60s"]).expect("deleted");
    shop.kubectl(&["rollout", "restart", "deployment/auth"]).expect("restart");
    shop.kubectl(&["rollout", "status", "deployment/auth", "--timeout=90s"]).expect("a Deployment");
    let names = eventually("pods that read the originals", MINUTE, || {
        let names = read_by_pods(&shop);
        if names == ["keys", "settings"] { Ok(Some(names)) } else { Err(names.join(", ")) }
    });
    names.expect("native again");
}

#[test]
fn who_may_not_read_secrets_can_not_have_them_tracked() {
    let _stage = super::alone();
    let tracking = Tracking::allow();
    let shop = open("configrights");
    shop.rollout(&short_steps(), |_| {}).expect("a Rollout");
    shop.idle().expect("Ready");
    let account = format!("system:serviceaccount:{}:author", shop.namespace);
    shop.kubectl(&["create", "serviceaccount", "author"]).expect("an account");
    shop.kubectl(&["create", "role", "author", "--verb=get,patch,update", "--resource=rollouts.serin.dev,configmaps"])
        .expect("a role");
    let subject = format!("--serviceaccount={}:author", shop.namespace);
    shop.kubectl(&["create", "rolebinding", "author", "--role=author", &subject]).expect("bound");
    let patch = |track: Value| {
        let patch = json!({"spec": {"configuration": {"track": track}}}).to_string();
        let args = ["-n", &shop.namespace, "patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &patch];
        kubectl(&[&args[..], &["--as", &account]].concat())
    };
    let refusal = patch(json!(["ConfigMap", "Secret"])).expect_err("refused");
    println!("      {refusal}");
    assert!(refusal.contains("you may not read all of ConfigMap and Secret in namespace configrights"), "{refusal}");
    patch(json!(["ConfigMap"])).expect("what they may read");
    // Nobody calls it, so there is nothing to judge by.
    shop.run_in("Shifting", None, MINUTE).expect("Shifting");
    shop.serin(&["promote", "--now", "auth"]).expect("promote");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    assert!(stamp(&shop).ends_with(" ConfigMap/settings"), "{}", stamp(&shop));
    drop(tracking);

    // Where the chart does not allow it, the Rollout says so.
    let said = eventually("Stalled", MINUTE, || {
        let rollout = get(&shop.namespace, "rollouts.serin.dev", "auth")?.unwrap_or_default();
        let said = rollout["status"]["message"].as_str().unwrap_or_default().to_owned();
        if said.contains("configuration.configMaps") { Ok(Some(said)) } else { Err(said) }
    });
    println!("      {}", said.expect("said"));
}
