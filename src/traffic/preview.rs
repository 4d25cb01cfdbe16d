//! The preview's own route: a host name that leads to the canary while a blue/green run shows it.

use serde_json::{Value, json};

use super::{
    extra,
    objects::Route,
    route::{Originals, names as names_service, owners_rules, refs},
    service::owner,
};
use crate::api::{RolloutRun, names};

/// A route for this host, of the kind of `route` and at its gateways. Its rules are those of `route` that name the apex,
/// with the canary in its place and no backend besides, so that paths, rewrites and timeouts are the callers'. It goes
/// with the run.
pub fn preview(route: &Route, host: &str, run: &RolloutRun, known: &Originals) -> Value {
    let apex = &run.spec.policy.service;
    let canary = names::canary_service(apex);
    let namespace = route.metadata.namespace.as_deref();
    let to_canary = |rule: &Value| {
        let reference = refs(rule).iter().find(|reference| names_service(reference, apex, namespace))?;
        let mut reference = extra::without_cookies(reference);
        reference["name"] = json!(canary);
        reference["weight"] = json!(1);
        let mut rule = rule.clone();
        rule["backendRefs"] = json!([reference]);
        Some(rule)
    };
    let rules: Vec<Value> = owners_rules(route, &canary, known).into_iter().filter_map(to_canary).collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": route.kind.as_str(),
        "metadata": {
            "name": names::preview_route(apex),
            "namespace": namespace,
            "labels": {names::RUN_LABEL: run.metadata.name},
            "ownerReferences": [owner(run)]
        },
        "spec": {"parentRefs": route.spec["parentRefs"], "hostnames": [host], "rules": rules}
    })
}

/// The route answers to this host name itself.
pub fn has_host(route: &Route, host: &str) -> bool {
    let hosts = route.spec.get("hostnames").and_then(Value::as_array).into_iter().flatten();
    hosts.filter_map(Value::as_str).any(|other| other.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::{super::route::tests, *};
    use crate::api::Share;

    #[test]
    fn a_preview_has_the_callers_rules_with_the_canary_in_the_apexs_place() {
        let rewrite = json!([{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/"}}}]);
        let login = json!([{"path": {"type": "PathPrefix", "value": "/login"}}]);
        let mut route = tests::route(json!([
            {"backendRefs": [{"name": "shop", "port": 80}]},
            {"matches": login, "filters": rewrite, "timeouts": {"request": "1s"}, "backendRefs": [
                {"name": "auth", "port": 8080, "weight": 9}, {"name": "legacy", "port": 80, "weight": 1}]}
        ]));
        route.spec["parentRefs"] = json!([{"name": "gw", "namespace": "gateway", "sectionName": "https"}]);
        route.spec["hostnames"] = json!(["auth.example.com"]);
        let run = tests::run(json!([{"blueGreen": {"previewHost": "preview.example.com"}}]), Value::Null);
        let (introduced, known) = tests::shared(&route, &run, Share::NONE, &Originals::new());
        for route in [&route, &introduced] {
            let preview = preview(route, "preview.example.com", &run, &known);
            assert_eq!(preview["kind"], "HTTPRoute");
            assert_eq!(preview["metadata"]["name"], "auth-preview");
            assert_eq!(preview["metadata"]["labels"]["serin.dev/run"], "auth-7");
            assert_eq!(preview["metadata"]["ownerReferences"][0]["kind"], "RolloutRun");
            assert_eq!(preview["spec"]["parentRefs"], route.spec["parentRefs"]);
            assert_eq!(preview["spec"]["hostnames"], json!(["preview.example.com"]));
            assert_eq!(
                preview["spec"]["rules"],
                json!([{"matches": login, "filters": rewrite, "timeouts": {"request": "1s"},
                    "backendRefs": [{"name": "auth-canary", "port": 8080, "weight": 1}]}])
            );
        }
        assert!(has_host(&route, "AUTH.example.com") && !has_host(&route, "preview.example.com"));
    }
}
