//! The lines an operator reads when the configuration is wrong, and the values the balancer gets when it is right.

use super::*;

mod pages;

const EXAMPLE: &str = include_str!("../../../deploy/balancer.toml");

/// The least a balancer that serves something is told: eleven lines.
const LEAST: &str = "id = 'b'
[[listener]]
name = 'web'
address = '127.0.0.1:8080'
[[service]]
name = 'app'
discover = 'static'
endpoints = ['127.0.0.1:1']
[[route]]
service = 'app'
path = '/'
";

#[test]
fn the_least_is_filled_with_defaults() {
    let config = read(LEAST);
    assert!(config.workers > 0, "the number of workers must be resolved");
    assert_eq!(config.drain_deadline, Duration::from_secs(30));
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9901");
    assert_eq!(config.registry, None);
    assert_eq!(config.log.level, "info");
    assert_eq!(config.log.access, AccessLog::Stdout);
    assert_eq!(config.listeners[0].protocol, ListenerProtocol::Http);
    assert_eq!(config.listeners[0].trusted_proxies, Trusted::default());
    assert_eq!(config.routes[0].name, "route-0");
    assert_eq!(config.services[0].probe.kind, ProbeKind::Tcp);
    assert!(!config.needs_registry());
}

#[test]
fn the_example_loads_as_it_stands_and_with_every_key() {
    let config = read(EXAMPLE);
    assert!(config.needs_registry() && config.registry.is_some());
    let full = read(&uncommented(EXAMPLE));
    assert_eq!(full.id, "balancer-1");
    assert_eq!(
        full.routes[0].hosts,
        ["www.example.org", "*.sites.example.org"]
    );
    let registry = full.registry.expect("the example has a registry");
    assert!(registry.password_file.is_some() && registry.key_file.is_some());
}

#[test]
fn what_the_example_shows_is_the_default_unless_it_says_otherwise() {
    let as_it_stands = read(EXAMPLE);
    let lines: Vec<_> = EXAMPLE.lines().collect();
    let shown = (0..lines.len()).filter(|idx| is_commented_key(lines[*idx]));
    for idx in shown.filter(|idx| !tells_its_default(&lines[..*idx])) {
        let mut lines = lines.clone();
        lines[idx] = &lines[idx][1..];
        assert_eq!(read(&lines.join("\n")), as_it_stands, "{}", lines[idx]);
    }
}

#[test]
fn the_example_shows_every_key() {
    let full = uncommented(EXAMPLE);
    for table in [
        "",
        "[takeover]",
        "[admin]",
        "[registry]",
        "[membership]",
        "[log]",
        "[explain]",
        "[tracing]",
        "[admission]",
        "[[listener]]",
        "[[route]]",
        "[[service]]",
        "[service.probe]",
        "[service.pick]",
        "[service.outlier]",
    ] {
        for key in known_keys(table) {
            let is_shown = lines_of(&full, table).any(|line| names(line, &key));
            assert!(is_shown, "the example must show `{key}` of `{table}`");
        }
    }
}

#[test]
fn names_become_places() {
    let config = read(
        "id = 'b'
        listener = [
            { name = 'relay', address = '[::1]:1', protocol = 'tcp', service = 'two' },
            { name = 'web', address = '[::1]:2' },
            { name = 'both', address = '[::1]:0', protocol = 'detect', service = 'one' },
            { name = 'third', address = '[::1]:0', trusted_proxies = ['10.0.0.0/8'] },
        ]
        service = [{ name = 'one' }, { name = 'two', proxy_protocol = 'v2' }]
        route = [{ service = 'one' }, { service = 'one', listeners = ['both'], path = '/a/', hosts = ['A.Example.'] }]",
    );
    let services: Vec<_> = config.listeners.iter().map(|it| it.service).collect();
    assert_eq!(services, [Some(1), None, Some(0), None]);
    assert_eq!(
        config.routes[0].listeners,
        [1, 2, 3],
        "every listener that speaks HTTP"
    );
    assert_eq!(config.routes[1].listeners, [2]);
    assert_eq!(
        (
            config.routes[1].path.as_str(),
            config.routes[1].name.as_str()
        ),
        ("/a", "route-1")
    );
    assert_eq!(config.routes[1].hosts, ["a.example"]);
    assert!(
        config.listeners[3]
            .trusted_proxies
            .contains([10, 1, 2, 3].into())
    );
    assert!(
        config.needs_registry(),
        "services come from the registry unless they say otherwise"
    );
}

