//! Certificates as a common library writes them, and bytes that are none.

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, DnValue, KeyPair, SanType, date_time_ymd};

use super::*;

#[test]
fn names_subject_and_end_are_read() {
    let mut params = CertificateParams::new(vec!["WWW.example.org".into(), "*.example.org".into()])
        .expect("they are names");
    params
        .subject_alt_names
        .push(SanType::IpAddress([10, 0, 0, 1].into()));
    let uri = "spiffe://example.org/app".try_into().expect("it is ASCII");
    params.subject_alt_names.push(SanType::URI(uri));
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Example, Inc");
    params
        .distinguished_name
        .push(DnType::CommonName, " näme\r\n");
    params.not_after = date_time_ymd(2031, 2, 3);
    let read = check(params);
    assert_eq!(read.names.dns, ["www.example.org", "*.example.org"]);
    assert_eq!(read.names.uris, ["spiffe://example.org/app"]);
    assert_eq!(read.names.addresses, [IpAddr::from([10, 0, 0, 1])]);
    assert_eq!(read.subject, "O=Example\\, Inc,CN=\\ näme\\0d\\0a");
    assert_eq!(read.not_after, 1_927_843_200);
}

#[test]
fn a_certificate_may_name_nobody() {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let custom = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
    params
        .distinguished_name
        .push(custom, DnValue::Utf8String("a@b".into()));
    let read = check(params);
    assert_eq!(read.names, AlternativeNames::default());
    assert_eq!(read.subject, "1.2.840.113549.1.9.1=a@b");
}

#[test]
fn what_is_cut_off_is_refused() {
    let bytes = signed(CertificateParams::new(vec!["a.b".into()]).expect("it is a name"));
    for len in 0..bytes.len() {
        assert_eq!(read(&bytes[..len]), Err(CertificateError), "{len}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn a_changed_certificate_is_answered(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = SIGNED.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = read(&bytes);
    }
}

static SIGNED: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    signed(CertificateParams::new(vec!["a.b".into()]).expect("it is a name"))
});

fn check(params: CertificateParams) -> Certificate {
    read(&signed(params)).expect("it is a certificate")
}

fn signed(params: CertificateParams) -> Vec<u8> {
    let key = KeyPair::generate().expect("keys can be made");
    params
        .self_signed(&key)
        .expect("it can be signed")
        .der()
        .to_vec()
}
