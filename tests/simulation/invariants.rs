//! The promises, one function each. `after_step` looks at every step, `at_the_end` once all is quiet.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use serin::{
    api::ConfigKind,
    controller::{Kind as Written, Verb},
    workload::{ConfigMap, Stamp},
};

use crate::model::{
    cluster::{
        Nature, backends_of, beside, canary_share, endpoints_of, image_of, nature_of, own_rule, percent, pod_nature,
        selects, version_of,
    },
    people::{self, Deed, LEGACY, PREVIEW_HOST, PREVIEW_ROUTE, SECOND_ROUTE, SECOND_SERVICE},
    server::{Kind, Object},
    sim::{CANARY_SERVICE, RUN_LABEL, Sim, is_terminal},
};

/// Time for a controller that crashes, whose watches lag and whose writes fail, in milliseconds.
const TO_REACT: i64 = 30_000;

/// Those that select the pods.
const SERVICES: [&str; 2] = ["auth", SECOND_SERVICE];

/// What the checks remember from step to step.
#[derive(Default)]
pub struct Watch {
    passed: i64,
    /// Length of the server's log at the last look.
    log: usize,
    /// Canary weight in force without endpoints, for so long.
    unserved: i64,
    /// Pinned to nobody, for so long.
    pinned_to_none: i64,
    /// By run: the farthest place that its status has told.
    places: BTreeMap<String, (usize, i64)>,
    /// uids of runs and of the ReplicaSets that they have owned.
    owned: BTreeSet<(String, String)>,
    /// Direct callers reach the canary, for so long.
    leaked: i64,
    /// An abort is not heard, for so long.
    unheard: i64,
    /// Runs whose preview was in force at the gateway.
    previewed: BTreeSet<String>,
    /// By run: when RollingBack was first there, and the lowest canary weight since.
    retreats: BTreeMap<String, Retreat>,
}

struct Retreat {
    since_clock: i64,
    since: i64,
    lowest: u64,
}

type Check = Result<(), String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

impl Watch {
    pub fn after_step(&mut self, sim: &Sim) -> Check {
        let passed = sim.passed - self.passed;
        self.passed = sim.passed;
        i1_weights_sum_to_100(sim)?;
        self.i1_weight_only_with_endpoints(sim, passed)?;
        self.i2_no_way_up_after_a_retreat(sim)?;
        self.i2_an_abort_is_heard(sim, passed)?;
        self.i2_no_handover_before_its_stage(sim)?;
        self.i3_the_apex_selects_somebody(sim, passed)?;
        i4_no_weight_beyond_the_step(sim)?;
        i4_the_previews_host_leads_to_the_canary_alone(sim)?;
        self.i4_no_switch_before_the_preview_was_there(sim)?;
        self.i4_direct_callers_stay_on_stable(sim, passed)?;
        i5_the_same_question_has_one_answer(sim)?;
        if std::mem::replace(&mut self.log, sim.server.log.len()) != sim.server.log.len() {
            i8_pods_keep_their_data(sim)?;
        }
        i9_edits_of_rules_stay(sim)?;
        i9_the_canary_is_made_as_its_owner_wants(sim)?;
        i10_one_run_at_a_time(sim)?;
        self.i10_a_run_goes_one_way(sim)?;
        no_write_is_malformed(sim)?;
        no_request_is_lost(sim)
    }

    fn i1_weight_only_with_endpoints(&mut self, sim: &Sim, passed: i64) -> Check {
        let in_force = sim.cluster.in_force.values().any(|backends| percent(backends, CANARY_SERVICE) > 0)
            || sim.cluster.beside.values().any(|beside| beside.is_seen());
        let served = !endpoints_of(&sim.server, CANARY_SERVICE).is_empty();
        self.unserved = if in_force && !served { self.unserved + passed } else { 0 };
        // Orphaned by people, the canary is scaled by the Deployment.
        let excused = sim.cluster.since_crash < TO_REACT || sim.did(&[Deed::OrphanRun]);
        ensure(self.unserved <= if excused { TO_REACT } else { 0 } || deployment_gone(sim), || {
            format!("I1: the canary has weight in force and no endpoint for {} ms", self.unserved)
        })
    }

