//! A PROXY header ends at one byte however it arrives, asks for no more than it may, and what is written of it says the same.
#![no_main]

use balancer_core::proxy_header::{
    Facts, Parsed, ProxyHeader, V2_LEN_MAX, parse, write_v1, write_v2,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    assert!(whole != Parsed::NeedMore || bytes.len() < V2_LEN_MAX);
    for end in fuzz::ends(bytes) {
        let part = parse(&bytes[..end]);
        assert!(
            part == Parsed::NeedMore || part == whole,
            "{part:?} was taken back"
        );
    }
    if let Parsed::Header { header, len } = whole {
        assert!(len <= bytes.len(), "it ends within what came");
        same_when_written(&header);
    }
});

fn same_when_written(header: &ProxyHeader) {
    let line = write_v1(header.addresses);
    assert_eq!(reread(&line).addresses, header.addresses);
    let facts = Facts {
        addresses: header.addresses,
        // Longer ones are left out when a header is written.
        authority: header.authority.as_deref().filter(|it| it.len() <= 255),
        unique_id: header.unique_id.as_deref().filter(|it| it.len() <= 128),
        ..Facts::default()
    };
    let again = reread(&write_v2(&facts));
    assert_eq!(again.addresses, facts.addresses);
    if facts.addresses.is_some() {
        assert_eq!(again.authority.as_deref(), facts.authority);
        assert_eq!(again.unique_id.as_deref(), facts.unique_id);
    }
}

fn reread(bytes: &[u8]) -> ProxyHeader {
    match parse(bytes) {
        Parsed::Header { header, len } if len == bytes.len() => *header,
        other => panic!("what was written is read as {other:?}"),
    }
}
