//! Starts nodes and speaks HTTP to them byte by byte, so that a test says exactly what is sent.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use node::{app::Node, config::Config};
use registry::{Event, NodeRecord, Record, Registry, Revision, memory::Memory};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No condition of these tests takes longer, unless it never comes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A node with the id `n1` on free ports; `more` is TOML behind `[web]` with its address.
pub(crate) async fn start(more: &str) -> Node {
    start_in(Registry::Memory(Memory::new()), "30s", more).await
}

pub(crate) async fn start_in(registry: Registry, leave_deadline: &str, more: &str) -> Node {
    let text = format!(
        "[node]\nid = 'n1'\nzone = 'z1'\nleave_deadline = '{leave_deadline}'\n\
         [admin]\naddress = '127.0.0.1:0'\n[web]\naddress = '127.0.0.1:0'\n{more}"
    );
    let config = Config::from_toml("test.toml", &text).expect("the settings are right");
    Node::start(config, registry)
        .await
        .expect("the node starts")
}

/// Waits for what must come.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future)
        .await
        .expect("it must come before the deadline")
}

/// The next record of a watch that is as wanted.
pub(crate) async fn wait_for<R: Record>(
    watch: &mut registry::Watch<R>,
    is_wanted: impl Fn(&R) -> bool,
) -> (Revision, R) {
    soon(async {
        loop {
            let (revision, records) = match watch.next().await {
                Event::Listed { revision, records } => (revision, records),
                Event::Put { revision, record } => (revision, vec![record]),
                _ => continue,
            };
            if let Some(record) = records.into_iter().find(&is_wanted) {
                return (revision, record);
            }
        }
    })
    .await
}

/// Waits until a watch tells that the node's record is gone.
pub(crate) async fn wait_for_end(watch: &mut registry::Watch<NodeRecord>) {
    soon(async { while !matches!(watch.next().await, Event::Deleted { .. }) {} }).await;
}

/// What a node answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    fields: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// One request on a connection of its own; `head` is the request line and fields, each with a line break behind it.
pub(crate) async fn ask(address: SocketAddr, head: &str) -> Reply {
    let mut connection = Connection::open(address).await;
    connection
        .send(&format!("{head}Connection: close\n\n"))
        .await;
    connection.reply_to(head).await
}

/// `GET` of a path, with fields.
pub(crate) async fn get(address: SocketAddr, path: &str, fields: &str) -> Reply {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\nHost: localhost\n{fields}"),
    )
    .await
}

pub(crate) struct Connection {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.expect("the node listens"),
            ahead: Vec::new(),
        }
    }

    /// Line breaks become those of HTTP.
    pub(crate) async fn send(&mut self, text: &str) {
        let text = text.replace('\n', "\r\n");
        self.stream
            .write_all(text.as_bytes())
            .await
            .expect("the node reads");
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\nHost: localhost\n\n"))
            .await;
        self.reply_to("GET").await
    }

    pub(crate) async fn reply_to(&mut self, request: &str) -> Reply {
        let mut reply = self.head().await;
        let length = reply.field("content-length").parse().unwrap_or(0);
        let has_body = !request.starts_with("HEAD") && !matches!(reply.status, 204 | 304);
        let length = if has_body { length } else { 0 };
        soon(async {
            while self.ahead.len() < length {
                assert!(self.read().await > 0, "the body must be whole");
            }
        })
        .await;
        reply.body = self.ahead.drain(..length).collect();
        reply
    }

    /// The status line and the fields of an answer; the body is still to be read.
    pub(crate) async fn head(&mut self) -> Reply {
        let end = soon(async {
            loop {
                if let Some(at) = self.ahead.windows(4).position(|it| it == b"\r\n\r\n") {
                    return at;
                }
                assert!(self.read().await > 0, "an answer must come before the end");
            }
        })
        .await;
        let head: Vec<_> = self.ahead.drain(..end + 4).collect();
        parsed(std::str::from_utf8(&head).expect("a head is text"))
    }

    /// Waits until the node closes, and gives what came before.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        soon(async { while self.read().await > 0 {} }).await;
        self.ahead
    }

    /// Bytes read; none when the node has closed, politely or not.
    async fn read(&mut self) -> usize {
        self.stream.read_buf(&mut self.ahead).await.unwrap_or(0)
    }
}

fn parsed(head: &str) -> Reply {
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let field = |line: &str| {
        line.split_once(": ")
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
    };
    Reply {
        status: status
            .and_then(|it| it.parse().ok())
            .expect("an answer begins with its status"),
        fields: lines.filter_map(field).collect(),
        body: Vec::new(),
    }
}
