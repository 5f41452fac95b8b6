//! What the balancer decides: plain state machines that own no socket, no clock and no runtime.
//!
//! Time, bytes and randomness come in as arguments; what should happen comes out as a value.

pub mod affinity;
pub mod certificate;
pub mod client_hello;
pub mod endpoint;
pub mod flood;
pub mod forwarded;
mod grammar;
pub mod health;
mod host;
pub mod limit;
pub mod load;
pub mod membership;
pub mod message;
pub mod name;
pub mod outlier;
pub mod overrides;
pub mod pace;
pub mod panic;
pub mod picker;
pub mod pool;
pub mod preface;
pub mod proxy_header;
pub mod queue;
pub mod recall;
pub mod reload;
pub mod retry;
pub mod rules;
pub mod server_names;
pub mod slow_start;
pub mod sticky;
pub mod table;
pub mod zone;
