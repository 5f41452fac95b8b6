//! A balancer's memory of its nodes is read back as it was written, and a file of any other content is refused.
#![no_main]

use balancer_core::recall::{Recall, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = decode(text);
    // The checksum keeps invented content away from what reads it, so content is tried without one.
    if let Ok(recall) = serde_json::from_str::<Recall>(text) {
        assert_eq!(decode(&encode(&recall)).as_ref(), Ok(&recall));
    }
});