#[test]
fn sources_of_endpoints_are_read() {
    let services = read(&format!(
        "{LEAST}[[service]]\nname = 'd'\ndiscover = 'dns'\ndns = 'web.example.org:8000'\n\
         [[service]]\nname = 'e'\nprobe = {{ kind = 'http', path = '/livez' }}\n"
    ))
    .services;
    let dns = DnsConfig {
        name: "web.example.org".to_owned(),
        port: 8000,
        servers: Vec::new(),
        refresh_max: Duration::from_secs(30),
    };
    assert_eq!(
        services[0].discover,
        Discover::Static(vec![([127, 0, 0, 1], 1).into()])
    );
    assert_eq!(services[1].discover, Discover::Dns(dns));
    assert_eq!(services[2].discover, Discover::Registry);
    assert_eq!(
        services[2].probe.kind,
        ProbeKind::Http(HttpProbe {
            path: "/livez".to_owned(),
            host: None,
            statuses: vec![Statuses { from: 200, to: 399 }],
            headers: Vec::new(),
        })
    );
}

#[test]
fn equal_meanings_are_equal() {
    let other = LEAST.replace("id = 'b'", "drain_deadline = '30000ms'\nid = 'b'");
    assert_eq!(read(LEAST), read(&other));
    assert_ne!(read(LEAST), read(&LEAST.replace("8080", "8081")));
}

#[test]
fn it_is_shown_with_names_and_without_indexes() {
    let relay = "[[listener]]\nname = 'relay'\naddress = '127.0.0.1:2'\nprotocol = 'tcp'\nservice = 'app'\n[log]\naccess = '/a/b'";
    let shown = serde_json::to_value(read(&format!("{LEAST}{relay}"))).expect("JSON can hold it");
    assert_eq!(shown["route"][0]["service"], "app");
    assert_eq!(shown["route"][0]["listeners"], serde_json::json!(["web"]));
    assert_eq!(shown["listener"][0]["service"], serde_json::Value::Null);
    assert_eq!(shown["listener"][1]["service"], "app");
    assert_eq!(shown["listener"][1]["idle_timeout"], "1m 15s");
    assert_eq!(shown["service"][0]["discover"]["static"][0], "127.0.0.1:1");
    assert_eq!(shown["log"]["access"], "/a/b");
}

#[test]
fn the_environment_suffices() {
    let env = |address: &str| {
        let pair = |(name, text): (&str, &str)| (format!("COLONNADE_{name}"), text.to_owned());
        let all = [
            ("_ID", "7"),
            ("LISTENER__0__NAME", "web"),
            ("LISTENER__0__ADDRESS", address),
        ];
        all.map(pair)
    };
    let config =
        Config::load(None, env("127.0.0.1:1")).expect("a listener is all that is required");
    assert_eq!((config.id.as_str(), config.listeners.len()), ("7", 1));
    let error = Config::load(None, env("127.0.0.1:9901"))
        .expect_err("admin is there")
        .to_string();
    assert_eq!(
        error,
        "COLONNADE_LISTENER__0__ADDRESS: listener[0].address: admin has the same"
    );
}

