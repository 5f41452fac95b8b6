//! The lines an operator reads when a setting is wrong, and the values he gets when it is right.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Deserialize;

use crate::{Loaded, load, parse};

#[derive(Debug, Deserialize)]
struct Settings {
    id: Option<String>,
    admin: Admin,
    #[serde(default)]
    listener: Vec<Listener>,
    #[serde(default)]
    service: BTreeMap<String, Service>,
}

#[derive(Debug, Deserialize)]
struct Admin {
    address: SocketAddr,
    #[serde(default)]
    trusted: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Listener {
    protocol: Protocol,
    port: Port,
}

#[derive(Debug, Deserialize)]
#[serde(try_from = "u16")]
struct Port(u16);

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Http,
    Tcp,
    Detect,
}

#[derive(Debug, Deserialize)]
struct Service {
    weight: f64,
    pick: Option<Pick>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pick {
    Random,
    Hash { header: String },
}

impl TryFrom<u16> for Port {
    type Error = &'static str;

    fn try_from(number: u16) -> Result<Self, &'static str> {
        match number {
            0 => Err("a port is 1 to 65535"),
            number => Ok(Self(number)),
        }
    }
}

const ADMIN: &str = "[admin]\naddress = '127.0.0.1:1'\n";

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    let allowed = "unknown variant `htp`, expected one of `http`, `tcp`, `detect`";
    check(
        &format!(
            "{ADMIN}\n[[listener]]\nprotocol = 'http'\nport = 1\n\n[[listener]]\nport = 2\nprotocol = 'htp'\n"
        ),
        &[],
        &format!("t.toml:10: listener[1].protocol: {allowed}"),
    );
    check(
        "[admin]\n\naddress = 'here'",
        &[],
        "t.toml:3: admin.address: invalid socket address syntax",
    );
    check(
        "admin = { address = '[::1]:1', trusted = [\n 'a',\n 7,\n] }",
        &[],
        "t.toml:3: admin.trusted[1]: invalid type: integer `7`, expected a string",
    );
    check(
        &format!("{ADMIN}[[listener]]\nprotocol = 'tcp'\nport = 0"),
        &[],
        "t.toml:5: listener[0].port: a port is 1 to 65535",
    );
    check(
        "id = 99999999999999999999\n[admin]\naddress = '[::1]:1'",
        &[],
        "t.toml:1: id: 99999999999999999999 is too large",
    );
}

#[test]
fn an_unknown_key_says_which_keys_exist() {
    check(
        &format!("{ADMIN}colour = 3"),
        &[],
        "t.toml:3: admin.colour: unknown key, expected one of `address`, `trusted`",
    );
    check(
        &format!("{ADMIN}\r\n[service.'a.b']\r\nweight = 1\r\nheight = 2\r\n"),
        &[],
        "t.toml:6: service.\"a.b\".height: unknown key, expected one of `weight`, `pick`",
    );
    check(
        &format!("{ADMIN}[services.x]"),
        &[],
        "t.toml:3: services: unknown key, expected one of `id`, `admin`, `listener`, `service`",
    );
    check(
        &format!("{ADMIN}[service.x]\nweight = 1\npick.hash.heading = 'x'"),
        &[],
        "t.toml:5: service.x.pick.hash.heading: unknown key, expected `header`",
    );
}

#[test]
fn a_missing_key_is_placed_at_its_table() {
    check("id = 'x'", &[], "t.toml: admin: required, but not set");
    check(
        &format!("{ADMIN}\n[[listener]]\nprotocol = 'tcp'"),
        &[],
        "t.toml:4: listener[0].port: required, but not set",
    );
    check(
        &format!("{ADMIN}[service.x.pick.hash]\n"),
        &[],
        "t.toml:3: service.x.pick.hash.header: required, but not set",
    );
}

#[test]
fn broken_toml_is_one_line_at_its_place() {
    check(
        "id = 'x'\n[admin\naddress = 1",
        &[],
        "t.toml:2: unclosed table, expected `]`",
    );
    check("id = 1\nid = 2", &[], "t.toml:2: duplicate key");
    check(
        "id = ",
        &[],
        "t.toml:1: string values must be quoted, expected literal string",
    );
}

#[test]
fn a_variable_is_named_as_the_place() {
    let address = "COLONNADE_ADMIN__ADDRESS";
    check(
        ADMIN,
        &[(address, "x")],
        "COLONNADE_ADMIN__ADDRESS: admin.address: invalid socket address syntax",
    );
    check(
        ADMIN,
        &[("COLONNADE_ADMIN__COLOUR", "red")],
        "COLONNADE_ADMIN__COLOUR: admin.colour: unknown key, expected one of `address`, `trusted`",
    );
    check(
        ADMIN,
        &[("COLONNADE_LISTENER__1__PORT", "1")],
        "COLONNADE_LISTENER__1__PORT: listener.1: the list has 0 elements, so the next is number 0",
    );
    check(
        ADMIN,
        &[("COLONNADE_ADMIN__ADDRESS__PORT", "1")],
        "COLONNADE_ADMIN__ADDRESS__PORT: admin.address.port: the key above it is set to a plain value",
    );
    check(
        ADMIN,
        &[("COLONNADE_LISTENER__0__PROTOCOL", "http")],
        "COLONNADE_LISTENER__0__PROTOCOL: listener[0].port: required, but not set",
    );
    check("", &[(address, "[::1]:1"), ("COLONNADE_NONSENSE", "1")], "");
}

