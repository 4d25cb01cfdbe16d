//! Reads the pods' counters, from where the policy says. All that comes after it is the same for each source.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use jiff::Timestamp;
use kube::{Client, ResourceExt};
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use serde_json::Value;

use super::{
    caches::Namespace,
    envoys::{Envoys, FromRouter},
    hosts::AllowedHosts,
    queries::{self, PodNames, Questions},
    secrets::{Kept, Secrets},
};
use crate::{
    api::{HttpSource, Policy, PrometheusSource, RolloutRun, Scrape, SloKind, Source},
    evidence::QueryReading,
    telemetry::{
        Arm, Credentials, Look, MAX_PODS_PER_ARM, Memory, PodCounts, PodScrape, Query, Round, Scraper, Target,
        http::{Course, HttpCounts, HttpError, Places, Reading},
        pick,
        prometheus::{Clock, Freshness, Labels, Listed, PrometheusClient, Rules, SystemNames},
        router::Accounts,
        shared_gaps,
    },
    tls,
    workload::{Pod, template},
};

/// One pod of the run, and what is known of it.
#[derive(Clone)]
pub(super) struct Member {
    /// Its UID.
    pub uid: String,
    pub arm: Arm,
    pub pod: Arc<Pod>,
    pub born_before_run: bool,
}

/// Where counts may be read from, for all runs.
pub(super) struct Sources {
    pub client: Client,
    pub scraper: Scraper,
    pub memory: Memory,
    /// Hosts that Rollouts may name as a source of counts, besides Services of their own namespace.
    pub hosts: AllowedHosts,
    /// Secrets may be read.
    pub secrets: bool,
    /// Rollouts may ask Prometheus in PromQL of their own.
    pub queries: bool,
    /// HOST:PORT of the gateway's Envoys, where there are any to ask.
    pub router: Option<String>,
}

/// Reads the counters of one run's pods.
pub(super) struct Reader {
    counts: Counts,
    /// What the router has of them.
    beside: Option<Envoys>,
}

enum Counts {
    Pods { scraper: Scraper, port: u16, scrape: Scrape },
    Prometheus(Box<FromPrometheus>),
    Http(Box<FromHttp>),
    Router(Box<FromRouter>),
}

impl Sources {
    /// The reader that a policy asks for; `None` if the template does not have the port to scrape.
    pub fn reader(
        &self,
        run: &RolloutRun,
        policy: &Policy,
        template: &Value,
        namespace: &Arc<Namespace>,
    ) -> Option<Reader> {
        let latency = policy.slos.iter().find_map(|slo| match slo.kind {
            SloKind::Latency { threshold } => Some(threshold.as_secs_f64()),
            SloKind::Errors => None,
        });
        let counts = match &policy.source {
            Source::Pods(scrape) => Counts::Pods {
                scraper: self.scraper.clone(),
                port: template::port(template, &scrape.port)?,
                scrape: scrape.clone(),
            },
            Source::Prometheus(source) => {
                let name = run.namespace().unwrap_or_default();
                Counts::Prometheus(Box::new(FromPrometheus {
                    labels: Labels {
                        namespace: (source.namespace_label.clone(), name.clone()),
                        pod: source.pod_label.clone(),
                    },
                    secrets: Secrets::new(&self.client, &name, self.secrets, "telemetry.prometheus"),
                    services: Services {
                        name,
                        namespace: Arc::clone(namespace),
                        field: "telemetry.prometheus.address",
                    },
                    hosts: self.hosts.clone(),
                    memory: self.memory.clone(),
                    asker: None,
                    freshness: Freshness::default(),
                    questions: Questions::new(
                        &run.namespace().unwrap_or_default(),
                        &policy.spec.service,
                        [&run.spec.from.hash, &run.spec.to.hash],
                        policy.source.queries(),
                    ),
                    may_ask: self.queries,
                    began: Instant::now(),
                    source: (**source).clone(),
                }))
            }
            Source::Http(source) => Counts::Http(Box::new(FromHttp {
                places: Places {
                    requests: source.requests.clone(),
                    errors: source.errors.clone(),
                    slow: source.slow.clone(),
                    time: source.time.clone(),
                },
                hashes: [run.spec.from.hash.clone(), run.spec.to.hash.clone()],
                latency: latency.is_some(),
                secrets: Secrets::new(
                    &self.client,
                    &run.namespace().unwrap_or_default(),
                    self.secrets,
                    "telemetry.http",
                ),
                services: Services {
                    name: run.namespace().unwrap_or_default(),
                    namespace: Arc::clone(namespace),
                    field: "telemetry.http.url",
                },
                hosts: self.hosts.clone(),
                memory: self.memory.clone(),
                asker: None,
                course: Course::default(),
                source: (**source).clone(),
            })),
            Source::Router(source) => Counts::Router(Box::new(FromRouter {
                envoys: Envoys::new(&self.scraper, self.router.as_deref(), run, policy, latency)?,
                interval: source.interval.as_secs_f64(),
                accounts: Accounts::default(),
                course: Course::default(),
            })),
        };
        Some(Reader { counts, beside: self.beside(run, policy) })
    }