#[test]
fn a_key_out_of_bounds_is_refused_where_it_stands() {
    check_key("workers = 1025", "workers: 1025 is not within 0 to 1024");
    check_key("workers = -1", "workers: -1 is not within 0 to 1024");
    check_key(
        "workers = 99999999999999999999",
        "workers: 99999999999999999999 is too large",
    );
    check_key(
        "drain_deadline = '0s'",
        "drain_deadline: `0s` is not within 1ms to 30days",
    );
    check_key(
        "drain_deadline = '31days'",
        "drain_deadline: `31days` is not within 1ms to 30days",
    );
    check_key(
        "drain_deadline = '5'",
        "drain_deadline: `5` is not a duration such as \"10s\" or \"1m 30s\": time unit needed, for example 5sec or 5ms",
    );
    check_key(
        "drain_deadline = 5",
        "drain_deadline: invalid type: integer `5`, expected a duration such as \"10s\" or \"1m 30s\"",
    );
    check_key(
        "log.level = 'loud'",
        "log.level: unknown variant `loud`, expected one of `off`, `error`, `warn`, `info`, `debug`, `trace`",
    );
    check_key(
        "log.access = 'stdot'",
        "log.access: `stdot` is none of `stdout`, `off` and a file's path such as `/var/log/access.log`",
    );
    check_key(
        "membership.snapshot = '/var/lib/'",
        "membership.snapshot: `/var/lib/` is not a file's path",
    );
    check_key(
        "service = [{ retry_ratio = 10.5 }]",
        "service[0].retry_ratio: 10.5 is not within 0 to 10",
    );
    check_key(
        "service = [{ retry_ratio = nan }]",
        "service[0].retry_ratio: NaN is not within 0 to 10",
    );
    check_key(
        "service = [{ max_tries = 0 }]",
        "service[0].max_tries: 0 is not within 1 to 10",
    );
    check_key(
        "listener = [{ max_head_bytes = 4096 }]",
        "listener[0].max_head_bytes: 4096 is not within 8192 to 1048576",
    );
    check_key(
        "listener = [{ protocol = 'htp' }]",
        "listener[0].protocol: unknown variant `htp`, expected one of `http`, `tcp`, `detect`",
    );
    check_key(
        "listener = [{ adress = '' }]",
        &format!(
            "listener[0].adress: unknown key, expected one of `{}`",
            known_keys("[[listener]]").join("`, `")
        ),
    );
    check_key(
        "admin.address = 'x'",
        "admin.address: invalid socket address syntax",
    );
}

#[test]
fn names_are_words_and_belong_to_one() {
    let words = "of the letters a to z and A to Z, digits, `.`, `_` and `-`";
    check(
        &LEAST.replace("'b'", "'a b'"),
        &format!("t.toml:1: id: `a b` is not 1 to 253 {words}"),
    );
    check(
        &LEAST.replace("'web'", "''"),
        &format!("t.toml:3: listener[0].name: `` is not 1 to 63 {words}"),
    );
    let long = "x".repeat(64);
    check(
        &LEAST.replace("name = 'app'", &format!("name = '{long}'")),
        &format!("t.toml:6: service[0].name: `{long}` is not 1 to 63 {words}"),
    );
    check_more(
        "[[service]]\nname = 'app'",
        "t.toml:13: service[1].name: service[0] is called `app` already",
    );
    check_more(
        "[[route]]\nname = 'route-0'\nservice = 'app'\npath = '/x'",
        "t.toml:13: route[1].name: route[0] is called `route-0` already",
    );
    check_more(
        "[[listener]]\nname = 'web'\naddress = '127.0.0.1:0'",
        "t.toml:13: listener[1].name: listener[0] is called `web` already",
    );
}

#[test]
fn what_is_required_is_missed() {
    check(
        "id = 'b'",
        "t.toml: listener: required, but not set: there is no `[[listener]]`",
    );
    check(
        "[[listener]]\nname = 'x'",
        "t.toml:1: listener[0].address: required, but not set",
    );
    check(
        "[[listener]]\naddress = '[::]:1'",
        "t.toml:1: listener[0].name: required, but not set",
    );
    check_more(
        "[[service]]",
        "t.toml:12: service[1].name: required, but not set",
    );
    check_more(
        "[[route]]",
        "t.toml:12: route[1].service: required, but not set",
    );
    check_more(
        "[[listener]]\nname = 'x'\naddress = '[::]:1'\nprotocol = 'detect'",
        "t.toml:12: listener[1].service: required, but not set",
    );
}

