//! Adds records up for the summary.

use crate::Record;
use std::collections::BTreeMap;
use std::fmt;

/// More kinds of errors than this are added up as one.
const MOST_ERRORS: usize = 20;

/// What has been answered so far.
#[derive(Debug, Default)]
pub struct Tally {
    requests: u64,
    failed: u64,
    late: u64,
    /// Latencies in ms by version (none: no version was named) and status.
    answers: BTreeMap<(Option<String>, u16), Vec<f32>>,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    pub fn add(&mut self, record: &Record) {
        self.requests += 1;
        self.failed += u64::from(record.failed());
        self.late += u64::from(record.late);
        let key = (record.version.clone(), record.status);
        self.answers.entry(key).or_default().push(record.ms as f32);
        if let Some(error) = &record.error {
            let full = self.errors.len() >= MOST_ERRORS && !self.errors.contains_key(error);
            let name = if full { "other errors" } else { error };
            *self.errors.entry(name.to_owned()).or_default() += 1;
        }
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, failed, late) = (self.requests, self.failed, self.late);
        writeln!(f, "requests {requests}  failed {failed}  late {late}")?;
        if requests == 0 {
            return Ok(());
        }
        writeln!(f, "{:<12} {:>6} {:>9} {:>9} {:>9}", "VERSION", "STATUS", "REQUESTS", "P50 MS", "P99 MS")?;
        let mut all = Vec::with_capacity(requests as usize);
        for ((version, status), latencies) in &self.answers {
            all.extend_from_slice(latencies);
            row(f, version.as_deref().unwrap_or("-"), &status.to_string(), latencies.clone())?;
        }
        row(f, "all", "", all)?;
        for (error, count) in &self.errors {
            writeln!(f, "error {count}: {error}")?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, version: &str, status: &str, mut latencies: Vec<f32>) -> fmt::Result {
    latencies.sort_by(f32::total_cmp);
    let (p50, p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
    writeln!(f, "{version:<12} {status:>6} {:>9} {p50:>9.1} {p99:>9.1}", latencies.len())
}

/// The smallest value that at least the share `q` of all does not exceed.
fn quantile(sorted: &[f32], q: f64) -> f32 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values: Vec<f32> = (1..=100).map(|n| n as f32).collect();
        assert_eq!((quantile(&values, 0.5), quantile(&values, 0.99)), (50.0, 99.0));
        assert_eq!((quantile(&[7.0], 0.5), quantile(&[7.0], 0.99)), (7.0, 7.0));
    }

    #[test]
    fn the_summary_adds_up() {
        let mut tally = Tally::default();
        let good = Record {
            t: 1.0,
            ms: 2.0,
            status: 200,
            version: Some("v1".to_owned()),
            error: None,
            user: None,
            late: false,
        };
        for _ in 0..9 {
            tally.add(&good);
        }
        tally.add(&Record { status: 500, version: Some("v2".to_owned()), late: true, ..good.clone() });
        let error = Some("refused".to_owned());
        tally.add(&Record { status: 0, version: None, error, ms: 1.0, ..good });
        let text = tally.to_string();
        assert!(text.starts_with("requests 11  failed 2  late 1\n"), "{text}");
        let rows: Vec<Vec<&str>> = text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["-", "0", "1", "1.0", "1.0"]);
        assert_eq!(rows[1], ["v1", "200", "9", "2.0", "2.0"]);
        assert_eq!(rows[2], ["v2", "500", "1", "2.0", "2.0"]);
        assert_eq!(rows[3], ["all", "11", "2.0", "2.0"]);
        assert_eq!(rows[4], ["error", "1:", "refused"]);
    }
}
