//! How many canary pods a weight needs.

/// Pods for this percent of the requests (0 to 100) that `replicas` pods carry today.
///
/// With a route the canary gets its share of the Deployment's size, rounded up, and two pods at least where the
/// Deployment has as many: a gateway forgets a pod that is evicted before anybody can take its weight away, so that with
/// one pod alone the canary's share would have nowhere to go. Without a route the share of requests is the share of
/// pods: `c / (c + replicas) = weight / 100`, rounded to the nearest, and never more than stable's.
pub fn canary_replicas(weight: u32, replicas: i32, routed: bool) -> i32 {
    let replicas = i64::from(replicas.max(1));
    let weight = i64::from(weight.min(100));
    let wanted = if weight == 0 {
        0
    } else if routed {
        (replicas * weight + 99) / 100
    } else {
        let weight = weight.min(50);
        (2 * replicas * weight + (100 - weight)) / (2 * (100 - weight))
    };
    let least = match weight > 0 {
        false => 0,
        true => {
            if routed {
                replicas.min(2)
            } else {
                1
            }
        }
    };
    i32::try_from(wanted.clamp(least, replicas)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::canary_replicas;

    #[test]
    fn a_canary_is_as_big_as_its_weight_needs() {
        for (weight, replicas, routed, pods) in [
            (5, 4, true, 2),
            (25, 4, true, 2),
            (50, 4, true, 2),
            (51, 4, true, 3),
            (100, 4, true, 4),
            (0, 4, true, 0),
            (5, 20, true, 2),
            (11, 20, true, 3),
            (5, 1, true, 1),
            (5, 2, true, 2),
            (50, 3, true, 2),
            (5, 0, true, 1),
            (50, 4, false, 4),
            (20, 4, false, 1),
            (25, 9, false, 3),
            (1, 3, false, 1),
            (100, 4, false, 4),
        ] {
            assert_eq!(
                canary_replicas(weight, replicas, routed),
                pods,
                "weight {weight} of {replicas}, routed {routed}"
            );
        }
    }
}