    /// The gateway's Envoys, to be asked besides the pods.
    fn beside(&self, run: &RolloutRun, policy: &Policy) -> Option<Envoys> {
        let of_pods = matches!(policy.source, Source::Pods(_) | Source::Prometheus(_));
        let router = self.router.as_deref().filter(|_| of_pods && !policy.spec.routes.is_empty())?;
        Envoys::new(&self.scraper, Some(router), run, policy, None)
    }
}

impl Reader {
    /// One look at these pods. `is_shared`: both arms are due requests.
    pub async fn look(&mut self, members: &[Member], query: &Query, is_shared: bool) -> Look {
        let all = members.len();
        let members = pick(members, MAX_PODS_PER_ARM, |member| (member.arm, member.uid.as_str()));
        let beside = async {
            match &mut self.beside {
                Some(envoys) => envoys.read(&members).await.ok(),
                None => None,
            }
        };
        match tokio::join!(self.counts.look(&members, query, is_shared), beside) {
            (Look::Round(round), router) => Look::Round(Round { sampled: members.len() < all, router, ..round }),
            (other, _) => other,
        }
    }

    /// What the policy's own queries answer, those whose window is over. `step`: the one at which both versions get requests.
    pub async fn ask(&mut self, members: &[Member], step: Option<u32>) -> Vec<QueryReading> {
        match &mut self.counts {
            Counts::Prometheus(reader) => reader.ask(members, step).await,
            _ => Vec::new(),
        }
    }
}

impl Counts {
    async fn look(&mut self, members: &[Member], query: &Query, is_shared: bool) -> Look {
        let look = match self {
            Self::Pods { scraper, port, scrape } => {
                Ok(Look::Round(scraped(scraper, *port, scrape, members, query).await))
            }
            Self::Http(reader) => reader.look(members).await,
            Self::Router(reader) => reader.look(members).await,
            Self::Prometheus(reader) => reader.look(members, query, is_shared).await,
        };
        look.unwrap_or_else(|why| Look::Blind(why.into()))
    }
}

/// Reads all pods themselves.
async fn scraped(scraper: &Scraper, port: u16, scrape: &Scrape, members: &[Member], query: &Query) -> Round {
    let target = |member: &Member| {
        Some(Target {
            pod: member.uid.clone(),
            arm: member.arm,
            ip: member.pod.status.pod_ip.parse().ok()?,
            port,
            path: scrape.path.clone(),
        })
    };
    let (members, targets): (Vec<&Member>, Vec<Target>) =
        members.iter().filter_map(|member| Some((member, target(member)?))).unzip();
    let mut fault = None;
    let mut pods = Vec::new();
    let mut read: Vec<PodCounts> = Vec::new();
    for (index, result) in scraper.scrape(&targets, query).await {
        let Some(member) = members.get(index) else { continue };
        let counts = match result {
            Ok(counts) => {
                read.push(counts.clone());
                Some(counts)
            }
            Err(error) => {
                fault = fault.or(Some(error.to_string()));
                None
            }
        };
        pods.push(PodScrape {
            pod: member.uid.clone(),
            arm: member.arm,
            born_before_run: member.born_before_run,
            counts,
        });
    }
    Round {
        pods,
        seconds: scrape.interval.as_secs_f64(),
        since: f64::INFINITY,
        fault,
        gap: shared_gaps(&read).first().map(|gap| gap.to_string().into()),
        sampled: false,
        router: None,
    }
}

/// Asks Prometheus.
pub(super) struct FromPrometheus {
    source: PrometheusSource,
    labels: Labels,
    hosts: AllowedHosts,
    services: Services,
    secrets: Secrets,
    memory: Memory,
    /// Made for these authorities.
    asker: Option<(Option<String>, PrometheusClient)>,
    freshness: Freshness,
    questions: Questions,
    /// The operator's configuration lets Rollouts ask these.
    may_ask: bool,
    /// Their windows are measured from here on.
    began: Instant,
}

