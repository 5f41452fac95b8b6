//! What may stand in the tables of TLS, and the line an operator reads otherwise.

use crate::config::{Config, ListenerTls, TlsVersion};

const LISTENER: &str = "id = 'b'
service = [{ name = 'app' }, { name = 'old', protocol = 'http1' }]
[[listener]]
name = 'web'
address = '127.0.0.1:1'
";

const PAIR: &str = "certificates = [{ cert = '/a.pem', key = '/a.key' }]";

#[test]
fn the_example_of_the_page_loads() {
    let page = include_str!("../../../../docs/balancer/tls.md");
    let after = page
        .split("```toml\n")
        .nth(1)
        .expect("the page has an example");
    let config = read(after.split("```").next().expect("the example ends"));
    assert!(config.listeners[1].tls.is_some() && config.services[0].tls.is_some());
}

#[test]
fn the_least_is_filled_with_defaults() {
    let tls = tls(PAIR);
    assert_eq!(tls.alpn.len(), 2);
    assert_eq!(
        (tls.min_version, tls.max_version),
        (TlsVersion::Tls12, TlsVersion::Tls13)
    );
    assert_eq!(tls.files().len(), 2);
    let all = "client_auth = 'optional'\nclient_ca = '/ca'\nclient_crls = ['/c']\nticket_keys = '/t'\nalpn = []\nmin_version = '1.3'";
    let tls = self::tls(&format!("{PAIR}\n{all}"));
    assert_eq!((tls.files().len(), tls.alpn.len()), (5, 0));
}

#[test]
fn a_relay_offers_nothing_unless_told() {
    let config = format!("{LISTENER}protocol = 'tcp'\nservice = 'app'\n[listener.tls]\n{PAIR}");
    let listener = &read(&config).listeners[0];
    assert!(listener.tls.as_ref().is_some_and(|it| it.alpn.is_empty()));
}

#[test]
fn contradictions_are_refused_where_they_stand() {
    check("tls = {}", "tls.certificates: required, but there is none");
    check(
        "tls.certificates = [{ cert = '/a' }]",
        "tls.certificates[0].key: required, but not set",
    );
    check_tls(
        "client_auth = 'required'",
        "client_ca: required, but not set",
    );
    let only = "is for `client_auth = \"optional\"` and `\"required\"` only";
    check_tls("client_ca = '/a'", &format!("client_ca: {only}"));
    check_tls("client_crls = ['/a']", &format!("client_crls: {only}"));
    check_tls(
        "max_version = '1.2'\nmin_version = '1.3'",
        "min_version: is newer than `max_version`",
    );
    check_tls(
        "max_version = '1.1'",
        "max_version: unknown variant `1.1`, expected `1.2` or `1.3`",
    );
    check_tls(
        "ticket_rotation = '59s'",
        "ticket_rotation: is not within 1m to 84h",
    );
    check_tls("alpn = ['']", "alpn[0]: is not 1 to 255 bytes long");
}

#[test]
fn names_go_to_services() {
    let sni = "sni = [{ names = ['A.b', '*.c.d'], service = 'old' }]";
    let config = read(&format!("{LISTENER}{sni}\ntls.{PAIR}"));
    assert_eq!(config.listeners[0].sni[0].service, 1);
    let shown = serde_json::to_value(&config).expect("JSON can hold it");
    let expected = serde_json::json!([{ "names": ["a.b", "*.c.d"], "service": "old" }]);
    assert_eq!(shown["listener"][0]["sni"], expected);
    check(sni, "sni: needs `tls` where the protocol is `http`");
    let twice = sni.replace("A.b", "*.C.d");
    check(
        &format!("tls.{PAIR}\n{twice}"),
        "sni[0].names[1]: `*.c.d` stands at this listener twice",
    );
    let none = sni.replace("'A.b', '*.c.d'", "");
    check(
        &format!("tls.{PAIR}\n{none}"),
        "sni[0].names: required, but there is none",
    );
    let bad = sni.replace("A.b", "a b");
    check(
        &format!("tls.{PAIR}\n{bad}"),
        "sni[0].names[0]: `a b` is not a host name such as `www.example.org` or `*.example.org`",
    );
}

