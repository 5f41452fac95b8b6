//! Sites from a directory: hosts, paths, conditions, ranges and compressed siblings.

use std::{
    fs,
    fs::File,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, SystemTime},
};

use node::app::Node;
use tempfile::TempDir;

use crate::harness::{Connection, ask, get, start};

const TEXT: &str = "0123456789abcdefghij";

#[tokio::test]
async fn a_host_has_a_folder_and_all_others_share_one() {
    let sites = sites().await;
    for (host, expected) in [
        ("www.example.org", "example"),
        ("WWW.Example.org:8080", "example"),
        ("other.example.org", "home"),
        ("[::1]:80", "home"),
        ("../www.example.org", "home"),
    ] {
        let reply = ask(
            sites.node.web_address(),
            &format!("GET / HTTP/1.1\nHost: {host}\n"),
        )
        .await;
        assert_eq!((reply.status, reply.text()), (200, expected), "{host}");
    }
}

#[tokio::test]
async fn a_file_comes_with_its_type_and_validators() {
    let sites = sites().await;
    let reply = sites.get("/a.txt", "").await;
    assert_eq!((reply.status, reply.text()), (200, TEXT));
    assert_eq!(reply.field("content-type"), "text/plain; charset=utf-8");
    assert_eq!(reply.field("accept-ranges"), "bytes");
    assert_eq!(reply.field("x-content-type-options"), "nosniff");
    assert_eq!(
        reply.field("last-modified"),
        "Wed, 21 Oct 2015 07:28:00 GMT"
    );
    assert!(
        reply.field("etag").starts_with('"'),
        "a settled file has a strong tag"
    );
    assert_eq!(
        sites.get("/logo.svg", "").await.field("content-type"),
        "image/svg+xml"
    );
    assert_eq!(
        sites.get("/blob", "").await.field("content-type"),
        "application/octet-stream"
    );
    let empty = sites.get("/empty", "").await;
    assert_eq!((empty.status, empty.field("content-length")), (200, "0"));
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let sites = sites().await;
    let head = ask(
        sites.node.web_address(),
        "HEAD /a.txt HTTP/1.1\nHost: x\nRange: bytes=0-1\n",
    )
    .await;
    assert_eq!((head.status, head.field("content-length")), (200, "20"));
    let post = ask(
        sites.node.web_address(),
        "PUT /a.txt HTTP/1.1\nHost: x\nContent-Length: 0\n",
    )
    .await;
    assert_eq!((post.status, post.field("allow")), (405, "GET, HEAD"));
}

#[tokio::test]
async fn a_young_file_has_a_weak_tag() {
    let sites = sites().await;
    fs::write(sites.dir.path().join("default/young"), "x").expect("a file");
    assert!(
        sites
            .get("/young", "")
            .await
            .field("etag")
            .starts_with("W/\"")
    );
}

#[tokio::test]
async fn a_folder_is_its_index_behind_a_slash() {
    let sites = sites().await;
    let reply = sites.get("/docs?x=1", "").await;
    assert_eq!((reply.status, reply.field("location")), (301, "/docs/?x=1"));
    assert_eq!(sites.get("/docs/", "").await.text(), "docs");
    assert_eq!(sites.get("/bare/", "").await.status, 404);
    assert_eq!(sites.get("/a.txt/", "").await.status, 404);
}

#[tokio::test]
async fn what_is_absent_gets_the_sites_own_page() {
    let sites = sites().await;
    let reply = sites.get("/absent", "").await;
    assert_eq!((reply.status, reply.text()), (404, "no such page"));
    let plain = ask(
        sites.node.web_address(),
        "GET /absent HTTP/1.1\nHost: www.example.org\n",
    )
    .await;
    assert_eq!(
        (plain.status, plain.field("content-type")),
        (404, "text/plain; charset=utf-8")
    );
}

