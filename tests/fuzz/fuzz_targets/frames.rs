//! What is held against an HTTP/2 client does not depend on how its frames were cut, and is found without a panic in both directions.
#![no_main]

use balancer_core::flood::{Flood, FloodMeter};
use libfuzzer_sys::fuzz_target;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A GOAWAY that says protocol error, as the library writes it.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fuzz_target!(|bytes: &[u8]| {
    let whole = hear([bytes].into_iter());
    assert_eq!(whole, hear(fuzz::pieces(bytes)), "it depends on the cuts");
    assert_eq!(say([bytes].into_iter()), say(fuzz::pieces(bytes)));
});

type Heard = (Result<(), Flood>, Option<(usize, u32)>);

fn hear<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut meter = FloodMeter::default();
    meter.received(PREFACE, 0).expect("a preface is no flood");
    let mut res = Ok(());
    for piece in pieces {
        res = res.and_then(|()| meter.received(piece, 1));
    }
    (res, meter.better_code(&GOAWAY))
}

fn say<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut meter = FloodMeter::default();
    let mut res = Ok(());
    for piece in pieces {
        res = res.and_then(|()| meter.sent(piece));
    }
    (res, meter.better_code(&GOAWAY))
}