    fn i2_no_way_up_after_a_retreat(&mut self, sim: &Sim) -> Check {
        let Some(run) = sim.run() else { return Ok(()) };
        let Some(weight) = owners_routes(sim).map(|route| reach(route)).max() else { return Ok(()) };
        if run.text("/status/phase") != "RollingBack" {
            return Ok(());
        }
        let clock = sim.server.now;
        let fresh = Retreat { since_clock: clock, since: sim.passed, lowest: weight };
        let retreat = self.retreats.entry(run.uid().to_owned()).or_insert(fresh);
        // A write that was decided before the retreat and arrives after it can't be told from one in time.
        let late = sim.sent.iter().any(|sent| {
            sent.write.kind == Written::HttpRoute && sent.answer.is_ok() && sent.began <= retreat.since_clock
        });
        if late {
            retreat.lowest = retreat.lowest.max(weight);
        }
        let rose = weight > retreat.lowest;
        retreat.lowest = retreat.lowest.min(weight);
        let (lowest, since) = (retreat.lowest, sim.passed - retreat.since);
        ensure(!rose, || format!("I2: the canary's weight rose to {weight} from {lowest} in a run that goes back"))?;
        ensure(weight == 0 || since < TO_REACT, || {
            format!("I2: {since} ms after the retreat the weight is still {weight}")
        })?;
        let preview = sim.server.get(Kind::Route, PREVIEW_ROUTE);
        ensure(preview.is_none() || since < TO_REACT, || {
            format!("I2: {since} ms after the retreat the preview is there")
        })
    }

    /// A run with a preview of its own host name is not promoted before somebody could look at it.
    fn i4_no_switch_before_the_preview_was_there(&mut self, sim: &Sim) -> Check {
        let Some(run) = sim.run().filter(|run| has_preview(run)) else { return Ok(()) };
        if sim.cluster.in_force.contains_key(PREVIEW_ROUTE) {
            self.previewed.insert(run.name().to_owned());
        }
        let promoting = run.text("/status/phase") == "Promoting";
        ensure(!promoting || self.previewed.contains(run.name()), || {
            format!("I4: {} is promoted and its preview was never there", run.name())
        })
    }

    /// Until the handover a run that a person aborts goes back.
    fn i2_an_abort_is_heard(&mut self, sim: &Sim, passed: i64) -> Check {
        let late = |run: &Object| matches!(run.text("/status/stage"), "HandOver" | "Converge" | "Tidy");
        let unheard = sim.run().is_some_and(|run| {
            run.is("/spec/abort") && run.text("/status/phase") != "RollingBack" && !is_terminal(&run) && !late(&run)
        });
        self.unheard = if unheard { self.unheard + passed } else { 0 };
        ensure(self.unheard < TO_REACT, || format!("I2: {} ms after an abort the run goes on", self.unheard))
    }

    /// As long as there is a way back the canary's ReplicaSet is the run's.
    fn i2_no_handover_before_its_stage(&mut self, sim: &Sim) -> Check {
        let Some(run) = sim.run().filter(|run| matches!(run.text("/status/phase"), "Preparing" | "Shifting")) else {
            return Ok(());
        };
        let hash = run.text("/spec/to/hash");
        for set in sim.server.list(Kind::ReplicaSet).filter(|set| set.hash() == hash) {
            let both = (run.uid().to_owned(), set.uid().to_owned());
            let ours = set.owner() == Some(run.uid());
            ensure(ours || !self.owned.contains(&both) || run.is_going(), || {
                format!("I2: {} was handed over at a step", set.name())
            })?;
            if ours {
                self.owned.insert(both);
            }
        }
        Ok(())
    }

