//! Whatever a certificate says of itself can be logged and compared.
#![no_main]

use balancer_core::certificate::read;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(certificate) = read(bytes) else {
        return;
    };
    let subject = &certificate.subject;
    assert!(
        !subject.contains(|it: char| it.is_ascii_control()),
        "{subject:?}"
    );
    for name in &certificate.names.dns {
        assert_eq!(*name, name.to_ascii_lowercase());
    }
});