#[test]
fn browsers_are_kept_on_tls() {
    let redirect = |text: &str| {
        let config = read(&format!("{LISTENER}https_redirect = {text}"));
        let redirect = config.listeners[0].https_redirect;
        redirect.map(|it| it.location("a.b:80", "/c?d"))
    };
    assert_eq!(redirect("false"), None);
    assert_eq!(redirect("true").as_deref(), Some("https://a.b/c?d"));
    assert_eq!(redirect("8443").as_deref(), Some("https://a.b:8443/c?d"));
    let v6 = read(&format!("{LISTENER}https_redirect = true")).listeners[0].https_redirect;
    let location = |host| v6.map(|it| it.location(host, "/"));
    assert_eq!(location("[::1]").as_deref(), Some("https://[::1]/"));
    assert_eq!(location("[::1]:80").as_deref(), Some("https://[::1]/"));
    check(
        "https_redirect = 0",
        "https_redirect: 0 is not within 1 to 65535",
    );
    let both = format!("https_redirect = true\ntls.{PAIR}");
    check(
        &both,
        "https_redirect: is for listeners without `tls`: with it, clients are there already",
    );
}

#[test]
fn hsts_is_a_promise_that_can_be_kept() {
    let config = read(&format!(
        "{LISTENER}tls.{PAIR}\nhsts = {{ max_age = '730days', include_subdomains = true, preload = true }}"
    ));
    let hsts = config.listeners[0].hsts.expect("it was set");
    assert_eq!(
        hsts.to_string(),
        "max-age=63072000; includeSubDomains; preload"
    );
    let hsts = |text: &str| format!("tls.{PAIR}\nhsts = {{ {text} }}");
    let needs = "hsts.preload: needs `include_subdomains` and a `max_age` of at least 365days";
    check(&hsts("max_age = '730days', preload = true"), needs);
    check(
        &hsts("preload = true"),
        "hsts.max_age: required, but not set",
    );
    check(
        &hsts("max_age = '3651days'"),
        "hsts.max_age: `3651days` is more than 3650days",
    );
    check(
        "hsts.max_age = '1day'",
        "hsts.max_age: is for listeners that speak HTTP and have `tls` (RFC 6797, section 7.2)",
    );
}

#[test]
fn a_service_is_told_whom_to_believe() {
    let service = |keys: &str| {
        let text = format!("{LISTENER}[[service]]\nname = 'tls'\ntls = {{ {keys} }}");
        Config::from_toml("t.toml", &text.replacen("service = [", "#", 1))
    };
    let shown = |keys: &str| service(keys).map(|it| it.services[0].tls.clone());
    let error = |keys: &str| service(keys).expect_err("it is wrong").to_string();
    assert!(shown("").is_ok_and(|it| it.is_some_and(|it| it.files().is_empty())));
    let all = "ca = '/a', cert = '/b', key = '/c', server_name = 'node.internal'";
    assert!(shown(all).is_ok_and(|it| it.is_some_and(|it| it.files().len() == 3)));
    assert!(shown("server_name = '::1'").is_ok());
    let at = "t.toml:8: service[0].tls";
    assert_eq!(
        error("cert = '/b'"),
        format!("{at}.key: required, but not set")
    );
    assert_eq!(
        error("ca = '/b', insecure = true"),
        format!("{at}.insecure: believes anybody, so that `ca` has no use")
    );
    assert!(error("server_name = 'a b'").starts_with(&format!("{at}.server_name: `a b` is not")));
}

fn tls(keys: &str) -> ListenerTls {
    let config = read(&format!("{LISTENER}[listener.tls]\n{keys}"));
    config.listeners[0].tls.clone().expect("it was set")
}

#[track_caller]
fn read(text: &str) -> Config {
    Config::from_toml("t.toml", text).expect("the text is right")
}

/// Expects the error of a listener's further keys, wherever in the text it is placed.
#[track_caller]
fn check(keys: &str, expected: &str) {
    let error = Config::from_toml("t.toml", &format!("{LISTENER}{keys}")).expect_err(keys);
    let error = error.to_string();
    assert!(
        error.ends_with(&format!(": listener[0].{expected}")),
        "{error}"
    );
}

#[track_caller]
fn check_tls(keys: &str, expected: &str) {
    check(
        &format!("[listener.tls]\n{PAIR}\n{keys}"),
        &format!("tls.{expected}"),
    );
}
