//! Endpoints that prove who they are, and those that do not.

use std::net::IpAddr;

use super::*;

const ENDPOINT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

#[tokio::test]
async fn only_the_right_endpoint_is_believed() {
    let bench = Bench::new();
    bench.issue("node", &["node.internal", "10.0.0.1"]);
    bench.issue("other", &["other.internal"]);
    let node = bench.listener(&["node"], "").expect("the files are good");
    let other = bench.listener(&["other"], "").expect("the files are good");
    let by_name = "tls = { ca = '@/ca.pem', server_name = 'node.internal' }";
    let by_address = "tls = { ca = '@/ca.pem' }";
    let by_dns = "discover = 'dns'\ndns = 'node.internal.:1'\ntls = { ca = '@/ca.pem' }";
    for keys in [by_name, by_address, by_dns] {
        assert!(
            reach(&bench, &node, keys, Speak::Http1).await.is_ok(),
            "{keys}"
        );
        let error = reach(&bench, &other, keys, Speak::Http1).await;
        assert_eq!(
            error.expect_err(keys).reason().code(),
            "certificate_invalid",
            "{keys}"
        );
    }
    bench.write("ca.pem", &Authority::new("another").pem);
    let error = reach(&bench, &node, by_name, Speak::Http1).await;
    assert_eq!(
        error.expect_err("it is signed by another").reason().code(),
        "certificate_invalid"
    );
    assert!(
        reach(&bench, &other, "tls = { insecure = true }", Speak::Http1)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn http2_has_to_be_agreed_on() {
    let bench = Bench::new();
    bench.issue("node", &["10.0.0.1"]);
    let keys = "tls = { ca = '@/ca.pem' }";
    let both = bench.listener(&["node"], "").expect("the files are good");
    let silent = bench
        .listener(&["node"], "alpn = []")
        .expect("the files are good");
    assert_eq!(
        reach(&bench, &both, keys, Speak::Http2).await.ok(),
        Some(Agreed::Http2)
    );
    assert_eq!(
        reach(&bench, &both, keys, Speak::Http1).await.ok(),
        Some(Agreed::Http1)
    );
    assert_eq!(
        reach(&bench, &both, keys, Speak::Bytes).await.ok(),
        Some(Agreed::Nothing)
    );
    assert_eq!(
        reach(&bench, &silent, keys, Speak::Http1).await.ok(),
        Some(Agreed::Nothing)
    );
    let error = reach(&bench, &silent, keys, Speak::Http2).await;
    assert_eq!(
        error.expect_err("it agreed on nothing").reason().code(),
        "no_protocol"
    );
}

#[tokio::test]
async fn the_balancer_proves_itself() {
    let bench = Bench::new();
    bench.issue("node", &["10.0.0.1"]);
    bench.issue("us", &["balancer.internal"]);
    let auth = "client_auth = 'required'\nclient_ca = '@/ca.pem'";
    let node = bench.listener(&["node"], auth).expect("the files are good");
    let anonymous = reach(&bench, &node, "tls = { ca = '@/ca.pem' }", Speak::Http1).await;
    assert!(anonymous.is_err());
    let shown = "tls = { ca = '@/ca.pem', cert = '@/us.pem', key = '@/us.key' }";
    assert!(reach(&bench, &node, shown, Speak::Http1).await.is_ok());
}

#[tokio::test]
async fn sessions_are_resumed_until_the_authorities_change() {
    let bench = Bench::new();
    bench.issue("node", &["10.0.0.1"]);
    let node = bench.listener(&["node"], "").expect("the files are good");
    let us = bench
        .load(&service("tls = { ca = '@/ca.pem' }"))
        .expect("the files are good");
    for speak in [Speak::Http1, Speak::Http2] {
        speak_to(&us, &node, speak)
            .await
            .expect("it is the right one");
    }
    let kind = |kind, count| {
        bench.counted(&format!(
            "colonnade_balancer_tls_node_handshakes_total{{service=\"s\",kind=\"{kind}\"}} {count}"
        ))
    };
    assert!(kind("full", 1) && kind("resumed", 1));
    bench.write("ca.pem", &Authority::new("another").pem);
    assert_eq!(us.refresh().swapped, 1);
    let error = speak_to(&us, &node, Speak::Http1).await;
    assert_eq!(
        error
            .expect_err("it is not trusted any more")
            .reason()
            .code(),
        "certificate_invalid"
    );
}

fn service(keys: &str) -> String {
    format!("[[service]]\nname = 's'\n{keys}")
}

async fn reach(bench: &Bench, node: &Tls, keys: &str, speak: Speak) -> Result<Agreed, TlsError> {
    let us = bench.load(&service(keys)).expect("the files are good");
    speak_to(&us, node, speak).await
}

/// A listener of ours stands for the endpoint. A byte of it is read, so that its tickets and its last word are heard.
async fn speak_to(us: &Tls, node: &Tls, speak: Speak) -> Result<Agreed, TlsError> {
    let (ours, theirs) = duplex(64 * 1024);
    let terminator = node.terminator(0).expect("it ends TLS");
    let connector = us.connector(0).expect("it speaks TLS");
    let answering = async {
        let mut handshaken = terminator.accept(theirs, terminator.deadline()).await?;
        tokio::io::AsyncWriteExt::write_all(&mut handshaken.stream, b"!").await?;
        tokio::io::AsyncWriteExt::flush(&mut handshaken.stream).await?;
        Ok::<_, TlsError>(())
    };
    let asking = async {
        let mut stream = connector.connect(ours, ENDPOINT, speak).await?;
        let mut byte = [0];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut byte).await?;
        Ok(Agreed::of(stream.get_ref().1.alpn_protocol()))
    };
    // What the endpoint thinks of it shows in what we see.
    let (_, res) = tokio::join!(answering, asking);
    res
}
