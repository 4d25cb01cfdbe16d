//! Gates: what must say yes before a release goes on.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{rollout::Otherwise, values::Millis};

/// Something that must say yes at a point of the release: a Job, an HTTP service, or the clock. A rollback waits for none.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.job), has(self.http), has(self.window)].filter(x, x).size() == 1").message("a gate asks a job, http or a window: give exactly one of the three"))]
#[x_kube(validation = Rule::new("has(self.step) == (self.at == 'Step')").message("step goes with at: Step, and at: Step needs it"))]
pub struct GateSpec {
    /// Its name in status, events and Jobs.
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("must be lower case letters, digits and -, such as smoke-test"))]
    pub name: String,
    /// When it is asked.
    pub at: GatePoint,
    /// Before this step, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub step: Option<u32>,
    /// Runs a Job: yes if it completes. Whoever writes this must be allowed to create Jobs in the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobGate>,
    /// Asks by HTTP POST: yes is any 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpGate>,
    /// Yes while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// What a no does: Rollback (left out: so), or Hold, which asks again until it is yes. A window that is closed always
    /// holds. After the promotion or the rollback a no is said, and that is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<Otherwise>,
}

/// A point of a release.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatePoint {
    /// Before anything is made.
    Start,
    /// The canary's pods are ready and reachable by its own Service; no caller reaches them yet.
    FirstTraffic,
    /// Before the step that `step` names.
    Step,
    /// Before each step.
    EveryStep,
    /// After the last step.
    Promotion,
    /// The new version serves.
    Promoted,
    /// The new version was refused and its traffic taken back.
    RolledBack,
}

/// A Job.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct JobGate {
    /// As spec.jobTemplate of a CronJob. Its containers get the run's facts as environment variables, which arguments can
    /// name: SERIN_NAMESPACE, SERIN_ROLLOUT, SERIN_RUN, SERIN_GATE, SERIN_STEP, SERIN_WEIGHT, SERIN_SERVICE,
    /// SERIN_CANARY_SERVICE, SERIN_STABLE_HASH, SERIN_CANARY_HASH, SERIN_STABLE_IMAGES, SERIN_CANARY_IMAGES.
    pub template: JobTemplate,
    /// A Job that takes longer than this is ended, and is a no.
    #[serde(default = "ten_minutes")]
    pub timeout: Millis,
}

fn ten_minutes() -> Millis {
    Millis::seconds(600)
}

/// A Job template, kept as it is: the API server checks it when the Job is made.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(transparent)]
pub struct JobTemplate(pub Value);

impl JsonSchema for JobTemplate {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JobTemplate".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

/// An HTTP service. It is sent the run's facts as JSON.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct HttpGate {
    /// http:// or https:// and a host that the operator's configuration allows (gates.hosts of the chart).
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/@?#]+([/?].*)?$')").message("must be http:// or https://, a host, and a path"))]
    pub url: String,
    /// An answer that takes longer than this is none.
    #[serde(default = "ten_seconds")]
    pub timeout: Millis,
    /// So many more tries where there is no answer at all, or a 5xx; an answer below 500 counts at once.
    #[serde(default = "three")]
    #[schemars(range(max = 10))]
    pub retries: u32,
}

fn ten_seconds() -> Millis {
    Millis::seconds(10)
}
fn three() -> u32 {
    3
}

/// When releases may go on.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// IANA name of the time zone that the times are in.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// Hours in which it is open; none: always, but for freezes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub open: Vec<Hours>,
    /// Times in which it is closed whatever the hours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub freeze: Vec<Freeze>,
}

fn utc() -> String {
    "UTC".into()
}

/// Hours of some days.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Days; none: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Day>,
    /// From this time of the day on, such as 09:00.
    #[schemars(length(min = 5, max = 5))]
    #[x_kube(validation = Rule::new("self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')").message("must be a time of the day, such as 09:00"))]
    pub from: String,
    /// Until this time, such as 17:00; 24:00 is the end of the day.
    #[schemars(length(min = 5, max = 5))]
    #[x_kube(validation = Rule::new("self.matches('^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$')").message("must be a time of the day, such as 17:00, or 24:00"))]
    pub to: String,
}

/// A day of the week.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the days of the week")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// A time in which nothing moves.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// From, such as 2026-12-20T00:00, in the window's time zone.
    #[schemars(length(min = 16, max = 19))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?$')").message("must be a day and a time, such as 2026-12-20T00:00"))]
    pub from: String,
    /// Until.
    #[schemars(length(min = 16, max = 19))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?$')").message("must be a day and a time, such as 2027-01-02T00:00"))]
    pub to: String,
    /// What for, as people shall read it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 100))]
    pub why: String,
}
