//! Prometheus as the source of counts.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{access::Access, queries::QuerySpec, values::Millis};

/// The pods' counters as a Prometheus server has them, or another that answers its query API. Serin reads them raw and
/// takes the differences itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.bearerToken) && has(self.basicAuth))").message("give bearerToken or basicAuth, not both"),
    validation = Rule::new("self.address.startsWith('https://') || !has(self.bearerToken) && !has(self.basicAuth) && !has(self.tls)").message("tls, bearerToken and basicAuth need an address with https://")
)]
pub struct PrometheusSource {
    /// http:// or https://, a host, a port and the path before /api if need be. The host is a Service with a selector of
    /// this namespace (NAME.NAMESPACE.svc), or one that the operator's configuration allows (telemetry.hosts of the
    /// chart).
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/@?#]+(/[^?#]*)?$')").message("must be http:// or https:// and a host, without user, query and fragment"))]
    pub address: String,
    /// Time between two questions, 1s to 1m. Prometheus must scrape the pods at least once a minute.
    #[serde(default = "five_seconds")]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,6}(ms|s|m|h|d)){1,5}$') || self.contains('d') || (duration(self) >= duration('1s') && duration(self) <= duration('1m'))").message("must be between 1s and 1m"))]
    pub interval: Millis,
    /// The label that has the pod's namespace.
    #[serde(default = "namespace_label")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = Rule::new(LABEL).message("must be the name of a label"))]
    pub namespace_label: String,
    /// The label that has the pod's name.
    #[serde(default = "pod_label")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = Rule::new(LABEL).message("must be the name of a label"))]
    pub pod_label: String,
    /// Whom it trusts, and what it says to be let in.
    #[serde(flatten)]
    pub access: Access,
    /// Shares of bad requests by queries of your own, besides what is counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(validation = Rule::new("self.all(q, self.exists_one(o, o.name == q.name))").message("each query needs a name of its own: two of them are called the same"))]
    pub queries: Vec<QuerySpec>,
}

/// CEL: the name of a label, but not of Prometheus' own.
const LABEL: &str = "self.matches('^[a-zA-Z_][a-zA-Z0-9_]*$') && !self.startsWith('__')";

fn five_seconds() -> Millis {
    Millis::seconds(5)
}
fn namespace_label() -> String {
    "namespace".into()
}
fn pod_label() -> String {
    "pod".into()
}
