//! `RolloutRecord`: a part of a run's record, kept apart from its status. Written and read by Serin only.

use k8s_openapi::ByteString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Ticks and decisions of one run, a part of them.
#[derive(CustomResource, Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[kube(
    group = "serin.dev",
    version = "v1alpha1",
    kind = "RolloutRecord",
    doc = "A part of a run's record: read it with kubectl serin why, replay and report.",
    namespaced,
    derive = "PartialEq",
    shortname = "srorec",
    printcolumn(name = "Run", type_ = "string", json_path = ".spec.run"),
    printcolumn(name = "Number", type_ = "integer", json_path = ".spec.number"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutRecordSpec {
    /// The RolloutRun it is about.
    pub run: String,
    /// When this part's writer began, in seconds since 1970: a controller that took over writes on in parts of its own.
    pub since: i64,
    /// Number of the part, counted from 0 for each writer.
    pub number: u64,
    /// Deflated JSON, one entry a line.
    #[schemars(with = "String", extend("format" = "byte"))]
    pub data: ByteString,
}
