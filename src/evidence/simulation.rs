//! What the evidence promises, tried out: stories and seeded simulations of whole runs.

use super::testing::{Dice, errors, latency, sample, verdicts};
use super::*;

fn folded(slos: &[Slo], ticks: &[(usize, Sample)]) -> Evidence {
    let mut evidence = Evidence::new(slos, 0.01, 3);
    for &(times, tick) in ticks {
        for _ in 0..times {
            evidence.fold(&vec![tick; slos.len()]);
        }
    }
    evidence
}

fn only(evidence: &Evidence) -> Judgement {
    evidence.judge().remove(0)
}

mod stories {
    use super::*;

    #[test]
    fn without_canary_requests_there_is_no_verdict() {
        let evidence = folded(&[errors(), latency()], &[(60, sample(0, 0, 3, 190))]);
        let judged = evidence.judge();
        assert_eq!(verdicts(&judged), [Verdict::NoData, Verdict::NoData]);
        assert!(judged.iter().all(|j| !j.shared_fault));
    }

    #[test]
    fn a_clean_canary_is_good_within_a_bake_of_a_minute() {
        // Given 200 requests a second at weight 5, when a minute has passed:
        let evidence = folded(&[errors(), latency()], &[(60, sample(0, 10, 0, 190))]);
        for judgement in evidence.judge() {
            assert_eq!(judgement.verdict, Verdict::Good);
            assert!((100..=250).contains(&judgement.needed), "{judgement:?}");
            assert_eq!(judgement.step.canary.total, 600);
        }
        // But not at once.
        let early = folded(&[errors(), latency()], &[(5, sample(0, 10, 0, 190))]);
        assert_eq!(verdicts(&early.judge()), [Verdict::Undecided; 2]);
    }

    #[test]
    fn every_step_asks_for_requests_of_its_own() {
        let mut evidence = folded(&[errors()], &[(60, sample(0, 10, 0, 190))]);
        evidence.begin_step(1);
        assert_eq!(only(&evidence).verdict, Verdict::NoData);
        evidence.fold(&[sample(0, 50, 0, 150)]);
        assert_eq!(only(&evidence).verdict, Verdict::Undecided);
        let before = evidence.clone();
        evidence.begin_step(1);
        assert_eq!(evidence, before, "saying it twice changes nothing");
    }

    #[test]
    fn a_canary_that_fails_is_bad_and_stays_bad() {
        let mut evidence = folded(&[errors()], &[(30, sample(0, 10, 1, 190)), (6, sample(3, 10, 1, 190))]);
        let at_once = only(&evidence);
        assert_eq!(at_once.verdict, Verdict::Bad);
        assert!(at_once.evidence >= at_once.threshold);
        for step in [1, 2] {
            evidence.begin_step(step);
            for _ in 0..500 {
                evidence.fold(&[sample(0, 100, 9, 100)]);
            }
            assert_eq!(only(&evidence).verdict, Verdict::Bad);
            assert!(only(&evidence).evidence >= at_once.threshold);
        }
    }

    #[test]
    fn a_regression_that_begins_late_is_found_nearly_as_fast() {
        // Given ten quiet minutes, or a step that begins just before:
        let ticks_until_bad = |mut evidence: Evidence| {
            (1..500).find(|_| {
                evidence.fold(&[sample(2, 10, 1, 190)]);
                evidence.any_bad()
            })
        };
        let quiet = [(600, sample(0, 10, 1, 190))];
        let fresh = ticks_until_bad(Evidence::new(&[errors()], 0.01, 3)).unwrap();
        let late = ticks_until_bad(folded(&[errors()], &quiet)).unwrap();
        let mut next = folded(&[errors()], &quiet);
        next.begin_step(1);
        let next = ticks_until_bad(next).unwrap();
        assert!(fresh <= 5, "{fresh} ticks");
        assert!(next <= fresh + 2, "{next} ticks");
        assert!(late <= fresh + 6, "{late} ticks");
    }

    #[test]
    fn a_canary_over_its_objective_within_the_tolerance_of_stable_is_bad() {
        // Given stable at 0.8 %, canary at 1.6 %: less than twice stable is tolerated.
        let slo = Slo { relative: 2.0, ..errors() };
        let evidence = folded(&[slo], &[(600, sample(8, 500, 4, 500))]);
        let judgement = only(&evidence);
        assert_eq!(judgement.verdict, Verdict::Bad);
        assert_eq!(judgement.test, Test::Objective);
    }

