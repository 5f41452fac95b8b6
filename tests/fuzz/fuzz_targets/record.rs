//! What a foreign hand writes into the registry is a record that stays itself, or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

use self::record::{BalancerRecord, Incarnation, NodeRecord, Record, decode, encode};

#[path = "../../../proto/registry/src/record.rs"]
#[allow(dead_code, reason = "the registry uses the rest")]
mod record;

fuzz_target!(|bytes: &[u8]| {
    let _ = Incarnation::of(bytes);
    same_when_written::<NodeRecord>(bytes);
    same_when_written::<BalancerRecord>(bytes);
});

fn same_when_written<R: Record + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<R>(bytes) {
        let read = decode::<R>(record.id(), bytes).ok();
        assert_eq!(read.as_ref(), Some(&record), "its own id is no other's");
        let again = decode::<R>(record.id(), &encode(&record)).ok();
        assert_eq!(again, read);
    }
}
