//! What a source of counts keeps in Secrets of the Rollout's namespace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whom to trust.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Certificates (PEM) of the authorities to trust, and no others. Needs the same as bearerToken.
    pub ca: SecretKey,
}

/// User name and password.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// User name.
    pub username: SecretKey,
    /// Password.
    pub password: SecretKey,
}

/// One key of a Secret of this namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Whom a source trusts, and what it says to be let in: bearerToken or basicAuth, not both.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Whom to trust; left out: the authorities that the controller's image knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Trust>,
    /// A bearer token. Needs telemetry.secrets of the chart, and that you may read the Secret yourself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<SecretKey>,
    /// User name and password. Needs the same as bearerToken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
}

impl Access {
    /// It names no Secret.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}
