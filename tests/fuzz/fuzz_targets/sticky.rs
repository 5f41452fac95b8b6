//! Only a cookie that was issued here is believed, unaltered, and it names the node that it was issued for.
#![no_main]

use balancer_core::{
    name::NodeId,
    sticky::{Attributes, SameSite, Sticky, UnixSeconds},
};
use libfuzzer_sys::fuzz_target;

const NOW: UnixSeconds = UnixSeconds(1_000_000);

/// As long as an id may be.
const ID_BYTES_MAX: usize = 253;

fuzz_target!(|bytes: &[u8]| {
    let sticky = sticky();
    assert_eq!(sticky.read(bytes, NOW), None, "it was made up");
    let Some((&at, id)) = bytes.split_first() else {
        return;
    };
    // Ids are padded with zeros.
    if let Ok(id) = std::str::from_utf8(id)
        && id.len() <= ID_BYTES_MAX
        && !id.ends_with('\0')
    {
        issue(&sticky, &id.into(), at.into());
    }
});

fn issue(sticky: &Sticky, node: &NodeId, at: usize) {
    let cookie = sticky.issue(node, NOW);
    let value = cookie.split(['=', ';']).nth(1).expect("a name and a value");
    let promise = sticky
        .read(value.as_bytes(), NOW)
        .expect("it was issued here");
    assert_eq!(promise.node, *node);
    let mut altered = value.as_bytes().to_vec();
    let at = at % altered.len();
    altered[at] ^= 1;
    assert_eq!(sticky.read(&altered, NOW), None, "it was altered");
}

fn sticky() -> Sticky {
    let attributes = Attributes {
        name: "node".into(),
        path: "/".into(),
        ttl_seconds: 600,
        secure: true,
        http_only: true,
        same_site: SameSite::Lax,
    };
    Sticky::new(attributes, "web".into(), "0123456789abcdef0123456789abcdef")
        .expect("the secret is long enough")
}
