//! The balancer's walk, seen from both of its ends: the real program between test clients and test origins.

mod client;
mod discovery;
mod ending;
mod exchange;
mod forerunners;
mod grpc;
mod heads;
mod hostile;
mod limits;
mod probes;
mod proxy_protocol;
mod queue;
mod relay;
mod retries;
mod routes;
mod streaming;
mod tls;
mod tls_nodes;
mod websocket;
