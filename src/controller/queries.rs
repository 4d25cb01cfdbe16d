//! Asks what the policy's own queries answer, window by window.

use std::time::Instant;

use futures::future::{join, join_all};
use kube::ResourceExt;

use super::{ledger::millionths, reader::Member};
use crate::{
    api::{Policy, QuerySpec, RolloutRun, names},
    evidence::QueryReading,
    telemetry::{Arm, Credentials, prometheus::PrometheusClient},
};

/// Queries of one policy.
pub(super) struct Questions {
    specs: Vec<QuerySpec>,
    namespace: String,
    /// Service and pod-template-hash: stable's, the canary's.
    versions: [(String, String); 2],
    /// The operator's configuration lets Rollouts ask.
    allowed: bool,
    /// The step whose windows these are, and when each is over.
    step: Option<u32>,
    ends: Vec<Instant>,
}

impl Questions {
    /// Those of one run.
    pub fn new(run: &RolloutRun, policy: &Policy, specs: &[QuerySpec], allowed: bool) -> Self {
        let service = &policy.spec.service;
        Self {
            specs: specs.to_vec(),
            namespace: run.namespace().unwrap_or_default(),
            versions: [
                (service.clone(), run.spec.from.hash.clone()),
                (names::canary_service(service), run.spec.to.hash.clone()),
            ],
            allowed,
            step: None,
            ends: Vec::new(),
        }
    }

    /// Those whose window is over. `step`: the one at which both versions get requests; with another the windows begin anew.
    pub fn due(&mut self, now: Instant, step: Option<u32>) -> Vec<usize> {
        if self.step != step {
            self.step = step;
            self.ends = self.specs.iter().map(|spec| now + spec.window.duration()).collect();
        }
        if step.is_none() {
            return Vec::new();
        }
        let mut due = Vec::new();
        for (query, (end, spec)) in self.ends.iter_mut().zip(&self.specs).enumerate() {
            if *end <= now {
                *end = now + spec.window.duration();
                due.push(query);
            }
        }
        due
    }

    /// Asks these of both versions, all at once.
    pub async fn ask(
        &self,
        due: Vec<usize>,
        members: &[Member],
        asker: &PrometheusClient,
        credentials: &Credentials,
    ) -> Vec<QueryReading> {
        if !self.allowed {
            let why = "the operator's configuration lets Rollouts ask nothing in PromQL of their own (telemetry.queries of the chart)";
            return faults(due, why);
        }
        let share = async |query: usize, arm: Arm| match self.question(query, arm, members) {
            Some(question) => asker.ask_share(&question, credentials).await.map_err(|error| error.to_string()),
            None => Ok(None),
        };
        let both = due.into_iter().map(|query| {
            let asked = join(share(query, Arm::Stable), share(query, Arm::Canary));
            async move {
                let (stable, canary) = asked.await;
                match (stable, canary) {
                    (Ok(stable), Ok(canary)) => {
                        let [stable, canary] = [stable, canary].map(|share| share.map(millionths));
                        QueryReading { query, canary, stable, fault: None }
                    }
                    (Err(why), _) | (_, Err(why)) => {
                        QueryReading { query, fault: Some(why), ..QueryReading::default() }
                    }
                }
            }
        });
        join_all(both).await
    }

    /// `None`: the version has no pods.
    fn question(&self, query: usize, arm: Arm, members: &[Member]) -> Option<String> {
        let names = members.iter().filter(|member| member.arm == arm).map(|member| member.pod.name_any());
        let pods: Vec<String> = names.collect();
        if pods.is_empty() {
            return None;
        }
        let (service, hash) = &self.versions[usize::from(arm == Arm::Canary)];
        let places = [
            ("{hash}", hash.as_str()),
            ("{service}", service.as_str()),
            ("{namespace}", self.namespace.as_str()),
            // Names of pods have letters, digits, hyphens and dots, and a dot stands for itself, too.
            ("{pods}", &pods.join("|")),
        ];
        let query = self.specs.get(query)?.query.clone();
        Some(places.iter().fold(query, |query, (place, value)| query.replace(place, value)))
    }
}

/// No answers, and why.
pub(super) fn faults(due: Vec<usize>, why: &str) -> Vec<QueryReading> {
    let fault = |query| QueryReading { query, fault: Some(why.to_owned()), ..QueryReading::default() };
    due.into_iter().map(fault).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{api::Millis, workload::Pod};

    fn questions() -> Questions {
        let spec = |query: &str, window| QuerySpec {
            name: "checkout".into(),
            query: query.into(),
            most: crate::api::Percent(2.0),
            window: Millis::seconds(window),
            windows: 3,
        };
        Questions {
            specs: vec![
                spec("bad{pod=~\"{pods}\",ns=\"{namespace}\"} / all{h=\"{hash}\",s=\"{service}\"}", 10),
                spec("{hash}", 60),
            ],
            namespace: "shop".into(),
            versions: [("auth".into(), "a1".into()), ("auth-canary".into(), "b2".into())],
            allowed: true,
            step: None,
            ends: Vec::new(),
        }
    }

    #[test]
    fn each_step_begins_a_window_and_each_window_ends_by_itself() {
        let (mut questions, began) = (questions(), Instant::now());
        let mut due = |seconds, step| questions.due(began + Duration::from_secs(seconds), step);
        assert_eq!(due(0, None), [0; 0]);
        assert_eq!(due(5, Some(1)), [0; 0]);
        assert_eq!(due(14, Some(1)), [0; 0]);
        assert_eq!(due(15, Some(1)), [0]);
        assert_eq!(due(16, Some(1)), [0; 0]);
        assert_eq!(due(65, Some(1)), [0, 1]);
        // another step, and one without requests in between
        assert_eq!(due(75, Some(2)), [0; 0]);
        assert_eq!(due(85, Some(2)), [0]);
        assert_eq!(due(95, None), [0; 0]);
        assert_eq!(due(96, Some(2)), [0; 0]);
        assert_eq!(due(106, Some(2)), [0]);
    }

    #[test]
    fn a_question_names_the_versions_own() {
        let member = |name: &str, arm| {
            let mut pod = Pod::default();
            pod.metadata.name = Some(name.into());
            Member { uid: name.into(), arm, pod: Arc::new(pod), born_before_run: false }
        };
        let members =
            [member("auth-a1-x", Arm::Stable), member("auth-b2-y", Arm::Canary), member("auth-b2-z", Arm::Canary)];
        let questions = questions();
        assert_eq!(
            questions.question(0, Arm::Canary, &members).expect("a question"),
            "bad{pod=~\"auth-b2-y|auth-b2-z\",ns=\"shop\"} / all{h=\"b2\",s=\"auth-canary\"}"
        );
        assert_eq!(questions.question(1, Arm::Stable, &members).as_deref(), Some("a1"));
        assert_eq!(questions.question(1, Arm::Stable, &members[1..]), None, "no pods");
    }
}
