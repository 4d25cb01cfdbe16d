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

/// Whom a source trusts, and what it says to be let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access<'a> {
    /// Left out: the authorities that the controller's image knows.
    pub tls: Option<&'a Trust>,
    /// Never beside `basic_auth`.
    pub bearer_token: Option<&'a SecretKey>,
    /// Never beside `bearer_token`.
    pub basic_auth: Option<&'a BasicAuth>,
}

impl Access<'_> {
    /// It names no Secret.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }
}
