//! Asks what the policy's own queries answer, window by window.

use std::time::Duration;

use futures::future::{join, join_all};

use super::ledger::millionths;
use crate::{
    api::{QuerySpec, names},
    evidence::QueryReading,
    telemetry::{Arm, Credentials, prometheus::PrometheusClient},
};

/// Names of pods, of both versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNames {
    /// Of the version that serves.
    pub stable: Vec<String>,
    /// Of the new one.
    pub canary: Vec<String>,
}

impl FromIterator<(Arm, String)> for PodNames {
    fn from_iter<I: IntoIterator<Item = (Arm, String)>>(pods: I) -> Self {
        let mut names = Self::default();
        for (arm, name) in pods {
            match arm {
                Arm::Stable => names.stable.push(name),
                Arm::Canary => names.canary.push(name),
            }
        }
        names
    }
}

/// Queries of one policy.
#[derive(Clone, Debug)]
pub struct Questions {
    specs: Vec<QuerySpec>,
    namespace: String,
    /// Service and pod-template-hash: stable's, the canary's.
    versions: [(String, String); 2],
    /// The step whose windows these are, and when each is over.
    step: Option<u32>,
    ends: Vec<Duration>,
}

impl Questions {
    /// Those of one run: `hashes` are the pod-template-hashes of stable and of the canary.
    pub fn new(namespace: &str, service: &str, hashes: [&str; 2], specs: &[QuerySpec]) -> Self {
        let [stable, canary] = hashes.map(str::to_owned);
        Self {
            specs: specs.to_vec(),
            namespace: namespace.to_owned(),
            versions: [(service.to_owned(), stable), (names::canary_service(service), canary)],
            step: None,
            ends: Vec::new(),
        }
    }

    /// Those whose window is over. `now`: the time since some moment, always the same. `step`: the one at which both versions
    /// get requests; with another the windows begin anew.
    pub fn due(&mut self, now: Duration, step: Option<u32>) -> Vec<usize> {
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

    /// Asks these of both versions, all at once. `at`: in milliseconds since 1970, else what there is now.
    pub async fn ask(
        &self,
        due: Vec<usize>,
        pods: &PodNames,
        asker: &PrometheusClient,
        credentials: &Credentials,
        at: Option<i64>,
    ) -> Vec<QueryReading> {
        let share = async |query: usize, arm: Arm| match self.question(query, arm, pods) {
            Some(question) => asker.ask_share(&question, credentials, at).await.map_err(|error| error.to_string()),
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
    fn question(&self, query: usize, arm: Arm, pods: &PodNames) -> Option<String> {
        let [stable, canary] = &self.versions;
        let (pods, (service, hash)) = match arm {
            Arm::Stable => (&pods.stable, stable),
            Arm::Canary => (&pods.canary, canary),
        };
        if pods.is_empty() {
            return None;
        }
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
pub fn faults(due: Vec<usize>, why: &str) -> Vec<QueryReading> {
    let fault = |query| QueryReading { query, fault: Some(why.to_owned()), ..QueryReading::default() };
    due.into_iter().map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Millis;

    fn questions() -> Questions {
        let spec = |query: &str, window| QuerySpec {
            name: "checkout".into(),
            query: query.into(),
            most: crate::api::Percent(2.0),
            window: Millis::seconds(window),
            windows: 3,
        };
        let specs = [
            spec("bad{pod=~\"{pods}\",ns=\"{namespace}\"} / all{h=\"{hash}\",s=\"{service}\"}", 10),
            spec("{hash}", 60),
        ];
        Questions::new("shop", "auth", ["a1", "b2"], &specs)
    }

    #[test]
    fn each_step_begins_a_window_and_each_window_ends_by_itself() {
        let mut questions = questions();
        let mut due = |seconds: u64, step| questions.due(Duration::from_secs(1_000 + seconds), step);
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
        let pods = [(Arm::Stable, "auth-a1-x"), (Arm::Canary, "auth-b2-y"), (Arm::Canary, "auth-b2-z")];
        let pods: PodNames = pods.into_iter().map(|(arm, name)| (arm, name.to_owned())).collect();
        let questions = questions();
        assert_eq!(
            questions.question(0, Arm::Canary, &pods).expect("a question"),
            "bad{pod=~\"auth-b2-y|auth-b2-z\",ns=\"shop\"} / all{h=\"b2\",s=\"auth-canary\"}"
        );
        assert_eq!(questions.question(1, Arm::Stable, &pods).as_deref(), Some("a1"));
        assert_eq!(questions.question(1, Arm::Stable, &PodNames::default()), None, "no pods");
    }
}
