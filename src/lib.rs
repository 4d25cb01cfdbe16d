//! Serin: a canary deployment controller for Kubernetes.
pub mod api;
pub mod cli;
pub mod controller;
pub mod engine;
pub mod evidence;
pub mod forecast;
pub mod record;
pub mod telemetry;
pub mod tls;
pub mod traffic;
pub mod workload;