#[test]
fn a_listener_has_what_its_protocol_needs() {
    check(
        &LEAST.replace("8080'", "8080'\nservice = 'app'"),
        "t.toml:5: listener[0].service: is for the protocols `tcp` and `detect`: HTTP is sent on by routes",
    );
    check_more(
        "[[listener]]\nname = 'x'\naddress = '[::]:1'\nprotocol = 'tcp'\nservice = 'ap'",
        "t.toml:16: listener[1].service: no service is called `ap`, expected one of `app`",
    );
    check_more(
        "[[listener]]\nname = 'x'\naddress = '127.0.0.1:8080'",
        "t.toml:14: listener[1].address: listener[0] has the same",
    );
    check(
        &LEAST.replace("8080", "9901"),
        "t.toml:4: listener[0].address: admin has the same",
    );
    check(
        &LEAST.replace("8080'", "8080'\ntrusted_proxies = ['::1', '10.0.0.1/8']"),
        "t.toml:5: listener[0].trusted_proxies[1]: the address has bits beyond its prefix, the network is 10.0.0.0/8",
    );
}

#[test]
fn a_service_has_what_its_discovery_needs() {
    let service = |keys: &str, expected: &str| {
        let line = format!("{LEAST}[[service]]\nname = 's'\n{keys}");
        check(&line, expected);
    };
    service(
        "discover = 'static'",
        "t.toml:12: service[1].endpoints: required, but not set",
    );
    service(
        "discover = 'static'\nendpoints = []",
        "t.toml:15: service[1].endpoints: is empty: a static service has at least one",
    );
    service(
        "discover = 'static'\nendpoints = ['1.2.3.4:5', '1.2.3.4:5']",
        "t.toml:15: service[1].endpoints[1]: 1.2.3.4:5: stands here twice",
    );
    service(
        "discover = 'static'\nendpoints = ['1.2.3.4:0']",
        "t.toml:15: service[1].endpoints[0]: 1.2.3.4:0: no connection can be made to port 0",
    );
    service(
        "discover = 'static'\nendpoints = ['web:80']",
        "t.toml:15: service[1].endpoints[0]: invalid socket address syntax",
    );
    service(
        "endpoints = ['1.2.3.4:5']",
        "t.toml:14: service[1].endpoints: is for `discover = \"static\"` only",
    );
    service(
        "dns = 'a:1'",
        "t.toml:14: service[1].dns: is for `discover = \"dns\"` only",
    );
    service(
        "dns_servers = []",
        "t.toml:14: service[1].dns_servers: is for `discover = \"dns\"` only",
    );
    service(
        "dns_refresh_max = '1s'",
        "t.toml:14: service[1].dns_refresh_max: is for `discover = \"dns\"` only",
    );
    service(
        "discover = 'dns'",
        "t.toml:12: service[1].dns: required, but not set",
    );
    for dns in [
        "a",
        "a:",
        "a:0",
        "a:65536",
        ":1",
        "a b:1",
        "1.2.3.4:1",
        "[::1]:1",
    ] {
        service(
            &format!("discover = 'dns'\ndns = '{dns}'"),
            &format!(
                "t.toml:15: service[1].dns: `{dns}` is not a name and a port, such as `web.example.org:8000`"
            ),
        );
    }
    service(
        "probe.path = '/x'",
        "t.toml:14: service[1].probe.path: is for `kind = \"http\"` only",
    );
    service(
        "probe.interval = '0s'",
        "t.toml:14: service[1].probe.interval: `0s` is not within 1ms to 30days",
    );
}

#[test]
fn a_key_of_picking_out_of_bounds_is_refused_where_it_stands() {
    check_key(
        "service = [{ pick = { key = 'header:' } }]",
        "service[0].pick.key: `header:` is none of `source`, `path`, `header:NAME` and `cookie:NAME`",
    );
    check_key(
        "service = [{ pick = { panic_threshold = 1.5 } }]",
        "service[0].pick.panic_threshold: 1.5 is not within 0 to 1",
    );
    check_key(
        "service = [{ slow_start = { min_weight = 0.0 } }]",
        "service[0].slow_start.min_weight: 0 is not within 0.01 to 1",
    );
    check_key(
        "service = [{ outlier = { success_rate_min_endpoints = 1 } }]",
        "service[0].outlier.success_rate_min_endpoints: 1 is not within 2 to 10000",
    );
}