    /// What one controller has written down another does not take back.
    fn i10_a_run_goes_one_way(&mut self, sim: &Sim) -> Check {
        let Some(run) = sim.run() else { return Ok(()) };
        let phase = run.text("/status/phase");
        let order = ["", "Preparing", "Shifting", "Promoting", "RollingBack"];
        let at = (order.iter().position(|other| *other == phase).unwrap_or(order.len()), run.int("/status/step"));
        let farthest = self.places.entry(run.uid().to_owned()).or_insert(at);
        let back = at < *farthest;
        let was = std::mem::replace(farthest, at);
        ensure(!back, || format!("I10: {} went back to {phase} (place {was:?}, then {at:?})", run.name()))
    }

    /// By the apex the canary's share is 0 until the promotion re-pins it.
    fn i4_direct_callers_stay_on_stable(&mut self, sim: &Sim, passed: i64) -> Check {
        let run = sim.run().filter(|run| matches!(run.text("/status/phase"), "Preparing" | "Shifting"));
        let leaks = run.filter(|_| sim.setting.routed).is_some_and(|run| {
            // Pods from before the run are the last ones of a version that served then.
            let is_canary = |pod: &Rc<Object>| {
                let made = |object: &Object| object.text("/metadata/creationTimestamp").to_owned();
                pod.hash() == run.text("/spec/to/hash") && made(pod) >= made(&run)
            };
            let pods = SERVICES.iter().flat_map(|service| endpoints_of(&sim.server, service));
            pods.into_iter().any(|pod| sim.server.get(Kind::Pod, pod).is_some_and(is_canary))
        });
        self.leaked = if leaks { self.leaked + passed } else { 0 };
        let reset = sim.did(&[Deed::ResetService, Deed::CreateService]);
        ensure(self.leaked == 0 || reset && self.leaked < TO_REACT, || {
            format!("I4: direct callers reach the canary for {} ms", self.leaked)
        })
    }

    fn i3_the_apex_selects_somebody(&mut self, sim: &Sim, passed: i64) -> Check {
        let any = sim.server.list(Kind::Pod).any(|pod| pod.is_ready());
        let none = SERVICES.iter().filter_map(|name| sim.server.get(Kind::Service, name)).find(|service| {
            let pinned = !service.text("/spec/selector/pod-template-hash").is_empty();
            // Made anew, a Deployment's pods have no copies: what they read may be data that none becomes ready with, and
            // nobody would be served without the pin, either.
            let spoilt = sim.setting.tracks && deployment_gone(sim);
            let serves = |pod: &Rc<Object>| selects(service, pod) && (pod.is_ready() || spoilt);
            any && pinned && !sim.server.list(Kind::Pod).any(serves)
        });
        self.pinned_to_none = if none.is_some() { self.pinned_to_none + passed } else { 0 };
        let by_people =
            deployment_gone(sim) || sim.emptied || sim.undone_late || sim.did(&[Deed::TurnService, Deed::OrphanRun]);
        let excused = sim.cluster.since_crash < TO_REACT || by_people;
        ensure(self.pinned_to_none == 0 || excused && (self.pinned_to_none < TO_REACT || sim.emptied), || {
            let pin = none.map(|service| service.text("/spec/selector/pod-template-hash")).unwrap_or_default();
            format!("I3: the apex is pinned to {pin}, of which no pod is ready")
        })
    }
}

/// Routes without the preview's.
fn owners_routes(sim: &Sim) -> impl Iterator<Item = &Rc<Object>> {
    sim.server.list(Kind::Route).filter(|route| route.name() != PREVIEW_ROUTE)
}

/// The canary's weight; above 100 if Serin's rules give it requests besides.
fn reach(route: &Object) -> u64 {
    let beside = beside(route);
    canary_share(route) + if beside.testers || beside.copies > 0 { 1_000 } else { 0 }
}

fn deployment_gone(sim: &Sim) -> bool {
    sim.did(&[Deed::DeleteDeployment, Deed::OrphanDeployment])
}

