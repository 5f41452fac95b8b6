//! A cookie has the same value whether it came in one field with others or in a field of its own.
#![no_main]

use balancer_core::affinity::cookie;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let together = cookie([("Cookie", bytes)].into_iter(), "a");
    let apart = bytes.split(|&it| it == b';').map(|it| ("cookie", it));
    assert_eq!(together, cookie(apart, "a"));
    assert!(together.is_none_or(|it| !it.contains(&b';')));
});
