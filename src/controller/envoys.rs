//! The gateway's Envoys: asked in place of the pods, or besides them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;

use super::reader::{Member, seconds};
use crate::{
    api::{Policy, RolloutRun, names},
    telemetry::{
        Arm, Look, PodCounts, Query, Scraper, Target,
        http::{Course, Numbers, Reading},
        router::{self, Accounts},
    },
};

/// A name's time to be resolved.
const LOOKUP: Duration = Duration::from_millis(800);
/// More Envoys than this are no gateway to be read each second.
const MOST_ENVOYS: usize = 50;
/// More pods at Envoys than this are too much to remember.
const MOST_ENDPOINTS: usize = 500;

/// Where a run's Envoys are, and what they are asked for.
pub(super) struct Envoys {
    scraper: Scraper,
    /// Stable's and the canary's, by the names of their Services.
    queries: [Query; 2],
    namespace: String,
    services: [String; 2],
    /// There is an SLO on latency.
    latency: bool,
    /// HOST:PORT; all addresses of the name are Envoys.
    address: Option<String>,
    /// Made for the pods of the last look, which are mostly those of the next one.
    page: Page,
}

/// What to ask an Envoy for, and what to read of its answer.
#[derive(Default)]
struct Page {
    pods: Vec<IpAddr>,
    path: String,
    /// The Services' two, then each pod's two.
    queries: Vec<Query>,
}

/// A pod that an Envoy may have an endpoint of.
struct Endpoint<'a> {
    uid: &'a str,
    arm: Arm,
    ip: IpAddr,
}

impl Envoys {
    /// `latency`: seconds, of the SLO on it. `None` if a name is no Service's.
    pub fn new(
        scraper: &Scraper,
        address: Option<&str>,
        run: &RolloutRun,
        policy: &Policy,
        latency: Option<f64>,
    ) -> Option<Self> {
        let (namespace, service) = (run.namespace().unwrap_or_default(), &policy.spec.service);
        let services = [service.clone(), names::canary_service(service)];
        let query = |service: &str| router::query(&namespace, service, latency).ok();
        Some(Self {
            scraper: scraper.clone(),
            queries: [query(&services[0])?, query(&services[1])?],
            namespace,
            services,
            latency: latency.is_some(),
            address: address.map(str::to_owned),
            page: Page::default(),
        })
    }

    /// What each has of stable and of the canary, or of each of these pods.
    pub async fn read(&mut self, members: &[Member]) -> Result<Vec<(String, [Numbers; 2])>, String> {
        let envoys = self.found().await?;
        let endpoint = |member: &'_ Member| member.pod.status.pod_ip.parse().ok();
        let endpoints = members
            .iter()
            .filter_map(|member| Some(Endpoint { uid: &member.uid, arm: member.arm, ip: endpoint(member)? }));
        let endpoints: Vec<Endpoint<'_>> = endpoints.collect();
        let read = self.scraped(&envoys, &endpoints).await?;
        let by_name = |page: &Vec<PodCounts>| [router::numbers(&page[0]), router::numbers(&page[1])];
        if read.iter().any(|page| page[0].requests > 0) {
            return Ok(envoys.iter().map(|envoy| envoy.ip().to_string()).zip(read.iter().map(by_name)).collect());
        }
        let pods: Vec<(String, [Numbers; 2])> =
            envoys.iter().zip(&read).flat_map(|(envoy, page)| by_endpoint(envoy, page, &endpoints)).collect();
        let address = self.address.as_deref().unwrap_or_default();
        if pods.iter().all(|(_, [stable, _])| stable.requests == 0) {
            return Err(format!(
                "telemetry.router: no Envoy at {address} has counted a request for Service {} of namespace {} yet: is it the \
                 gateway of the route, and does it name clusters NAMESPACE_SERVICE_PORT, as Contour does, or count endpoints \
                 one by one, as Envoy Gateway can?",
                self.services[0], self.namespace
            ));
        }
        if self.latency {
            return Err(format!(
                "telemetry.router: the Envoys at {address} count endpoints, of whose times they know nothing: leave out the \
                 SLO on latency, or have the pods count"
            ));
        }
        if pods.len() > MOST_ENDPOINTS {
            return Err(format!(
                "telemetry.router: expected at most {MOST_ENDPOINTS} endpoints at all Envoys together, found {}",
                pods.len()
            ));
        }
        Ok(pods)
    }

