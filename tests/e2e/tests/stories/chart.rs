//! Objects that the chart makes when asked to: the API server accepts them, and they fit what they are about.

use serde_json::{Value, json};
use serin_e2e::{
    cluster::{SERIN, get, helm, kubectl, kubectl_with, list},
    shop::repository,
};

use super::serin;

/// The object that the chart makes by this template, as the API server would keep it.
fn accepted(template: &str, settings: &[&str]) -> Value {
    let chart = repository().join("charts/serin").display().to_string();
    let mut args = vec!["template", "serin", &chart, "--namespace", SERIN, "--show-only", template];
    for setting in settings {
        args.extend(["--set-json", setting]);
    }
    let rendered = helm(&args).unwrap_or_else(|error| panic!("{error}"));
    let kept = kubectl_with(&["apply", "--server-side", "--dry-run=server", "-o", "json", "-f", "-"], &rendered);
    serde_json::from_str(&kept.unwrap_or_else(|error| panic!("{template} {settings:?}: {error}"))).expect("JSON")
}

/// Whether the labels are among those of the object.
fn selects(labels: &Value, object: &Value) -> bool {
    let labels = labels.as_object().expect("labels");
    !labels.is_empty() && labels.iter().all(|(name, value)| object["metadata"]["labels"][name] == *value)
}

#[test]
fn a_network_policy_is_accepted_and_is_about_the_controllers() {
    let _stage = super::beside();
    serin();
    let template = "templates/networkpolicy.yaml";
    let open = accepted(template, &["networkPolicy.enabled=true"]);
    let pods = list(SERIN, "pods").expect("kubectl");
    assert!(!pods.is_empty());
    for pod in &pods {
        assert!(selects(&open["spec"]["podSelector"]["matchLabels"], pod), "{}", pod["metadata"]["labels"]);
    }
    assert_eq!(open["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(open["spec"]["ingress"][0]["from"], Value::Null, "all may come");

    // limited to some callers, to the API server's address, and to some namespaces
    let limited = accepted(
        template,
        &[
            "networkPolicy.enabled=true",
            r#"networkPolicy.ingressFrom=[{"namespaceSelector":{"matchLabels":{"name":"monitoring"}}}]"#,
            r#"networkPolicy.apiServer=[{"ipBlock":{"cidr":"10.0.0.1/32"}}]"#,
            "networkPolicy.apiServerPorts=[6443]",
            r#"namespaces=["shop","bank"]"#,
        ],
    );
    let (ingress, egress) = (&limited["spec"]["ingress"], &limited["spec"]["egress"]);
    assert_eq!(ingress[0]["from"][0]["namespaceSelector"]["matchLabels"]["name"], "monitoring");
    assert_eq!(egress[1]["to"][0]["ipBlock"]["cidr"], "10.0.0.1/32");
    assert_eq!(egress[1]["ports"], json!([{"port": 6443, "protocol": "TCP"}]));
    let namespaces = &egress[2]["to"][0]["namespaceSelector"]["matchExpressions"][0];
    assert_eq!(namespaces["values"], json!(["shop", "bank"]), "{egress}");
}

/// The kind ServiceMonitor for as long as this lives, where the cluster has none: the fields that the chart uses, as the
/// Prometheus Operator's own definition has them.
struct Monitors {
    made: bool,
}

impl Monitors {
    const NAME: &str = "servicemonitors.monitoring.coreos.com";

    fn new() -> Self {
        if get("", "crd", Self::NAME).expect("kubectl").is_some() {
            return Self { made: false };
        }
        let text = json!({"type": "string"});
        let interval = json!({"type": "string", "pattern": "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$"});
        let endpoint = json!({"type": "object", "properties": {"port": text, "path": text, "interval": interval}});
        let labels = json!({"type": "object", "additionalProperties": text});
        let spec = json!({"type": "object", "required": ["endpoints", "selector"], "properties": {
            "selector": {"type": "object", "properties": {"matchLabels": labels}},
            "endpoints": {"type": "array", "items": endpoint}}});
        let schema = json!({"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {"spec": spec}}});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": Self::NAME},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced",
                "names": {"kind": "ServiceMonitor", "listKind": "ServiceMonitorList", "plural": "servicemonitors", "singular": "servicemonitor"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}
        });
        kubectl_with(&["create", "-f", "-"], &definition.to_string()).expect("a definition");
        let made = Self { made: true };
        let established = ["wait", "--for=condition=Established", "--timeout=20s", "crd", Self::NAME];
        kubectl(&established).expect("established");
        made
    }
}

impl Drop for Monitors {
    fn drop(&mut self) {
        if self.made {
            let _ = kubectl(&["delete", "crd", Self::NAME, "--timeout=20s"]);
        }
    }
}

#[test]
fn a_service_monitor_is_accepted_and_finds_the_metrics() {
    let _stage = super::beside();
    serin();
    let _monitors = Monitors::new();
    let monitor = accepted(
        "templates/servicemonitor.yaml",
        &[
            "serviceMonitor.enabled=true",
            r#"serviceMonitor.interval="30s""#,
            r#"serviceMonitor.labels={"release":"prometheus"}"#,
        ],
    );
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let endpoint = &monitor["spec"]["endpoints"][0];
    assert_eq!((&endpoint["path"], &endpoint["interval"]), (&json!("/metrics"), &json!("30s")));

    // it finds one Service, whose port of that name answers with Serin's metrics
    let services = list(SERIN, "services").expect("kubectl");
    let found: Vec<&Value> =
        services.iter().filter(|service| selects(&monitor["spec"]["selector"]["matchLabels"], service)).collect();
    assert_eq!(found.len(), 1, "{services:?}");
    let ports = found[0]["spec"]["ports"].as_array().expect("ports");
    assert!(ports.iter().any(|port| port["name"] == endpoint["port"]), "{ports:?}");
    let path = format!(
        "/api/v1/namespaces/{SERIN}/services/{}:{}/proxy/metrics",
        found[0]["metadata"]["name"].as_str().expect("a name"),
        endpoint["port"].as_str().expect("a port")
    );
    let metrics = kubectl(&["get", "--raw", &path]).expect("metrics");
    assert!(metrics.contains("serin_leading"), "{metrics}");
}
