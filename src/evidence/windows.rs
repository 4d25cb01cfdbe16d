//! Shares of bad requests that somebody else has worked out, window by window: what there is where nobody tells how many
//! requests a share is made of. So many bad windows in a row are too many; no error rate is declared for it.

use serde::{Deserialize, Serialize};

/// What a query is held against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryRule {
    pub name: String,
    /// More than so many millionths are bad.
    pub most: u32,
    /// So many bad windows in a row refuse the version.
    pub windows: u32,
}

/// One window's answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryReading {
    /// Which of the rules, counted from 0.
    pub query: usize,
    /// Share of bad requests in millionths; `None`: there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<u32>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// What the windows of a query come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Windowed {
    /// The last one was good.
    Good,
    /// Too many were bad in a row, while stable's were good. Final.
    Bad,
    /// So many were bad in a row, and more are needed to refuse the version.
    Over(u32),
    /// The first window at this step is not over.
    Pending,
    /// In the last one both versions were bad.
    SharedFault,
    /// The last one had no answer, and why.
    NoData(String),
}

/// A query with its windows so far; bounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    rule: QueryRule,
    /// Bad ones in a row.
    over: u32,
    /// The last one of this step.
    last: Option<QueryReading>,
    is_bad: bool,
}

impl Windows {
    pub(super) fn new(rule: QueryRule) -> Self {
        Self { rule, over: 0, last: None, is_bad: false }
    }

    pub(super) fn begin_step(&mut self) {
        self.last = None;
    }

    pub(super) fn push(&mut self, reading: &QueryReading) {
        match self.told(reading) {
            Windowed::Over(_) => self.over = self.over.saturating_add(1),
            // No answer says nothing, neither that it is over.
            Windowed::NoData(_) => {}
            _ => self.over = 0,
        }
        self.is_bad |= self.over >= self.rule.windows.max(1);
        self.last = Some(reading.clone());
    }

    fn told(&self, reading: &QueryReading) -> Windowed {
        let no_data = |why: &str| Windowed::NoData(why.to_owned());
        let is_over = |share: u32| share > self.rule.most;
        match (&reading.fault, reading.canary, reading.stable) {
            (Some(fault), ..) => no_data(fault),
            (None, None, _) => no_data("it has no number for the canary"),
            (None, Some(canary), _) if !is_over(canary) => Windowed::Good,
            (None, Some(_), None) => no_data("it has no number for stable, to compare the canary's with"),
            (None, Some(_), Some(stable)) if is_over(stable) => Windowed::SharedFault,
            (None, Some(_), Some(_)) => Windowed::Over(self.over),
        }
    }

    /// What they come to.
    pub fn judge(&self) -> Windowed {
        match &self.last {
            _ if self.is_bad => Windowed::Bad,
            Some(last) => self.told(last),
            None => Windowed::Pending,
        }
    }

    /// What they are held against.
    pub fn rule(&self) -> &QueryRule {
        &self.rule
    }

    /// The last shares of the canary and of stable in this step, as ratios.
    pub fn shares(&self) -> [Option<f64>; 2] {
        let ratio = |share: Option<u32>| share.map(|millionths| f64::from(millionths) / 1e6);
        self.last.as_ref().map_or([None, None], |last| [ratio(last.canary), ratio(last.stable)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> Windows {
        Windows::new(QueryRule { name: "checkout".into(), most: 20_000, windows: 3 })
    }

    fn reading(canary: Option<u32>, stable: Option<u32>) -> QueryReading {
        QueryReading { canary, stable, ..QueryReading::default() }
    }

    fn after(readings: &[(Option<u32>, Option<u32>)]) -> Windowed {
        let mut windows = windows();
        readings.iter().for_each(|(canary, stable)| windows.push(&reading(*canary, *stable)));
        windows.judge()
    }

    const FINE: (Option<u32>, Option<u32>) = (Some(20_000), Some(0));
    const OVER: (Option<u32>, Option<u32>) = (Some(20_001), Some(20_000));
    const BOTH: (Option<u32>, Option<u32>) = (Some(50_000), Some(40_000));

    #[test]
    fn so_many_bad_windows_in_a_row_are_too_many_and_that_is_final() {
        assert_eq!(after(&[]), Windowed::Pending);
        assert_eq!(after(&[FINE]), Windowed::Good);
        assert_eq!(after(&[OVER, OVER]), Windowed::Over(2));
        assert_eq!(after(&[OVER, OVER, FINE, OVER]), Windowed::Over(1));
        assert_eq!(after(&[OVER, OVER, OVER]), Windowed::Bad);
        assert_eq!(after(&[OVER, OVER, OVER, FINE, FINE]), Windowed::Bad);
    }

    #[test]
    fn an_outage_of_both_is_not_the_canarys_fault_and_silence_says_nothing() {
        assert_eq!(after(&[BOTH, BOTH, BOTH, BOTH]), Windowed::SharedFault);
        assert_eq!(after(&[OVER, OVER, BOTH, OVER]), Windowed::Over(1));
        let (no_canary, no_stable) = ((None, Some(0)), (Some(50_000), None));
        assert!(matches!(after(&[no_canary]), Windowed::NoData(why) if why.contains("the canary")));
        assert!(matches!(after(&[no_stable; 5]), Windowed::NoData(why) if why.contains("stable")));
        assert_eq!(after(&[OVER, OVER, no_canary, no_stable, OVER]), Windowed::Bad, "bad as before");
        assert_eq!(after(&[(Some(0), None)]), Windowed::Good, "stable need not be asked about a good canary");
        let mut windows = windows();
        windows.push(&QueryReading { fault: Some("parse error".into()), ..reading(Some(0), Some(0)) });
        assert_eq!(windows.judge(), Windowed::NoData("parse error".into()));
    }

    #[test]
    fn a_step_waits_for_a_window_of_its_own_and_bad_ones_go_on_counting() {
        let mut windows = windows();
        windows.push(&reading(OVER.0, OVER.1));
        windows.push(&reading(OVER.0, OVER.1));
        windows.begin_step();
        assert_eq!(windows.judge(), Windowed::Pending);
        assert_eq!(windows.shares(), [None, None]);
        windows.push(&reading(OVER.0, OVER.1));
        assert_eq!((windows.judge(), windows.shares()), (Windowed::Bad, [Some(0.020_001), Some(0.02)]));
    }
}