    #[test]
    fn when_stable_serves_nothing_any_more_the_objective_is_the_judge() {
        let evidence = folded(&[errors()], &[(60, sample(0, 50, 0, 50)), (12, sample(10, 100, 0, 0))]);
        let judgement = only(&evidence);
        assert_eq!(judgement.verdict, Verdict::Bad);
        assert_eq!(judgement.test, Test::Objective);
    }

    #[test]
    fn a_shared_outage_is_a_reason_to_hold_and_goes_by() {
        let mut evidence = folded(&[errors()], &[(60, sample(0, 20, 1, 180)), (60, sample(4, 20, 36, 180))]);
        let during = only(&evidence);
        assert_ne!(during.verdict, Verdict::Bad);
        assert!(during.shared_fault);
        evidence.fold(&[sample(0, 20, 1, 180)]);
        evidence.fold(&[sample(0, 20, 1, 180)]);
        assert!(!only(&evidence).shared_fault);
        // The step asks for more requests now: less can be seen beside a stable like that.
        for _ in 0..120 {
            evidence.fold(&[sample(0, 20, 1, 180)]);
        }
        let after = only(&evidence);
        assert_eq!(after.verdict, Verdict::Good);
        assert!(!after.shared_fault);
        // And a canary that breaks after the outage is found as ever.
        for _ in 0..4 {
            evidence.fold(&[sample(15, 20, 1, 180)]);
        }
        assert_eq!(only(&evidence).verdict, Verdict::Bad);
    }

    #[test]
    fn much_worse_than_stable_is_bad_even_in_an_outage_of_both() {
        let evidence = folded(&[errors()], &[(60, sample(0, 20, 1, 180)), (60, sample(16, 20, 18, 180))]);
        let judgement = only(&evidence);
        assert_eq!(judgement.verdict, Verdict::Bad);
        assert_eq!(judgement.test, Test::VersusStable);
        assert!(!judgement.shared_fault);
    }

    #[test]
    fn a_canary_that_cures_stables_outage_is_not_held_back() {
        let ill = sample(0, 20, 36, 180);
        let start = [(60, sample(0, 20, 1, 180)), (2, ill)];
        assert!(only(&folded(&[errors()], &start)).shared_fault);
        let evidence = folded(&[errors()], &[start[0], (10, ill)]);
        assert_eq!(only(&evidence).verdict, Verdict::Good);
        assert!(!only(&evidence).shared_fault);
    }

    #[test]
    fn a_stable_that_always_misses_its_objective_a_little_blames_nobody() {
        let evidence = folded(&[errors()], &[(3000, sample(13, 1000, 13, 1000))]);
        let judgement = only(&evidence);
        assert_eq!(judgement.verdict, Verdict::Good);
        assert!(!judgement.shared_fault);
    }

    #[test]
    fn a_service_with_one_request_a_second_can_be_judged_too() {
        // Most ticks have no request at one of the arms, or at both.
        let mut dice = Dice::new(7);
        let mut evidence = Evidence::new(&[errors()], 0.01, 3);
        let requests = (0..20_000).find_map(|_| {
            evidence.fold(&[dice.tick(1.0, 0.1, 0.3, 0.0)]);
            evidence.any_bad().then(|| only(&evidence).canary.total)
        });
        assert!(requests.is_some_and(|n| n <= 40), "{requests:?}");
    }

    #[test]
    fn a_good_canary_is_proven_not_to_be_inferior_and_each_step_proves_it_anew() {
        // Given a stable with 0.2 % errors and a canary like it at 500 requests a second:
        let mut dice = Dice::new(21);
        let mut evidence = Evidence::new(&[errors()], 0.01, 3);
        for (step, weight) in [0.1, 0.5].into_iter().enumerate() {
            evidence.begin_step(step);
            assert!(!only(&evidence).not_inferior);
            let seconds = (1..600).find(|_| {
                evidence.fold(&[dice.tick(500.0, weight, 0.002, 0.002)]);
                only(&evidence).not_inferior
            });
            assert!(seconds.is_some_and(|seconds| (10..=200).contains(&seconds)), "{weight}: {seconds:?}");
        }
    }

