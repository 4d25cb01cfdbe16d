//! One line of what `serin plan` says, for the record, once the requests of the first step tell how busy the service is.

use super::{super::reasons, view::View};
use crate::{
    api::{Lets, SloKind, Step},
    evidence::REACTION,
    forecast::{Service, in_a_line},
};

/// Seconds of a step that tell the rate well enough.
const WATCHED: f64 = 10.0;

/// The line, once in a run. Steps that are over before that have none.
pub(super) fn line(view: &View<'_>, step: u32) -> Option<String> {
    let judged = |step: &Step| matches!(step, Step::Bake { lets: Lets::Weight(_) | Lets::Mirror(_), .. });
    let first = view.policy.steps.iter().position(judged)? + 1;
    let seconds = view.seconds_since(view.before.step_since.as_ref()?);
    let said = view.before.decisions.iter().any(|decided| decided.what == reasons::FORECAST);
    if usize::try_from(step) != Ok(first) || seconds < WATCHED || said {
        return None;
    }
    let mut service = Service { rate: 0.0, errors: 0.0, slow: 0.0 };
    for (slo, judgement) in view.policy.slos.iter().zip(&view.snapshot.judgements) {
        let counted = judgement.step.canary.total.saturating_add(judgement.step.stable.total);
        service.rate = service.rate.max(counted as f64 / seconds);
        let place = match slo.kind {
            SloKind::Errors => &mut service.errors,
            SloKind::Latency { .. } => &mut service.slow,
        };
        *place = place.max(judgement.stable.ratio().unwrap_or(0.0));
    }
    (service.rate > 0.0).then(|| in_a_line(view.policy, service, REACTION))
}
