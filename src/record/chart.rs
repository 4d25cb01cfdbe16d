//! Line charts as SVG: nothing outside the page is needed to look at them.

use std::fmt::Write as _;

const WIDTH: f64 = 920.0;
const HEIGHT: f64 = 190.0;
/// Room for labels: left, right, top, bottom.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;
/// More points than this nobody can see: of each slot the lowest and the highest are drawn.
const SLOTS: usize = 400;

/// One line of a chart.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    /// For the legend.
    pub name: &'static str,
    /// For its colour: `canary`, `stable`, `set`, ...
    pub class: &'static str,
    /// Seconds and value, in order of time.
    pub points: Vec<(f64, f64)>,
    /// A value holds until the next.
    pub holds: bool,
}

/// A chart over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Chart {
    /// What the values are, such as "% of requests".
    pub unit: &'static str,
    /// Length of the time axis in seconds.
    pub seconds: f64,
    /// The lines.
    pub series: Vec<Series>,
    /// A value that matters, and its name.
    pub limit: Option<(f64, &'static str)>,
    /// Moments that matter: seconds and a name.
    pub marks: Vec<(f64, String)>,
}

impl Chart {
    /// The chart as an `<svg>` element.
    pub fn svg(&self) -> String {
        let high = round_up(self.highest());
        let seconds = self.seconds.max(1.0);
        let x = |at: f64| LEFT + at.clamp(0.0, seconds) / seconds * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - (value.clamp(0.0, high) / high) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#, self.unit);
        for part in 0..=4 {
            let value = high * f64::from(part) / 4.0;
            let at = y(value);
            let _ =
                write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
            let _ = write!(
                svg,
                r#"<text class="axis" text-anchor="end" x="{:.1}" y="{:.1}">{}</text>"#,
                LEFT - 6.0,
                at + 4.0,
                short(value)
            );
        }
        let pace = round_up(seconds / 8.0);
        let mut at = 0.0;
        while at <= seconds {
            let _ = write!(
                svg,
                r#"<text class="axis" text-anchor="middle" x="{:.1}" y="{:.1}">{}</text>"#,
                x(at),
                HEIGHT - 8.0,
                clock(at)
            );
            at += pace;
        }
        for (at, name) in &self.marks {
            let at = x(*at);
            let _ = write!(
                svg,
                r#"<line class="mark" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"><title>{}</title></line>"#,
                HEIGHT - BOTTOM,
                escaped(name)
            );
        }
        if let Some((limit, name)) = self.limit {
            let at = y(limit);
            let _ =
                write!(svg, r#"<line class="limit" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
            let _ = write!(
                svg,
                r#"<text class="limit" text-anchor="end" x="{:.1}" y="{:.1}">{name}</text>"#,
                WIDTH - RIGHT,
                at - 4.0
            );
        }
        for series in &self.series {
            let mut path = String::new();
            let mut last: Option<f64> = None;
            for (at, value) in thinned(&series.points) {
                let (at, value) = (x(at), y(value));
                match last {
                    None => drop(write!(path, "M{at:.1},{value:.1}")),
                    Some(before) if series.holds => drop(write!(path, "L{at:.1},{before:.1}L{at:.1},{value:.1}")),
                    Some(_) => drop(write!(path, "L{at:.1},{value:.1}")),
                }
                last = Some(value);
            }
            let _ = write!(svg, r#"<path class="{}" d="{path}"/>"#, series.class);
        }
        svg.push_str("</svg>");
        let names =
            self.series.iter().map(|series| format!(r#"<span class="{}">{}</span>"#, series.class, series.name));
        format!(
            r#"<figure>{svg}<figcaption>{} {}</figcaption></figure>"#,
            escaped(self.unit),
            names.collect::<String>()
        )
    }

    fn highest(&self) -> f64 {
        let values = self.series.iter().flat_map(|series| series.points.iter().map(|(_, value)| *value));
        values.chain(self.limit.map(|(limit, _)| limit * 1.1)).filter(|value| value.is_finite()).fold(0.0, f64::max)
    }
}

/// At most two points of each slot: its lowest and its highest, in order.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= 2 * SLOTS {
        return points.to_vec();
    }
    let slot = points.len().div_ceil(SLOTS);
    let ends = points.chunks(slot).flat_map(|slot| {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (slot.iter().min_by(by_value).copied(), slot.iter().max_by(by_value).copied());
        let mut both: Vec<(f64, f64)> = low.into_iter().chain(high).collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        both.dedup();
        both
    });
    ends.collect()
}

/// The next of 1, 2, 5, 10, 20, ...
fn round_up(value: f64) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value * 0.999_999).unwrap_or(value)
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// 75 seconds are 1:15.
pub(super) fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Text that a page shows as it is.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_numbers() {
        for (value, up) in [(0.0, 1.0), (0.34, 0.5), (1.0, 1.0), (18.4, 20.0), (101.0, 200.0), (f64::NAN, 1.0)] {
            assert!((round_up(value) - up).abs() < 1e-9, "{value}");
        }
        assert_eq!((clock(75.4), clock(3725.0)), ("1:15".to_owned(), "1:02:05".to_owned()));
    }

    #[test]
    fn a_long_line_is_thinned_and_keeps_its_peak() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|at| (f64::from(at), 1.0)).collect();
        points[4_321].1 = 99.0;
        let thin = thinned(&points);
        assert!(thin.len() <= 2 * SLOTS, "{}", thin.len());
        assert!(thin.contains(&(4_321.0, 99.0)));
        assert!(thin.windows(2).all(|two| two[0].0 <= two[1].0));
    }

    #[test]
    fn what_a_person_wrote_is_no_markup() {
        let chart = Chart { unit: "%", seconds: 10.0, marks: vec![(1.0, "<script>".into())], ..Chart::default() };
        assert!(chart.svg().contains("&lt;script&gt;") && !chart.svg().contains("<script>"));
    }
}