    #[test]
    fn silence_proves_nothing() {
        // No canary requests, no requests at all, or an outage of both: nothing is proven.
        for tick in [sample(0, 0, 3, 190), Sample::default(), sample(10, 100, 20, 200)] {
            let judgement = only(&folded(&[errors()], &[(3000, tick)]));
            assert!(!judgement.not_inferior && judgement.proof.evidence <= 0.0, "{judgement:?}");
        }
    }

    #[test]
    fn what_is_inferior_by_any_margin_is_hardly_ever_proven_not_to_be() {
        // Given the least inferior canary there is, exactly as bad as tolerated, beside a stable that
        // wobbles, when somebody looks at every tick of ten minutes:
        let slo = errors();
        let proven = (0..400).filter(|seed| {
            let mut dice = Dice::new(seed + 1);
            let mut evidence = Evidence::new(&[errors()], 0.01, 1);
            (0..600).any(|tick| {
                let p_s = 0.003 * (1.0 + 0.8 * (tick as f64 / 30.0).sin());
                evidence.fold(&[dice.tick(60.0, 0.3, slo.relative * p_s + slo.absolute, p_s)]);
                evidence.slos[0].proof().holds()
            })
        });
        let proven = proven.count();
        assert!(proven <= 20, "{proven} of 400");
    }

    #[test]
    fn after_a_restart_the_fold_goes_on_exactly() {
        let mut dice = Dice::new(3);
        let slos = [errors(), latency()];
        let mut straight = Evidence::new(&slos, 0.013_7, 4);
        let mut restarted = straight.clone();
        for tick in 0..400 {
            if tick % 90 == 89 {
                straight.begin_step(tick / 90 + 1);
                restarted.begin_step(tick / 90 + 1);
            }
            let samples = [dice.tick(150.0, 0.1, 0.013, 0.01), dice.tick(150.0, 0.1, 0.02, 0.01)];
            for fold in [&mut straight, &mut restarted] {
                fold.temper(0, Phi::new(1.0 + tick as f64 / 700.0));
            }
            straight.fold(&samples);
            let written = serde_json::to_string(&restarted).unwrap();
            assert!(written.len() < 6000, "{} bytes", written.len());
            restarted = serde_json::from_str(&written).unwrap();
            restarted.fold(&samples);
            assert_eq!(restarted, straight);
        }
        assert_eq!(restarted.judge(), straight.judge());
    }

    #[test]
    fn all_money_adds_up_to_one() {
        for steps in [1, 2, 3, 7] {
            let mut stakes = Stakes::new(steps);
            let mut bet = stakes.begin();
            for step in 0..=steps {
                stakes.step = step as u32;
                bet += stakes.begin();
                bet += (0..1000).map(|_| stakes.drip()).sum::<f64>();
            }
            assert!((bet + stakes.idle() - 1.0).abs() < 1e-9, "{steps}: {bet}");
        }
    }

    #[test]
    fn missing_or_odd_input_does_no_harm() {
        let slo = Slo { name: "odd".into(), objective: f64::NAN, relative: f64::NEG_INFINITY, absolute: f64::INFINITY };
        let mut evidence = Evidence::new(&[slo, errors()], f64::NAN, 0);
        evidence.fold(&[]);
        evidence.fold(&[sample(1, 1, 1, 1); 5]);
        evidence.begin_step(usize::MAX);
        evidence.fold(&[sample(9, 1, u64::MAX, 3)]);
        for judgement in evidence.judge() {
            assert!(judgement.evidence.is_finite() && judgement.effect.is_finite());
        }
        assert!(Evidence::new(&[], 0.01, 1).judge().is_empty());
    }
}

/// Runs of 5, 25 and 50 percent. Returns whether any verdict was Bad.
struct Run {
    rate: f64,
    step_ticks: usize,
    alpha: f64,
}

impl Run {
    /// `arms(tick) -> (p_c, p_s)`, `retry`: bad requests come again within the tick.
    fn is_bad(&self, dice: &mut Dice, arms: impl Fn(usize) -> (f64, f64), retry: bool) -> bool {
        let mut evidence = Evidence::new(&[errors()], self.alpha, 3);
        for (step, weight) in [0.05, 0.25, 0.5].into_iter().enumerate() {
            evidence.begin_step(step);
            for tick in 0..self.step_ticks {
                let (p_c, p_s) = arms(step * self.step_ticks + tick);
                let mut sample = dice.tick(self.rate, weight, p_c, p_s);
                if retry {
                    // Each arm's errors are retried at that arm, with the same luck.
                    for (arm, p) in [(&mut sample.canary, p_c), (&mut sample.stable, p_s)] {
                        let again = arm.bad;
                        arm.add(Count { bad: dice.binomial(again, p), total: again });
                    }
                }
                evidence.fold(&[sample]);
                if evidence.any_bad() {
                    return true;
                }
            }
        }
        false
    }
}

