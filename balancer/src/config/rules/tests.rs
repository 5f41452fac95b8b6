//! What an operator reads when a route's rules are wrong, and that they are shown as they were written.

use crate::config::Config;

const START: &str = "id = 'b'
[[listener]]
name = 'web'
address = '127.0.0.1:0'
[[service]]
name = 'app'
discover = 'static'
endpoints = ['127.0.0.1:1']
[[route]]
";

#[test]
fn a_route_has_one_thing_to_do() {
    check("", "route[0].service: required, but not set");
    check(
        "service = 'app'\nredirect = { location = '/' }",
        "route[0].service: no node is asked where there is a `redirect` or an `answer`",
    );
    check(
        "answer = {}\nredirect = { location = '/' }",
        "route[0].answer: a route has one of `redirect` and `answer`",
    );
    check(
        "answer = {}\ncompress = ['gzip']",
        "route[0].compress: no node is asked where there is a `redirect` or an `answer`",
    );
}

#[test]
fn fields_that_are_not_the_operators_are_refused() {
    check(
        "service = 'app'\nrequest_headers = { set = { Host = 'a' } }",
        "route[0].request_headers.set.Host: `Host`: the host that a node is asked for is set by `rewrite.host`",
    );
    for name in ["connection", "Transfer-Encoding", "content-length"] {
        check(
            &format!("service = 'app'\nresponse_headers = {{ remove = ['{name}'] }}"),
            &format!(
                "route[0].response_headers.remove[0]: `{name}`: this field belongs to the connection or frames the body: the balancer writes it"
            ),
        );
    }
    check(
        "service = 'app'\nrequest_headers = { add = { x = \"a\\r\\nb: c\" } }",
        "route[0].request_headers.add.x: `x`: control characters, such as the end of a line, have no place in a field's value",
    );
    check(
        "service = 'app'\nheaders = { host = 'a' }",
        "route[0].headers.host: the host is matched by `hosts`",
    );
    check(
        "service = 'app'\nmethods = ['get']",
        "route[0].methods[0]: `get` is not a method, such as `GET`",
    );
}

#[test]
fn values_out_of_bounds_are_refused() {
    check(
        "redirect = { status = 200, location = '/' }",
        "route[0].redirect.status: a redirect has the status 301, 302, 303, 307 or 308",
    );
    check(
        "redirect = { location = '//evil.example' }",
        "route[0].redirect.location: a location begins with `https://` or `http://` and a host, with a single `/`, or with `${path}` or `${uri}`",
    );
    check(
        "redirect = { scheme = 'ftp' }",
        "route[0].redirect.scheme: `ftp` is neither `http` nor `https`",
    );
    check(
        "answer = { status = 204, body = 'x' }",
        "route[0].answer.body: an answer with status 204 No Content has no body",
    );
    check(
        "answer = { status = 101 }",
        "route[0].answer.status: 101 is not within 200 to 599, or is 304",
    );
    check(
        "answer = { file = '/no/such/file' }",
        "route[0].answer.file: reading /no/such/file: No such file or directory (os error 2)",
    );
    check(
        "service = 'app'\ncompress = ['deflate']",
        "route[0].compress[0]: `deflate` is none of `zstd`, `br`, `gzip`",
    );
    check(
        "service = 'app'\nrewrite = { host = 'a b' }",
        "route[0].rewrite.host: `a b` is not a host, such as `a.example`",
    );
    check(
        "service = 'app'\nstrip_prefix = true\nrewrite = { prefix = '/x' }",
        "route[0].strip_prefix: the same as `rewrite.prefix = \"/\"`, of which there is another",
    );
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let file = std::env::temp_dir().join(format!("colonnade-rules-{}", std::process::id()));
    std::fs::write(&file, vec![b'x'; (1 << 20) + 1]).expect("a temporary folder is writable");
    check(
        &format!("answer = {{ file = '{}' }}", file.display()),
        "route[0].answer.file: is larger than 1048576 bytes",
    );
    let _ = std::fs::remove_file(&file);
}

#[test]
fn conditions_that_could_both_hold_contradict() {
    let two = |second: &str| {
        format!("service = 'app'\nmethods = ['GET']\n[[route]]\nservice = 'app'\n{second}")
    };
    let both = "route[1]: routes `route-0` and `route-1` both take host `*` and path `/`";
    check(&two("methods = ['GET', 'PUT']"), both);
    check(&two("headers = { x = true }"), both);
    for second in [
        "",
        "methods = ['PUT']",
        "methods = ['GET']\nheaders = { x = '1' }",
    ] {
        assert!(read(&two(second)).is_ok(), "{second}");
    }
}

#[test]
fn rules_are_shown_as_they_were_written() {
    let config = read(
        "service = 'app'\npath = '/a'\nmethods = ['GET']\nheaders = { x = true }\nstrip_prefix = true\ncompress = ['gzip']",
    );
    let shown = serde_json::to_value(config.expect("it is valid")).expect("JSON can hold it");
    let route = &shown["route"][0];
    assert_eq!(route["methods"], serde_json::json!(["GET"]));
    assert_eq!(route["headers"]["x"], true);
    assert_eq!(route["rewrite"]["prefix"], "/");
    assert_eq!(
        (&route["compress"][0], &route["compress_min_bytes"]),
        (&"gzip".into(), &1024.into())
    );
    assert_eq!(route["redirect"], serde_json::Value::Null);
}

fn read(route: &str) -> Result<Config, settings::Error> {
    Config::from_toml("t.toml", &format!("{START}{route}"))
}

fn check(route: &str, expected: &str) {
    let error = read(route).expect_err(route).to_string();
    assert!(error.ends_with(expected), "{error}");
}
