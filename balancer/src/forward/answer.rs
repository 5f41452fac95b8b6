//! The answer on its way to the client: its head rewritten for this hop, its body streamed to the last byte.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use balancer_core::{
    forwarded,
    message::{Fields, Framing, Known, Response, push_field, write_response},
};
use bytes::Buf;
use http::{HeaderValue, StatusCode, Version, header::DATE};

use super::{
    compress::Squeeze,
    date::with_date,
    http::{After, Answered, Manner, Talk},
    upload::{Upload, UploadError},
};
use crate::{
    dial::Node,
    observe::Ended,
    pick::{Lease, Service},
    rescue::{self, Failure},
    side::{HeadError, Side, SideError, framing_on_http1, poll_pass, response_to_http2},
};

/// RFC 6797 §6.1.
const STRICT_TRANSPORT_SECURITY: &[u8] = b"strict-transport-security";

/// Passes a node's answer on. Its end is the end of the exchange.
pub(super) async fn forward(mut talk: Talk<'_>, answered: Answered) -> After {
    let Answered {
        mut response,
        node,
        lease,
        service,
        upload,
        latency,
    } = answered;
    forwarded::response(&mut response);
    vouch(&talk, &mut response);
    let acting = talk.acting.as_ref();
    let squeeze = acting.and_then(|it| it.response(talk.client, &mut response));
    if talk.client.listener().policy.server_timing {
        tell_time(&mut response, talk.record.age(), latency);
    }
    let may_reuse = match send_head(&mut talk, &response) {
        Ok(may_reuse) => may_reuse,
        Err(err) => {
            drop((node, lease));
            return rescue::rescue(talk, Failure::BadAnswer(err)).await;
        }
    };
    talk.record.answered(response.status);
    let mut download = Download::new(&talk, node, lease, service, upload);
    download.squeeze = squeeze.map(Box::new);
    let ended = poll_fn(|cx| download.poll(cx, &mut talk)).await;
    talk.lifeline.until(None);
    let is_read = download.upload.is_read();
    talk.record.received = download.upload.bytes;
    drop(download);
    talk.record.end(ended);
    match ended {
        Ended::Completed if may_reuse && is_read => After::Reuse,
        Ended::Completed if is_read => After::Close,
        Ended::Completed => After::Linger,
        _ => rescue::break_off(&mut talk, ended),
    }
}

/// What time was spent where, in milliseconds, for the tools of browsers (W3C Server Timing).
fn tell_time(response: &mut Response, age: Duration, node: Duration) {
    let millis = |it: Duration| it.as_secs_f64() * 1_000.0;
    let own = age.saturating_sub(node);
    let text = format!(
        "colonnade;dur={:.2}, node;dur={:.2}",
        millis(own),
        millis(node)
    );
    let fields = &mut response.fields;
    fields.push_known(Known::ServerTiming, text.as_bytes());
}

/// Sends the client to ask again elsewhere, with the same method and body.
pub(super) async fn redirect(mut talk: Talk<'_>, location: &str) -> After {
    let mut response = Response::new(StatusCode::PERMANENT_REDIRECT, Version::HTTP_11);
    response
        .fields
        .push_known(Known::Location, location.as_bytes());
    talk.record.end(Ended::Completed);
    own(talk, response, &[]).await
}

/// Says that this host is to be asked with TLS only, where that was configured. What a node says about it does not count: it may not
/// know how its clients come.
fn vouch(talk: &Talk<'_>, response: &mut Response) {
    if let Some(hsts) = &talk.client.listener().hsts {
        response.fields.remove_named(STRICT_TRANSPORT_SECURITY);
        response
            .fields
            .push(STRICT_TRANSPORT_SECURITY, hsts.as_bytes());
    }
}

