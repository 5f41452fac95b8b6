//! The name that a TLS client asks for is never taken back, and is a name.
#![no_main]

use balancer_core::{
    client_hello::{BYTES_MAX, Hello, read},
    server_names::ServerName,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    assert!(whole != Hello::NeedMore || bytes.len() < BYTES_MAX);
    for end in fuzz::ends(bytes) {
        let part = read(&bytes[..end]);
        assert!(
            part == Hello::NeedMore || part == whole,
            "{part:?} was taken back"
        );
    }
    if let Hello::Asks(Some(name)) = whole {
        assert_eq!(ServerName::new(name.as_str()).as_ref(), Ok(&name));
    }
});
