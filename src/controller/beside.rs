//! The router's counts beside the pods', from one full reading of both to the next. Pure.

use serde::{Deserialize, Serialize};

use crate::{
    evidence::{Router, Sent},
    telemetry::{
        Round,
        http::{Answer, Numbers},
        router::{Accounts, less},
    },
};

/// What is kept of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    accounts: Accounts,
    /// Requests of stable and of the canary up to the last full reading, and how many of them failed.
    told: [Numbers; 2],
    /// Since then a pod of the arm has ended, or was not to be read.
    unknown: [bool; 2],
}

impl Beside {
    /// What the pods count next, nobody will know.
    pub fn forget(&mut self) {
        self.unknown = [true; 2];
    }

    /// One round. `ended`: a pod of stable, of the canary has, since the round before. Returns what was sent, if this
    /// round is a full reading.
    pub fn add(&mut self, round: &Round, ended: [bool; 2]) -> Option<Router> {
        for (unknown, ended) in self.unknown.iter_mut().zip(ended) {
            *unknown |= ended || round.sampled;
        }
        let Answer { stable, canary, .. } = self.accounts.add(round.router.as_ref()?);
        let is_full = !round.sampled && round.gap.is_none() && round.pods.iter().all(|pod| pod.counts.is_some());
        if !is_full {
            return None;
        }
        let sums = [stable, canary];
        let told = std::mem::replace(&mut self.told, sums);
        let unknown = std::mem::take(&mut self.unknown);
        let sent = |arm: usize| {
            let Numbers { requests, errors, .. } = less(sums[arm], told[arm]);
            Sent { requests, failed: errors.min(requests), unknown: unknown[arm] }
        };
        Some(Router { stable: sent(0), canary: sent(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Arm, PodCounts, PodScrape};

    fn round(sent: Option<[u64; 2]>, is_read: bool) -> Round {
        let counts = is_read.then(PodCounts::default);
        let pod = PodScrape { pod: "s".into(), arm: Arm::Stable, born_before_run: true, counts };
        let envoy = "10.0.0.1".to_owned();
        let numbers = |requests| Numbers { requests, errors: requests / 10, ..Numbers::default() };
        Round {
            pods: vec![pod],
            seconds: 1.0,
            since: f64::INFINITY,
            fault: None,
            gap: None,
            sampled: false,
            router: sent.map(|sent| vec![(envoy, sent.map(numbers))]),
        }
    }

    #[test]
    fn what_was_sent_is_told_from_one_full_reading_to_the_next() {
        let sent = |requests, failed, unknown| Sent { requests, failed, unknown };
        let mut beside = Beside::default();
        // Given an Envoy with a history:
        let first = beside.add(&round(Some([1000, 50]), true), [false; 2]).unwrap();
        assert_eq!((first.stable, first.canary), (sent(0, 0, false), sent(0, 0, false)));
        // When the Envoy, or a pod, or one of too many pods is not read, the next reading makes up for it:
        assert_eq!(beside.add(&round(None, true), [false; 2]), None);
        assert_eq!(beside.add(&round(Some([1100, 60]), false), [false, true]), None);
        let saved = serde_json::to_string(&beside).unwrap();
        let mut beside: Beside = serde_json::from_str(&saved).unwrap();
        let next = beside.add(&round(Some([1200, 75]), true), [false; 2]).unwrap();
        assert_eq!((next.stable, next.canary), (sent(200, 20, false), sent(25, 2, true)));
        assert_eq!(beside.add(&Round { sampled: true, ..round(Some([1300, 80]), true) }, [false; 2]), None);
        let next = beside.add(&round(Some([1300, 80]), true), [false; 2]).unwrap();
        assert_eq!((next.stable, next.canary), (sent(100, 10, true), sent(5, 1, true)));
        let next = beside.add(&round(Some([1310, 81]), true), [false; 2]).unwrap();
        assert_eq!((next.stable, next.canary), (sent(10, 1, false), sent(1, 0, false)));
        beside.forget();
        let next = beside.add(&round(Some([1320, 83]), true), [false; 2]).unwrap();
        assert_eq!((next.stable, next.canary), (sent(10, 1, true), sent(2, 0, true)));
    }
}
