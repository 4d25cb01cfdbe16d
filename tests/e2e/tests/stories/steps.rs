//! Every kind of step on a real gateway, judged by counting who answered whom.

use std::{collections::BTreeMap, time::Duration};

use load::Record;
use serde_json::{Value, json};
use serin_e2e::{
    cluster::{eventually, get, list},
    exposure::now,
    shop::Shop,
    traffic::Load,
};

use super::{assert_tidy, envoy_gateway, figures, gateway, open_shop, rollout_status, serin};

const MINUTE: Duration = Duration::from_secs(60);

/// Waits until the newest run has baked into this step.
pub(super) fn in_step(shop: &Shop, step: u32) -> Value {
    let run = eventually(&format!("step {step}"), 2 * MINUTE, || {
        let run = shop.run()?.unwrap_or_default();
        let there = run["status"]["step"] == step && run["status"]["stepSince"].is_string();
        if there { Ok(Some(run)) } else { Err(format!("found {}", run["status"]["message"])) }
    });
    run.unwrap_or_else(|error| panic!("{error}"))
}

/// Answers of the canary among those sent between these times.
pub(super) fn canary_of(load: &mut Load, from: f64, until: f64) -> (usize, usize) {
    let records = load.read().expect("records");
    let within: Vec<&Record> = records.iter().filter(|record| record.t >= from && record.t < until).collect();
    (within.iter().filter(|record| record.version.as_deref() == Some("canary")).count(), within.len())
}

fn pods_of(shop: &Shop, hash: &Value) -> i64 {
    let sets = list(&shop.namespace, "replicasets").expect("kubectl");
    let set = sets.iter().find(|set| set["metadata"]["labels"]["pod-template-hash"] == *hash);
    set.and_then(|set| set["spec"]["replicas"].as_i64()).unwrap_or(0)
}

