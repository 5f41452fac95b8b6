//! What the balancer's protocols ask of it, taken from their texts: each test is named after the section that it holds us to.

mod http2;
mod websocket;
