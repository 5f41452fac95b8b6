//! A node as its clients, its balancers and its operators see it: on loopback, with a registry in the process.

mod admin;
mod grpc;
mod harness;
mod leaving;
mod program;
mod sites;
mod web;
