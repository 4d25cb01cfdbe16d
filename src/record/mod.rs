//! The record of a run: every tick's counts and every look's inputs, so that each decision can be made again, explained
//! and drawn. Pure: entries in, text and bytes out.
//!
//! A record is a list of [`Segment`]s. Each begins with all that is needed to go on from ([`Begin`]), so that each can be
//! replayed without the others, and a lost one leaves a gap and nothing worse.

mod backtest;
mod chart;
mod hindsight;
mod recorder;
mod replay;
mod report;
mod segment;
mod story;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use backtest::{Backtest, BacktestError, Departure, End, What, backtest};
pub use hindsight::{Arms, ArmsError, Event, Hindsight, NoCounts, SloSums, Then, Trial};
pub use recorder::{Part, Recorder};
pub use replay::{Made, Replay, ReplayError, replay};
pub use report::report;
pub use segment::{MAX_TEXT_BYTES, Segment, SegmentError};
pub use story::{Line, reckoning, story};

use crate::{
    api::{RolloutRunSpec, RolloutRunStatus},
    engine::{Decision, Snapshot},
    evidence::{Fold, Tick},
};

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// What the segment goes on from.
    Begin(Box<Begin>),
    /// One reading of all pods.
    Tick(Box<Tick>),
    /// One decision and what it was made from.
    Look(Box<Look>),
}

/// What a segment goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begin {
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Serin's version: another one may decide otherwise.
    pub version: String,
    /// What was counted so far.
    pub fold: Fold,
}

/// One decision and what it was made from, apart from the ticks and what never changes of the run's spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// Nanoseconds since 1970.
    pub at: i64,
    /// Ticks of this segment that were counted by then.
    pub ticks: u64,
    /// The Rollout or the run was being deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ending: bool,
    /// The status before.
    #[serde(default, skip_serializing_if = "Before::is_same")]
    pub before: Before,
    /// What people had said by then, in the first look of a segment and where it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// Fields of the [`Snapshot`] that differ from the last look's; all of them in the first look of a segment.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub seen: Map<String, Value>,
    /// Digest of the decision that was made.
    pub decided: String,
}

/// What people have said to a run: the part of its spec that changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Said {
    pub paused: bool,
    pub abort: bool,
    pub approved: u32,
    pub promote: bool,
    pub retry: bool,
}

impl Said {
    /// As the spec has it.
    pub fn of(spec: &RolloutRunSpec) -> Self {
        let RolloutRunSpec { paused, abort, approved, promote, retry, .. } = *spec;
        Self { paused, abort, approved, promote, retry }
    }

    /// Puts it into a spec.
    pub fn put_into(self, spec: &mut RolloutRunSpec) {
        let Self { paused, abort, approved, promote, retry } = self;
        (spec.paused, spec.abort, spec.approved, spec.promote, spec.retry) = (paused, abort, approved, promote, retry);
    }
}

/// The status that a decision began with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Before {
    /// That of the last look: nothing was worth writing.
    #[default]
    Same,
    /// What the last look decided.
    Decided,
    /// This one.
    Other(Box<RolloutRunStatus>),
}

impl Before {
    fn is_same(&self) -> bool {
        *self == Self::Same
    }
}

/// What a decision was made from.
pub struct Inputs<'a> {
    /// Nanoseconds since 1970.
    pub at: i64,
    /// The Rollout or the run is being deleted.
    pub ending: bool,
    /// Ticks that were counted when the snapshot was taken, since the recorder began.
    pub ticks: u64,
    /// The run's spec.
    pub spec: &'a RolloutRunSpec,
    /// The status before.
    pub before: &'a RolloutRunStatus,
    /// What was seen.
    pub snapshot: &'a Snapshot,
}

/// The first 16 hexadecimal digits of the SHA-256 of the decision as JSON, without the saved evidence and what it leaves.
pub fn digest(decision: &Decision) -> String {
    use sha2::{Digest, Sha256};
    let mut decision = decision.clone();
    (decision.status.ledger, decision.status.learnt) = (None, None);
    // Our own types have string keys and finite numbers only.
    let text = serde_json::to_vec(&decision).unwrap_or_default();
    Sha256::digest(&text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