fn share(runs: u64, bad: impl Fn(u64) -> bool) -> f64 {
    (0..runs).filter(|&seed| bad(seed)).count() as f64 / runs as f64
}

/// The hardest healthy release there is: exactly as bad as tolerated. Incidents multiply errors by
/// 20 for some ticks, traffic wobbles, weights rise.
fn at_the_bound(retry: bool, runs: u64) -> f64 {
    let run = Run { rate: 60.0, step_ticks: 50, alpha: 0.05 };
    let slo = errors();
    share(runs, |seed| {
        let mut dice = Dice::new(seed + 1);
        let incident = dice.below(150) as usize;
        let arms = |tick: usize| {
            let wave = 1.0 + 0.5 * (tick as f64 / 20.0).sin();
            let shock = if (incident..incident + 12).contains(&tick) { 20.0 } else { 1.0 };
            let p_s = 0.004 * wave * shock;
            (slo.relative * p_s + slo.absolute, p_s)
        };
        run.is_bad(&mut dice, arms, retry)
    })
}

#[test]
fn false_alarms_stay_below_alpha_even_at_the_bound() {
    let (plain, retried) = (at_the_bound(false, 400), at_the_bound(true, 400));
    println!("at the bound, alpha 5 %: {plain} false alarms, {retried} with retries");
    assert!(plain <= 0.05 && retried <= 0.05, "{plain}, {retried}");
}

#[test]
fn a_run_of_equal_arms_hardly_ever_alarms() {
    // No tolerance at all: A/A is then exactly at the bound.
    let strict = Slo { relative: 1.0, absolute: 0.0, ..errors() };
    let alarms = share(1000, |seed| {
        let mut dice = Dice::new(seed + 50_000);
        let incident = dice.below(120) as usize;
        let mut evidence = Evidence::new(std::slice::from_ref(&strict), 0.05, 3);
        (0..120).any(|tick| {
            if tick % 40 == 0 {
                evidence.begin_step(tick / 40);
            }
            let weight = [0.05, 0.25, 0.5][tick / 40];
            let shock = if (incident..incident + 10).contains(&tick) { 20.0 } else { 1.0 };
            let p = 0.005 * shock;
            evidence.fold(&[dice.tick(80.0, weight, p, p)]);
            evidence.any_bad()
        })
    });
    println!("A/A without tolerance, alpha 5 %: {alarms} false alarms");
    assert!(alarms <= 0.05, "{alarms}");
}

/// Two pods of canary beside eight of stable, no tolerance, A/A; bad requests come `together` at a time.
/// Stable's pods were watched for half an hour before, or not.
fn clustered(seed: u64, together: u64, learn: bool) -> bool {
    let mut dice = Dice::new(seed + 31);
    let pods = |dice: &mut Dice, pods: usize| -> Vec<Count> {
        let pod = |_| {
            let total = dice.poisson(40.0);
            let bad = dice.poisson(total as f64 * 0.01 / together as f64) * together;
            Count { bad: bad.min(total), total }
        };
        (0..pods).map(pod).collect()
    };
    let strict = Slo { relative: 1.0, absolute: 0.0, ..errors() };
    let mut evidence = Evidence::new(&[strict], 0.05, 1);
    let mut dispersion = Dispersion::default();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let sum = |pods: Vec<Count>| {
        pods.into_iter().fold(Count::default(), |mut sum, pod| {
            sum.add(pod);
            sum
        })
    };
    for _ in 0..if learn { 1800 } else { 0 } {
        let stable = pods(&mut dice, 8);
        dispersion.push(1.0, &names.into_iter().zip(stable).collect::<Vec<_>>());
    }
    (0..300).any(|_| {
        let (canary, stable) = (pods(&mut dice, 2), pods(&mut dice, 8));
        if learn {
            dispersion.push(1.0, &names.into_iter().zip(stable.iter().copied()).collect::<Vec<_>>());
            evidence.temper(0, dispersion.phi());
        }
        evidence.fold(&[Sample { canary: sum(canary), stable: sum(stable) }]);
        evidence.any_bad()
    })
}

