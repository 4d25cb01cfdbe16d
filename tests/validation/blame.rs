//! One bad pod, or a bad version?

use serin::evidence::{Count, Evidence, PodTick, Sample, Slo, Suspect};
use serin::forecast::{Dice, Share};

use crate::{median, runs, simulate};

const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
const HEALTHY: f64 = 0.002;
/// Twenty minutes.
const SECONDS: u32 = 1200;

/// Who is blamed, and after how many seconds of trouble; the trouble begins somewhere in the first five
/// minutes.
fn blamed(seed: u64, one_pod: bool) -> (Option<Suspect>, f64) {
    let mut dice = Dice::new(seed + 1);
    let pods = 3 + dice.below(8) as usize;
    let bad = 0.05 * 20.0_f64.powf(dice.uniform());
    // No two pods fare alike: half as bad to one and a half times.
    let luck: Vec<f64> = (0..pods).map(|_| 0.5 + dice.uniform()).collect();
    let onset = dice.below(300) as u32;
    let slo = Slo { name: "errors".into(), objective: 0.01, relative: 1.5, absolute: 0.001 };
    let mut evidence = Evidence::new(&[slo], 0.01, 3);
    for second in 0..SECONDS {
        let mut draw = |rate: f64, bad: f64| {
            let total = dice.poisson(rate);
            Count { bad: dice.binomial(total, bad), total }
        };
        let each: Vec<[Count; 1]> = (0..pods)
            .map(|pod| {
                let ill = second >= onset && (pod == 1 || !one_pod);
                [draw(10.0, luck[pod] * if ill { bad } else { HEALTHY })]
            })
            .collect();
        let canary = each
            .iter()
            .fold(Count::default(), |sum, [pod]| Count { bad: sum.bad + pod.bad, total: sum.total + pod.total });
        let stable = draw(100.0 * pods as f64, HEALTHY);
        let tick = |(pod, [count]): (&&str, &[Count; 1])| PodTick {
            pod: (*pod).to_owned(),
            requests: count.total,
            counts: vec![*count],
        };
        let ticks: Vec<PodTick> = NAMES.iter().zip(&each).map(tick).collect();
        evidence.fold_pods(&[Sample { canary, stable }], &ticks);
        match evidence.suspect() {
            None | Some(Suspect::Unclear) => {}
            Some(suspect) => return (Some(suspect.clone()), f64::from(second + 1) - f64::from(onset)),
        }
    }
    (None, f64::NAN)
}

#[test]
fn who_is_to_blame_is_named_right() {
    let runs = runs(60).min(1000);
    println!("\nwho is blamed, of {runs} releases each: 3 to 10 canary pods, 5 to 100 % of requests bad");
    for one_pod in [true, false] {
        let all = simulate(runs, |seed| blamed(seed, one_pod));
        let share = |who: &dyn Fn(&Option<Suspect>) -> bool| Share::of(all.iter().map(|(suspect, _)| who(suspect)));
        let pod = share(&|suspect| *suspect == Some(Suspect::Pod("b".into())));
        let other = share(&|suspect| matches!(suspect, Some(Suspect::Pod(pod)) if pod != "b"));
        let version = share(&|suspect| *suspect == Some(Suspect::Version));
        let seconds = median(all.iter().map(|(_, seconds)| *seconds).collect());
        let truth = if one_pod { "one bad pod" } else { "bad version" };
        println!("{truth}: version {version}, that pod {pod}, another pod {other}; median after {seconds} s");
        if one_pod {
            assert!(pod.ratio() >= 0.95, "{pod}");
        } else {
            assert!(pod.hits + other.hits <= runs / 50 && version.ratio() >= 0.95, "{version}, {pod}, {other}");
        }
    }
}
