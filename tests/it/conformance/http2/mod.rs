//! Every MUST of RFC 9113, RFC 7541 and RFC 8441 that a server could break, over cleartext and over TLS.
//!
//! A stream's error may be treated as the connection's (RFC 9113 §5.4.1), and a malformed request may be answered (§8.1.1), so
//! those are accepted wherever the sections leave it open; what is never accepted is that such a request reaches a node.

/// Makes one test per transport of each section.
macro_rules! over_each_transport {
    ($($section:ident),+ $(,)?) => {
        mod cleartext {
            $(#[tokio::test]
            async fn $section() {
                super::$section(super::Stage::cleartext().await).await;
            })+
        }
        mod tls {
            $(#[tokio::test]
            async fn $section() {
                super::$section(super::Stage::tls().await).await;
            })+
        }
    };
}

mod connect;
mod connection;
mod fields;
mod frames;
mod hpack;
mod requests;
mod streams;
mod windows;

use tests::{
    cluster::{Balancer, Setup},
    origin::web::{Speaks, Web},
    raw::{
        frame::{Frame, code, flag},
        hpack::Block,
        http2::{Outcome, Peer, dial},
        recorder::{Event, Recorder},
        tls::Certificate,
        victim::{Manner, Victim},
    },
};

/// A balancer with three nodes behind it: one that keeps what it reads under `/seen`, one that never answers under `/held`, and
/// one that answers honestly everywhere else.
struct Stage {
    balancer: Balancer,
    recorder: Recorder,
    certificate: Option<Certificate>,
    _web: Web,
    _deaf: Victim,
}

impl Stage {
    async fn cleartext() -> Self {
        Self::set(None).await
    }

    async fn tls() -> Self {
        Self::set(Some(Certificate::make())).await
    }

    async fn set(certificate: Option<Certificate>) -> Self {
        let web = Web::start(Speaks::Http1).await;
        let recorder = Recorder::start().await;
        let deaf = Victim::start(Manner::Deaf).await;
        let mut setup = Setup::http(&[web.address()])
            .serving("protocol = 'http1'")
            .service("recorder", &[recorder.address()])
            .serving("protocol = 'http1'")
            .service("deaf", &[deaf.address()])
            .serving("protocol = 'http1'")
            .route("path = '/seen'\nservice = 'recorder'")
            .route("path = '/held'\nservice = 'deaf'");
        if let Some(certificate) = &certificate {
            setup = setup.listening(&certificate.listening());
        }
        Self {
            balancer: setup.start().await,
            recorder,
            certificate,
            _web: web,
            _deaf: deaf,
        }
    }

    /// A connection on which both sides have agreed on settings.
    async fn peer(&self) -> Peer {
        self.peer_with(&[]).await
    }

    async fn peer_with(&self, settings: &[(u16, u32)]) -> Peer {
        let address = self.balancer.entry();
        match &self.certificate {
            Some(it) => Peer::agree_on(it.connect(address).await, settings).await,
            None => Peer::agree_on(dial(address).await, settings).await,
        }
    }

    /// A connection on which nothing was said.
    async fn unsaid(&self) -> Peer {
        let address = self.balancer.entry();
        match &self.certificate {
            Some(it) => Peer::over(it.connect(address).await),
            None => Peer::over(dial(address).await),
        }
    }

    /// These frames end the connection, with one of these codes.
    async fn fails_connection(&self, frames: &[Frame], codes: &[u32]) {
        let mut peer = self.peer().await;
        peer.say(frames).await;
        fails(&mut peer, codes).await;
    }

    /// These frames end the stream, or else the connection, with one of these codes.
    async fn fails_stream(&self, frames: &[Frame], stream: u32, codes: &[u32]) {
        let mut peer = self.peer().await;
        peer.say(frames).await;
        loop {
            match peer.outcome(stream).await {
                Outcome::Answered(200) => {}
                Outcome::Reset(code) if codes.contains(&code) => return peer.is_alive().await,
                Outcome::GoneAway(code, _) if codes.contains(&code) => return,
                other => panic!("{other:?} where {codes:?} was due"),
            }
        }
    }

    /// A request that is malformed (RFC 9113 §8.1.1): it is reset or answered with a refusal, and no node sees it.
    async fn refuses(&self, what: &str, frames: &[Frame]) {
        let mut peer = self.peer().await;
        peer.say(frames).await;
        let outcome = peer.outcome(1).await;
        let refused = match outcome {
            Outcome::Answered(status) => (400..=501).contains(&status),
            Outcome::Reset(code) | Outcome::GoneAway(code, _) => {
                matches!(code, code::PROTOCOL_ERROR | code::COMPRESSION_ERROR)
            }
            Outcome::Closed | Outcome::Nothing => false,
        };
        assert!(refused, "{outcome:?} where {what} must be refused");
        let whole = |it: &Event| !matches!(it, Event::CutShort(_));
        let seen = self.recorder.take();
        assert!(!seen.iter().any(whole), "{what} reached a node: {seen:?}");
    }

    /// The same for a request of nothing but a field block.
    async fn refuses_block(&self, what: &str, block: Block) {
        let asked = Frame::headers(1, flag::END_STREAM, block);
        self.refuses(what, &[asked]).await;
    }

    /// What one whole request has become for its node.
    async fn seen(&self, frames: &[Frame]) -> tests::raw::http1::Request {
        let mut peer = self.peer().await;
        peer.say(frames).await;
        assert_eq!(peer.answer(1).await.status, 200);
        let mut seen = self.recorder.take();
        match (seen.pop(), seen.pop()) {
            (Some(Event::Whole(request)), None) => *request,
            other => panic!("{other:?} where one request was due"),
        }
    }
}

/// The connection ends with one of these codes, and is closed.
async fn fails(peer: &mut Peer, codes: &[u32]) {
    match peer.ending().await {
        Outcome::GoneAway(code, _) if codes.contains(&code) => {}
        other => panic!("{other:?} where a GOAWAY with {codes:?} was due"),
    }
    assert!(peer.is_closed().await, "after its last word it must close");
}

/// A `GET` that a node answers.
fn get(stream: u32) -> Frame {
    Frame::headers(stream, flag::END_STREAM, Block::get("/sized/10"))
}

/// A `GET` that no node answers, so that its stream stays half-closed.
fn held(stream: u32) -> Frame {
    Frame::headers(stream, flag::END_STREAM, Block::get("/held"))
}

/// A `POST` whose body is still to come.
fn post(stream: u32) -> Frame {
    Frame::headers(stream, flag::NONE, Block::request("POST", "/echo"))
}
