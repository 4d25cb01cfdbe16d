//! What the Gateway API lets a route have (its CRDs, v1.0 to v1.6), asked before a run starts: a patch that the API server
//! refuses in mid-run would leave the run where it is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    extra,
    objects::Route,
    route::{Originals, Wanted, refs, written},
};
use crate::api::RolloutSpec;

/// Rules of a route.
const RULES: usize = 16;
/// Matches of a rule, and of all rules of a route.
const MATCHES: usize = 64;
const ALL_MATCHES: usize = 128;
/// Backends of a rule, filters of a rule or a backend, headers of a match, headers that a filter adds.
const OTHERS: usize = 16;
/// Characters of a header's value.
const VALUE: usize = 4096;

/// Why a route can't hold what a step needs, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step {step} of the policy does not fit into it: {why}")]
pub struct NoRoom {
    /// Counted from 1.
    pub step: u32,
    /// What is too much.
    pub why: TooMuch,
}

/// What is too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Rules.
    #[error(
        "expected at most {RULES} rules (the Gateway API's limit), found {found} with Serin's own, which match, mirror and \
         sticky put before each rule that names the Service: move rules to another route, and name both in spec.routes, or \
         leave out such a step or sticky"
    )]
    Rules {
        /// With Serin's.
        found: usize,
    },
    /// Matches.
    #[error(
        "expected at most {most} matches in {of} (the Gateway API's limit), found {found} with Serin's own, which are those \
         of the rule times the alternatives of match (or the methods of mirror): name fewer"
    )]
    Matches {
        /// One rule, or the whole route.
        of: &'static str,
        /// The limit.
        most: usize,
        /// With Serin's.
        found: usize,
    },
    /// Backends or filters.
    #[error(
        "expected at most {OTHERS} {what} in a rule (the Gateway API's limit), found {found} with Serin's own: name fewer"
    )]
    Others {
        /// In plural.
        what: &'static str,
        /// With Serin's.
        found: usize,
    },
    /// A header twice in one match.
    #[error(
        "a rule's match asks for the header {name} already, and the step (or sticky) asks for it too, which the Gateway API \
         does not allow: use another header or cookie, or a rule without it"
    )]
    SameHeader {
        /// Its name.
        name: String,
    },
    /// A header's value.
    #[error(
        "expected at most {VALUE} characters in the value of header {name}, found {found}: use shorter values in match"
    )]
    Value {
        /// Of the header.
        name: String,
        /// Characters.
        found: usize,
    },
    /// A filter that changes the header by which sticky works.
    #[error(
        "a ResponseHeaderModifier of a rule changes the header Set-Cookie, by which sticky works: let the service set this \
         cookie, or leave out sticky"
    )]
    Cookie,
}

/// The route can hold all that the steps of the policy put into it.
///
/// # Errors
/// The first step that does not fit.
pub fn room(route: &Route, policy: &RolloutSpec, run: &str, known: &Originals) -> Result<(), NoRoom> {
    if adds_only_references(route, policy) {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    for step in (1..).take(policy.steps.len()) {
        let share = policy.share_at(step);
        // Without stickiness one weight takes as much room as another.
        let weight = if policy.sticky.is_some() { share.weight } else { 1 };
        if seen.insert((weight, share.matching, share.mirror)) {
            fits(&written(route, &Wanted::by(policy, run, share), known).0).map_err(|why| NoRoom { step, why })?;
        }
    }
    Ok(())
}

/// With nothing but weights each of a rule's references gets at most one more: this is asked at every look.
fn adds_only_references(route: &Route, policy: &RolloutSpec) -> bool {
    let adds_rules =
        policy.sticky.is_some() || policy.steps.iter().any(|step| step.matches.is_some() || step.mirror.is_some());
    !adds_rules && list(&route.spec, "rules").iter().all(|rule| refs(rule).len() <= OTHERS / 2)
}

fn list<'a>(holder: &'a Value, name: &str) -> &'a [Value] {
    holder.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn fits(rules: &[Value]) -> Result<(), TooMuch> {
    if rules.len() > RULES {
        return Err(TooMuch::Rules { found: rules.len() });
    }
    let mut all = 0;
    for rule in rules {
        let matches = list(rule, "matches");
        all += matches.len();
        if matches.len() > MATCHES {
            return Err(TooMuch::Matches { of: "one rule", most: MATCHES, found: matches.len() });
        }
        matches.iter().try_for_each(|one| headers(list(one, "headers")))?;
        few("backendRefs", refs(rule))?;
        few("filters", list(rule, "filters"))?;
        refs(rule).iter().try_for_each(|reference| few("filters", list(reference, "filters")))?;
        cookie(rule)?;
    }
    match all > ALL_MATCHES {
        true => Err(TooMuch::Matches { of: "all rules of a route", most: ALL_MATCHES, found: all }),
        false => Ok(()),
    }
}