const MAY_NOT_ASK: &str =
    "the operator's configuration lets Rollouts ask nothing in PromQL of their own (telemetry.queries of the chart)";

impl FromPrometheus {
    /// Makes the client, if the authorities have changed, and reads the credentials.
    async fn credentials(&mut self) -> Result<Credentials, String> {
        let url = Url::parse(&self.source.address)
            .map_err(|error| format!("telemetry.prometheus.address {}: {error}", self.source.address))?;
        let way = way_to(&url, &self.hosts, &self.services)?;
        let Kept { ca, credentials } = self.secrets.read(&self.source.access).await?;
        if self.asker.as_ref().is_none_or(|(made_for, _)| *made_for != ca) {
            let trust = tls::trusting(ca.as_ref().map(String::as_bytes));
            let trust = trust.map_err(|error| format!("telemetry.prometheus.tls.ca: {error}"))?;
            let resolver = Resolver { way, services: self.services.clone() };
            let made = PrometheusClient::new(&url, trust, resolver, Rules::default(), self.memory.clone());
            self.asker = Some((ca, made.map_err(|error| format!("Prometheus can't be asked: {error}"))?));
        }
        Ok(credentials)
    }

    async fn ask(&mut self, members: &[Member], step: Option<u32>) -> Vec<QueryReading> {
        let due = self.questions.due(self.began.elapsed(), step);
        if due.is_empty() {
            return Vec::new();
        }
        if !self.may_ask {
            return queries::faults(due, MAY_NOT_ASK);
        }
        let pods: PodNames = members.iter().map(|member| (member.arm, member.pod.name_any())).collect();
        match (self.credentials().await, &self.asker) {
            (Ok(credentials), Some((_, asker))) => self.questions.ask(due, &pods, asker, &credentials, None).await,
            (Err(why), _) => queries::faults(due, &why),
            (Ok(_), None) => Vec::new(),
        }
    }

    async fn look(&mut self, members: &[Member], query: &Query, is_shared: bool) -> Result<Look, String> {
        let credentials = self.credentials().await?;
        let Some((_, asker)) = &self.asker else { return Ok(Look::Nothing) };
        let name = |member: &Member| member.pod.name_any();
        let listed = members.iter().map(|member| Listed {
            pod: member.uid.clone(),
            name: name(member),
            arm: member.arm,
            born_before_run: member.born_before_run,
        });
        let listed: Vec<Listed> = listed.collect();
        if listed.is_empty() {
            return Ok(Look::Nothing);
        }
        let names: Vec<&str> = listed.iter().map(|one| one.name.as_str()).collect();
        let answered = match asker.ask(query, &self.labels, &names, &credentials).await {
            Ok(answered) => answered,
            Err(error) => {
                if error.problem.is_refusal() {
                    self.secrets.forget();
                }
                return Err(error.to_string());
            }
        };
        let now = seconds(Timestamp::now());
        let clock = Clock {
            now,
            ahead: answered.date.map_or(0.0, |date| now - date),
            interval: self.source.interval.as_secs_f64(),
        };
        Ok(self.freshness.sift(clock, &listed, &answered.pods, is_shared))
    }
}

/// Asks for JSON.
pub(super) struct FromHttp {
    source: HttpSource,
    places: Places,
    /// Stable's and the canary's.
    hashes: [String; 2],
    /// There is an SLO on latency.
    latency: bool,
    hosts: AllowedHosts,
    services: Services,
    secrets: Secrets,
    memory: Memory,
    /// Made for these authorities.
    asker: Option<(Option<String>, HttpCounts)>,
    course: Course,
}

