//! placeholder
use super::testing::*;
use super::*;

/// Canary requests until Bad, or None.
fn until_bad(
    seed: u64,
    rate: f64,
    weight: f64,
    p_c: f64,
    p_s: f64,
    slos: &[Slo],
    limit: u64,
) -> Option<u64> {
    let mut dice = Dice::new(seed);
    let mut e = Evidence::new(slos, 0.01, 3);
    let mut n = 0;
    for _ in 0..1_000_000 {
        let t = dice.tick(rate, weight, p_c, p_s);
        n += t.canary.total;
        let mut v = vec![t];
        while v.len() < slos.len() {
            let t2 = dice.tick(rate, weight, 0.0, 0.0);
            v.push(t2);
        }
        e.fold(&v);
        if e.judge().iter().any(|j| j.verdict == Verdict::Bad) {
            return Some(n);
        }
        if n > limit {
            return None;
        }
    }
    None
}

#[test]
fn speed() {
    for (rate, weight) in [
        (20., 0.05),
        (100., 0.05),
        (200., 0.05),
        (20., 0.5),
        (2., 0.5),
        (1., 0.05),
        (10., 0.25),
    ] {
        for (p_c, p_s) in [
            (1.0, 0.0),
            (0.2, 0.0),
            (0.2, 0.005),
            (0.05, 0.002),
            (0.03, 0.005),
        ] {
            let mut v: Vec<u64> = (0..200)
                .map(|s| {
                    until_bad(s, rate, weight, p_c, p_s, &[errors(), latency()], 20000)
                        .unwrap_or(99999)
                })
                .collect();
            v.sort();
            eprintln!(
                "rate {rate} w {weight} p_c {p_c} p_s {p_s}: median {} p90 {}",
                v[100], v[180]
            );
        }
    }
}
