//! What a source of counts keeps in Secrets of the run's namespace.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::{
    api::{Access, BasicAuth, SecretKey},
    telemetry::Credentials,
};

/// A Secret is read again after so long: it may have been renewed.
const SECRETS_KEPT: Duration = Duration::from_secs(60);
/// The API server's time to answer with a Secret.
const SECRET_TIMEOUT: Duration = Duration::from_secs(5);

/// What the policy keeps in Secrets of the run's namespace.
pub(super) struct Secrets {
    api: Api<Secret>,
    /// The operator's configuration lets Serin read some.
    allowed: bool,
    /// The field of the policy that names them, for messages.
    field: &'static str,
    read: Option<(Instant, Kept)>,
}

/// What is in them.
#[derive(Clone, Default)]
pub(super) struct Kept {
    /// PEM.
    pub ca: Option<String>,
    pub credentials: Credentials,
}

impl Secrets {
    /// Those of one source.
    pub fn new(client: &Client, namespace: &str, allowed: bool, field: &'static str) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), allowed, field, read: None }
    }

    /// They were refused: they are read again.
    pub fn forget(&mut self) {
        self.read = None;
    }

    /// What is in them, a minute old at most.
    pub async fn read(&mut self, access: &Access) -> Result<Kept, String> {
        if access.is_open() {
            return Ok(Kept::default());
        }
        if let Some((at, kept)) = &self.read
            && at.elapsed() < SECRETS_KEPT
        {
            return Ok(kept.clone());
        }
        if !self.allowed {
            return Err(format!(
                "{} names a Secret, and the operator's configuration lets Serin read none (telemetry.secrets of the chart)",
                self.field
            ));
        }
        let ca = match &access.tls {
            Some(tls) => Some(self.value("tls.ca", &tls.ca).await?),
            None => None,
        };
        let credentials = match (&access.bearer_token, &access.basic_auth) {
            (Some(token), _) => Credentials::Bearer(self.value("bearerToken", token).await?),
            (None, Some(BasicAuth { username, password })) => Credentials::Basic {
                username: self.value("basicAuth.username", username).await?,
                password: self.value("basicAuth.password", password).await?,
            },
            (None, None) => Credentials::None,
        };
        let kept = Kept { ca, credentials };
        self.read = Some((Instant::now(), kept.clone()));
        Ok(kept)
    }

    /// Files end with a newline, which is no part of a token.
    async fn value(&self, field: &str, at: &SecretKey) -> Result<String, String> {
        let SecretKey { name, key } = at;
        let said = |what: String| format!("{}.{field}: Secret {name}: {what}", self.field);
        let secret = match tokio::time::timeout(SECRET_TIMEOUT, self.api.get_opt(name)).await {
            Err(_) => return Err(said("the API server does not answer".into())),
            Ok(Err(error)) => return Err(said(error.to_string())),
            Ok(Ok(None)) => return Err(said("there is none of this name in the namespace".into())),
            Ok(Ok(Some(secret))) => secret,
        };
        let value =
            secret.data.and_then(|mut data| data.remove(key)).ok_or_else(|| said(format!("has no key {key}")))?;
        let text = String::from_utf8(value.0).map_err(|_| said(format!("key {key} is no text")))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}
