//! A client comes back to its node by a cookie that only balancers with the secret can write.

use std::path::Path;

use http::Method;
use tempfile::TempDir;
use tests::{
    cluster::{Balancer, Setup, until},
    origin::web::{Speaks, Web},
};

use super::client::{Answer, Client, nothing};

#[tokio::test]
async fn a_client_comes_back_until_its_node_is_gone() {
    let mut it = Subject::start().await;
    let first = it.ask(None).await;
    let cookie = cookie_of(&first).expect("a client without a cookie is given one");
    assert!(
        first
            .field("set-cookie")
            .ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax")
    );
    let home = it.asked_last();
    assert!(!cookie.contains(&it.nodes[home].address().port().to_string()));
    for _ in 0..20 {
        let answer = it.ask(Some(&cookie)).await;
        assert_eq!((it.asked_last(), cookie_of(&answer)), (home, None));
    }
    it.nodes[home].stop().await;
    let answer = it.ask(Some(&cookie)).await;
    let moved = cookie_of(&answer).expect("who moves is told");
    let refuge = it.asked_last();
    assert_ne!(refuge, home);
    for _ in 0..20 {
        it.ask(Some(&moved)).await;
        assert_eq!(it.asked_last(), refuge);
    }
}

#[tokio::test]
async fn a_made_up_cookie_is_no_promise() {
    let mut it = Subject::start().await;
    let address = it.nodes[0].address().to_string();
    for forged in [
        "colonnade=",
        "colonnade=AAAA",
        &format!("colonnade={address}"),
    ] {
        let answer = it.ask(Some(forged)).await;
        assert!(cookie_of(&answer).is_some(), "{forged}");
    }
}

#[tokio::test]
async fn a_new_secret_leaves_old_cookies_good() {
    let mut it = Subject::start().await;
    let answer = it.ask(None).await;
    let cookie = cookie_of(&answer).expect("a client without a cookie is given one");
    let home = it.asked_last();
    let rotated = format!("another secret, of this year\n{SECRET}");
    it.write(&rotated);
    assert_eq!(it.balancer.reload().await["outcome"], "applied");
    assert_eq!(it.balancer.reload().await["outcome"], "unchanged");
    let answer = it.ask(Some(&cookie)).await;
    assert_eq!(it.asked_last(), home);
    assert!(cookie_of(&answer).is_some(), "it is signed anew");
    it.write("too short");
    assert_eq!(it.balancer.reload().await["outcome"], "rejected");
    let answer = it.ask(Some(&cookie)).await;
    assert_eq!(it.asked_last(), home);
    assert!(cookie_of(&answer).is_some(), "the last good secrets stay");
}

const SECRET: &str = "the secret of a test";

struct Subject {
    nodes: Vec<Web>,
    balancer: Balancer,
    requests: Vec<usize>,
    dir: TempDir,
}

impl Subject {
    async fn start() -> Self {
        let mut nodes = Vec::new();
        for _ in 0..4 {
            nodes.push(Web::start(Speaks::Http1).await);
        }
        let dir = TempDir::new().expect("a temporary folder can be made");
        let file = dir.path().join("secret");
        std::fs::write(&file, SECRET).expect("a temporary folder is writable");
        Self {
            balancer: balancer(&nodes, &file).await,
            requests: vec![0; nodes.len()],
            nodes,
            dir,
        }
    }

    fn write(&self, secrets: &str) {
        let file = self.dir.path().join("secret");
        std::fs::write(file, secrets).expect("a temporary folder is writable");
    }

    async fn ask(&mut self, cookie: Option<&str>) -> Answer {
        self.requests = self.nodes.iter().map(Web::requests).collect();
        let mut answer = None;
        // A node that has just gone takes one failed dial to be noticed, which no client sees.
        until("an answer", async || {
            let mut client = Client::connect(self.balancer.entry(), Speaks::Http1).await;
            let mut request = client.request(Method::GET, "/sized/1");
            if let Some(cookie) = cookie {
                request = request.header("cookie", format!("theme=dark; {cookie}"));
            }
            let request = request.body(nothing()).expect("a valid request");
            answer = Some(client.ask(request).await);
            answer.as_ref().is_some_and(|it| it.status == 200)
        })
        .await;
        answer.expect("it was waited for")
    }

    fn asked_last(&self) -> usize {
        let asked = |(node, before): (&Web, &usize)| node.requests() > *before;
        let at = self.nodes.iter().zip(&self.requests).position(asked);
        at.expect("one of the nodes was asked")
    }
}

async fn balancer(nodes: &[Web], file: &Path) -> Balancer {
    let addresses: Vec<_> = nodes.iter().map(Web::address).collect();
    let sticky = format!(
        "sticky = {{ secret_file = '{}', secure = false }}",
        file.display()
    );
    Setup::http(&addresses).serving(&sticky).start().await
}

/// The name and value of the cookie that an answer sets.
fn cookie_of(answer: &Answer) -> Option<String> {
    let (pair, _) = answer.field("set-cookie").split_once(';')?;
    Some(pair.to_owned())
}
