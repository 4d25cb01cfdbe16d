//! The record of a run: why it went so, each decision made again, a page to look at.

use std::{fs, time::Duration};

use serde_json::json;
use serin_e2e::{
    cluster::{SERIN, eventually, get, kubectl, list},
    serin::leader,
};

use super::{assert_tidy, open_shop, serin};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_run_says_why_and_every_decision_is_made_again_also_after_the_leader_died() {
    let _stage = super::alone();
    // Given a release that was healthy for a while, saw its controller die, and then went bad:
    serin();
    let (shop, _load) = open_shop("record", &json!([{"weight": 20, "bake": "10m"}]), |_| {});
    shop.release(&["VERSION=canary"]).expect("release");
    eventually("weight 20", MINUTE, || {
        Ok(shop
            .run()?
            .filter(|run| run["status"]["weight"]["set"] == 20 && run["status"]["slos"][0]["verdict"] == "Good"))
    })
    .expect("weight 20");
    // What is not saved yet is lost with it.
    eventually("a saved record", MINUTE, || Ok(list(&shop.namespace, "rolloutrecords.serin.dev")?.first().cloned()))
        .expect("a record");
    let (pod, _) = leader().expect("a leader");
    kubectl(&["-n", SERIN, "delete", "pod", &pod, "--grace-period=0", "--force", "--wait=false"]).expect("delete");
    eventually("another leader", MINUTE, || Ok(leader().ok().filter(|(now, _)| *now != pod))).expect("another leader");
    let run = shop.run().expect("kubectl").expect("a run");
    for found in list(&shop.namespace, "pods").expect("kubectl") {
        if found["metadata"]["labels"]["pod-template-hash"] == run["spec"]["to"]["hash"] {
            let name = found["metadata"]["name"].as_str().unwrap_or_default();
            shop.faults_of(name, &json!({"errors": "50%"})).expect("faults");
        }
    }
    let run = shop.run_in("RolledBack", None, 2 * MINUTE).expect("RolledBack");
    let name = run["metadata"]["name"].as_str().unwrap_or_default();

    // Then the record tells why, from the beginning to the end:
    let told = eventually("the end in the record", MINUTE, || {
        Ok(shop.serin(&["why", name]).ok().filter(|told| told.contains("the run is RolledBack")))
    });
    let told = told.expect("why");
    println!("{told}");
    for words in ["releasing", "the canary gets 20 % of the requests", "SloViolated", "errors: Bad", "stable's share"] {
        assert!(told.contains(words), "expected {words:?} in:\n{told}");
    }
    // each decision is made again, to the byte,
    let again = shop.serin(&["replay", name]).expect("replay");
    println!("      {again}");
    assert!(again.contains("the same to the byte"), "{again}");
    // and there is a page, and JSON that needs no cluster.
    let folder = std::env::temp_dir().join(format!("serin-record-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let file = |name: &str| folder.join(name).display().to_string();
    shop.serin(&["report", name, "--output", &file("run.html")]).expect("report");
    shop.serin(&["report", name, "--json", "--output", &file("run.json")]).expect("report --json");
    let page = fs::read_to_string(file("run.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("RolledBack"));
    let records = list(&shop.namespace, "rolloutrecords.serin.dev").expect("kubectl");
    assert!(records.len() >= 2, "one writer's parts after the other's, found {}", records.len());
    let bytes = fs::metadata(file("run.json")).expect("JSON").len();
    println!("      {} parts, {bytes} bytes as JSON", records.len());
    // Another policy, which bears such errors, would have left the version where it was:
    let mut lax = get(&shop.namespace, "rollouts.serin.dev", "auth").expect("kubectl").expect("a Rollout");
    for slo in ["/spec/slos/0/errors", "/spec/slos/1/latency"] {
        let slo = lax.pointer_mut(slo).expect("an SLO");
        (slo["objective"], slo["tolerance"]) = (json!("50%"), json!({"relative": 10, "absolute": "49%"}));
    }
    lax["spec"]["limits"]["failedRequests"] = json!(1_000_000);
    fs::write(file("lax.yaml"), lax.to_string()).expect("a policy");
    let tried = shop.serin(&["backtest", &file("lax.yaml"), "--run", name]).expect("backtest");
    println!("{tried}");
    assert!(
        tried.contains("does not take it back by then") && tried.contains("left that was taken back: 1"),
        "{tried}"
    );
    // A run that is forgotten takes its record along.
    fs::remove_dir_all(&folder).expect("removed");
    assert_tidy(&shop);
}