/// An answer of the balancer's own, whole.
///
/// What it is written down as is the caller's to say: a gRPC call that failed has a head that says 200.
pub(crate) async fn own(mut talk: Talk<'_>, mut response: Response, body: &[u8]) -> After {
    vouch(&talk, &mut response);
    let is_read = talk.side.is_body_over();
    // What is left of a request's body would be taken for the next request.
    talk.manner.closes |= !is_read;
    let body = if talk.manner.is_head { &[] } else { body };
    let may_reuse = match send_head(&mut talk, &response) {
        Ok(may_reuse) => may_reuse,
        Err(err) => {
            tracing::error!(%err, "an answer of the balancer's own is not valid");
            return After::Close;
        }
    };
    talk.lifeline
        .within(talk.client.listener().policy.send_timeout);
    let mut sent = 0;
    let written = poll_fn(|cx| poll_own(cx, &mut talk, body, &mut sent)).await;
    talk.lifeline.until(None);
    talk.record.sent = sent as u64;
    match (written, is_read) {
        (Ok(()), true) if may_reuse => After::Reuse,
        (Ok(()), true) => After::Close,
        (Ok(()), false) => After::Linger,
        (Err(_), _) => After::Close,
    }
}

fn poll_own(
    cx: &mut Context<'_>,
    talk: &mut Talk<'_>,
    body: &[u8],
    sent: &mut usize,
) -> Poll<Result<(), SideError>> {
    talk.lifeline.register(cx);
    if talk.lifeline.is_cut() || talk.lifeline.is_due() {
        return Poll::Ready(Err(SideError::StreamClosed));
    }
    while *sent < body.len() {
        *sent += ready!(talk.side.poll_send(cx, &body[*sent..]))?;
    }
    talk.side.finish(None)?;
    talk.side.poll_flush(cx)
}

/// Sends the head of the answer; whether the connection can carry another exchange is the result.
fn send_head(talk: &mut Talk<'_>, response: &Response) -> Result<bool, HeadError> {
    let is_draining = talk.lifeline.is_draining();
    match talk.side {
        Side::Http1(side) => {
            let framing = framing_for_client(talk.manner, response);
            let may_reuse = !talk.manner.closes && !is_draining && framing != Framing::UntilClose;
            let version = talk.manner.version;
            side.send_head(framing, |out| {
                write_response(out, response, framing);
                if !response.fields.has(Known::Date) {
                    // Whoever passes on an answer without one says when it came (RFC 9110 §6.6.1).
                    with_date(|date| push_field(out, b"date", date));
                }
                if !may_reuse {
                    out.extend_from_slice(b"connection: close\r\n");
                } else if version == Version::HTTP_10 {
                    out.extend_from_slice(b"connection: keep-alive\r\n");
                }
                out.extend_from_slice(b"\r\n");
            });
            Ok(may_reuse)
        }
        Side::Http2(side) => {
            let is_whole = talk.manner.is_head || is_bodiless(response);
            let mut head = response_to_http2(response)?;
            if let Ok(date) = with_date(HeaderValue::from_bytes) {
                head.headers_mut().entry(DATE).or_insert(date);
            }
            side.send_head(head, is_whole)
                .map_err(|_| HeadError::Field)?;
            Ok(true)
        }
    }
}

fn framing_for_client(manner: Manner, response: &Response) -> Framing {
    match framing_on_http1(response.framing, &response.fields) {
        _ if manner.is_head => Framing::Empty,
        // An answer without a body must say so, unless its status does.
        Framing::Empty if !says_no_body(response) => Framing::Length(0),
        // HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
        Framing::Chunked if manner.version == Version::HTTP_10 => Framing::UntilClose,
        framing => framing,
    }
}

fn says_no_body(response: &Response) -> bool {
    response.status == StatusCode::NO_CONTENT
        || response.status == StatusCode::NOT_MODIFIED
        || response.status.is_informational()
        || response.fields.has(Known::ContentLength)
}

fn is_bodiless(response: &Response) -> bool {
    matches!(response.framing, Framing::Empty | Framing::Length(0))
}

/// Tells the client that a tunnel begins behind this head.
pub(super) fn send_switch(talk: &mut Talk<'_>, response: &Response) -> Result<(), HeadError> {
    match talk.side {
        Side::Http1(side) => {
            side.send_head(Framing::Empty, |out| {
                write_response(out, response, Framing::Empty);
                out.extend_from_slice(b"\r\n");
            });
            Ok(())
        }
        Side::Http2(side) => side
            .send_head(response_to_http2(response)?, false)
            .map_err(|_| HeadError::Field),
    }
}