fn i1_weights_sum_to_100(sim: &Sim) -> Check {
    let ours = sim.sent.iter().any(|sent| sent.write.kind == Written::HttpRoute && sent.answer.is_ok());
    for route in owners_routes(sim).filter(|_| ours) {
        let backends = backends_of(route);
        let of =
            |wanted: &str| backends.iter().filter(|(name, _)| name == wanted).map(|(_, weight)| weight).sum::<u64>();
        let arms = of("auth") + of(CANARY_SERVICE);
        // Another backend keeps its share: a quarter.
        let holds =
            if route.name() == SECOND_ROUTE { arms == 3 * of(LEGACY) } else { arms == 100 || backends.len() == 1 };
        ensure(holds, || format!("I1: the weights of the arms are {backends:?}"))?;
    }
    Ok(())
}

fn i4_no_weight_beyond_the_step(sim: &Sim) -> Check {
    let ours = sim.sent.iter().any(|sent| sent.write.kind == Written::HttpRoute && sent.answer.is_ok());
    let Some(run) = sim.run() else { return Ok(()) };
    if !ours || run.text("/status/phase") == "Promoting" {
        return Ok(());
    }
    let weight = owners_routes(sim).map(|route| canary_share(route)).max().unwrap_or(0);
    let steps = run.value["spec"]["policy"]["steps"].as_array().cloned().unwrap_or_default();
    let reached = usize::try_from(run.int("/status/step")).unwrap_or(0).min(steps.len());
    let most = steps[..reached].iter().rev().find_map(|step| step["weight"].as_u64()).unwrap_or(0);
    let going_back = run.text("/status/phase") == "RollingBack" || is_terminal(&run);
    // What ends with a step is taken out of one route after the other.
    let ever = |field: &str| steps[..reached].iter().rev().take(2).any(|step| !step[field].is_null());
    let matched = |upto: usize| {
        let last = steps[..upto].iter().rev().find_map(|step| step["match"].as_array());
        last.is_some_and(|matches| !matches.is_empty())
    };
    let testers = matched(reached) || matched(reached.saturating_sub(1));
    let copies = ever("mirror");
    for is in owners_routes(sim).map(|route| beside(route)) {
        let within = (!is.testers || testers) && (is.copies == 0 || copies);
        ensure(within || going_back, || format!("I4: step {reached} gives the canary {is:?} besides"))?;
    }
    ensure(weight <= most || going_back, || format!("I4: weight {weight} in step {reached}, which has {most}"))
}

/// The run has a preview with a host name.
fn has_preview(run: &Object) -> bool {
    run.text("/spec/policy/steps/0/blueGreen/previewHost") == PREVIEW_HOST
}

fn i4_the_previews_host_leads_to_the_canary_alone(sim: &Sim) -> Check {
    let Some(route) = sim.server.get(Kind::Route, PREVIEW_ROUTE) else { return Ok(()) };
    let spec = &route.value["spec"];
    let to_canary = backends_of(route).iter().all(|(name, _)| name == CANARY_SERVICE);
    let alone = to_canary && spec["hostnames"] == serde_json::json!([PREVIEW_HOST]);
    ensure(alone && sim.run().is_none_or(|run| has_preview(&run)), || format!("I4: the preview's route is {spec}"))
}

fn i5_the_same_question_has_one_answer(sim: &Sim) -> Check {
    ensure(!sim.controllers.iter().any(|controller| controller.undecided), || {
        "I5: decide answered differently when asked again".into()
    })
}

/// Two controllers find the same new template: one run comes of it.
fn i10_one_run_at_a_time(sim: &Sim) -> Check {
    let under_way = sim.server.list(Kind::Run).filter(|run| !is_terminal(run)).count();
    ensure(under_way <= 1, || format!("I10: {under_way} runs are under way at once"))
}

fn no_write_is_malformed(sim: &Sim) -> Check {
    let wrong = sim.sent.iter().find_map(|sent| match &sent.answer {
        Err(crate::model::server::Refusal::Invalid(why))
            if why != "not sent" && !matches!(sent.write.verb, Verb::Delete { .. }) =>
        {
            Some(why)
        }
        _ => None,
    });
    match wrong {
        // A path that went away between reading and writing.
        Some(why) if why.contains("path is invalid") => Ok(()),
        Some(why) => Err(format!("a write is no valid patch: {why}")),
        None => Ok(()),
    }
}