#[test]
fn requests_that_fail_together_alarm_too_often_unless_stable_has_shown_that_they_do() {
    let naive = share(100, |seed| clustered(seed, 6, false));
    let learnt = share(100, |seed| clustered(seed, 6, true));
    println!("six at a time, alpha 5 %: {naive} false alarms, {learnt} with what stable's pods have shown");
    assert!(naive > 0.15 && learnt <= 0.05, "{naive}, {learnt}");
}

/// Both arms at 20 % for a while, beginning anywhere; `skew`: which part of a tick the canary's
/// scrape is ahead of stable's (negative: behind).
fn outage(dice: &mut Dice, rate: f64, weight: f64, skew: f64) -> (bool, bool) {
    let begin = 20.0 + 20.0 * dice.uniform();
    let end = begin + 1.0 + 30.0 * dice.uniform();
    let part = |from: f64| ((from + 1.0).min(end) - from.max(begin)).clamp(0.0, 1.0);
    let (p_good, p_ill) = (0.001, 0.2);
    let mut evidence = Evidence::new(&[errors()], 0.01, 3);
    let mut seen = false;
    for tick in 0..90 {
        let p = |from: f64| p_good + (p_ill - p_good) * part(from);
        let (p_c, p_s) = (p(tick as f64 + skew), p(tick as f64));
        evidence.fold(&[dice.tick(rate, weight, p_c, p_s)]);
        seen |= tick % 8 == 0 && evidence.judge()[0].shared_fault;
    }
    (evidence.any_bad(), seen)
}

#[test]
fn a_shared_outage_is_nobodys_fault() {
    let (mut bad, mut seen, mut all) = (0, 0, 0);
    for (rate, runs) in [(2.0, 40), (20.0, 30), (400.0, 8), (20_000.0, 2)] {
        for weight in [0.05, 0.5] {
            for skew in [0.0, 0.3, 1.0, -1.0] {
                for seed in 0..runs {
                    let mut dice = Dice::new(seed + 1000);
                    let (is_bad, is_seen) = outage(&mut dice, rate, weight, skew);
                    assert!(!is_bad || rate < 100.0, "rate {rate} weight {weight} skew {skew} seed {seed}");
                    bad += u32::from(is_bad);
                    seen += u32::from(is_seen);
                    all += 1;
                }
            }
        }
    }
    println!("shared outages: {all}, called Bad {bad}, called a shared fault {seen}");
    assert_eq!(bad, 0);
}

