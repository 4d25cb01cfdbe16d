//! JSON over HTTP as the source of counts.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{access::Access, values::Millis};

/// What is counted somewhere else (a gateway, a log pipeline, a vendor's API), as JSON over HTTP: numbers for each version,
/// counted up since whenever. Serin takes the differences itself.
///
/// Places are JSON pointers (RFC 6901) in which `{arm}` stands for stable or canary, and `{hash}` for the version's
/// pod-template-hash, as in `/versions/{hash}/requests`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.bearerToken) && has(self.basicAuth))").message("give bearerToken or basicAuth, not both"),
    validation = Rule::new("self.url.startsWith('https://') || !has(self.bearerToken) && !has(self.basicAuth) && !has(self.tls)").message("tls, bearerToken and basicAuth need a url with https://")
)]
pub struct HttpSource {
    /// http:// or https://, a host, and path and query if need be. The host is a Service with a selector of this namespace
    /// (NAME.NAMESPACE.svc), or one that the operator's configuration allows (telemetry.hosts of the chart).
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/@?#]+([/?][^#]*)?$')").message("must be http:// or https:// and a host, without user and fragment"))]
    pub url: String,
    /// Time between two questions, 1s to 1m.
    #[serde(default = "five_seconds")]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,6}(ms|s|m|h|d)){1,5}$') || self.contains('d') || (duration(self) >= duration('1s') && duration(self) <= duration('1m'))").message("must be between 1s and 1m"))]
    pub interval: Millis,
    /// Where a version's requests are.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(BY_VERSION).message("must be a JSON pointer with {arm} or {hash} in it, such as /versions/{hash}/requests"))]
    pub requests: String,
    /// Where those of them are that failed. For the SLO on errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(BY_VERSION).message("must be a JSON pointer with {arm} or {hash} in it, such as /versions/{hash}/errors"))]
    pub errors: Option<String>,
    /// Where those of them are that took longer than the threshold. For the SLO on latency, of which there is one at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(BY_VERSION).message("must be a JSON pointer with {arm} or {hash} in it, such as /versions/{hash}/slow"))]
    pub slow: Option<String>,
    /// Where it is said when the numbers were taken: seconds or milliseconds since 1970, or RFC 3339. Numbers that are too
    /// old hold the run. Left out: they are taken for as old as the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("must be a JSON pointer, such as /time"))]
    pub time: Option<String>,
    /// Whom it trusts, and what it says to be let in.
    #[serde(flatten)]
    pub access: Access,
}

/// CEL: a pointer that tells the versions apart.
const BY_VERSION: &str = "self.startsWith('/') && (self.contains('{arm}') || self.contains('{hash}'))";

fn five_seconds() -> Millis {
    Millis::seconds(5)
}

/// A pointer that tells the versions apart.
pub(super) fn is_by_version(pointer: &str) -> bool {
    pointer.starts_with('/') && (pointer.contains("{arm}") || pointer.contains("{hash}"))
}