impl FromHttp {
    async fn look(&mut self, members: &[Member]) -> Result<Look, String> {
        let said = |what: String| format!("telemetry.http.url {}: {what}", self.source.url);
        let url = Url::parse(&self.source.url).map_err(|error| said(error.to_string()))?;
        let way = way_to(&url, &self.hosts, &self.services)?;
        let Kept { ca, credentials } = self.secrets.read(&self.source.access).await?;
        if self.asker.as_ref().is_none_or(|(made_for, _)| *made_for != ca) {
            let trust = tls::trusting(ca.as_ref().map(String::as_bytes));
            let trust = trust.map_err(|error| format!("telemetry.http.tls.ca: {error}"))?;
            let resolver = Resolver { way, services: self.services.clone() };
            let made = HttpCounts::new(url, trust, resolver, self.memory.clone());
            self.asker = Some((ca, made.map_err(|error| said(error.to_string()))?));
        }
        let Some((_, asker)) = &self.asker else { return Ok(Look::Nothing) };
        let [stable, canary] = &self.hashes;
        let answer = asker.ask(&self.places, [stable, canary], &credentials).await.map_err(|error| {
            if matches!(error, HttpError::Refused(_)) {
                self.secrets.forget();
            }
            said(error.to_string())
        })?;
        let has = |arm: Arm| members.iter().any(|member| member.arm == arm);
        Ok(self.course.sift(&Reading {
            now: seconds(Timestamp::now()),
            interval: self.source.interval.as_secs_f64(),
            answer,
            has_pods: [has(Arm::Stable), has(Arm::Canary)],
            latency: self.latency,
        }))
    }
}

/// Since 1970.
pub(super) fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

/// How a host is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// By its name, which the operator's configuration allows.
    Name,
    /// By the cluster IP of this Service of the run's namespace.
    Service(String),
}

/// Services of the run's namespace.
#[derive(Clone)]
struct Services {
    /// The namespace's name.
    name: String,
    namespace: Arc<Namespace>,
    /// The field of the policy that names one, for messages.
    field: &'static str,
}

/// May this address be asked, and how? Else Rollouts would make a proxy of Serin, into what their authors can't reach.
fn way_to(url: &Url, hosts: &AllowedHosts, services: &Services) -> Result<Way, String> {
    let host = url.host_str().unwrap_or_default();
    if hosts.allow(host, url.port_or_known_default().unwrap_or(0)) {
        return Ok(Way::Name);
    }
    let Some(service) = service_of(host, &services.name) else {
        return Err(format!(
            "{}: host {host} is neither a Service of this namespace (NAME.{}.svc) nor among those \
             that the operator's configuration allows (telemetry.hosts of the chart)",
            services.field, services.name
        ));
    };
    services.address(service)?;
    Ok(Way::Service(service.to_owned()))
}

/// The Service of this namespace that a host names: NAME.NAMESPACE.svc, also with the usual cluster domain.
fn service_of<'a>(host: &'a str, namespace: &str) -> Option<&'a str> {
    let host = host.strip_suffix(".cluster.local").unwrap_or(host);
    let name = host.strip_suffix(".svc")?.strip_suffix(namespace)?.strip_suffix('.')?;
    (!name.is_empty() && !name.contains('.')).then_some(name)
}

impl Services {
    /// Its cluster IP. Only pods of the namespace stand behind a Service with a selector; without one, or by an external
    /// name, anything could.
    fn address(&self, name: &str) -> Result<IpAddr, String> {
        let field = self.field;
        let Some(service) = self.namespace.service(name) else {
            return Err(format!("{field}: expected Service {name} in namespace {}, found none", self.name));
        };
        if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" {
            return Err(format!(
                "{field}: Service {name} selects no pods, so it may lead anywhere: have the operator's configuration allow \
                 the host (telemetry.hosts of the chart)"
            ));
        }
        service
            .spec
            .cluster_ip
            .parse()
            .map_err(|_| format!("{field}: expected a cluster IP at Service {name}, found none"))
    }
}

/// Leads names where they were found to lead, and nowhere else.
struct Resolver {
    way: Way,
    services: Services,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        match &self.way {
            Way::Service(service) => {
                let address = self.services.address(service);
                Box::pin(async move { Ok(Box::new(std::iter::once(SocketAddr::new(address?, 0))) as Addrs) })
            }
            Way::Name => SystemNames.resolve(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_names_a_service_of_its_own_namespace_or_none() {
        for (host, service) in [
            ("prometheus.shop.svc", Some("prometheus")),
            ("prometheus.shop.svc.cluster.local", Some("prometheus")),
            ("prometheus.other.svc", None),
            ("prometheus.myshop.svc", None),
            ("a.prometheus.shop.svc", None),
            (".shop.svc", None),
            ("shop.svc", None),
            ("prometheus.shop.svc.evil.example", None),
            ("prometheus.shop.svc.cluster.local.evil.example", None),
            ("prometheus", None),
            ("169.254.169.254", None),
        ] {
            assert_eq!(service_of(host, "shop"), service, "{host}");
        }
    }
}
