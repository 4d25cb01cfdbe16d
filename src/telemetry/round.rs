//! What a look at a source of counts brings, whichever source it is.

use super::{deltas::PodScrape, http::Numbers};
use crate::evidence::Blind;

/// One look.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// Both arms were read anew.
    Round(Round),
    /// Nothing new yet; what was said before still holds.
    Nothing,
    /// No counts, and why.
    Blind(Blind),
}

/// Counters of all pods, read anew. Times in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Round {
    pub pods: Vec<PodScrape>,
    /// What this round adds to the one before.
    pub seconds: f64,
    /// The oldest counters that this round's are compared with are from this time, on the clock of the look; a weight
    /// that came later had not its whole effect on them. Minus infinity: nobody knows.
    pub since: f64,
    /// Why a pod could not be read.
    pub fault: Option<String>,
    /// What no pod has, or what else speaks against these counts.
    pub gap: Option<Blind>,
    /// There are more pods than were to be read, so what was counted is no share of all requests.
    pub sampled: bool,
    /// What each of the gateway's Envoys has of stable and of the canary (or of one pod of theirs), read besides the pods;
    /// each by a name of its own.
    pub router: Option<Vec<(String, [Numbers; 2])>>,
}
