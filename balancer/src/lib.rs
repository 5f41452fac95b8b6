//! The balancer: it owns every client connection and carries each exchange to a node.
//!
//! The life of an exchange, in the order of the modules below; each stage hands a value to the next, and every early end passes
//! through [`rescue`]:
//!
//! ```text
//! accept::accept_all   one listening socket per core    → a connection with a permit
//! admit::Admission     limits by number, source, memory → ConnectionPermit; PROXY headers are read by proxy_in
//! secure::begin_…      TLS ended, or passed on by name  → a stream of plain bytes
//! detect::detect       the first bytes                  → Spoken: http/1, h2, TLS or opaque
//! serve::serve_…       one head or stream after another → one call of forward::http::exchange per request
//! route::route         listener, host, path, conditions → Routed: a service, or an answer of the route's own
//! pick::Service::pick  by policy, or a short wait       → Lease: an endpoint
//! dial::Upstream       an idle, shared or new connection→ Connection
//! forward::{http, upgrade, tcp}                         → an answer, or a tunnel
//! observe::Exchange    written down when it is dropped
//! ```
//!
//! What an exchange goes by, the routes and services, is a [`scene`] that a core replaces whole when the configuration is read again
//! ([`reload`], [`world`]); [`takeover`] hands the listening sockets to the next program.
//!
//! Beside the cores one thread keeps the view ([`watch`]): registry, DNS and probes in, offers and withdrawals out to every core.
//!
//! What is deliberately absent: sessions that move, HTTP/3, UDP. Nothing here decides what `balancer_core` can decide.

pub mod config;

pub mod app;
pub mod notify;
pub mod reload;
pub mod takeover;

pub mod cli;

pub mod explain;

pub mod trace_export;

mod accept;
mod admit;
mod detect;
mod dial;
mod forward;
mod gate;
mod observe;
mod pick;
mod proxy_in;
mod proxy_out;
mod rescue;
mod route;
mod secure;
mod serve;
mod side;

mod admin;
mod probe;
mod resolve;
mod watch;
mod world;

mod lifeline;
mod net;
mod scene;
mod stream;
mod tls;
mod worker;