/// Promise 3.
fn no_request_is_lost(sim: &Sim) -> Check {
    // The chart's guard refuses to orphan a canary; here it is allowed, and what it does must be put right.
    let cut = sim.did(&[Deed::DeleteService, Deed::TurnService, Deed::DeleteRoute, Deed::OrphanRun]);
    let excused = sim.crashed
        || sim.cluster.since_crash < i64::MAX / 4
        || deployment_gone(sim)
        || sim.emptied
        || cut
        || sim.undone_late;
    ensure(sim.traffic.lost == 0 || excused, || {
        format!("promise 3: {} requests lost: {}", sim.traffic.lost, sim.traffic.lost_at.as_deref().unwrap_or_default())
    })
}

pub fn at_the_end(sim: &Sim) -> Check {
    liveness(sim)?;
    i6_nothing_is_left(sim)?;
    i9_other_fields_stay(sim)?;
    i8_the_right_version_serves(sim)?;
    a_refusal_says_why(sim)
}

/// About a version that an outage, or a stable that can't serve, keeps from being judged: the run waits for a person, and
/// says so.
pub fn a_person_decides(sim: &Sim) -> bool {
    let hidden = sim.did(&[Deed::Outage(true)]) || deployment_gone(sim);
    hidden && sim.run().is_some_and(|run| !is_terminal(&run) && run.text("/status/waiting/reason") == "StepTimeout")
}

fn liveness(sim: &Sim) -> Check {
    let run = sim.run().filter(|run| !is_terminal(run));
    ensure(run.is_none(), || {
        let run = run.clone().expect("checked");
        format!(
            "liveness: {} is {} {} and waits for {} after {} s",
            run.name(),
            run.text("/status/phase"),
            run.text("/status/stage"),
            run.text("/status/waiting/reason"),
            sim.passed / 1000
        )
    })?;
    let rollout = sim.server.get(Kind::Rollout, "auth");
    ensure(rollout.is_none_or(|rollout| !rollout.is_going()), || {
        "liveness: the Rollout is being deleted and does not go".into()
    })
}