/// Passes an informational answer on, to whoever can understand one (RFC 9110 §15.2).
pub(super) fn send_forerunner(talk: &mut Talk<'_>, mut head: Response) {
    forwarded::response(&mut head);
    match talk.side {
        Side::Http1(side) if talk.manner.version == Version::HTTP_11 => {
            side.send_head(Framing::Empty, |out| {
                write_response(out, &head, Framing::Empty);
                out.extend_from_slice(b"\r\n");
            });
        }
        Side::Http1(_) => {}
        Side::Http2(side) => {
            // It may be withheld: nobody can rely on an informational answer.
            if let Ok(head) = response_to_http2(&head) {
                let _ = side.send_informational(head);
            }
        }
    }
}

pub(super) fn send_continue(talk: &mut Talk<'_>) {
    send_forerunner(talk, Response::new(StatusCode::CONTINUE, Version::HTTP_11));
}

/// How far a body that is compressed has come.
enum Squeezed {
    More,
    Over,
}

/// The answer's body, and what is left of the request's.
struct Download {
    /// Given back as soon as the node has said everything.
    lent: Option<(Lease, Node)>,
    upload: Upload,
    node_idle_timeout: Duration,
    send_timeout: Duration,
    /// The client has to read before anything more can be sent.
    client_is_full: bool,
    /// When somebody will have taken too long, and who.
    deadline: Option<(u64, Ended)>,
    /// When the whole exchange must be over.
    over_by_ms: Option<u64>,
    /// Through which the body goes, if it is compressed here.
    squeeze: Option<Box<Squeeze>>,
    _service: Arc<Service>,
}