    async fn found(&self) -> Result<Vec<SocketAddr>, String> {
        let address = self.address.as_ref().ok_or(
            "telemetry.router: the operator's configuration names no gateway to ask (telemetry.router of the chart)",
        )?;
        let found = tokio::time::timeout(LOOKUP, tokio::net::lookup_host(address.as_str())).await;
        let found = found.map_err(|_| format!("telemetry.router: {address} is not resolved within {LOOKUP:?}"))?;
        let mut envoys: Vec<SocketAddr> =
            found.map_err(|error| format!("telemetry.router: {address}: {error}"))?.collect();
        envoys.sort_unstable();
        envoys.dedup();
        if envoys.is_empty() || envoys.len() > MOST_ENVOYS {
            return Err(format!(
                "telemetry.router: expected 1 to {MOST_ENVOYS} Envoys at {address}, found {}",
                envoys.len()
            ));
        }
        Ok(envoys)
    }

    /// Makes the page anew if there are other pods.
    fn page(&mut self, endpoints: &[Endpoint<'_>]) -> Result<&Page, String> {
        let pods: Vec<IpAddr> = endpoints.iter().map(|endpoint| endpoint.ip).collect();
        if self.page.queries.is_empty() || self.page.pods != pods {
            let mut queries = self.queries.to_vec();
            for pod in &pods {
                queries.extend(router::pod_queries(*pod).map_err(|error| format!("telemetry.router: {error}"))?);
            }
            let path = router::path(&self.namespace, self.services.each_ref().map(String::as_str), &pods);
            self.page = Page { pods, path, queries };
        }
        Ok(&self.page)
    }

    /// Of each Envoy: what the Services' queries read, then each endpoint's two.
    async fn scraped(
        &mut self,
        envoys: &[SocketAddr],
        endpoints: &[Endpoint<'_>],
    ) -> Result<Vec<Vec<PodCounts>>, String> {
        let scraper = self.scraper.clone();
        let Page { path, queries, .. } = self.page(endpoints)?;
        let target = |envoy: &SocketAddr| Target {
            pod: envoy.to_string(),
            arm: Arm::Stable,
            ip: envoy.ip(),
            port: envoy.port(),
            path: path.clone(),
        };
        let targets: Vec<Target> = envoys.iter().map(target).collect();
        let scraped = scraper.scrape_for(&targets, queries).await;
        // Without one of them the sums would be too small, and the next ones no differences.
        scraped.into_iter().map(|(_, page)| page.map_err(|error| format!("telemetry.router: {error}"))).collect()
    }
}

/// What one Envoy has of each pod.
fn by_endpoint(envoy: &SocketAddr, page: &[PodCounts], endpoints: &[Endpoint<'_>]) -> Vec<(String, [Numbers; 2])> {
    let counts = page.get(2..).unwrap_or_default().chunks_exact(2);
    let pods = endpoints.iter().zip(counts).map(|(endpoint, counts)| {
        let (mut arms, numbers) = ([Numbers::default(); 2], router::pod_numbers(&counts[0], &counts[1]));
        arms[usize::from(endpoint.arm == Arm::Canary)] = numbers;
        (format!("{} {}", envoy.ip(), endpoint.uid), arms)
    });
    pods.collect()
}

/// Counts of the Envoys in place of the pods'.
pub(super) struct FromRouter {
    pub envoys: Envoys,
    /// Seconds.
    pub interval: f64,
    pub accounts: Accounts,
    pub course: Course,
}

impl FromRouter {
    /// One look.
    pub async fn look(&mut self, members: &[Member]) -> Result<Look, String> {
        let envoys = self.envoys.read(members).await?;
        let has = |arm: Arm| members.iter().any(|member| member.arm == arm);
        Ok(self.course.sift(&Reading {
            now: seconds(Timestamp::now()),
            interval: self.interval,
            answer: self.accounts.add(&envoys),
            has_pods: [has(Arm::Stable), has(Arm::Canary)],
            latency: self.envoys.latency,
        }))
    }
}
