//! What clients get from a listener: the right certificate, a protocol, a second time for less; or a typed refusal.

use std::time::Duration;

use balancer_core::client_hello::{self, Hello};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::TlsVersion;

#[tokio::test]
async fn the_certificate_fits_the_name() {
    let bench = Bench::new();
    bench.issue("first", &["first.example.org", "10.0.0.1"]);
    bench.issue("wild", &["*.example.org"]);
    bench.issue("exact", &["www.example.org", "*.api.example.org"]);
    let tls = bench
        .listener(&["first", "wild", "exact"], "")
        .expect("the files are good");
    let client = Arc::new(bench.client());
    for (name, expected) in [
        ("first.example.org", "CN=first"),
        ("WWW.example.org", "CN=exact"),
        ("other.example.org", "CN=wild"),
        ("a.api.example.org", "CN=exact"),
        ("10.0.0.1", "CN=first"),
    ] {
        let met = meet(&tls, &client, name).await;
        assert_eq!(met.shown(), expected, "{name}");
    }
    let facts = meet(&tls, &client, "WWW.example.org").await.facts();
    let asked = facts.server_name.as_ref().map(|it| it.as_str());
    assert_eq!(asked, Some("www.example.org"));
    let stranger = meet(&tls, &client, "stranger.example").await;
    assert!(
        stranger.client.is_err(),
        "it got the first, which is not its"
    );
}

#[tokio::test]
async fn strict_names_are_refused() {
    let bench = Bench::new();
    bench.issue("wild", &["*.example.org"]);
    let tls = bench
        .listener(&["wild"], "strict_sni = true")
        .expect("the files are good");
    let client = Arc::new(bench.client());
    assert_eq!(
        meet(&tls, &client, "example.org").await.reason(),
        "unknown_name"
    );
    assert_eq!(
        meet(&tls, &client, "10.0.0.1").await.reason(),
        "unknown_name"
    );
    assert!(meet(&tls, &client, "a.example.org").await.server.is_ok());
    assert!(bench.counted(
        "colonnade_balancer_tls_handshake_failures_total{listener=\"web\",reason=\"unknown_name\"} 2"
    ));
}

#[tokio::test]
async fn a_certificate_that_nobody_can_ask_for_is_a_mistake() {
    let bench = Bench::new();
    bench.issue("first", &[]);
    bench.issue("second", &[]);
    assert!(bench.listener(&["first"], "").is_ok());
    let error = bench
        .listener(&["first", "second"], "")
        .expect_err("nobody gets it");
    assert!(matches!(error, TlsLoadError::NamesNobody(_)), "{error}");
}

#[tokio::test]
async fn a_protocol_is_agreed_on() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    let tls = bench.listener(&["a"], "").expect("the files are good");
    let relay = bench
        .listener(&["a"], "alpn = []")
        .expect("the files are good");
    for (offered, expected) in [
        (&[][..], Some(Agreed::Nothing)),
        (&["http/1.1"], Some(Agreed::Http1)),
        (&["http/1.1", "h2"], Some(Agreed::Http2)),
        (&["acme"], None),
    ] {
        let mut client = bench.client();
        client.alpn_protocols = offered.iter().map(|it| it.as_bytes().to_vec()).collect();
        let client = Arc::new(client);
        let met = meet(&tls, &client, "a.b").await;
        match expected {
            Some(agreed) => assert_eq!(met.facts().agreed, agreed),
            None => assert_eq!(met.reason(), "no_protocol"),
        }
        let met = meet(&relay, &client, "a.b").await;
        assert_eq!(met.facts().agreed, Agreed::Nothing);
    }
}

#[tokio::test]
async fn versions_are_kept_to() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    let both = bench.listener(&["a"], "").expect("the files are good");
    let new = bench
        .listener(&["a"], "min_version = '1.3'")
        .expect("the files are good");
    let old = bench
        .listener(&["a"], "max_version = '1.2'")
        .expect("the files are good");
    let client12 = Arc::new(bench.client_of(&[&TLS12]));
    let client13 = Arc::new(bench.client_of(&[&TLS13]));
    assert_eq!(
        meet(&both, &client12, "a.b").await.facts().version,
        TlsVersion::Tls12
    );
    let facts = meet(&both, &client13, "a.b").await.facts();
    assert_eq!(
        (facts.version, facts.cipher),
        (TlsVersion::Tls13, "TLS_AES_256_GCM_SHA384")
    );
    assert_eq!(meet(&new, &client12, "a.b").await.reason(), "incompatible");
    assert_eq!(meet(&old, &client13, "a.b").await.reason(), "incompatible");
}

#[tokio::test]
async fn clients_come_back_with_tickets() {
    for version in [&TLS12, &TLS13] {
        let bench = Bench::new();
        bench.issue("a", &["a.b"]);
        let tls = bench.listener(&["a"], "").expect("the files are good");
        let client = Arc::new(bench.client_of(&[version]));
        assert!(!meet(&tls, &client, "a.b").await.facts().is_resumed);
        assert!(meet(&tls, &client, "a.b").await.facts().is_resumed);
        let other = bench.listener(&["a"], "").expect("the files are good");
        assert!(!meet(&other, &client, "a.b").await.facts().is_resumed);
    }
}

