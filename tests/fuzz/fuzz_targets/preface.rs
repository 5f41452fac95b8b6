//! Once a connection's first bytes are told apart, no later byte changes the answer.
#![no_main]

use balancer_core::preface::{BYTES_MAX, Preface, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    assert!(whole != Preface::Undecided || bytes.len() < BYTES_MAX);
    for end in fuzz::ends(bytes) {
        let part = read(&bytes[..end]);
        assert!(
            part == Preface::Undecided || part == whole,
            "{part:?} was taken back"
        );
    }
});
