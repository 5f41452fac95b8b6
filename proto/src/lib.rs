//! The wire: types generated from `proto/schema` and nothing else.

// The generator's code is not held to the lints of the house.
#![allow(unused_qualifications, unreachable_pub, clippy::all)]

/// Package `colonnade.v1`.
pub mod v1 {
    tonic::include_proto!("colonnade.v1");
}
