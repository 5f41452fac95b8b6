//! A node: one of the interchangeable machines behind the balancer.
//!
//! The life of a request: `net` accepts its connection, `serve` reads the first bytes and drives HTTP over it,
//! `service::web` answers it (whoami, gRPC or a file), `rescue` turns what went wrong into what the client sees, and
//! `observe` counts it once, whatever its end. Beside it, `register` keeps the node's record in the registry and leads
//! it out politely, and `admin` shows how it does. What is decided on the way is decided in `node-core`.

mod admin;
pub mod app;
pub mod config;
mod net;
mod observe;
mod register;
mod rescue;
mod serve;
mod service;
