//! Loads one address from loopback and records what every exchange became.
//!
//! `Load::start` takes a plan (how exchanges arrive, and the bounds) and a kind of traffic (what one exchange is), and
//! runs them on a thread of its own, so that whatever a test does meanwhile cannot delay an arrival:
//!
//! - `arrivals`: *closed* (a lane exchanges again as soon as it has its answer) or *open* (a fixed rate, whatever the
//!   answers do). In an open load latency counts from the intended start, also while every lane was busy: an answer
//!   that is late makes the exchanges queued behind it late too (no coordinated omission).
//! - a `Lane` makes one exchange at a time; [`http1`] (also over [`tls`]), [`http2`], [`grpc`],
//!   [`tcp`] and [`websocket`] are the kinds there are.
//! - the `Recorder` keeps latencies, outcomes, nodes, failures and a timeline, all bounded.
//!
//! It does NOT retry: what a client of the address would see is what is recorded.

mod arrivals;
mod connection;
pub mod content;
pub mod grpc;
pub mod http1;
pub mod http2;
mod lane;
mod record;
mod response;
mod run;
pub mod tcp;
pub mod tls;
pub mod websocket;
pub mod whoami;

use std::fmt;
use std::net::SocketAddr;

use tokio::net::TcpStream;

pub use arrivals::{Arrival, Plan};
pub use lane::{Answer, Failure, FailureKind, Lane, Outcome, Traffic};
pub use record::{BUCKET, Bucket, Failed, Report};
pub use run::Load;

/// The address under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryAddr(pub SocketAddr);

impl EntryAddr {
    async fn connect(self) -> Result<TcpStream, Failure> {
        let connection = TcpStream::connect(self.0)
            .await
            .map_err(|cause| Failure::refused(&cause))?;
        connection
            .set_nodelay(true)
            .map_err(|cause| Failure::refused(&cause))?;
        Ok(connection)
    }
}

impl fmt::Display for EntryAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
