//! Figures of a time of load: who answered, what failed, and how long callers were exposed to a bad version.

use load::Record;

/// What one story did to its callers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposure {
    /// Requests sent.
    pub requests: usize,
    /// Requests that failed, for whatever reason.
    pub failed: usize,
    /// Those that no version answered with a fault of its own: lost on the way, by our doing.
    pub lost: usize,
    /// Answers of the canary.
    pub canary: usize,
    /// From the beginning to the canary's first request, in seconds.
    pub first: Option<f64>,
    /// From the canary's first bad answer to its last answer of any kind, in seconds.
    pub seconds: Option<f64>,
}

/// Counts the answers sent from `from` on (Unix seconds). `canary` is the version under release; bad is a failed answer
/// or one that took longer than `slow` milliseconds.
pub fn exposure(records: &[Record], from: f64, until: f64, canary: &str, slow: f64) -> Exposure {
    let within: Vec<&Record> = records.iter().filter(|record| record.t >= from && record.t < until).collect();
    let of_canary = || within.iter().filter(|record| record.version.as_deref() == Some(canary));
    let answered = |record: &Record| record.t + record.ms / 1000.0;
    let first_bad = of_canary()
        .filter(|record| record.failed() || record.ms > slow)
        .map(|record| answered(record))
        .reduce(f64::min);
    let last = of_canary().map(|record| answered(record)).reduce(f64::max);
    Exposure {
        requests: within.len(),
        failed: within.iter().filter(|record| record.failed()).count(),
        lost: within.iter().filter(|record| record.failed() && record.version.is_none()).count(),
        canary: of_canary().count(),
        first: of_canary().map(|record| record.t - from).reduce(f64::min),
        seconds: first_bad.zip(last).map(|(first, last)| last - first),
    }
}

/// Unix seconds now.
pub fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(t: f64, status: u16, version: Option<&str>) -> Record {
        Record { t, ms: 0.0, status, version: version.map(str::to_owned), error: None, user: None, late: false }
    }

    #[test]
    fn exposure_is_from_the_first_bad_answer_to_the_last_of_any_kind() {
        let records = [
            record(1.0, 200, Some("v1")),
            record(2.0, 200, Some("v2")),
            record(3.0, 500, Some("v2")),
            record(5.5, 200, Some("v2")),
            record(6.0, 503, None),
            record(9.0, 200, Some("v1")),
        ];
        let seen = exposure(&records, 0.0, 10.0, "v2", 250.0);
        assert_eq!(seen, Exposure { requests: 6, failed: 2, lost: 1, canary: 3, first: Some(2.0), seconds: Some(2.5) });
    }
}
