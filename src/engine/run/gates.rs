//! Gates: who must say yes before the run goes on. A rollback asks nobody.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    super::{Action, GateAnswer, reasons},
    Move,
    retreat::Retreat,
    rollback,
    view::View,
};
use crate::api::{Asks, GatePoint, GateState, GateStatus, Otherwise, ValidGate, WaitingReason};

/// A gate that said no and holds is asked again after so many seconds.
const AGAIN: f64 = 30.0;

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    Start,
    FirstTraffic,
    /// Before this step, counted from 1.
    Step(u32),
    Promotion,
    Promoted,
    RolledBack,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("start"),
            Self::FirstTraffic => f.write_str("first-traffic"),
            Self::Step(step) => write!(f, "step-{step}"),
            Self::Promotion => f.write_str("promotion"),
            Self::Promoted => f.write_str("promoted"),
            Self::RolledBack => f.write_str("rolled-back"),
        }
    }
}

impl Point {
    fn has(self, gate: &ValidGate) -> bool {
        match (gate.at, self) {
            (GatePoint::Start, Self::Start)
            | (GatePoint::FirstTraffic, Self::FirstTraffic)
            | (GatePoint::EveryStep, Self::Step(_))
            | (GatePoint::Promotion, Self::Promotion)
            | (GatePoint::Promoted, Self::Promoted)
            | (GatePoint::RolledBack, Self::RolledBack) => true,
            (GatePoint::Step, Self::Step(step)) => gate.step == Some(step),
            _ => false,
        }
    }

    /// Too late for a no to change anything: it is said.
    fn is_over(self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack)
    }
}

/// Asks the gates of this point one after another. `Ok`: all said yes, and the move goes on with what is to be written
/// down; `Err`: the move to make instead.
pub(super) fn ask(view: &View<'_>, point: Point, mut stay: Move) -> Result<Move, Box<Move>> {
    for gate in view.policy.gates.iter().filter(|gate| point.has(gate)) {
        stay = match &gate.asks {
            Asks::Window(window) => match window.closed(view.now) {
                None => stay,
                Some(closed) => {
                    let message = format!("gate {}: the window is {closed}", gate.name);
                    return Err(Box::new(stay.wait(WaitingReason::Gate, message)));
                }
            },
            Asks::Job(_) | Asks::Http(_) => one(view, gate, point, stay)?,
        };
    }
    Ok(stay)
}

fn one(view: &View<'_>, gate: &ValidGate, point: Point, stay: Move) -> Result<Move, Box<Move>> {
    let key = format!("{}@{point}", gate.name);
    let known = view.before.gates.iter().find(|known| known.gate == key);
    let attempt = known.map_or(1, |known| known.attempt.max(1));
    let running = |stay: Move, attempt: u32| {
        let stay = stay.gate(status(view, &key, attempt, GateState::Running, ""));
        let ask = Action::AskGate { gate: key.clone(), attempt };
        Err(Box::new(stay.act([ask]).wait(WaitingReason::Gate, format!("gate {key} was asked"))))
    };
    match known.map(|known| (known.state, known)) {
        Some((GateState::Passed, _)) => return Ok(stay),
        Some((GateState::Failed, _)) if point.is_over() => return Ok(stay),
        Some((GateState::Failed, said)) => {
            if view.seconds_since(&said.since) >= AGAIN {
                return running(stay, attempt + 1);
            }
            let message = format!("gate {key} said no: {}; it is asked again", said.message);
            return Err(Box::new(stay.wait(WaitingReason::Gate, message)));
        }
        Some((GateState::Running, _)) | None => {}
    }
    match view.snapshot.gates.get(&(key.clone(), attempt)) {
        None => running(stay, attempt),
        Some(GateAnswer::Running) => {
            Err(Box::new(stay.wait(WaitingReason::Gate, format!("gate {key} has not answered yet"))))
        }
        Some(GateAnswer::Passed(said)) => Ok(stay.gate(status(view, &key, attempt, GateState::Passed, said)).note(
            false,
            reasons::GATE_PASSED,
            words(&key, "yes", said),
        )),
        Some(GateAnswer::Failed(said)) => {
            let why = words(&key, "no", said);
            let told =
                stay.gate(status(view, &key, attempt, GateState::Failed, said)).note(true, reasons::GATE_FAILED, &why);
            match gate.otherwise {
                _ if point.is_over() => Ok(told),
                Otherwise::Hold => Err(Box::new(told.wait(WaitingReason::Gate, format!("{why}; it is asked again")))),
                Otherwise::Rollback => {
                    let mut back = rollback::start(view, Retreat::refuse(reasons::GATE_FAILED, why));
                    back.gates = told.gates;
                    Err(Box::new(back))
                }
            }
        }
    }
}

fn words(key: &str, answer: &str, said: &str) -> String {
    match said.is_empty() {
        true => format!("gate {key} said {answer}"),
        false => format!("gate {key} said {answer}: {said}"),
    }
}

fn status(view: &View<'_>, key: &str, attempt: u32, state: GateState, message: &str) -> GateStatus {
    let message = message.chars().take(1000).collect();
    GateStatus { gate: key.to_owned(), attempt, state, message, since: Time(view.now) }
}
