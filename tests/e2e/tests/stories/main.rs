//! Stories on a real cluster with real load, each in a namespace of its own. They need KUBECONFIG and GATEWAY_URL: tests/run.

mod chart;
mod configuration;
mod ends;
mod evidence;
mod gates;
mod input;
mod json;
mod life;
mod people;
mod prometheus;
mod record;
mod releases;
mod router;
mod routes;
mod steps;
mod trouble;
mod turns;
mod workload;

use std::{sync::Once, time::Duration};

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{eventually, get, install, kubectl},
    exposure::{Exposure, exposure, now},
    shop::{Shop, repository},
    traffic::Load,
};
use turns::{alone, beside};

const MINUTE: Duration = Duration::from_secs(60);

/// Installs Serin from its chart, once.
pub fn serin() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| install_serin().expect("Serin installs from its chart"));
}

/// As stories have it that do not change it.
pub fn install_serin() -> Result<(), String> {
    let chart = repository().join("charts/serin").display().to_string();
    let gates = format!("gates={}", json!({"hosts": [node()]}));
    install(&chart, &["--set-json", &gates, "--set-json", &format!("telemetry={}", telemetry())])
}

/// The chart's `telemetry` as stories have it that do not set it themselves: Rollouts may ask what is at the node, in PromQL
/// of their own, too.
pub fn telemetry() -> Value {
    json!({"hosts": [node()], "secrets": false, "queries": true, "router": router()})
}

/// The cluster's only node, where the gateways, Prometheus and the stories' own servers are.
pub fn node() -> String {
    std::env::var("NODE_IP").expect("NODE_IP: run these by tests/run")
}

/// Waits until the newest run, later than `after`, is held for this reason, and says so in these words.
pub fn held(shop: &Shop, after: Option<&str>, reason: &str, words: &str) -> Value {
    let run = eventually(&format!("a hold for {reason} that says {words:?}"), MINUTE, || {
        let run = shop.run()?.filter(|run| run["metadata"]["name"].as_str() != after).unwrap_or_default();
        let waiting = &run["status"]["waiting"];
        match waiting["reason"] == reason && waiting["message"].to_string().contains(words) {
            true => Ok(Some(run)),
            false => Err(run["status"].to_string()),
        }
    });
    let run = run.unwrap_or_else(|error| panic!("{error}"));
    println!("      held: {}", run["status"]["waiting"]["message"]);
    run
}

/// Callers who go round the gateway, to the Service itself: its address, and so many of their requests a second.
pub fn direct_callers(shop: &Shop, rate: u32) -> (String, Load) {
    let service = get(&shop.namespace, "service", "auth").expect("kubectl").expect("a Service");
    let address = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let load = Load::start(&format!("http://{address}"), "direct.example.com", rate, 600, &["--close"]);
    (address, load.expect("direct load"))
}

/// Where Contour's Envoy shows its counters.
pub fn router() -> String {
    format!("{}:8002", node())
}

/// Address of the gateway.
pub fn gateway() -> String {
    std::env::var("GATEWAY_URL").expect("GATEWAY_URL: run these by tests/run")
}

/// Address of the second gateway, Envoy Gateway.
pub fn envoy_gateway() -> String {
    std::env::var("ENVOY_GATEWAY_URL").expect("ENVOY_GATEWAY_URL: tests/run, or tests/cluster/with --gateway both")
}

/// Short steps: two weights.
pub fn short_steps() -> Value {
    json!([{"weight": 5, "bake": "2s"}, {"weight": 50, "bake": "2s"}])
}

/// A shop that is Ready, with load through the gateway.
pub fn open_shop(name: &str, steps: &Value, change: impl FnOnce(&mut Value)) -> (Shop, Load) {
    open_shop_at(200, name, steps, change)
}

/// The same with so many requests a second.
pub fn open_shop_at(rate: u32, name: &str, steps: &Value, change: impl FnOnce(&mut Value)) -> (Shop, Load) {
    serin();
    let shop = Shop::open(name).expect("a shop");
    shop.rollout(steps, change).expect("a Rollout");
    shop.idle().expect("Ready");
    let load = Load::start(&gateway(), &shop.host, rate, 600, &[]).expect("load");
    (shop, load)
}

/// Figures since `began`, once the last answers are in the file.
pub fn figures(load: &mut Load, began: f64, canary: &str) -> Exposure {
    std::thread::sleep(Duration::from_millis(1500));
    let records = load.read().expect("records");
    let seen = exposure(records, began, now(), canary, 250.0);
    println!("      figures: {seen:?}");
    let lost = records.iter().filter(|record| record.t >= began && record.failed() && record.version.is_none());
    for record in lost.take(10) {
        println!("      lost {:.2} s after it began: {record:?}", record.t - began);
    }
    seen
}

/// `kubectl rollout status` as a pipeline runs it: its exit code.
pub fn rollout_status(shop: &Shop) -> Option<i32> {
    let args = ["-n", &shop.namespace, "rollout", "status", "deployment/auth", "--timeout=60s"];
    serin_e2e::cluster::kubectl_raw(&args).expect("kubectl").status.code()
}

/// Nothing of a run is left. Its end is written down first, then it lets go of its finalizer.
pub fn assert_tidy(shop: &Shop) {
    let tidy = eventually("nothing to be left", Duration::from_secs(5), || {
        let left = shop.leftovers()?;
        if left.is_empty() { Ok(Some(())) } else { Err(left.join(", ")) }
    });
    tidy.unwrap_or_else(|error| panic!("{error}"));
}

/// Phase word of the Rollout.
pub fn phase(shop: &Shop) -> String {
    kubectl(&["-n", &shop.namespace, "get", "rollouts.serin.dev", "auth", "-o", "jsonpath={.status.phase}"])
        .expect("a Rollout")
}