#[test]
fn the_environment_lies_above_the_file() {
    let text = format!(
        "id = 'file'\n{ADMIN}trusted = ['a', 'b']\n[[listener]]\nprotocol = 'tcp'\nport = 1\n"
    );
    let env = [
        ("COLONNADE__ID", "42"),
        ("COLONNADE_ADMIN__TRUSTED__1", "c"),
        ("COLONNADE_LISTENER__1", "{ protocol = 'http', port = 2 }"),
        ("COLONNADE_LISTENER__1__PORT", "3"),
        ("COLONNADE_SERVICE__WEB__WEIGHT", "2"),
        ("COLONNADE_SERVICE__WEB__PICK", "random"),
        ("COLONNADE_SERVICE_HOST", "10.0.0.1"),
        ("COLONNADE_PORT_80_TCP", "tcp://10.0.0.1:80"),
    ];
    let settings = read(&text, &env).expect("these settings are right").value;
    assert_eq!(
        settings.id.as_deref(),
        Some("42"),
        "a number must serve where a string is wanted"
    );
    assert_eq!(settings.admin.address.port(), 1);
    assert_eq!(settings.admin.trusted, ["a", "c"]);
    assert_eq!(settings.listener[1].protocol, Protocol::Http);
    assert_eq!(settings.listener[1].port.0, 3);
    assert_eq!(settings.service["web"].weight, 2.0);
    assert!(matches!(settings.service["web"].pick, Some(Pick::Random)));
}

#[test]
fn a_list_may_come_whole_from_one_variable_or_element_by_element() {
    let whole = [("COLONNADE_ADMIN__TRUSTED", r#"["a", "b"]"#)];
    assert_eq!(
        read(ADMIN, &whole).expect("a list").value.admin.trusted,
        ["a", "b"]
    );
    let names: Vec<_> = (0..11)
        .map(|idx| format!("COLONNADE_ADMIN__TRUSTED__{idx}"))
        .collect();
    let each: Vec<_> = names.iter().map(|name| (name.as_str(), "x y")).collect();
    assert_eq!(
        read(ADMIN, &each).expect("a list").value.admin.trusted,
        ["x y"; 11]
    );
}

#[test]
fn a_program_places_its_own_objection() {
    let text = format!("{ADMIN}\n[[listener]]\nprotocol = 'tcp'\nport = 1");
    let source = read(&text, &[("COLONNADE__ID", "x")])
        .expect("right so far")
        .source;
    let line = |key| source.error(key, "is taken").to_string();
    assert_eq!(
        line("listener[0].port"),
        "t.toml:6: listener[0].port: is taken"
    );
    assert_eq!(
        line("listener[0].limit.rate"),
        "t.toml:4: listener[0].limit.rate: is taken"
    );
    assert_eq!(line("service.web"), "t.toml: service.web: is taken");
    assert_eq!(line("id"), "COLONNADE__ID: id: is taken");
}

#[test]
fn a_file_that_is_not_there_is_one_line() {
    let missing = load::<Settings>(Some("no/such.toml".as_ref()), []).expect_err("no such file");
    assert_eq!(
        missing.to_string(),
        "no/such.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn without_a_file_the_environment_suffices() {
    let env = [(
        "COLONNADE_ADMIN__ADDRESS".to_owned(),
        "127.0.0.1:1".to_owned(),
    )];
    let settings = load::<Settings>(None, env).expect("the address is all that is required");
    assert!(settings.value.listener.is_empty());
    let none = load::<Settings>(None, []).expect_err("admin is required");
    assert_eq!(none.to_string(), "admin: required, but not set");
}

#[test]
fn content_of_a_variant_is_read() {
    let text = format!("{ADMIN}[service.x]\nweight = 1.5\npick = {{ hash = {{ header = 'h' }} }}");
    let service = parse::<Settings>("t.toml", &text)
        .expect("right")
        .value
        .service;
    assert!(matches!(&service["x"].pick, Some(Pick::Hash { header }) if header == "h"));
    let env = [
        ("COLONNADE_SERVICE__X__WEIGHT", "1"),
        ("COLONNADE_SERVICE__X__PICK", "{ hash = { header = 'h' } }"),
    ];
    let service = read(ADMIN, &env).expect("right").value.service;
    assert!(matches!(&service["x"].pick, Some(Pick::Hash { header }) if header == "h"));
}

/// Expects the one line of the error, or, where it is empty, no error.
#[track_caller]
fn check(text: &str, env: &[(&str, &str)], expected: &str) {
    let line = read(text, env)
        .err()
        .map_or(String::new(), |error| error.to_string());
    assert_eq!(line, expected);
}

fn read(text: &str, env: &[(&str, &str)]) -> Result<Loaded<Settings>, crate::Error> {
    let mut root = crate::tree::parse("t.toml", text)?;
    let env = env
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()));
    crate::environment::lay_over(&mut root, env)?;
    crate::decoded(&root)
}
