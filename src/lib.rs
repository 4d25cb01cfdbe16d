//! Serin: a canary deployment controller for Kubernetes.
pub mod api;
