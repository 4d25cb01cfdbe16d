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

/// A name's time to be resolved, and all Envoys' time to answer.
const LOOKUP: Duration = Duration::from_millis(800);
/// More Envoys than this are no gateway to be read each second.
const MOST_ENVOYS: usize = 50;

/// Where a run's Envoys are, and what they are asked for.
pub(super) struct Envoys {
    scraper: Scraper,
    /// Stable's and the canary's.
    queries: [Query; 2],
    path: String,
    /// What is looked for, for messages.
    stable: String,
    /// HOST:PORT; all addresses of the name are Envoys.
    address: Option<String>,
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
            path: router::path(&namespace, services.each_ref().map(String::as_str)),
            stable: format!("Service {service} of namespace {namespace}"),
            address: address.map(str::to_owned),
        })
    }

    /// What each has of stable and of the canary.
    pub async fn read(&self) -> Result<Vec<(IpAddr, [Numbers; 2])>, String> {
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
        let target = |envoy: &SocketAddr| Target {
            pod: envoy.to_string(),
            arm: Arm::Stable,
            ip: envoy.ip(),
            port: envoy.port(),
            path: self.path.clone(),
        };
        let targets: Vec<Target> = envoys.iter().map(target).collect();
        let [stable, canary] = self.queries.each_ref();
        let (stable, canary) =
            tokio::join!(self.scraper.scrape(&targets, stable), self.scraper.scrape(&targets, canary));
        let mut read = vec![[PodCounts::default(), PodCounts::default()]; envoys.len()];
        for (arm, results) in [stable, canary].into_iter().enumerate() {
            for (index, result) in results {
                // Without one of them the sums would be too small, and the next ones no differences.
                read[index][arm] = result.map_err(|error| format!("telemetry.router: {error}"))?;
            }
        }
        if read.iter().all(|[stable, _]| stable.requests == 0) {
            return Err(format!(
                "telemetry.router: no Envoy at {address} has counted a request for {} yet: is it the gateway of the route, \
                 and does it name clusters NAMESPACE_SERVICE_PORT, as Contour does?",
                self.stable
            ));
        }
        let numbers = read.iter().map(|arms| arms.each_ref().map(router::numbers));
        Ok(envoys.iter().map(SocketAddr::ip).zip(numbers).collect())
    }
}

/// Counts of the Envoys in place of the pods'.
pub(super) struct FromRouter {
    pub envoys: Envoys,
    /// Seconds.
    pub interval: f64,
    pub latency: bool,
    pub accounts: Accounts,
    pub course: Course,
}

impl FromRouter {
    /// One look.
    pub async fn look(&mut self, members: &[Member]) -> Result<Look, String> {
        let envoys = self.envoys.read().await?;
        let has = |arm: Arm| members.iter().any(|member| member.arm == arm);
        Ok(self.course.sift(&Reading {
            now: seconds(Timestamp::now()),
            interval: self.interval,
            answer: self.accounts.add(&envoys),
            has_pods: [has(Arm::Stable), has(Arm::Canary)],
            latency: self.latency,
        }))
    }
}
