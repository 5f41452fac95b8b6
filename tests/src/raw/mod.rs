//! Peers that break the rules on purpose: bytes as they are on the wire, with no library between a test and its mistake.
//!
//! What an honest peer would do is done here only where a test asks for it.

pub mod apart;
pub mod frame;
pub mod hpack;
pub mod http1;
pub mod http2;
pub mod prober;
pub mod recorder;
pub mod resident;
pub mod tls;
pub mod victim;