/// Canary requests, from the first bad one on, until the verdict is Bad; sorted.
fn requests_until_bad(slo: &Slo, arms: (f64, f64, f64, f64), runs: u64) -> Vec<u64> {
    let (rate, weight, p_c, p_s) = arms;
    let mut all: Vec<u64> = (0..runs)
        .map(|seed| {
            let mut dice = Dice::new(seed + 9);
            let mut evidence = Evidence::new(&[slo.clone(), latency()], 0.01, 3);
            let mut requests = 0;
            while !evidence.any_bad() && requests < 100_000 {
                let tick = dice.tick(rate, weight, p_c, p_s);
                requests += tick.canary.total;
                evidence.fold(&[tick, Sample::default()]);
            }
            requests
        })
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn gross_failures_are_found_within_a_dozen_requests_and_twenty_percent_within_thirty_five() {
    let speed = |rate, p_c| {
        let all = requests_until_bad(&errors(), (rate, 0.05, p_c, 0.0), 100);
        (all[50], all[90])
    };
    // A request a tick: what the arithmetic needs, and the tick that it waits for.
    let ((all_bad, _), (fifth, worst)) = (speed(20.0, 1.0), speed(20.0, 0.2));
    println!("100 %: {all_bad}, 20 %: {fifth} ({worst})");
    assert!(all_bad <= 12 && fifth <= 35 && worst <= 60);
    // Ten requests a tick: two ticks for the one, four for the other.
    let ((all_bad, _), (fifth, worst)) = (speed(200.0, 1.0), speed(200.0, 0.2));
    println!("at 10 a tick 100 %: {all_bad}, 20 %: {fifth} ({worst})");
    assert!(all_bad <= 25 && fifth <= 45);
}

/// Once it is over, an outage of both counts for nothing: a step need not outweigh it first.
#[test]
fn after_an_outage_of_both_a_step_is_as_short_as_without_one() {
    let ticks_to_good = |outage: usize, seed: u64| {
        let mut dice = Dice::new(seed);
        let mut evidence = Evidence::new(&[errors()], 0.01, 3);
        for _ in 0..5 {
            evidence.fold(&[dice.tick(200.0, 0.05, 0.001, 0.001)]);
        }
        for _ in 0..outage {
            evidence.fold(&[dice.tick(200.0, 0.05, 0.2, 0.2)]);
            assert_ne!(only(&evidence).verdict, Verdict::Good, "nothing is proven in an outage");
        }
        let good = (1..1000).find(|_| {
            evidence.fold(&[dice.tick(200.0, 0.05, 0.001, 0.001)]);
            let judgement = only(&evidence);
            judgement.verdict == Verdict::Good && !judgement.shared_fault
        });
        good.expect("it goes on")
    };
    let all = |outage: usize| (1..=20).map(|seed| ticks_to_good(outage, seed)).collect::<Vec<_>>();
    let (with, without) = (all(60), all(0));
    println!("ticks to go on: {with:?} after an outage of 60 ticks, {without:?} without");
    // Some seconds go by until the outage is known to be over.
    assert!(with.iter().zip(&without).all(|(with, without)| *with <= without + 20));
}

#[test]
fn the_stated_power_is_the_simulated_power() {
    for (slo, rate, weight, p_s) in [
        (errors(), 100.0, 0.05, 0.0),
        (errors(), 60.0, 0.1, 0.002),
        (errors(), 400.0, 0.05, 0.01),
        (errors(), 300.0, 0.25, 0.008),
        (errors(), 10.0, 0.3, 0.0),
        (latency(), 150.0, 0.4, 0.02),
    ] {
        // Given the requests that a step beside this stable asks for ...
        let mut dice = Dice::new(4242);
        let mut asked = Evidence::new(&[slo.clone(), latency()], 0.01, 3);
        for _ in 0..1000 {
            asked.fold(&[dice.tick(rate, weight, p_s, p_s), Sample::default()]);
        }
        let asked = asked.judge().remove(0);
        // ... nine of ten regressions of the stated effect must be found in as many. (The tick
        // that a verdict waits for is not part of the arithmetic.)
        let wait = rate * weight;
        let all = requests_until_bad(&slo, (rate, weight, asked.effect, p_s), 200);
        let found = all[180] as f64 - wait;
        let within = all.iter().filter(|&&n| n as f64 - wait <= asked.needed as f64);
        let power = within.count() as f64 / all.len() as f64;
        let off = asked.needed as f64 / found - 1.0;
        println!(
            "rate {rate} weight {weight} stable {p_s}: asks for {}, takes {found:.0} ({:+.0} %), power {power}",
            asked.needed,
            100.0 * off
        );
        assert!(off.abs() < 0.25, "{off}");
        assert!(power > 0.8, "{power}");
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn counts() -> impl Strategy<Value = u64> {
        prop_oneof![0..5_u64, 0..2000_u64, Just(u64::MAX), any::<u64>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn whatever_is_counted_numbers_are_finite_and_bad_is_final(
            ticks in proptest::collection::vec((counts(), counts(), counts(), counts(), 0..5_usize), 1..40),
            objective in 0.0..1.0_f64,
            relative in 1.0..10.0_f64,
            absolute in 0.0..1.0_f64,
        ) {
            let slo = Slo { name: "any".into(), objective, relative, absolute };
            let mut evidence = Evidence::new(&[slo], 0.01, 3);
            let mut bad = false;
            for (e_c, n_c, e_s, n_s, step) in ticks {
                evidence.begin_step(step);
                evidence.fold(&[sample(e_c, n_c, e_s, n_s)]);
                let judgement = only(&evidence);
                prop_assert!(judgement.evidence.is_finite());
                prop_assert!((0.0..=1.0).contains(&judgement.effect));
                prop_assert!(judgement.needed >= 1);
                let is_bad = judgement.verdict == Verdict::Bad;
                prop_assert!(is_bad || !bad);
                prop_assert_eq!(is_bad, evidence.any_bad());
                prop_assert_eq!(is_bad, judgement.evidence >= judgement.threshold);
                bad = is_bad;
            }
        }
    }
}
