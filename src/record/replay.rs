//! Makes a run's decisions again from its record, with the engine that made them.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Before, Begin, Entry, Look, Segment, digest};
use crate::{
    api::{Policy, RolloutRunSpec, RolloutRunStatus},
    controller::seen,
    engine::{self, Decision, Snapshot},
    evidence::{Fold, Tick},
};

/// A decision that was made again.
#[derive(Clone, Debug)]
pub struct Made {
    /// When it was made.
    pub at: Timestamp,
    /// What was seen, counts included.
    pub snapshot: Snapshot,
    /// The status it began with.
    pub before: RolloutRunStatus,
    /// The decision.
    pub decision: Decision,
    /// It is to the byte what was decided then.
    pub same: bool,
}

/// A segment, replayed.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Serin's version that made the decisions.
    pub version: String,
    /// The counts, in order.
    pub ticks: Vec<Tick>,
    /// The decisions, in order.
    pub made: Vec<Made>,
}

impl Replay {
    /// The first decision that is another than then.
    pub fn first_difference(&self) -> Option<&Made> {
        self.made.iter().find(|made| !made.same)
    }
}

/// What the snapshots of a segment's looks may come to, written out one by one: a hundred times what the longest segments
/// of real runs do. One large look before many small ones that say "the same" would fill any memory.
const MAX_BYTES: usize = 1 << 30;

/// A record that tells no story.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("expected what the segment goes on from in its first line only, found {0}")]
    Begin(&'static str),
    #[error("look {look}: expected the status it began with to follow from the look before, found none before it")]
    NoBefore { look: usize },
    #[error("look {look}: expected a snapshot of a run: {source}")]
    Snapshot { look: usize, source: serde_json::Error },
    #[error("look {look}: expected a time in nanoseconds since 1970, found {at}")]
    Time { look: usize, at: i64 },
    #[error("look {look}: expected looks of at most {MAX_BYTES} bytes together, found more")]
    TooMuch { look: usize },
}

/// Makes the decisions of one segment again.
///
/// # Errors
/// If the entries don't fit together.
pub fn replay(policy: &Policy, spec: &RolloutRunSpec, segment: Segment) -> Result<Replay, ReplayError> {
    let (begin, ticks, looks) = sorted(segment)?;
    let mut fold = begin.fold;
    let mut replaying = Replaying {
        policy,
        spec: spec.clone(),
        last: None,
        seen: Map::new(),
        look_bytes: 0,
        bytes: 0,
        made: Vec::new(),
    };
    let mut looks = looks.into_iter().enumerate().peekable();
    for folded in 0..=ticks.len() {
        while let Some((index, look)) = looks.next_if(|(_, look)| look.ticks <= folded as u64) {
            replaying.look(index + 1, look, &fold)?;
        }
        if let Some(tick) = ticks.get(folded) {
            fold.fold(tick);
        }
    }
    Ok(Replay { version: begin.version, ticks, made: replaying.made })
}

pub(super) fn sorted(segment: Segment) -> Result<(Begin, Vec<Tick>, Vec<Look>), ReplayError> {
    let mut entries = segment.entries.into_iter();
    let Some(Entry::Begin(begin)) = entries.next() else { return Err(ReplayError::Begin("none")) };
    let (mut ticks, mut looks) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry {
            Entry::Begin(_) => return Err(ReplayError::Begin("another")),
            Entry::Tick(tick) => ticks.push(*tick),
            Entry::Look(look) => looks.push(*look),
        }
    }
    Ok((*begin, ticks, looks))
}

struct Replaying<'a> {
    policy: &'a Policy,
    /// As it was at the last look.
    spec: RolloutRunSpec,
    /// The last look's status before and after it.
    last: Option<(RolloutRunStatus, RolloutRunStatus)>,
    seen: Map<String, Value>,
    /// Of what is kept for a look, written out; of all looks so far.
    look_bytes: usize,
    bytes: usize,
    made: Vec<Made>,
}

impl Replaying<'_> {
    fn look(&mut self, number: usize, look: Look, fold: &Fold) -> Result<(), ReplayError> {
        let at = Timestamp::from_nanosecond(i128::from(look.at));
        let at = at.map_err(|_| ReplayError::Time { look: number, at: look.at })?;
        let is_new = !look.seen.is_empty() || !matches!(look.before, Before::Same);
        let before = match (look.before, self.last.take()) {
            (Before::Other(status), _) => *status,
            (Before::Same, Some((before, _))) => before,
            (Before::Decided, Some((_, decided))) => decided,
            (Before::Same | Before::Decided, None) => return Err(ReplayError::NoBefore { look: number }),
        };
        if let Some(said) = look.said {
            said.put_into(&mut self.spec);
        }
        self.seen.extend(look.seen);
        if is_new {
            self.look_bytes = length(&self.seen) + length(&before);
        }
        self.bytes = self.bytes.saturating_add(self.look_bytes);
        if self.bytes > MAX_BYTES {
            return Err(ReplayError::TooMuch { look: number });
        }
        let snapshot = serde_json::from_value(Value::Object(self.seen.clone()));
        let mut snapshot: Snapshot = snapshot.map_err(|source| ReplayError::Snapshot { look: number, source })?;
        let counted = seen(fold);
        (snapshot.traffic, snapshot.judgements) = (counted.traffic, counted.judgements);
        let decision = engine::decide(self.policy, &self.spec, &before, &snapshot, look.ending, at);
        let same = digest(&decision) == look.decided;
        self.last = Some((before.clone(), decision.status.clone()));
        self.made.push(Made { at, snapshot, before, decision, same });
        Ok(())
    }
}

/// Bytes as JSON.
fn length(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |text| text.len())
}
