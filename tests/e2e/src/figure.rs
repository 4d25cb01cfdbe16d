//! Figures that are promised, and what was measured of them.

use std::fmt;

/// What is promised of the values of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Each value is this one.
    Exactly(f64),
    /// Each value is this one or more.
    AtLeast(f64),
    /// Each value is below.
    Below(f64),
    /// The median is below.
    MedianBelow(f64),
    /// The median is below the first, each value below the second.
    MedianAndWorstBelow(f64, f64),
    /// All values together make this or less.
    SumAtMost(f64),
    /// Nothing; it is only told.
    Told,
}

impl Bound {
    /// Whether the values keep it. No values keep nothing.
    pub fn holds(&self, values: &[f64]) -> bool {
        let (Some(median), Some(worst)) = (median(values), worst(values)) else { return false };
        match *self {
            Self::Exactly(wanted) => values.iter().all(|value| *value == wanted),
            Self::AtLeast(least) => values.iter().all(|value| *value >= least),
            Self::Below(bound) => worst < bound,
            Self::MedianBelow(bound) => median < bound,
            Self::MedianAndWorstBelow(of_median, of_worst) => median < of_median && worst < of_worst,
            Self::SumAtMost(most) => values.iter().sum::<f64>() <= most,
            Self::Told => true,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(wanted) => write!(f, "{wanted}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::Below(bound) => write!(f, "< {bound}"),
            Self::MedianBelow(bound) => write!(f, "median < {bound}"),
            Self::MedianAndWorstBelow(median, worst) => write!(f, "median < {median}, worst < {worst}"),
            Self::SumAtMost(most) => write!(f, "sum <= {most}"),
            Self::Told => f.write_str("-"),
        }
    }
}

/// The middle value; of an even number the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// The largest value.
pub fn worst(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::max)
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was measured, with its unit.
    pub what: String,
    pub bound: Bound,
    /// One for each run.
    pub values: Vec<f64>,
    /// What else is worth saying, such as the reason that was named.
    pub note: String,
}

impl Figure {
    /// Of these values.
    pub fn new(what: impl Into<String>, bound: Bound, values: impl Into<Vec<f64>>) -> Self {
        Self { what: what.into(), bound, values: values.into(), note: String::new() }
    }

    /// With a note.
    pub fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// Whether what was promised is kept.
    pub fn ok(&self) -> bool {
        self.bound.holds(&self.values)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |value: Option<f64>| value.map_or("-".to_owned(), number);
        let values: Vec<String> = self.values.iter().map(|value| number(*value)).collect();
        let ok = match (self.bound, self.ok()) {
            (Bound::Told, true) => "",
            (_, true) => "ok",
            (_, false) => "NOT OK",
        };
        let note = if self.note.is_empty() { String::new() } else { format!("  ({})", self.note) };
        write!(
            f,
            "{:<58} {:<23} {:>8} {:>8}  {ok:<6} {}{note}",
            self.what,
            self.bound.to_string(),
            short(median(&self.values)),
            short(worst(&self.values)),
            values.join(" "),
        )
    }
}

/// Whole numbers as such, others with one digit.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.1}") }
}

/// The table.
pub fn table(figures: &[Figure]) -> String {
    let head =
        format!("{:<58} {:<23} {:>8} {:>8}  {:<6} {}\n", "FIGURE", "PROMISED", "MEDIAN", "WORST", "KEPT", "MEASURED");
    figures.iter().fold(head, |table, figure| format!("{table}{}\n", figure.to_string().trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_bound_is_kept_or_not() {
        let values = [2.0, 3.0, 11.0];
        for (bound, kept) in [
            (Bound::MedianAndWorstBelow(5.0, 12.0), true),
            (Bound::MedianAndWorstBelow(5.0, 11.0), false),
            (Bound::MedianAndWorstBelow(3.0, 12.0), false),
            (Bound::MedianBelow(3.1), true),
            (Bound::Below(11.0), false),
            (Bound::Below(12.0), true),
            (Bound::AtLeast(2.0), true),
            (Bound::AtLeast(2.5), false),
            (Bound::Exactly(2.0), false),
            (Bound::SumAtMost(16.0), true),
            (Bound::SumAtMost(15.0), false),
            (Bound::Told, true),
        ] {
            assert_eq!(bound.holds(&values), kept, "{bound}");
            assert!(!bound.holds(&[]), "{bound}: nothing was measured");
        }
        assert!(Bound::Exactly(0.0).holds(&[0.0, 0.0]));
    }

    #[test]
    fn the_table_has_all_values_and_says_what_is_not_kept() {
        let text = table(&[
            Figure::new("exposure, s", Bound::MedianBelow(3.0), [2.0, 4.25, 5.0]),
            Figure::new("failed", Bound::Exactly(0.0), [0.0]).note("of 7"),
        ]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], "exposure, s median < 3 4.2 5 NOT OK 2 4.2 5".split(' ').collect::<Vec<_>>());
        assert_eq!(rows[2], "failed 0 0 0 ok 0 (of 7)".split(' ').collect::<Vec<_>>());
    }
}
