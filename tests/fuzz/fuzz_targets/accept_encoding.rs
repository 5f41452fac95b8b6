//! What coding a client wants does not depend on the lines over which it says so, and is one that it was offered.
#![no_main]

use balancer_core::{
    message::Fields,
    rules::{Coding, choose_coding},
};
use libfuzzer_sys::fuzz_target;

const OFFERED: [Coding; 2] = [Coding::Zstd, Coding::Gzip];

fuzz_target!(|bytes: &[u8]| {
    let together = choose_coding(&OFFERED, &lines([bytes].into_iter()));
    let apart = choose_coding(&OFFERED, &lines(bytes.split(|&it| it == b',')));
    assert_eq!(together, apart);
    assert!(together.is_none_or(|it| OFFERED.contains(&it)));
});

fn lines<'a>(values: impl Iterator<Item = &'a [u8]>) -> Fields {
    let mut fields = Fields::default();
    for value in values {
        fields.push(b"accept-encoding", value);
    }
    fields
}
