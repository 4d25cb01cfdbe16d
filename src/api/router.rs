//! The gateway's own counts as the source of counts.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::values::Millis;

/// What the gateway's Envoys count of the requests that the routes send to each version. A pod that crashes or hangs takes
/// what it had in hand with it and reports no errors: the router knows of them. And callers that go round the routes are
/// not in it, so like is compared with like.
///
/// Only the administrator says where the Envoys are (telemetry.router of the chart), and only counts of this Service are
/// asked for. They must count each Service of a route by itself under NAMESPACE_SERVICE_PORT, as Contour has it, or each
/// endpoint (Envoy Gateway with per-endpoint stats), of which no times are known. Errors are answers with status 5xx, those
/// that the router makes for a pod included.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RouterSource {
    /// Time between two readings, 1s to 1m.
    #[serde(default = "one_second")]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,6}(ms|s|m|h|d)){1,5}$') || self.contains('d') || (duration(self) >= duration('1s') && duration(self) <= duration('1m'))").message("must be between 1s and 1m"))]
    pub interval: Millis,
}

fn one_second() -> Millis {
    Millis::seconds(1)
}