#[test]
fn a_sticky_service_has_what_its_cookie_needs() {
    let without = LEAST.replace("[[route]]", "[service.sticky]\n[[route]]");
    check(
        &without,
        "t.toml:9: service[0].sticky.secret_file: required, but not set",
    );
    let sticky = |keys: &str| {
        LEAST.replace(
            "[[route]]",
            &format!("[service.sticky]\nsecret_file = '/s'\n{keys}\n[[route]]"),
        )
    };
    check(
        &sticky("cookie = 'a b'"),
        "t.toml:11: service[0].sticky.cookie: `a b` is no cookie's name",
    );
    check(
        &sticky("path = '/a;b'"),
        "t.toml:11: service[0].sticky.path: `/a;b` is no path that a cookie can have",
    );
    check(
        &sticky("same_site = 'none'\nsecure = false"),
        "t.toml:11: service[0].sticky.same_site: browsers want `secure` with `\"none\"`",
    );
    let config = read(&sticky("ttl = '5m'"));
    let sticky = config.services[0].sticky.as_ref();
    let sticky = sticky.expect("the service is sticky");
    assert_eq!(
        (sticky.cookie.as_str(), sticky.ttl.as_secs()),
        ("colonnade", 300)
    );
    assert!(sticky.secure && sticky.http_only);
}

#[test]
fn a_route_leads_from_http_to_a_service() {
    let relay = "[[listener]]\nname = 'r'\naddress = '[::]:1'\nprotocol = 'tcp'\nservice = 'app'\n";
    let route = |keys: &str, expected: &str| {
        check(
            &format!("{LEAST}{relay}[[route]]\npath = '/x'\n{keys}"),
            expected,
        );
    };
    route(
        "service = 'ap'",
        "t.toml:19: route[1].service: no service is called `ap`, expected one of `app`",
    );
    route(
        "service = 'app'\nlisteners = ['web', 'wbe']",
        "t.toml:20: route[1].listeners[1]: no listener is called `wbe`, expected one of `r`, `web`",
    );
    route(
        "service = 'app'\nlisteners = ['r']",
        "t.toml:20: route[1].listeners[0]: the protocol of `r` is `tcp`, it has no requests to route",
    );
    route(
        "service = 'app'\nlisteners = []",
        "t.toml:20: route[1].listeners: is empty: leave it out for every listener that speaks HTTP",
    );
    route(
        "service = 'app'\nlisteners = ['web', 'web']",
        "t.toml:20: route[1].listeners[1]: `web` stands here twice",
    );
    check(
        &LEAST.replace("8080'", "8080'\nprotocol = 'tcp'\nservice = 'app'"),
        "t.toml:11: route[0].listeners: there is no listener whose protocol is `http` or `detect`",
    );
    check(
        &LEAST.replace("name = 'app'", "name = 'app'\nproxy_protocol = 'v2'"),
        "t.toml:11: route[0].service: `app` has a `proxy_protocol`, which only relayed connections can carry",
    );
}

#[test]
fn two_routes_never_take_the_same_requests() {
    let route = |keys: &str| format!("[[route]]\nname = 'x'\nservice = 'app'\n{keys}\n");
    let same = |keys: &str, expected: &str| {
        check_more(
            &route(keys),
            &format!("t.toml:12: route[1]: routes {expected}"),
        );
    };
    same(
        "path = '/'",
        "`route-0` and `x` both take host `*` and path `/`",
    );
    same(
        "listeners = ['web']",
        "`route-0` and `x` both take host `*` and path `/`",
    );
    same(
        "hosts = ['a', '*']",
        "`route-0` and `x` both take host `*` and path `/`",
    );
    same(
        "hosts = ['a', 'A.']",
        "`x` and `x` both take host `a` and path `/`",
    );
    for apart in ["hosts = ['a']", "hosts = ['*.a']", "path = '/a'"] {
        check_more(&route(apart), "");
    }
}