#[test]
fn testers_get_the_canary_first_whatever_the_weight() {
    let _stage = super::beside();
    let steps = json!([
        {"match": [{"headers": [{"name": "x-tester", "value": "yes"}]}, {"cookies": [{"name": "beta", "type": "Prefix", "value": "on"}]}],
         "bake": "15s", "pods": 2},
        {"weight": 50, "bake": "4s"}
    ]);
    let (shop, mut callers) = open_shop("testers", &steps, |_| {});
    let tester = |name: &str, header: &str| {
        Load::start(&gateway(), &shop.host, 20, 300, &["--header", header])
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let mut by_header = tester("header", "x-tester:yes");
    let mut by_cookie = tester("cookie", "cookie:theme=dark; beta=on-1");
    let mut neither = tester("neither", "x-tester:no");
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");

    // at weight 0 those who match get the canary, and nobody else
    let run = in_step(&shop, 1);
    assert_eq!(pods_of(&shop, &run["spec"]["to"]["hash"]), 2, "as many pods as the step says");
    std::thread::sleep(Duration::from_secs(1));
    let from = now();
    std::thread::sleep(Duration::from_secs(3));
    let until = now();
    std::thread::sleep(Duration::from_secs(1));
    for (name, load, all) in [
        ("header", &mut by_header, true),
        ("cookie", &mut by_cookie, true),
        ("neither", &mut neither, false),
        ("callers", &mut callers, false),
    ] {
        let (canary, requests) = canary_of(load, from, until);
        println!("      {name}: {canary} of {requests} by the canary");
        assert!(requests > 20);
        assert_eq!(canary, if all { requests } else { 0 }, "{name}");
    }
    // the match stays while the weight grows
    in_step(&shop, 2);
    std::thread::sleep(Duration::from_secs(1));
    let from = now();
    std::thread::sleep(Duration::from_secs(2));
    let until = now();
    std::thread::sleep(Duration::from_secs(1));
    let (canary, requests) = canary_of(&mut by_header, from, until);
    assert_eq!(canary, requests, "testers");
    let (canary, requests) = canary_of(&mut callers, from, until);
    let share = canary as f64 / requests as f64;
    assert!((0.4..0.6).contains(&share), "{canary} of {requests}");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    for load in [&mut callers, &mut by_header, &mut by_cookie, &mut neither] {
        assert_eq!(figures(load, began, "canary").failed, 0);
    }
    assert_tidy(&shop);
}

/// Requests that the version's pods counted, by their own metrics; those of one path, or all.
fn counted(shop: &Shop, hash: &Value, path: Option<&str>) -> f64 {
    let label = path.map(|path| format!("route=\"{path}\"")).unwrap_or_default();
    let pods = list(&shop.namespace, "pods").expect("kubectl");
    let of = pods.iter().filter(|pod| pod["metadata"]["labels"]["pod-template-hash"] == *hash);
    let pages = of.filter_map(|pod| {
        let name = pod["metadata"]["name"].as_str()?;
        let path = format!("/api/v1/namespaces/{}/pods/{name}:8080/proxy/metrics", shop.namespace);
        serin_e2e::cluster::kubectl(&["get", "--raw", &path]).ok()
    });
    pages
        .flat_map(|page| page.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.starts_with("http_requests_total{") && line.contains(&label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[test]
fn copies_are_judged_before_any_caller_gets_an_answer() {
    let _stage = super::beside();
    let steps = json!([{"mirror": {"percent": 100}, "bake": "5s"}, {"weight": 50, "bake": "2s"}]);
    // a bad version never reaches a caller
    let (shop, mut load) = open_shop("mirror", &steps, |_| {});
    let began = now();
    shop.release(&["VERSION=canary", "FAULT_ERRORS=30%"]).expect("release");
    let run = in_step(&shop, 1);
    let first = counted(&shop, &run["spec"]["to"]["hash"], None);
    let refused = shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    assert_eq!(refused["status"]["reason"], "SloViolated", "{}", refused["status"]["message"]);
    println!("      {} ({first} copies counted early)", refused["status"]["message"]);
    let seen = figures(&mut load, began, "canary");
    assert_eq!((seen.canary, seen.failed), (0, 0), "callers saw nothing of it");
    assert_eq!(rollout_status(&shop), Some(1));
    assert_tidy(&shop);

    // a good one gets copies of what is safe, then weight
    shop.release(&["VERSION=canary", "FAULT_ERRORS-"]).expect("release");
    let name = refused["metadata"]["name"].as_str().expect("a name").to_owned();
    let run = eventually("copies", MINUTE, || {
        let run = shop.run()?.filter(|run| run["metadata"]["name"] != name.as_str()).unwrap_or_default();
        Ok((run["status"]["step"] == 1 && run["status"]["stepSince"].is_string()).then_some(run))
    })
    .expect("a run");
    std::thread::sleep(Duration::from_secs(3));
    let copies = counted(&shop, &run["spec"]["to"]["hash"], None);
    println!("      {copies} copies counted by the canary");
    assert!(copies > 200.0, "{copies} copies in about 3 s of 200/s");
    shop.run_in("Succeeded", Some(&name), 2 * MINUTE).expect("Succeeded");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);
}

/// Which versions each user saw, in order, as runs of the same.
fn versions_by_user(records: &[Record], from: f64, until: f64) -> BTreeMap<u16, Vec<String>> {
    let mut seen: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    let mut sorted: Vec<&Record> = records.iter().filter(|record| record.t >= from && record.t < until).collect();
    sorted.sort_by(|a, b| a.t.total_cmp(&b.t));
    for record in sorted {
        let (Some(user), Some(version)) = (record.user, record.version.clone()) else { continue };
        let versions = seen.entry(user).or_default();
        if versions.last() != Some(&version) {
            versions.push(version);
        }
    }
    seen
}

/// How many standard deviations of a binomial share are no accident.
const DEVIATIONS: f64 = 6.0;

/// Users who had the canary, in percent, and those who saw both versions, between these times.
fn users_with_canary(load: &mut Load, from: f64, until: f64) -> (f64, usize) {
    let users = versions_by_user(load.read().expect("records"), from, until);
    let flipped = users.values().filter(|versions| versions.len() > 1).count();
    let with_canary = users.values().filter(|versions| versions.iter().any(|version| version == "canary")).count();
    (100.0 * with_canary as f64 / users.len() as f64, flipped)
}

/// At this weight each of the 400 users has one version, and as many as it says have the canary, within so many standard
/// deviations of a binomial share.
fn users_stay(load: &mut Load, weight: f64, deviations: f64) {
    // the gateway has it, and each user has come by once
    std::thread::sleep(Duration::from_millis(2500));
    let from = now();
    std::thread::sleep(Duration::from_millis(4500));
    let until = now();
    std::thread::sleep(Duration::from_secs(1));
    let (share, flipped) = users_with_canary(load, from, until);
    println!("      weight {weight}: {share:.1} % of the users have the canary, {flipped} flipped");
    assert_eq!(flipped, 0, "no user sees both versions but at weight changes");
    let spread = deviations * (weight * (100.0 - weight) / 400.0_f64).sqrt();
    assert!((share - weight).abs() <= spread, "{share:.1} % of the users at weight {weight}");
}

#[test]
fn envoy_gateway_copies_the_percent_that_is_asked_for_and_knows_testers_and_users() {
    let _stage = super::beside();
    serin();
    let shop = Shop::open("envoy").expect("a shop");
    let parents = json!({"spec": {"parentRefs": [{"name": "gw-eg", "namespace": "gateway"}]}}).to_string();
    shop.kubectl(&["patch", "httproute", "auth", "--type=merge", "-p", &parents]).expect("Envoy Gateway's");
    let testers = json!([{"headers": [{"name": "x-tester", "value": "yes"}]}]);
    let steps = json!([
        {"mirror": {"percent": 20}, "bake": "20s"}, {"match": testers, "bake": "7s"}, {"match": []},
        {"weight": 25, "bake": "14s"}, {"weight": 50, "bake": "14s"}
    ]);
    shop.rollout(&steps, |rollout| rollout["spec"]["sticky"] = json!({})).expect("a Rollout");
    shop.idle().expect("Ready");
    let calls = |rate: u32, extra: &[&str]| Load::start(&envoy_gateway(), &shop.host, rate, 600, extra).expect("load");
    let mut load = calls(200, &["--users", "400", "--mix", "session:1"]);
    let mut tester = calls(20, &["--header", "x-tester:yes", "--mix", "session:1"]);
    let mut posts = calls(20, &["--mix", "login:1"]);
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");

    // copies of 20 % of what is safe to ask twice: GET /session, and not POST /login
    let run = in_step(&shop, 1);
    let canary = &run["spec"]["to"]["hash"];
    std::thread::sleep(Duration::from_secs(1));
    let (from, first) = (now(), counted(&shop, canary, Some("/session")));
    std::thread::sleep(Duration::from_secs(8));
    let (until, last) = (now(), counted(&shop, canary, Some("/session")));
    let logins = counted(&shop, canary, Some("/login"));
    std::thread::sleep(Duration::from_secs(1));
    let asked: usize = [&mut load, &mut tester]
        .into_iter()
        .flat_map(|load| load.read().expect("records"))
        .filter(|record| record.t >= from && record.t < until)
        .count();
    let (copies, asked) = (last - first, asked as f64);
    println!("      {copies} copies of {asked} requests at 20 %, {logins} of logins");
    // what is asked while the pods are read is not in both
    let slop = 0.05 * asked + DEVIATIONS * (asked * 0.2 * 0.8).sqrt();
    assert!((copies - 0.2 * asked).abs() < slop, "{copies} copies of {asked} requests");
    assert_eq!(logins, 0.0, "a login is not asked for twice");

    // testers and nobody else
    in_step(&shop, 2);
    std::thread::sleep(Duration::from_secs(1));
    let from = now();
    std::thread::sleep(Duration::from_secs(3));
    let until = now();
    std::thread::sleep(Duration::from_secs(1));
    let (seen, requests) = canary_of(&mut tester, from, until);
    println!("      testers: {seen} of {requests} by the canary");
    assert!(requests > 20 && seen == requests, "{seen} of {requests}");
    let (seen, requests) = canary_of(&mut load, from, until);
    assert_eq!(seen, 0, "of {requests} others");

    // and users who stay
    for (step, weight) in [(4, 25.0), (5, 50.0)] {
        in_step(&shop, step);
        users_stay(&mut load, weight, DEVIATIONS);
    }
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    // Unlike Contour, Envoy Gateway loses single requests when rules change.
    for load in [&mut load, &mut tester, &mut posts] {
        let seen = figures(load, began, "canary");
        assert!(seen.failed * 1000 <= seen.requests, "{seen:?}");
    }
    assert_tidy(&shop);
}

/// What a header of the gateway's answers says, with others of its name.
fn answer_header(shop: &Shop, name: &str) -> Vec<String> {
    let host = format!("Host: {}", shop.host);
    let args = ["-sS", "-m", "5", "-o", "/dev/null", "-D", "-", "-H", &host, &gateway()];
    let output = std::process::Command::new("curl").args(args).output().expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let headers = text.lines().filter_map(|line| line.split_once(':'));
    headers.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
}

#[test]
fn the_cookie_stands_beside_filters_of_the_route_and_leaves_them_as_they_were() {
    let _stage = super::beside();
    serin();
    let shop = Shop::open("filters").expect("a shop");
    let answers = |change: Value| json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": change});
    let rules = json!([{
        "filters": [answers(json!({"set": [{"name": "x-rule", "value": "mine"}]}))],
        "backendRefs": [{"name": "auth", "port": 80, "filters": [answers(json!({"add": [{"name": "x-backend", "value": "mine"}]}))]}]
    }]);
    let patch = json!({"spec": {"rules": rules}}).to_string();
    shop.kubectl(&["patch", "httproute", "auth", "--type=merge", "-p", &patch]).expect("filters");
    shop.rollout(&json!([{"weight": 25, "bake": "10s"}, {"weight": 50, "bake": "4s"}]), |rollout| {
        rollout["spec"]["sticky"] = json!({});
    })
    .expect("a Rollout");
    shop.idle().expect("Ready");
    let rules =
        || get(&shop.namespace, "httproute", "auth").expect("kubectl").expect("a route")["spec"]["rules"].clone();
    let before = rules();
    let mut load = Load::start(&gateway(), &shop.host, 200, 600, &["--users", "400"]).expect("load");
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    in_step(&shop, 1);
    std::thread::sleep(Duration::from_millis(2500));
    let from = now();
    for _ in 0..10 {
        assert_eq!(answer_header(&shop, "x-rule"), ["mine"]);
        assert_eq!(answer_header(&shop, "x-backend"), ["mine"]);
        let cookies = answer_header(&shop, "set-cookie");
        assert_eq!(cookies.iter().filter(|cookie| cookie.contains("serin=serin-")).count(), 1, "{cookies:?}");
    }
    std::thread::sleep(Duration::from_millis(4500));
    let until = now();
    std::thread::sleep(Duration::from_secs(1));
    let (share, flipped) = users_with_canary(&mut load, from, until);
    println!("      {share:.1} % of the users have the canary, {flipped} flipped");
    assert_eq!(flipped, 0);
    assert!((share - 25.0).abs() <= DEVIATIONS * (25.0 * 75.0 / 400.0_f64).sqrt(), "{share:.1} % of the users");
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    assert_eq!(rules(), before, "to the letter");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);
}

#[test]
fn a_user_stays_with_a_version_and_moves_only_as_the_weight_grows() {
    let _stage = super::beside();
    let steps = json!([{"weight": 5, "bake": "20s"}, {"weight": 25, "bake": "20s"}, {"weight": 50, "bake": "20s"}]);
    serin();
    let shop = Shop::open("sticky").expect("a shop");
    shop.rollout(&steps, |rollout| rollout["spec"]["sticky"] = json!({})).expect("a Rollout");
    shop.idle().expect("Ready");
    let mut load = Load::start(&gateway(), &shop.host, 200, 600, &["--users", "400"]).expect("load");
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    for (step, weight) in [(1, 5.0), (2, 25.0), (3, 50.0)] {
        in_step(&shop, step);
        users_stay(&mut load, weight, 5.0);
    }
    shop.run_in("Succeeded", None, 2 * MINUTE).expect("Succeeded");
    // over the whole run nobody who had the canary went back to stable
    let users = versions_by_user(load.read().expect("records"), began, now());
    let back = users.values().filter(|versions| versions.len() > 2).count();
    assert_eq!(back, 0, "users who had both, and more than one change");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);

    // a rollback sets them free at once
    let began = now();
    shop.release(&["VERSION=worse"]).expect("release");
    eventually("step 2", 2 * MINUTE, || {
        Ok(shop.run()?.filter(|run| {
            run["status"]["phase"] == "Shifting" && run["status"]["step"] == 2 && run["status"]["stepSince"].is_string()
        }))
    })
    .expect("step 2");
    shop.serin(&["abort", "auth"]).expect("abort");
    shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    std::thread::sleep(Duration::from_secs(1));
    let from = now();
    std::thread::sleep(Duration::from_secs(3));
    let seen = figures(&mut load, from, "worse");
    assert_eq!((seen.canary, seen.failed), (0, 0), "after the rollback none sees it");
    assert_eq!(figures(&mut load, began, "worse").failed, 0);
    assert_tidy(&shop);
}

#[test]
fn blue_green_switches_at_once_and_returns_at_once() {
    let _stage = super::beside();
    let steps = json!([{"blueGreen": {"keepOldFor": "20s"}, "bake": "3s"}]);
    let (shop, mut load) = open_shop("bluegreen", &steps, |_| {});
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    // the preview has full size and its own Service, and no caller
    let run = in_step(&shop, 1);
    assert_eq!(pods_of(&shop, &run["spec"]["to"]["hash"]), 4, "full size");
    let preview = get(&shop.namespace, "service", "auth-canary").expect("kubectl").expect("the preview's Service");
    let address = format!("http://{}", preview["spec"]["clusterIP"].as_str().expect("an address"));
    let mut looks = Load::start(&address, "preview.example.com", 20, 20, &[]).expect("the preview answers");
    let preview =
        looks.read().expect("records").iter().filter(|record| record.version.as_deref() == Some("canary")).count();
    assert!(preview > 0, "the preview is the new version");
    let before = figures(&mut load, began, "canary");
    println!("      callers before the switch: {} of {} by the preview", before.canary, before.requests);

    // after the switch all is new, the old one stands by, and an abort is the way back
    eventually("the old version kept", 2 * MINUTE, || {
        Ok(shop.run()?.filter(|run| run["status"]["waiting"]["reason"] == "KeptForReturn"))
    })
    .expect("kept");
    let from = now();
    std::thread::sleep(Duration::from_secs(2));
    let (canary, requests) = {
        std::thread::sleep(Duration::from_secs(1));
        canary_of(&mut load, from, from + 2.0)
    };
    assert_eq!(canary, requests, "all callers have the new version");
    assert_eq!(pods_of(&shop, &run["spec"]["from"]["hash"]), 4, "the old one is warm");
    let asked = now();
    shop.serin(&["abort", "auth"]).expect("abort");
    shop.run_in("RolledBack", None, MINUTE).expect("RolledBack");
    std::thread::sleep(Duration::from_secs(1));
    let records = load.read().expect("records");
    let last = records.iter().filter(|record| record.version.as_deref() == Some("canary"));
    let last = last.map(|record| record.t).fold(0.0, f64::max);
    println!("      back {:.1} s after the abort was asked for", last - asked);
    assert!(last - asked < 10.0);
    assert_eq!(figures(&mut load, began, "canary").failed, 0, "no request is lost either way");
    assert_tidy(&shop);

    // and without an abort the new version stays
    shop.serin(&["retry", "auth"]).expect("retry");
    let name = run["metadata"]["name"].as_str().expect("a name").to_owned();
    shop.run_in("Succeeded", Some(&name), 3 * MINUTE).expect("Succeeded");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_eq!(rollout_status(&shop), Some(0));
    assert_tidy(&shop);
}

#[test]
fn promoted_now_suspended_and_straight_back_by_the_window() {
    let _stage = super::beside();
    let steps = json!([{"weight": 20, "bake": "10m"}, {"approval": {}}, {"weight": 50, "bake": "10m"}]);
    let (shop, mut load) = open_shop("shortcuts", &steps, |rollout| {
        rollout["spec"]["rollbackWindow"] = json!({"versions": 2});
    });
    let began = now();
    // suspended: a new version waits
    let suspend = |on: bool| {
        let patch = json!({"spec": {"suspend": on}}).to_string();
        shop.kubectl(&["patch", "rollouts.serin.dev", "auth", "--type=merge", "-p", &patch]).expect("patched");
    };
    suspend(true);
    std::thread::sleep(Duration::from_secs(1));
    shop.release(&["VERSION=canary"]).expect("release");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(super::phase(&shop), "Suspended");
    assert!(shop.run().expect("kubectl").is_none(), "no run");
    suspend(false);

    // promoted now: what is left is skipped, and the record says so
    let run = in_step(&shop, 1);
    shop.serin(&["promote", "--now", "auth"]).expect("promote");
    let promoted = shop.run_in("Succeeded", None, MINUTE).expect("Succeeded");
    assert!(
        promoted["status"]["decisions"].to_string().contains("asked for by a person"),
        "{}",
        promoted["status"]["decisions"]
    );
    shop.idle().expect("Ready");

    // and straight back
    shop.kubectl(&["rollout", "undo", "deployment/auth"]).expect("undo");
    let name = run["metadata"]["name"].as_str().expect("a name").to_owned();
    let back = shop.run_in("Succeeded", Some(&name), MINUTE).expect("Succeeded");
    assert_eq!(back["spec"]["straight"], true);
    assert!(back["status"]["decisions"].to_string().contains("rollbackWindow"), "{}", back["status"]["decisions"]);
    shop.idle().expect("Ready");
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_eq!(rollout_status(&shop), Some(0));
    assert_tidy(&shop);
}

#[test]
fn on_evidence_a_step_ends_before_its_bake_and_never_on_silence() {
    let _stage = super::beside();
    let steps = json!([{"weight": 20, "bake": "10m"}, {"weight": 50, "bake": "10m"}]);
    let (shop, mut load) = open_shop("evidence", &steps, |rollout| {
        rollout["spec"]["advance"] = json!("OnEvidence");
        // The more is tolerated, the sooner it is proven that there is not more.
        for (slo, kind) in [(0, "errors"), (1, "latency")] {
            rollout["spec"]["slos"][slo][kind]["tolerance"] = json!({"relative": 1.5, "absolute": "1%"});
        }
    });
    let began = now();
    shop.release(&["VERSION=canary"]).expect("release");
    let run = shop.run_in("Succeeded", None, 4 * MINUTE).expect("Succeeded");
    println!("      promoted after {:.0} s of 20 minutes of bake", now() - began);
    assert_eq!(figures(&mut load, began, "canary").failed, 0);
    assert_tidy(&shop);

    // without callers nothing is proven
    drop(load);
    shop.release(&["VERSION=silent"]).expect("release");
    let name = run["metadata"]["name"].as_str().expect("a name").to_owned();
    eventually("weight 20", MINUTE, || {
        let run = shop.run()?.filter(|run| run["metadata"]["name"] != name.as_str()).unwrap_or_default();
        Ok(run["status"]["stepSince"].is_string().then_some(()))
    })
    .expect("weight 20");
    std::thread::sleep(Duration::from_secs(15));
    let run = shop.run().expect("kubectl").expect("a run");
    assert_eq!((&run["status"]["phase"], &run["status"]["step"]), (&json!("Shifting"), &json!(1)));
}
