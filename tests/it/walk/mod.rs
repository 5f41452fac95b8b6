//! The balancer's walk, seen from both of its ends: the real program between test clients and test origins.

mod ageing;
mod client;
mod compression;
mod discovery;
mod ejection;
mod ending;
mod exchange;
mod forerunners;
mod grpc;
mod heads;
mod hostile;
mod picking;
mod relay;
mod retries;
mod routes;
mod rules;
mod sticky;
mod streaming;
mod tries;
mod websocket;
mod zones;
