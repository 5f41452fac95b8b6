//! One stream of an HTTP/2 connection, to a client or to a node.

use std::task::{Context, Poll, ready};

use balancer_core::message::Fields;
use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::HeaderMap;

use super::{
    SideError,
    heads::{fields_from_http2, fields_to_http2},
};

/// The most that is handed to the connection at a time; its other streams want their turn.
const SEND_MAX: usize = 32 << 10;

pub(crate) struct Http2 {
    /// Absent while a node has not begun to answer.
    recv: Option<RecvStream>,
    /// Absent while the client has not been answered, and when all is sent.
    send: Option<SendStream<Bytes>>,
    /// Of a client's stream: by what it is answered.
    respond: Option<SendResponse<Bytes>>,
    chunk: Bytes,
    trailers: Option<HeaderMap>,
    is_over: bool,
}

impl Http2 {
    /// A client's stream.
    pub(crate) fn of_client(recv: RecvStream, respond: SendResponse<Bytes>) -> Self {
        Self {
            is_over: recv.is_end_stream(),
            recv: Some(recv),
            send: None,
            respond: Some(respond),
            chunk: Bytes::new(),
            trailers: None,
        }
    }

    /// A stream to a node, on which a request's head was sent; `send` is absent if that was all.
    pub(crate) fn of_node(send: Option<SendStream<Bytes>>) -> Self {
        Self {
            recv: None,
            send,
            respond: None,
            chunk: Bytes::new(),
            trailers: None,
            is_over: false,
        }
    }

    /// The node has begun to answer.
    pub(crate) fn begin_body(&mut self, recv: RecvStream) {
        self.is_over = recv.is_end_stream();
        self.recv = Some(recv);
    }

    /// Answers the client; `is_whole` says that no body follows.
    pub(crate) fn send_head(
        &mut self,
        head: http::Response<()>,
        is_whole: bool,
    ) -> Result<(), SideError> {
        let respond = self.respond.as_mut().ok_or(SideError::StreamClosed)?;
        let send = respond.send_response(head, is_whole)?;
        self.send = (!is_whole).then_some(send);
        Ok(())
    }

    pub(crate) fn send_informational(&mut self, head: http::Response<()>) -> Result<(), SideError> {
        let respond = self.respond.as_mut().ok_or(SideError::StreamClosed)?;
        Ok(respond.send_informational(head)?)
    }

    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, SideError>> {
        while self.chunk.is_empty() && !self.is_over {
            let recv = self.recv.as_mut().ok_or(SideError::StreamClosed)?;
            match ready!(recv.poll_data(cx)) {
                Some(chunk) => self.chunk = chunk?,
                None => {
                    self.trailers = ready!(recv.poll_trailers(cx))?;
                    self.is_over = true;
                }
            }
        }
        Poll::Ready(Ok(self.chunk.len()))
    }

    pub(crate) fn is_body_over(&self) -> bool {
        self.is_over && self.chunk.is_empty()
    }

    pub(super) fn is_known_to_end(&self) -> bool {
        let ends_here = self.recv.as_ref().is_some_and(RecvStream::is_end_stream);
        self.chunk.is_empty() && ends_here && self.trailers.is_none()
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.chunk
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.chunk.advance(n);
        self.release(n);
    }

    pub(crate) fn take(&mut self, n: usize) -> Bytes {
        self.release(n);
        self.chunk.split_to(n)
    }

    pub(crate) fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take().map(|it| fields_from_http2(&it))
    }

    /// Waits until the other side may be sent some of `wanted` bytes.
    pub(crate) fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Result<usize, SideError>> {
        let send = self.send.as_mut().ok_or(SideError::StreamClosed)?;
        let wanted = wanted.min(SEND_MAX);
        send.reserve_capacity(wanted);
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(capacity) => drop(capacity?),
                None => return Poll::Ready(Err(SideError::StreamClosed)),
            }
        }
        Poll::Ready(Ok(send.capacity().min(wanted)))
    }

    pub(crate) fn send(&mut self, data: Bytes, is_last: bool) -> Result<(), SideError> {
        let send = self.send.as_mut().ok_or(SideError::StreamClosed)?;
        send.send_data(data, is_last)?;
        if is_last {
            self.send = None;
        }
        Ok(())
    }

    /// Ends the body, unless its last bytes did.
    pub(crate) fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), SideError> {
        let Some(mut send) = self.send.take() else {
            return Ok(());
        };
        match trailers {
            Some(trailers) => send.send_trailers(fields_to_http2(trailers))?,
            None => send.send_data(Bytes::new(), true)?,
        }
        Ok(())
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match (&mut self.send, &mut self.respond) {
            (Some(send), _) => send.poll_reset(cx),
            (None, Some(respond)) => respond.poll_reset(cx),
            (None, None) => return Poll::Pending,
        };
        reset.map(drop)
    }

    /// Whether a head has been sent, after which only the body can say anything.
    pub(crate) fn has_begun_to_answer(&self) -> bool {
        self.send.is_some()
    }

    /// Ends the stream with an error code.
    pub(crate) fn reset(&mut self, reason: Reason) {
        if let Some(send) = &mut self.send {
            send.send_reset(reason);
        } else if let Some(respond) = &mut self.respond {
            respond.send_reset(reason);
        }
    }

    /// What was used makes room for more.
    fn release(&mut self, n: usize) {
        if let Some(recv) = &mut self.recv {
            // The stream may have ended meanwhile, and then nobody waits for room.
            let _ = recv.flow_control().release_capacity(n);
        }
    }
}

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http2")
    }
}