impl Download {
    fn new(
        talk: &Talk<'_>,
        node: Node,
        lease: Lease,
        service: Arc<Service>,
        upload: Upload,
    ) -> Self {
        Self {
            lent: Some((lease, node)),
            upload,
            node_idle_timeout: service.policy.stream_idle_timeout,
            send_timeout: talk.client.listener().policy.send_timeout,
            client_is_full: false,
            deadline: None,
            over_by_ms: talk.deadline.map(|it| {
                let left = it.saturating_duration_since(std::time::Instant::now());
                talk.lifeline.clock().after(left)
            }),
            squeeze: None,
            _service: service,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, talk: &mut Talk<'_>) -> Poll<Ended> {
        talk.lifeline.register(cx);
        if talk.lifeline.is_cut() {
            return Poll::Ready(Ended::Drained);
        }
        let sent_before = talk.record.sent;
        if let Poll::Ready(ended) = self.poll_bodies(cx, talk) {
            return Poll::Ready(ended);
        }
        if talk.record.sent != sent_before {
            self.deadline = None;
        }
        self.poll_deadline(talk)
    }

    /// Who is waited for has a time to come.
    fn poll_deadline(&mut self, talk: &Talk<'_>) -> Poll<Ended> {
        let clock = talk.lifeline.clock();
        let (timeout, whose) =
            if self.lent.is_none() || !talk.side.is_flushed() || self.client_is_full {
                (self.send_timeout, Ended::ClientStuck)
            } else {
                (self.node_idle_timeout, Ended::NodeStuck)
            };
        match self.deadline {
            Some((at, ended)) if ended == whose && at <= clock.now_ms() => {
                return Poll::Ready(ended);
            }
            Some((_, ended)) if ended == whose => {}
            _ => self.deadline = Some((clock.after(timeout), whose)),
        }
        if self.over_by_ms.is_some_and(|it| it <= clock.now_ms()) {
            return Poll::Ready(Ended::TooLong);
        }
        let waits_until = self.deadline.map(|(at, _)| at).into_iter();
        talk.lifeline
            .until(waits_until.chain(self.over_by_ms).min());
        Poll::Pending
    }

    fn poll_bodies(&mut self, cx: &mut Context<'_>, talk: &mut Talk<'_>) -> Poll<Ended> {
        loop {
            let Some((_, node)) = &mut self.lent else {
                return match ready!(talk.side.poll_flush(cx)) {
                    Ok(()) => Poll::Ready(Ended::Completed),
                    Err(_) => Poll::Ready(Ended::ClientGone),
                };
            };
            if !self.upload.is_over() {
                let clock = talk.lifeline.clock();
                let uploaded = self.upload.poll(cx, clock, talk.side, &mut node.side);
                if let Poll::Ready(Err(UploadError::Client(_))) = uploaded {
                    return Poll::Ready(Ended::ClientGone);
                }
            }
            self.client_is_full = false;
            if self.squeeze.is_some() {
                match self.poll_squeezed(cx, talk) {
                    Poll::Ready(Ok(Squeezed::More)) => {}
                    Poll::Ready(Ok(Squeezed::Over)) => {
                        if let Some(ended) = self.end_body(talk) {
                            return Poll::Ready(ended);
                        }
                    }
                    Poll::Ready(Err(ended)) => return Poll::Ready(ended),
                    Poll::Pending if self.client_is_full => return Poll::Pending,
                    Poll::Pending => return self.poll_rest(cx, talk),
                }
                continue;
            }
            match node.side.poll_data(cx) {
                Poll::Ready(Ok(0)) => {
                    if let Some(ended) = self.end_body(talk) {
                        return Poll::Ready(ended);
                    }
                }
                Poll::Ready(Ok(_)) => match poll_pass(cx, &mut node.side, talk.side, |_| {}) {
                    Poll::Ready(Ok(n)) => talk.record.sent += n as u64,
                    Poll::Ready(Err(_)) => return Poll::Ready(Ended::ClientGone),
                    Poll::Pending => {
                        self.client_is_full = true;
                        return Poll::Pending;
                    }
                },
                Poll::Ready(Err(err)) => {
                    tracing::debug!(%err, "a node broke off in the middle of its answer");
                    return Poll::Ready(Ended::NodeCut);
                }
                Poll::Pending => return self.poll_rest(cx, talk),
            }
        }
    }

    /// One step of a body that is compressed: what came out of the coder goes to the client, then more goes in.
    fn poll_squeezed(
        &mut self,
        cx: &mut Context<'_>,
        talk: &mut Talk<'_>,
    ) -> Poll<Result<Squeezed, Ended>> {
        let (Some(squeeze), Some((_, node))) = (&mut self.squeeze, &mut self.lent) else {
            return Poll::Ready(Ok(Squeezed::Over));
        };
        while !squeeze.out().is_empty() {
            let Poll::Ready(sent) = talk.side.poll_send(cx, squeeze.out()) else {
                self.client_is_full = true;
                return Poll::Pending;
            };
            let n = sent.map_err(|_| Ended::ClientGone)?;
            squeeze.out().advance(n);
            talk.record.sent += n as u64;
        }
        if squeeze.is_finished() {
            return Poll::Ready(Ok(Squeezed::Over));
        }
        let fed = match node.side.poll_data(cx) {
            Poll::Ready(Ok(0)) => squeeze.finish(),
            Poll::Ready(Ok(_)) => {
                let fed = squeeze.feed(node.side.data());
                fed.map(|n| node.side.consume(n))
            }
            Poll::Ready(Err(err)) => {
                tracing::debug!(%err, "a node broke off in the middle of its answer");
                return Poll::Ready(Err(Ended::NodeCut));
            }
            Poll::Pending => match squeeze.flush() {
                Ok(false) => return Poll::Pending,
                flushed => flushed.map(drop),
            },
        };
        Poll::Ready(fed.map(|()| Squeezed::More).map_err(|_| Ended::NodeCut))
    }

    /// Nothing comes: what was kept back goes out, and nobody holds a buffer.
    fn poll_rest(&mut self, cx: &mut Context<'_>, talk: &mut Talk<'_>) -> Poll<Ended> {
        if let Poll::Ready(Err(_)) = talk.side.poll_flush(cx) {
            return Poll::Ready(Ended::ClientGone);
        }
        if self.upload.is_over() && talk.side.poll_gone(cx).is_ready() {
            return Poll::Ready(Ended::ClientGone);
        }
        if let Some((_, node)) = &mut self.lent {
            node.side.rest();
        }
        Poll::Pending
    }

    /// The whole body has passed: the connection goes back before the client has even read the last byte.
    fn end_body(&mut self, talk: &mut Talk<'_>) -> Option<Ended> {
        let (lease, mut node) = self.lent.take()?;
        let trailers: Option<Fields> = match node.side.trailers() {
            Ok(trailers) => trailers,
            Err(_) => return Some(Ended::NodeCut),
        };
        match talk.side.finish(trailers.as_ref()) {
            Ok(true) => {}
            Ok(false) => return Some(Ended::NodeCut),
            Err(_) => return Some(Ended::ClientGone),
        }
        if self.upload.is_sent() {
            lease.give_back(node);
        } else {
            self.upload.give_up();
        }
        None
    }
}
