//! Writes a run's entries down as they come.

use serde_json::{Map, Value};

use super::{Before, Begin, Entry, Inputs, Look, Said, digest, segment::Deflating};
use crate::{
    api::RolloutRunStatus,
    engine::Decision,
    evidence::{Fold, Tick},
};

/// A segment is closed at about so many bytes: some ten minutes of a run with a tick a second, and little enough for the
/// API server to take again and again while it grows.
const FULL_BYTES: usize = 48 << 10;
const FULL_TEXT_BYTES: u64 = super::MAX_TEXT_BYTES / 2;

/// A segment as it is saved.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Counted from 0.
    pub number: u64,
    /// [`super::Segment::read`] reads them.
    pub bytes: Vec<u8>,
    /// It was not taken before.
    pub is_new: bool,
}

/// Segments that are full and were not taken yet; more are lost, the oldest first.
const MAX_CLOSED: usize = 4;

/// Takes down what comes, segment after segment. What it keeps in memory is one deflated segment.
#[derive(Debug)]
pub struct Recorder {
    /// Ticks since the recorder began, and those of earlier segments.
    ticks: u64,
    before_segment: u64,
    /// Counted from 0.
    number: u64,
    text: Deflating,
    /// The segment under way was taken before.
    taken: bool,
    closed: Vec<Part>,
    last: Option<Last>,
    full_bytes: usize,
}

/// The last look, to which the next is compared.
#[derive(Debug)]
struct Last {
    before: RolloutRunStatus,
    decided: RolloutRunStatus,
    said: Said,
    seen: Map<String, Value>,
}

impl Recorder {
    /// Goes on from what was counted so far; `at` in nanoseconds since 1970.
    pub fn new(at: i64, fold: &Fold) -> Self {
        Self::with_limit(at, fold, FULL_BYTES)
    }

    pub(super) fn with_limit(at: i64, fold: &Fold, full_bytes: usize) -> Self {
        let mut recorder = Self {
            ticks: 0,
            before_segment: 0,
            number: 0,
            text: Deflating::default(),
            taken: false,
            closed: Vec::new(),
            last: None,
            full_bytes,
        };
        recorder.begin(at, fold);
        recorder
    }

    fn begin(&mut self, at: i64, fold: &Fold) {
        self.text = Deflating::default();
        self.taken = false;
        self.last = None;
        self.before_segment = self.ticks;
        let begin = Begin { at, version: env!("CARGO_PKG_VERSION").to_owned(), fold: fold.clone() };
        self.text.push(&Entry::Begin(Box::new(begin)));
    }

    /// One tick, and what all ticks come to with it.
    pub fn tick(&mut self, at: i64, fold: &Fold, tick: &Tick) {
        self.ticks += 1;
        self.text.push(&Entry::Tick(Box::new(tick.clone())));
        if self.text.bytes() >= self.full_bytes || self.text.text_bytes() >= FULL_TEXT_BYTES {
            self.begin_anew(at, fold);
        }
    }

    /// Closes the segment under way: what comes next goes on from this fold.
    pub fn begin_anew(&mut self, at: i64, fold: &Fold) {
        let part = self.part();
        self.closed.push(part);
        let extra = self.closed.len().saturating_sub(MAX_CLOSED);
        self.closed.drain(..extra);
        self.number += 1;
        self.begin(at, fold);
    }

    /// Ticks since the recorder began, to be noted with a snapshot: see [`Inputs::ticks`].
    pub fn ticks(&self) -> u64 {
        self.ticks
    }

    /// One decision and what it was made from.
    pub fn look(&mut self, inputs: &Inputs<'_>, decision: &Decision) {
        let Some(ticks) = inputs.ticks.checked_sub(self.before_segment) else {
            // Its counts are in the segment before: left out, and the next look tells all it saw.
            self.last = None;
            return;
        };
        let before = without_ledger(inputs.before);
        let decided = without_ledger(&decision.status);
        let now = fields(inputs.snapshot);
        let (how, seen) = match &self.last {
            None => (Before::Other(Box::new(before.clone())), now.clone()),
            Some(last) => {
                let how = match &before {
                    same if *same == last.before => Before::Same,
                    decided if *decided == last.decided => Before::Decided,
                    other => Before::Other(Box::new(other.clone())),
                };
                (how, now.iter().filter(|(key, value)| last.seen.get(*key) != Some(value)).map(pair).collect())
            }
        };
        let now_said = Said::of(inputs.spec);
        let said = self.last.as_ref().is_none_or(|last| last.said != now_said).then_some(now_said);
        let digest = digest(decision);
        let look = Look { at: inputs.at, ticks, ending: inputs.ending, before: how, said, seen, decided: digest };
        self.text.push(&Entry::Look(Box::new(look)));
        self.last = Some(Last { before, decided, said: now_said, seen: now });
    }

    /// What is to be saved: segments that are full, and the one under way as far as it is.
    pub fn take(&mut self) -> Vec<Part> {
        let mut parts = std::mem::take(&mut self.closed);
        parts.push(self.part());
        self.taken = true;
        parts
    }

    fn part(&mut self) -> Part {
        Part { number: self.number, bytes: self.text.so_far(), is_new: !self.taken }
    }
}

fn pair((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

fn fields(snapshot: &crate::engine::Snapshot) -> Map<String, Value> {
    match serde_json::to_value(snapshot) {
        Ok(Value::Object(fields)) => fields,
        // Our own types have string keys and finite numbers only.
        _ => Map::new(),
    }
}

/// The saved evidence is no input of a decision.
fn without_ledger(status: &RolloutRunStatus) -> RolloutRunStatus {
    RolloutRunStatus { ledger: None, learnt: None, ..status.clone() }
}