fn few(what: &'static str, found: &[Value]) -> Result<(), TooMuch> {
    if found.len() > OTHERS { Err(TooMuch::Others { what, found: found.len() }) } else { Ok(()) }
}

fn name_of(header: &Value) -> String {
    header["name"].as_str().unwrap_or_default().to_ascii_lowercase()
}

/// The headers of a match: each once, whatever its case.
fn headers(headers: &[Value]) -> Result<(), TooMuch> {
    few("headers of a match", headers)?;
    let mut seen = BTreeSet::new();
    for header in headers {
        let name = header["name"].as_str().unwrap_or_default().to_owned();
        let found = header["value"].as_str().unwrap_or_default().chars().count();
        if found > VALUE {
            return Err(TooMuch::Value { name, found });
        }
        if !seen.insert(name_of(header)) {
            return Err(TooMuch::SameHeader { name });
        }
    }
    Ok(())
}

/// Where a cookie of ours is added, nothing else changes it.
fn cookie(rule: &Value) -> Result<(), TooMuch> {
    let modifiers = |holder: &'static str, from: &Value| -> Vec<(&'static str, Value)> {
        let filters = list(from, "filters").iter().filter_map(|filter| filter.get("responseHeaderModifier"));
        filters.map(|modifier| (holder, modifier.clone())).collect()
    };
    let set_cookie = extra::SET_COOKIE.to_ascii_lowercase();
    let of_rule = modifiers("rule", rule);
    for reference in refs(rule) {
        let all = [of_rule.clone(), modifiers("backend", reference)].concat();
        let ours = |modifier: &Value| list(modifier, "add").iter().any(extra::is_our_cookie);
        if !all.iter().any(|(_, modifier)| ours(modifier)) {
            continue;
        }
        let changed = all.iter().any(|(holder, modifier)| {
            let added = list(modifier, "add").iter().filter(|header| name_of(header) == set_cookie).count();
            let set = list(modifier, "set").iter().any(|header| name_of(header) == set_cookie);
            let removed = list(modifier, "remove")
                .iter()
                .any(|name| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case(extra::SET_COOKIE)));
            set || removed || *holder == "backend" && added > 1
        });
        if changed {
            return Err(TooMuch::Cookie);
        }
        let added = all.iter().map(|(_, modifier)| list(modifier, "add")).find(|added| added.len() > OTHERS);
        few("headers that a filter adds", added.unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::route::tests, *};

    fn said(rules: Value, steps: Value, sticky: Value) -> String {
        let run = tests::run(steps, sticky);
        match room(&tests::route(rules), &run.spec.policy, "auth-7", &Originals::new()) {
            Ok(()) => String::new(),
            Err(no_room) => no_room.to_string(),
        }
    }

    fn to_auth(path: usize) -> Value {
        json!({"matches": [{"path": {"type": "PathPrefix", "value": format!("/{path}")}}], "backendRefs": [{"name": "auth", "port": 80}]})
    }

    #[test]
    fn sixteen_rules_hold_as_many_as_the_steps_put_into_them() {
        let routes = |rules: usize| Value::Array((0..rules).map(to_auth).collect());
        let weights = json!([{"weight": 5}, {"weight": 25}, {"weight": 50}]);
        assert_eq!(said(routes(16), weights.clone(), Value::Null), "", "weights alone add none");
        // two for those who stay, one for each weight before, and the rule itself
        assert_eq!(said(routes(3), weights.clone(), json!({})), "");
        let full = said(routes(4), weights, json!({}));
        assert!(full.contains("step 2") || full.contains("step 3"), "{full}");
        assert!(full.contains("at most 16 rules") && full.contains("spec.routes"), "{full}");
        let tester = json!([{"headers": [{"name": "x-tester", "value": "yes"}]}]);
        assert_eq!(said(routes(8), json!([{"match": tester}, {"weight": 5}]), Value::Null), "");
        let full = said(routes(9), json!([{"weight": 5}, {"match": tester}]), Value::Null);
        assert!(full.contains("step 2") && full.contains("found 18"), "{full}");
    }

    #[test]
    fn a_match_that_is_multiplied_too_often_is_said() {
        let paths = |paths: usize| {
            let matches: Vec<Value> = (0..paths).map(|path| json!({"path": {"value": format!("/{path}")}})).collect();
            json!([{"matches": matches, "backendRefs": [{"name": "auth", "port": 80}]}])
        };
        let testers: Vec<Value> =
            (0..8).map(|tester| json!({"headers": [{"name": "x-tester", "value": tester.to_string()}]})).collect();
        let steps = json!([{"match": testers}, {"weight": 5}]);
        assert_eq!(said(paths(8), steps.clone(), Value::Null), "");
        let full = said(paths(9), steps, Value::Null);
        assert!(full.contains("at most 64 matches in one rule") && full.contains("found 72"), "{full}");
        let all = Value::Array(vec![paths(60)[0].clone(); 2]);
        let full = said(all, json!([{"mirror": {"percent": 1, "methods": ["GET"]}}, {"weight": 5}]), Value::Null);
        assert!(full.contains("at most 128 matches in all rules") && full.contains("found 240"), "{full}");
    }

    #[test]
    fn a_header_that_the_rule_asks_for_itself_is_said() {
        let rules = |name: &str, value: &str| json!([{"matches": [{"headers": [{"type": "Exact", "name": name, "value": value}]}], "backendRefs": [{"name": "auth", "port": 80}]}]);
        let weights = json!([{"weight": 5}, {"weight": 25}]);
        let twice = said(rules("cookie", "a=1"), weights.clone(), json!({}));
        assert!(twice.contains("Cookie already"), "{twice}");
        assert_eq!(said(rules("cookie", "a=1"), weights, Value::Null), "");
        let tester = json!([{"match": [{"headers": [{"name": "x-tester", "value": "yes"}]}]}, {"weight": 5}]);
        assert!(said(rules("X-Tester", "no"), tester.clone(), Value::Null).contains("x-tester already"));
        assert_eq!(said(rules("x-tester", "yes"), tester, Value::Null), "", "the same is asked for once");
    }

    #[test]
    fn a_filter_that_changes_the_cookie_by_which_sticky_works_is_said() {
        let rules = |of_rule: Value, of_backend: Value| {
            let filters = |change: Value| match change.is_null() {
                true => json!([]),
                false => json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": change}]),
            };
            json!([{"filters": filters(of_rule), "backendRefs": [{"name": "auth", "port": 80, "filters": filters(of_backend)}]}])
        };
        let header = json!([{"name": "set-cookie", "value": "a=1"}]);
        let weights = json!([{"weight": 5}, {"weight": 25}]);
        for (of_rule, of_backend, fits) in [
            (Value::Null, json!({"add": header}), false),
            (Value::Null, json!({"set": header}), false),
            (Value::Null, json!({"remove": ["Set-Cookie"]}), false),
            (json!({"set": header}), Value::Null, false),
            (json!({"add": header}), Value::Null, true),
            (Value::Null, json!({"set": [{"name": "x-shop", "value": "1"}]}), true),
        ] {
            let found = said(rules(of_rule.clone(), of_backend.clone()), weights.clone(), json!({}));
            assert_eq!(found.is_empty(), fits, "{of_rule} {of_backend}: {found}");
            assert!(fits || found.contains("Set-Cookie"), "{found}");
            assert_eq!(said(rules(of_rule, of_backend), weights.clone(), Value::Null), "", "without sticky");
        }
    }
}