#[tokio::test]
async fn balancers_that_share_a_file_take_each_others_tickets() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    bench.write("tickets", &format!("# shared\n{}\n", "5a".repeat(32)));
    let keys = "ticket_keys = '@/tickets'";
    let one = bench.listener(&["a"], keys).expect("the files are good");
    let other = bench.listener(&["a"], keys).expect("the files are good");
    let client = Arc::new(bench.client());
    assert!(!meet(&one, &client, "a.b").await.facts().is_resumed);
    assert!(meet(&other, &client, "a.b").await.facts().is_resumed);
    bench.write("tickets", "5a");
    let error = bench
        .listener(&["a"], keys)
        .expect_err("it is too short")
        .to_string();
    assert!(
        error.ends_with("tickets: line 1: is not 64 hexadecimal digits"),
        "{error}"
    );
}

#[tokio::test]
async fn clients_prove_who_they_are() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    bench.write("crl.pem", &bench.authority.revoke(&["thief"]));
    let auth = |mode| {
        format!("client_auth = '{mode}'\nclient_ca = '@/ca.pem'\nclient_crls = ['@/crl.pem']")
    };
    let required = bench
        .listener(&["a"], &auth("required"))
        .expect("the files are good");
    let optional = bench
        .listener(&["a"], &auth("optional"))
        .expect("the files are good");
    let nobody = Arc::new(bench.client());
    assert_eq!(
        meet(&required, &nobody, "a.b").await.reason(),
        "certificate_missing"
    );
    assert_eq!(
        meet(&optional, &nobody, "a.b")
            .await
            .facts()
            .client_certificate,
        None
    );
    let app = bench.authority.issue("app", &["app.internal"]);
    let app = Arc::new(bench.client_as(&app));
    let first = meet(&required, &app, "a.b").await.facts();
    let again = meet(&required, &app, "a.b").await.facts();
    assert_eq!((first.is_resumed, again.is_resumed), (false, true));
    assert_eq!(first.client_certificate, again.client_certificate);
    let shown = first.client_certificate.expect("it was shown");
    assert_eq!(
        (shown.subject.as_str(), &shown.names.dns[..]),
        ("CN=app", &["app.internal".to_owned()][..])
    );
    let thief = Arc::new(bench.client_as(&bench.authority.issue("thief", &["app.internal"])));
    let stranger =
        Arc::new(bench.client_as(&Authority::new("other").issue("app", &["app.internal"])));
    for tls in [&required, &optional] {
        assert_eq!(
            meet(tls, &thief, "a.b").await.reason(),
            "certificate_invalid"
        );
        assert_eq!(
            meet(tls, &stranger, "a.b").await.reason(),
            "certificate_invalid"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    let tls = bench
        .listener(&["a"], "handshake_timeout = '3s'")
        .expect("the files are good");
    let began = tokio::time::Instant::now();
    let (ours, _theirs) = duplex(1024);
    let terminator = tls.terminator(0).expect("it ends TLS");
    let error = terminator.accept(ours, terminator.deadline()).await;
    assert_eq!(error.expect_err("nobody spoke").reason().code(), "timeout");
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn garbage_is_answered_with_an_alert() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    let tls = bench.listener(&["a"], "").expect("the files are good");
    let terminator = tls.terminator(0).expect("it ends TLS");
    for (sent, reason) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "malformed"),
        (&[22, 3, 1, 0, 4, 2, 0, 0, 0], "malformed"),
        (&[22, 3, 1, 0, 4], "io"),
        (&[21, 3, 1, 0, 2, 2, 40], "refused"),
    ] {
        let (ours, mut theirs) = duplex(1024);
        theirs.write_all(sent).await.expect("there is room");
        theirs.shutdown().await.expect("it is open");
        let error = terminator
            .accept(ours, terminator.deadline())
            .await
            .expect_err("it is no handshake");
        assert_eq!(error.reason().code(), reason, "{error}");
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).await.expect("it is closed");
        let is_alert = answer.first().is_some_and(|it| *it == 21);
        assert_eq!(is_alert, reason == "malformed", "{answer:?}");
    }
}

#[tokio::test]
async fn a_real_hello_is_read_without_a_handshake() {
    let bench = Bench::new();
    let (ours, mut theirs) = duplex(64 * 1024);
    let name = ServerName::try_from("WWW.example.org").expect("it is a name");
    let connecting = TlsConnector::from(Arc::new(bench.client())).connect(name, ours);
    let client = tokio::spawn(connecting.into_future());
    let mut bytes = Vec::new();
    let asked = loop {
        let mut byte = [0];
        theirs
            .read_exact(&mut byte)
            .await
            .expect("the client speaks");
        bytes.extend(byte);
        match client_hello::read(&bytes) {
            Hello::NeedMore => {}
            hello => break hello,
        }
    };
    client.abort();
    let Hello::Asks(Some(name)) = asked else {
        panic!("a name is asked for: {asked:?}");
    };
    let listener = "sni = [{ names = ['*.example.org'], service = 'two' }]\n[listener.tls]\ncertificates = [{ cert = '/a', key = '/b' }]";
    let services = "[[service]]\nname = 'one'\n[[service]]\nname = 'two'";
    let config = bench.config(&format!("{listener}\n{services}"));
    let names = PassThrough::new(&config.listeners[0].sni);
    assert_eq!(names.service(&name), Some(1));
}