#[test]
fn what_is_no_host_or_path_is_refused() {
    let route = |keys: &str, expected: &str| {
        check_more(&format!("[[route]]\nservice = 'app'\n{keys}"), expected);
    };
    route(
        "hosts = ['a', 'a b']",
        "t.toml:14: route[1].hosts[1]: `a b`: not a host name, `*.` and a host name, or `*`",
    );
    route(
        "hosts = ['a:80']",
        "t.toml:14: route[1].hosts[0]: `a:80`: a port has no place in a route, its listeners have one",
    );
    route(
        "path = 'a'",
        "t.toml:14: route[1].path: `a`: a path starts with `/`",
    );
    route(
        "path = '/?'",
        "t.toml:14: route[1].path: `/?`: a path is visible ASCII without `?` and `#`",
    );
    let long = "/".repeat(1025);
    route(
        &format!("path = '{long}'"),
        "t.toml:14: route[1].path: 1025 are more than the 1024 there may be",
    );
    for host in [
        "a.",
        "_x.A-b.example",
        "*.a",
        "192.0.2.1",
        "[::1]",
        "xn--4ca.de",
    ] {
        route(&format!("hosts = ['{host}']"), "");
    }
}

#[test]
fn an_error_stays_short_however_many_names_there_are() {
    let services: String = (0..100)
        .map(|idx| format!("[[service]]\nname = 's{idx:02}'\n"))
        .collect();
    let text = format!(
        "{}{services}",
        LEAST.replace("service = 'app'", "service = 'none'")
    );
    let error = Config::from_toml("t.toml", &text)
        .expect_err("no such service")
        .to_string();
    assert!(error.ends_with("`s17`, `s18`, …"), "{error}");
}

#[test]
fn there_may_not_be_more_than_can_be_meant() {
    let listeners = "[[listener]]\n".repeat(257);
    check(
        &listeners,
        "t.toml:1: listener: 257 are more than the 256 there may be",
    );
}

/// Expects the one line of the error, or, where it is empty, no error.
#[track_caller]
fn check(text: &str, expected: &str) {
    let res = Config::from_toml("t.toml", text);
    let line = res.err().map_or(String::new(), |error| error.to_string());
    assert_eq!(line, expected, "{text}");
}

/// Expects the error of a text whose only line it is.
#[track_caller]
fn check_key(text: &str, expected: &str) {
    check(text, &format!("t.toml:1: {expected}"));
}

/// Expects the error of what follows the least, from line 12 on.
#[track_caller]
fn check_more(text: &str, expected: &str) {
    check(&format!("{LEAST}{text}"), expected);
}

#[track_caller]
fn read(text: &str) -> Config {
    Config::from_toml("t.toml", text).expect("the text is right")
}

fn uncommented(text: &str) -> String {
    let line = |it: &str| {
        if is_commented_key(it) {
            it[1..].to_owned()
        } else {
            it.to_owned()
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn is_commented_key(line: &str) -> bool {
    line.strip_prefix('#')
        .is_some_and(|it| it.starts_with(|first: char| first.is_ascii_lowercase()))
}

/// Whether the comment above a key, and the keys that share it, tells what holds without it.
fn tells_its_default(before: &[&str]) -> bool {
    let keys_above = before
        .iter()
        .rev()
        .take_while(|it| is_commented_key(it))
        .count();
    let comment = before[..before.len() - keys_above].iter().rev();
    comment
        .take_while(|it| it.starts_with("# "))
        .any(|it| it.contains("Default:"))
}

/// The keys that an unknown one is told to be instead of, for a table by its header.
fn known_keys(table: &str) -> Vec<String> {
    let parent = if table.starts_with("[service.") {
        "[[service]]\n"
    } else {
        ""
    };
    let text = format!("{parent}{table}\nno-such-key = 1");
    let error = Config::from_toml("t.toml", &text)
        .expect_err("there is no such key")
        .to_string();
    let keys: Vec<_> = error
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    assert!(keys.len() > 1 || table == "[admin]", "{error}");
    keys
}

/// The lines under every header of a table, and the headers of the tables in it.
fn lines_of<'a>(text: &'a str, table: &str) -> impl Iterator<Item = &'a str> {
    let table = name_of(table).to_owned();
    let mut header = "";
    text.lines().filter(move |line| {
        if !line.starts_with('[') {
            return header == table;
        }
        header = name_of(line);
        header.rsplit_once('.').map_or("", |(parent, _)| parent) == table
    })
}

fn names(line: &str, key: &str) -> bool {
    match line.starts_with('[') {
        true => name_of(line).rsplit('.').next() == Some(key),
        false => line.starts_with(&format!("{key} =")),
    }
}

fn name_of(header: &str) -> &str {
    header.trim_matches(['[', ']'])
}