#[tokio::test]
async fn conditions_spare_the_body() {
    let sites = sites().await;
    let etag = sites.get("/a.txt", "").await.field("etag").to_owned();
    let same = sites
        .get("/a.txt", &format!("If-None-Match: {etag}\n"))
        .await;
    assert_eq!((same.status, same.field("etag")), (304, etag.as_str()));
    let since = "If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT\n";
    assert_eq!(sites.get("/a.txt", since).await.status, 304);
    assert_eq!(
        sites.get("/a.txt", "If-Match: \"other\"\n").await.status,
        412
    );
    fs::write(sites.dir.path().join("default/a.txt"), "changed").expect("a file");
    assert_eq!(
        sites
            .get("/a.txt", &format!("If-None-Match: {etag}\n"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_range_is_a_part() {
    let sites = sites().await;
    let part = sites.get("/a.txt", "Range: bytes=5-9\n").await;
    assert_eq!(
        (part.status, part.text(), part.field("content-range")),
        (206, "56789", "bytes 5-9/20")
    );
    assert_eq!(sites.get("/a.txt", "Range: bytes=-3\n").await.text(), "hij");
    let beyond = sites.get("/a.txt", "Range: bytes=20-\n").await;
    assert_eq!(
        (beyond.status, beyond.field("content-range")),
        (416, "bytes */20")
    );
    let stale = sites
        .get("/a.txt", "Range: bytes=0-0\nIf-Range: \"other\"\n")
        .await;
    assert_eq!((stale.status, stale.text()), (200, TEXT));
}

#[tokio::test]
async fn several_ranges_are_parts_of_one_body() {
    let sites = sites().await;
    let reply = sites.get("/a.txt", "Range: bytes=0-1,10-11\n").await;
    let boundary = reply
        .field("content-type")
        .strip_prefix("multipart/byteranges; boundary=")
        .expect("a boundary");
    let part = |range, text| {
        format!(
            "\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes {range}/20\r\n\r\n{text}"
        )
    };
    let expected = format!(
        "{}{}\r\n--{boundary}--\r\n",
        part("0-1", "01"),
        part("10-11", "ab")
    );
    assert_eq!((reply.status, reply.text()), (206, expected.as_str()));
}

#[tokio::test]
async fn a_compressed_sibling_is_negotiated() {
    let sites = sites().await;
    let reply = sites.get("/app.js", "Accept-Encoding: gzip, br\n").await;
    assert_eq!(
        (
            reply.text(),
            reply.field("content-encoding"),
            reply.field("vary")
        ),
        ("brotli", "br", "accept-encoding")
    );
    assert_eq!(
        reply.field("content-type"),
        "text/javascript; charset=utf-8"
    );
    let plain = sites.get("/app.js", "").await;
    assert_eq!(
        (
            plain.text(),
            plain.field("content-encoding"),
            plain.field("vary")
        ),
        ("plain", "", "accept-encoding")
    );
    assert_ne!(
        plain.field("etag"),
        reply.field("etag"),
        "two forms are two representations"
    );
    let stale = sites.get("/app.js", "Accept-Encoding: gzip\n").await;
    assert_eq!(
        stale.text(),
        "plain",
        "a sibling older than its file is left over"
    );
    let same = sites
        .get(
            "/app.js",
            &format!(
                "Accept-Encoding: br\nIf-None-Match: {}\n",
                reply.field("etag")
            ),
        )
        .await;
    assert_eq!((same.status, same.field("vary")), (304, "accept-encoding"));
}

#[tokio::test]
async fn nothing_outside_or_hidden_is_served() {
    let sites = sites().await;
    for path in [
        "/../secret",
        "/..%2fsecret",
        "/%2e%2e/secret",
        "/%2e%2e%2fsecret",
        "/docs/../../secret",
        "/docs/%2e%2e/%2e%2e/secret",
        "/..%5csecret",
        "/..\\secret",
        "//secret",
        "/./a.txt",
        "/.hidden",
        "/docs/.hidden",
        "/%2ehidden",
        "/a.txt%00.html",
        "/link-out",
        "/link-absolute",
        "/folder-out/secret",
        "/pipe",
        "/%252e%252e/secret",
        "/docs//index.html",
    ] {
        let reply = sites.get(path, "").await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(!reply.text().contains("secret"), "{path}");
    }
    for path in ["/%", "/%zz", "/%ff"] {
        assert_eq!(sites.get(path, "").await.status, 400, "{path}");
    }
    assert_eq!(sites.get("/link-within", "").await.text(), TEXT);
    assert_eq!(sites.get("/.well-known/it", "").await.text(), "known");
}

#[tokio::test]
async fn a_large_file_arrives_whole_on_a_kept_connection() {
    let sites = sites().await;
    let large: Vec<u8> = (0..3_000_001u32)
        .map(|it| it as u8 ^ (it >> 8) as u8)
        .collect();
    fs::write(sites.dir.path().join("default/large"), &large).expect("a file");
    let mut connection = Connection::open(sites.node.web_address()).await;
    assert!(
        connection.get("/large").await.body == large,
        "every byte must be in its place"
    );
    assert_eq!(connection.get("/a.txt").await.text(), TEXT);
}

struct Sites {
    dir: TempDir,
    node: Node,
}

impl Sites {
    async fn get(&self, path: &str, fields: &str) -> crate::harness::Reply {
        get(self.node.web_address(), path, fields).await
    }
}

async fn sites() -> Sites {
    let dir = tempfile::tempdir().expect("a directory");
    lay_out(dir.path());
    let node = start(&format!("sites = {:?}", dir.path())).await;
    Sites { dir, node }
}

fn lay_out(root: &Path) {
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
    for (path, text, age) in [
        ("secret", "secret", 0),
        ("www.example.org/index.html", "example", 0),
        ("default/index.html", "home", 0),
        ("default/404.html", "no such page", 0),
        ("default/a.txt", TEXT, 0),
        ("default/blob", "blob", 0),
        ("default/empty", "", 0),
        ("default/logo.svg", "<svg/>", 0),
        ("default/docs/index.html", "docs", 0),
        ("default/docs/.hidden", "secret", 0),
        ("default/bare/x", "x", 0),
        ("default/.hidden", "secret", 0),
        ("default/.well-known/it", "known", 0),
        ("default/app.js", "plain", 0),
        ("default/app.js.br", "brotli", 0),
        ("default/app.js.gz", "stale", 60),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        let modified = old - Duration::from_secs(age);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_modified(modified))
            .expect("a time");
    }
    let default = root.join("default");
    symlink("a.txt", default.join("link-within")).expect("a link");
    symlink("../secret", default.join("link-out")).expect("a link");
    symlink(root.join("secret"), default.join("link-absolute")).expect("a link");
    symlink("..", default.join("folder-out")).expect("a link");
    let pipe = default.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .expect("a pipe");
}
