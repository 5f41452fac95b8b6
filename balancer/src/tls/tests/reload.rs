//! Files that change while clients come: the good are in force at once, the bad never.

use super::*;

#[tokio::test]
async fn a_changed_certificate_is_in_force_and_a_bad_one_is_not() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    let tls = bench.listener(&["a"], "").expect("the files are good");
    let client = Arc::new(bench.client());
    assert_eq!(tls.refresh(), Refreshed::default());
    let next = bench.authority.issue("next", &["a.b"]);
    bench.write("a.pem", &next.pem);
    check(&tls, 0, 1);
    assert_eq!(meet(&tls, &client, "a.b").await.shown(), "CN=a");
    assert_eq!(tls.refresh(), Refreshed::default(), "said once per change");
    bench.write("a.key", &next.key.serialize_pem());
    check(&tls, 1, 0);
    let fresh = Arc::new(bench.client());
    assert_eq!(meet(&tls, &fresh, "a.b").await.shown(), "CN=next");
    assert!(
        meet(&tls, &client, "a.b").await.facts().is_resumed,
        "tickets outlive certificates"
    );
    assert!(bench.counted(
        "colonnade_balancer_tls_reloads_total{of=\"listener\",name=\"web\",result=\"failed\"} 1"
    ));
    assert!(bench.counted(
        "colonnade_balancer_tls_reloads_total{of=\"listener\",name=\"web\",result=\"ok\"} 1"
    ));
}

#[tokio::test]
async fn every_way_to_be_bad_is_told() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    bench.issue("b", &["a.b"]);
    let good = fs::read_to_string(bench.path("a.key")).expect("it was written");
    let check = |file: &str, text: &str, expected: &str| {
        let before = fs::read_to_string(bench.path(file)).expect("it was written");
        bench.write(file, text);
        let error = bench.listener(&["a"], "").expect_err(expected).to_string();
        assert!(error.contains(file) && error.contains(expected), "{error}");
        bench.write(file, &before);
    };
    check("a.pem", "", "holds no certificate");
    check("a.pem", &good, "holds no certificate");
    check("a.key", "", "holds no private key");
    check(
        "a.pem",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        "is not PEM",
    );
    check(
        "a.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "is not an X.509",
    );
    let other = fs::read_to_string(bench.path("b.key")).expect("it was written");
    check("a.key", &other, "does not belong to the certificate");
    let error = bench
        .listener(&["missing"], "")
        .expect_err("it is not there")
        .to_string();
    assert!(error.contains("missing.pem: No such file"), "{error}");
}

#[tokio::test]
async fn a_revoked_client_does_not_come_back_with_a_ticket() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    bench.write("crl.pem", &bench.authority.revoke(&["somebody"]));
    bench.write("tickets", &"5a".repeat(32));
    let keys = "client_auth = 'required'\nclient_ca = '@/ca.pem'\nclient_crls = ['@/crl.pem']\nticket_keys = '@/tickets'";
    let tls = bench.listener(&["a"], keys).expect("the files are good");
    let app = Arc::new(bench.client_as(&bench.authority.issue("app", &["app.internal"])));
    assert!(!meet(&tls, &app, "a.b").await.facts().is_resumed);
    assert!(meet(&tls, &app, "a.b").await.facts().is_resumed);
    bench.write("crl.pem", &bench.authority.revoke(&["somebody", "app"]));
    check(&tls, 1, 0);
    assert_eq!(
        meet(&tls, &app, "a.b").await.reason(),
        "certificate_invalid"
    );
}

#[tokio::test]
async fn the_end_of_a_certificate_is_shown() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    let _tls = bench.listener(&["a"], "").expect("the files are good");
    let file = bench.path("a.pem").display().to_string();
    let end = "colonnade_balancer_tls_certificate_expiry_timestamp_seconds";
    // What the library for tests gives certificates by default: the first of January 4096.
    let line = format!("{end}{{listener=\"web\",certificate=\"{file}\"}} 67090118400");
    assert!(bench.counted(&line), "{}", bench.metrics.handle().render());
}

#[tokio::test]
async fn an_equal_configuration_keeps_what_it_has() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    let tables = "[listener.tls]\ncertificates = [{ cert = '@/a.pem', key = '@/a.key' }]\n[[service]]\nname = 's'\ntls = { ca = '@/ca.pem' }";
    let first = bench.load(tables).expect("the files are good");
    let load = |tables: &str| Tls::load(&bench.config(tables), &bench.metrics, Some(&first));
    let same = load(tables).expect("the files are good");
    let other = load(&tables.replace(".key' }]", ".key' }]\nstrict_sni = true"))
        .expect("the files are good");
    let kept = |tls: &Tls| {
        let terminators = [&first, tls].map(|it| it.terminator(0).expect("it ends TLS"));
        let connectors = [&first, tls].map(|it| it.connector(0).expect("it speaks TLS"));
        (
            Arc::ptr_eq(&terminators[0], &terminators[1]),
            Arc::ptr_eq(&connectors[0], &connectors[1]),
        )
    };
    assert_eq!((kept(&same), kept(&other)), ((true, true), (false, true)));
}

#[tokio::test(start_paused = true)]
async fn changes_are_noticed_without_being_told() {
    let bench = Bench::new();
    bench.issue("a", &["a.b"]);
    let tls = Arc::new(bench.listener(&["a"], "").expect("the files are good"));
    let watching = tokio::spawn(watch(Arc::new(ArcSwap::new(tls.clone()))));
    bench.issue("a", &["a.b"]);
    let noticed =
        "colonnade_balancer_tls_reloads_total{of=\"listener\",name=\"web\",result=\"ok\"} 1";
    let wait = async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while !bench.counted(noticed) {
            looks.tick().await;
        }
    };
    tokio::time::timeout(10 * LOOK_EVERY, wait)
        .await
        .expect("it is noticed");
    watching.abort();
}

#[track_caller]
fn check(tls: &Tls, swapped: usize, failed: usize) {
    assert_eq!(tls.refresh(), Refreshed { swapped, failed });
}
