//! Shares of bad requests that a query of the author's has.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::values::{Millis, Percent};

/// A query of yours in PromQL, whose answer is one number: the share of a version's requests that are bad, 0 to 1. It is asked
/// of both versions, window by window. Too many bad windows of the canary in a row refuse it, while stable's are good; and
/// a step goes on only after a good window. `confidence` does not cover it: a share without its requests says not how
/// sure it is. Needs telemetry.queries of the chart.
///
/// In it `{hash}` stands for the version's pod-template-hash, `{pods}` for the names of its pods as a regular expression,
/// `{service}` for its Service, and `{namespace}` for the namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct QuerySpec {
    /// Its name in status and events.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The query.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new(BY_VERSION).message("must tell the versions apart: name {hash}, {pods} or {service} in it"))]
    pub query: String,
    /// More than this is bad.
    pub most: Percent,
    /// From one question to the next, 5s to 10m: at least the time that the query looks back.
    #[serde(default = "one_minute")]
    #[x_kube(validation = Rule::new("!self.matches('^([0-9]{1,6}(ms|s|m|h|d)){1,5}$') || self.contains('d') || (duration(self) >= duration('5s') && duration(self) <= duration('10m'))").message("must be between 5s and 10m"))]
    pub window: Millis,
    /// So many bad windows in a row refuse the version.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 10))]
    pub windows: u32,
}

/// CEL: a query that tells the versions apart.
const BY_VERSION: &str = "self.contains('{hash}') || self.contains('{pods}') || self.contains('{service}')";

fn one_minute() -> Millis {
    Millis::seconds(60)
}

fn three() -> u32 {
    3
}

impl QuerySpec {
    /// It tells the versions apart.
    pub(super) fn is_by_version(&self) -> bool {
        ["{hash}", "{pods}", "{service}"].iter().any(|place| self.query.contains(place))
    }
}