fn i6_nothing_is_left(sim: &Sim) -> Check {
    let server = &sim.server;
    ensure(server.get(Kind::Service, CANARY_SERVICE).is_none(), || "I6: the canary's Service is left".into())?;
    ensure(server.get(Kind::Route, PREVIEW_ROUTE).is_none(), || "I6: the preview's route is left".into())?;
    for service in SERVICES.iter().filter_map(|name| server.get(Kind::Service, name)) {
        let selector = &service.value["spec"]["selector"];
        ensure(*selector == serde_json::json!({"app": "auth"}), || {
            format!("I6: the selector of Service {} is left as {selector}", service.name())
        })?;
    }
    for route in owners_routes(sim) {
        let rules = route.value["spec"]["rules"].as_array().map_or(0, Vec::len);
        ensure(rules == 1, || format!("I6: {rules} rules are left in route {}", route.name()))?;
        let refs = &route.value["spec"]["rules"][0]["backendRefs"];
        ensure(*refs == people::own_refs(route.name()), || {
            format!("I6: the references of route {} are left as {refs}", route.name())
        })?;
    }
    let runs: Vec<Rc<Object>> = server.list(Kind::Run).cloned().collect();
    ensure(runs.iter().all(|run| run.value["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)), || {
        "I6: a run has its finalizer still".into()
    })?;
    let owned = server
        .list(Kind::ReplicaSet)
        .find(|set| set.value["metadata"]["labels"].get(RUN_LABEL).is_some() && set.int("/spec/replicas") > 0);
    ensure(owned.is_none(), || format!("I6: ReplicaSet {} is left", owned.expect("checked").name()))?;
    let kept = server.list(Kind::ReplicaSet).find(|set| {
        runs.iter().any(|run| set.owner() == Some(run.uid()))
            && set.value["metadata"]["annotations"].get("deployment.kubernetes.io/revision").is_none()
    });
    ensure(kept.is_none(), || format!("I6: ReplicaSet {} is left", kept.expect("checked").name()))
}

/// At every step: the next edit would hide that one was lost.
fn i9_edits_of_rules_stay(sim: &Sim) -> Check {
    if let (Some(path), Some(route)) = (&sim.matches, sim.server.get(Kind::Route, "auth")) {
        let is = &route.value["spec"]["rules"][own_rule(route)]["matches"][0]["path"]["value"];
        ensure(is == path.as_str(), || format!("I9: the route's rule matches {is}, and people wrote {path}"))?;
    }
    Ok(())
}

fn i9_the_canary_is_made_as_its_owner_wants(sim: &Sim) -> Check {
    let least = sim.setting.min_ready;
    let wrong = sim.server.list(Kind::ReplicaSet).find(|set| set.int("/spec/minReadySeconds") != least);
    match wrong.filter(|_| least > 0) {
        Some(set) => Err(format!("I9: ReplicaSet {} is made without minReadySeconds {least}", set.name())),
        None => Ok(()),
    }
}

fn i9_other_fields_stay(sim: &Sim) -> Check {
    let made_anew = |kind: Kind| match kind {
        Kind::Deployment => deployment_gone(sim),
        Kind::Service => sim.did(&[Deed::DeleteService]),
        Kind::Route => sim.did(&[Deed::DeleteRoute]),
        _ => false,
    };
    for (kind, path, value) in people::other_fields().into_iter().filter(|(kind, ..)| !made_anew(*kind)) {
        let there = sim.server.get(kind, "auth").is_none_or(|object| object.value.pointer(path) == Some(&value));
        ensure(!sim.edited || there, || format!("I9: {kind:?} {path} is not as people wrote it"))?;
    }
    Ok(())
}

/// Pods that do not come are told in the words of what keeps them.
fn a_refusal_says_why(sim: &Sim) -> Check {
    let refused = |run: &Rc<Object>| run.text("/status/reason") == "NeverReady" && is_terminal(run);
    let Some(run) = sim.run().filter(refused) else { return Ok(()) };
    let (image, message) = (run.text("/spec/to/images/auth"), run.text("/status/message"));
    // Beyond the quota there was not even a pod that could have said so.
    let says = message.contains("ImagePullBackOff") || message.contains("exceeded quota");
    ensure(says || nature_of(image) != Nature::Unpullable, || {
        format!("told: the image of {image} can't be pulled, and what is told is: {message}")
    })
}

/// By the version that serves: a good one serves and the old has no pods; a bad one has none and the old serves.
/// Without its Rollout a Deployment moves by itself.
fn i8_the_right_version_serves(sim: &Sim) -> Check {
    let server = &sim.server;
    if deployment_gone(sim) || sim.done.contains(&Deed::DeleteRollout) {
        return Ok(());
    }
    let Some(deployment) = server.get(Kind::Deployment, "auth") else {
        return Err("I8: the Deployment is gone".into());
    };
    let wanted = version_of(deployment);
    let pods: Vec<&Rc<Object>> = server.list(Kind::Pod).filter(|pod| !pod.is_going()).collect();
    let images: Vec<String> = pods.iter().map(|pod| version_of(pod)).collect();
    let Some(first) = images.first() else { return Err("I8: nothing serves".into()) };
    ensure(images.iter().all(|image| image == first), || format!("I8: two versions are left: {images:?}"))?;
    let size = deployment.int("/spec/replicas");
    ensure(images.len() as i64 == size, || format!("I8: {} pods of {size}", images.len()))?;
    let serving = sim
        .server
        .list(Kind::ReplicaSet)
        .find(|set| set.int("/spec/replicas") > 0)
        .map(|set| set.owner() == Some(deployment.uid()));
    ensure(serving == Some(true), || "I8: the Deployment does not own what serves".into())?;
    let data = Stamp::read(&deployment.value["spec"]["template"])
        .map(|stamp| format!("{}-{}", people::SETTINGS, stamp.digest))
        .and_then(|copy| server.get(Kind::ConfigMap, &copy).map(|copy| copy.text("/data/fault").to_owned()));
    let good = nature_of(image_of(deployment)) == Nature::Good && data.is_none_or(|fault| fault == "good");
    // One bad pod is replaced; where it can't be told apart, the version is refused.
    let serves = matches!(pod_nature(server, pods[0]), Nature::Good | Nature::OneBad);
    ensure(serves, || format!("I8: {first} serves"))?;
    i8_data_is_released(sim, deployment)?;
    if *first == wanted {
        ensure(!deployment.is("/spec/paused") || server.latch == serin::engine::Latch::Pause, || {
            "I8: the Deployment stays paused although its template serves".into()
        })?;
        return Ok(());
    }
    ensure(deployment.is("/spec/paused"), || {
        "I8: the Deployment is not held although its template does not serve".into()
    })?;
    let reason = sim.run().map(|run| run.text("/status/reason").to_owned()).unwrap_or_default();
    // A Service that its owner turned elsewhere gives stable no requests either.
    let alone = sim.run().is_some_and(stood_alone)
        || sim.did(&[Deed::TurnService, Deed::DeleteService])
        // Scaled to 0 in mid-run stable has no pods, and the canary keeps one.
        || sim.did(&[Deed::Scale(0)]);
    let outage = sim.done.contains(&Deed::Outage(true)) && reason == "SloViolated" && alone;
    let no_room = sim.setting.quota.is_some() && reason == "NeverReady";
    // With its run the release ends.
    let deleted = sim.did(&[Deed::DeleteRun, Deed::OrphanRun]);
    let excused = !good || sim.aborted || sim.crashed || outage || no_room || deleted;
    ensure(excused, || format!("I8: {wanted} is good and {first} serves; the last run says {reason}"))
}

/// What the ConfigMap has is in the template, unless people took the template back.
fn i8_data_is_released(sim: &Sim, deployment: &Object) -> Check {
    let took_back = sim.done.contains(&Deed::Undo);
    let Some(settings) = sim.server.get(Kind::ConfigMap, people::SETTINGS).filter(|_| sim.setting.tracks && !took_back)
    else {
        return Ok(());
    };
    let template = &deployment.value["spec"]["template"];
    let now = Stamp::of("auth", template, &[ConfigKind::ConfigMap], &[settings.typed::<ConfigMap>().into()]);
    ensure(now == Stamp::read(template), || format!("I8: the template is stamped otherwise than its data: {now:?}"))
}

/// A version's pods have its data, whatever the ConfigMap has now; and what they read stays until they go.
fn i8_pods_keep_their_data(sim: &Sim) -> Check {
    if deployment_gone(sim) || sim.done.contains(&Deed::DeleteRollout) {
        return Ok(());
    }
    for pod in sim.server.list(Kind::Pod).filter(|pod| !pod.is_going()) {
        let (Some(stamp), Some(reads)) = (Stamp::read(&pod.value), pod.settings()) else { continue };
        let wanted = format!("{}-{}", people::SETTINGS, stamp.digest);
        let there = sim.server.get(Kind::ConfigMap, reads).is_some();
        ensure(reads == wanted && there, || format!("I8: pod {} should have {wanted}, and reads {reads}", pod.name()))?;
    }
    Ok(())
}

/// It came to weight 100, at a step or in the promotion: stable got no requests any more, and nothing told an outage of
/// both from a fault of one.
fn stood_alone(run: Rc<Object>) -> bool {
    let decisions = run.value["status"]["decisions"].as_array();
    let promoting = decisions.into_iter().flatten().any(|decided| decided["what"] == "Promoting");
    let steps = run.value["spec"]["policy"]["steps"].as_array();
    promoting || steps.into_iter().flatten().any(|step| step["weight"] == 100)
}

/// I7: an idle world is left alone.
pub fn i7_idle_is_silent(sim: &mut Sim) -> Check {
    for _ in 0..100 {
        sim.step();
        if let Some(sent) = sim.sent.first() {
            return Err(format!(
                "I7: an idle world is written to: {} {} {:?}",
                sent.write.kind.as_str(),
                sent.write.name,
                sent.write.verb
            ));
        }
    }
    Ok(())
}
