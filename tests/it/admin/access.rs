//! Who may ask, and who may give orders: through the address, with a token, through the socket, and from a web page.

use serde_json::Value;
use tests::{
    cluster::{Balancer, Setup, check},
    origin::Dialogue,
};

use super::{command, command_at};

const TOKEN: &str = "0123456789abcdef-of-a-test";

#[tokio::test]
async fn a_web_page_on_this_machine_can_neither_read_nor_order() {
    let balancer = Setup::http(&[NOWHERE]).start().await;
    let rebound = ask(&balancer, "GET", "/api/v1/config", "host: evil.example\r\n").await;
    assert_eq!(rebound.status, 421, "{}", rebound.body);
    let here = format!("host: {}\r\n", balancer.admin_address());
    let page = format!(
        "{here}origin: http://evil.example\r\ncontent-type: text/plain\r\ncontent-length: 0\r\n"
    );
    let order = ask(&balancer, "POST", "/api/v1/nodes/127.0.0.1:1/drain", &page).await;
    assert_eq!(order.status, 403, "{}", order.body);
    let preflight = ask(&balancer, "OPTIONS", "/api/v1/status", &page).await;
    assert_eq!(preflight.status, 403);
    let read = ask(
        &balancer,
        "GET",
        "/api/v1/status",
        &page.replace("content-length: 0\r\n", ""),
    )
    .await;
    assert_eq!(
        read.status, 200,
        "it is sent, but a browser keeps it from the page:"
    );
    assert!(
        !read.head.to_lowercase().contains("access-control"),
        "{}",
        read.head
    );
}

#[tokio::test]
async fn a_token_opens_the_address_and_only_a_right_one() {
    let setup = Setup::http(&[NOWHERE]);
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("it is writable");
    let keys = format!("socket = 'off'\ntoken_file = '{}'", file.display());
    let balancer = setup.administered(&keys).start().await;
    for path in ["/api/v1/status", "/metrics"] {
        let without = ask(&balancer, "GET", path, "host: any.example\r\n").await;
        assert_eq!(without.status, 401, "{path}");
        let with = format!("host: any.example\r\nauthorization: Bearer {TOKEN}\r\n");
        assert_eq!(
            ask(&balancer, "GET", path, &with).await.status,
            200,
            "{path}"
        );
    }
    assert_eq!(ask(&balancer, "GET", "/livez", "").await.status, 200);
    let node = NOWHERE.to_string();
    let refused = command(&balancer, &["drain", &node]).await;
    assert_eq!(refused.code, Some(1), "{}", refused.text);
    assert!(refused.text.contains("needs the token"), "{}", refused.text);
    let token_file = file.display().to_string();
    command(&balancer, &["drain", &node, "--token-file", &token_file])
        .await
        .well();
    // It is read again at each use.
    std::fs::write(&file, "another-token-of-this-test").expect("it is writable");
    let with = format!("host: any.example\r\nauthorization: Bearer {TOKEN}\r\n");
    assert_eq!(
        ask(&balancer, "GET", "/api/v1/status", &with).await.status,
        401
    );
}

#[tokio::test]
async fn an_address_that_others_reach_needs_a_token() {
    let text =
        "[admin]\naddress = '0.0.0.0:9901'\n[[listener]]\nname = 'web'\naddress = '127.0.0.1:80'\n";
    let (code, said) = check(text).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("b.toml:2") && said.contains("token_file"),
        "{said}"
    );
    let (code, said) = check(&text.replace("9901'\n", "9901'\ntoken_file = '/x/token'\n")).await;
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn the_socket_is_where_it_was_asked_for_with_its_mode_and_goes_with_the_balancer() {
    use std::os::unix::fs::PermissionsExt;
    let keys = "socket = '{dir}/admin.sock'\nsocket_mode = '0660'";
    let mut balancer = Setup::http(&[NOWHERE]).administered(keys).start().await;
    let path = balancer.folder().join("admin.sock");
    let mode = std::fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let place = format!("unix:{}", path.display());
    let status: Value = command_at(&place, &["status", "--json"]).await.json();
    assert_eq!(status["socket"], path.display().to_string());
    balancer.process().terminate().expect("it runs");
    balancer.exit(super::COMMAND_WITHIN).await;
    assert!(!path.exists());
    let gone = command_at(&place, &["status"]).await;
    assert_eq!(gone.code, Some(3), "{}", gone.text);
    assert!(gone.text.contains("is it running?"), "{}", gone.text);
}

/// Nobody listens there.
const NOWHERE: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn ask(balancer: &Balancer, method: &str, path: &str, fields: &str) -> Answer {
    let mut dialogue = Dialogue::with(balancer.admin_address()).await;
    dialogue
        .say(format!(
            "{method} {path} HTTP/1.1\r\n{fields}connection: close\r\n\r\n"
        ))
        .await;
    let all = String::from_utf8(dialogue.rest().await).expect("it answers with text");
    let (head, body) = all.split_once("\r\n\r\n").expect("there is a head");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    Answer {
        status: status.expect("there is a status"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}
