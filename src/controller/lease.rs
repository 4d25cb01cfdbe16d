//! One leader at a time, by a Lease (coordination.k8s.io). Released on shutdown, so that a clean restart takes over at
//! once; a killed leader's is taken over when it has not been renewed for its duration, by our own clock.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};

use super::send::Leading;
use crate::api::names;

/// Whose lease is not renewed for this long has lost it.
const DURATION: Duration = Duration::from_secs(6);
/// Renewed this often, and asked for this often.
const RETRY: Duration = Duration::from_secs(2);
/// A leader stops writing this long after its last renewal began: before another may begin.
const VALID: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Our place in the queue.
pub(super) struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The holder's last renewal that we saw, and when we saw it first.
    seen: Option<(Option<MicroTime>, Option<String>, Instant)>,
}

impl Election {
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
        }
    }

    /// Waits until we lead.
    pub async fn win(&mut self, leading: &Leading) {
        loop {
            if self.round(leading).await {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Keeps the lease; returns when it is lost.
    pub async fn keep(&mut self, leading: &Leading) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < VALID {
            tokio::time::sleep(RETRY.min(VALID.saturating_sub(renewed.elapsed()))).await;
            if self.round(leading).await {
                renewed = Instant::now();
            } else if !leading.is_leading() {
                break;
            }
        }
        leading.end();
    }

    /// Gives the lease up, so that another may lead at once.
    pub async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        match tokio::time::timeout(CALL_TIMEOUT, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not release the lease; another controller waits for it to end")
            }
            Err(_) => tracing::warn!("could not release the lease in time; another controller waits for it to end"),
        }
    }

    /// One try to take or renew it.
    async fn round(&mut self, leading: &Leading) -> bool {
        let began = Instant::now();
        let won = match tokio::time::timeout(CALL_TIMEOUT, self.attempt()).await {
            Ok(Ok(won)) => won,
            Ok(Err(error)) => {
                let raced = matches!(&error, kube::Error::Api(status) if status.code == 409);
                if !raced {
                    tracing::warn!(%error, lease = self.name, "could not read or write the lease");
                }
                false
            }
            Err(_) => false,
        };
        if won {
            leading.extend(began + VALID);
        }
        won
    }

    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let spec = self.held(now, 0);
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let params = PostParams { field_manager: Some(names::MANAGER.into()), ..PostParams::default() };
            self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await?;
            return Ok(true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
        let mine = holder.as_deref() == Some(&self.identity);
        if !mine && holder.is_some() && !self.has_expired(&spec) {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(!mine);
        let acquired = spec.acquire_time.filter(|_| mine);
        lease.spec = Some(LeaseSpec { acquire_time: acquired.or(Some(now.clone())), ..self.held(now, transitions) });
        let params = PostParams { field_manager: Some(names::MANAGER.into()), ..PostParams::default() };
        self.api.replace(&self.name, &params, &lease).await?;
        Ok(true)
    }

    fn held(&self, now: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Clocks of two machines differ, so only our own counts: the holder has not renewed while we watched.
    fn has_expired(&mut self, spec: &LeaseSpec) -> bool {
        let is = (spec.renew_time.clone(), spec.holder_identity.clone());
        match &self.seen {
            Some((renewed, holder, since)) if *renewed == is.0 && *holder == is.1 => since.elapsed() >= DURATION,
            _ => {
                self.seen = Some((is.0, is.1, Instant::now()));
                false
            }
        }
    }
}
