//! The request's body on its way to the node: streamed, paced, and kept as far as it may have to be sent again.

use std::task::{Context, Poll, ready};

use balancer_core::{
    message::Fields,
    pace::{Pace, PaceRule},
};
use bytes::BytesMut;

use crate::{
    lifeline::Clock,
    side::{Side, SideError, poll_pass},
};

/// What of a request's body has come and gone.
#[derive(Debug)]
pub(super) struct Upload {
    /// The client's body was read to its end.
    is_read: bool,
    /// The node has all of it.
    is_sent: bool,
    /// The node takes no more, though it may still answer.
    is_refused: bool,
    /// The client waits for `100 Continue` until then.
    gate_ms: Option<u64>,
    kept: Kept,
    pace: Pace,
    pub(super) bytes: u64,
}

/// The beginning of a body, so that another node can be sent it too.
#[derive(Debug)]
enum Kept {
    All {
        bytes: BytesMut,
        max: usize,
        resent: usize,
    },
    /// More has gone than is kept.
    Overflowed,
}

/// Why a body goes no further.
#[derive(Debug)]
pub(super) enum UploadError {
    Client(SideError),
    Node(SideError),
}

impl Upload {
    /// `keep_max` bytes are kept for another try; `gate_ms` holds the body back for a client that waits for a node's word.
    pub(super) fn new(has_body: bool, keep_max: usize, gate_ms: Option<u64>) -> Self {
        Self {
            is_read: !has_body,
            is_sent: !has_body,
            is_refused: false,
            gate_ms: gate_ms.filter(|_| has_body),
            kept: Kept::All {
                bytes: BytesMut::new(),
                max: keep_max,
                resent: 0,
            },
            pace: Pace::default(),
            bytes: 0,
        }
    }

    /// Whether no byte of it will follow.
    pub(super) fn is_over(&self) -> bool {
        self.is_sent || self.is_refused
    }

    /// Whether the node has all of it.
    pub(super) fn is_sent(&self) -> bool {
        self.is_sent && !self.is_refused
    }

    /// The node has answered without it.
    pub(super) fn give_up(&mut self) {
        self.is_refused = true;
    }

    /// Whether the client's connection has nothing of it left.
    pub(super) fn is_read(&self) -> bool {
        self.is_read
    }

    /// Whether all that has gone could go again.
    pub(super) fn can_repeat(&self) -> bool {
        matches!(self.kept, Kept::All { .. })
    }

    pub(super) fn has_begun(&self) -> bool {
        self.bytes > 0
    }

    /// Another node is to be sent it from its beginning.
    pub(super) fn repeat(&mut self, has_body: bool) {
        self.is_sent = !has_body;
        self.is_refused = false;
        if let Kept::All { resent, .. } = &mut self.kept {
            *resent = 0;
        }
    }

    /// The node wants the body, or will do without being asked.
    pub(super) fn open_gate(&mut self) -> bool {
        self.gate_ms.take().is_some()
    }

    /// When it is the client's fault that nothing comes, or the gate opens by itself.
    pub(super) fn deadline_ms(&self, rule: PaceRule) -> Option<u64> {
        self.gate_ms.or_else(|| self.pace.deadline_ms(rule))
    }

    pub(super) fn is_too_slow(&self, rule: PaceRule, clock: &Clock) -> bool {
        let deadline = self.pace.deadline_ms(rule);
        self.gate_ms.is_none() && deadline.is_some_and(|it| it <= clock.now_ms())
    }

    pub(super) fn is_gate_due(&self, clock: &Clock) -> bool {
        self.gate_ms.is_some_and(|it| it <= clock.now_ms())
    }

    /// Passes on what there is. Ready when nothing more will go.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        clock: &Clock,
        client: &mut Side,
        node: &mut Side,
    ) -> Poll<Result<(), UploadError>> {
        let passed = self.poll_pass_all(cx, clock, client, node);
        if let Poll::Ready(Err(UploadError::Node(err))) = passed {
            tracing::debug!(%err, "a node stopped reading a request");
            // It may have answered before it did.
            self.is_refused = true;
            return Poll::Ready(Ok(()));
        }
        passed
    }

    fn poll_pass_all(
        &mut self,
        cx: &mut Context<'_>,
        clock: &Clock,
        client: &mut Side,
        node: &mut Side,
    ) -> Poll<Result<(), UploadError>> {
        let now_ms = clock.now_ms();
        ready!(self.poll_repeat(cx, node)).map_err(UploadError::Node)?;
        while !self.is_over() {
            if self.gate_ms.is_some() {
                ready!(node.poll_flush(cx)).map_err(UploadError::Node)?;
                return Poll::Pending;
            }
            match client.poll_data(cx).map_err(UploadError::Client)? {
                Poll::Pending => {
                    self.pace.wait(now_ms);
                    let _ = node.poll_flush(cx).map_err(UploadError::Node)?;
                    return Poll::Pending;
                }
                Poll::Ready(0) => self.end(client, node)?,
                Poll::Ready(n) => {
                    self.pace.came(0, now_ms);
                    let kept = &mut self.kept;
                    let passed = ready!(poll_pass(cx, client, node, |data| kept.push(data)));
                    let passed = passed.map_err(UploadError::Node)?;
                    debug_assert!(passed <= n, "no more is passed on than was at hand");
                    self.pace.came(passed, now_ms);
                    self.bytes += passed as u64;
                }
            }
        }
        node.poll_flush(cx).map_err(UploadError::Node)
    }

    /// Sends again what another node was sent before.
    fn poll_repeat(
        &mut self,
        cx: &mut Context<'_>,
        node: &mut Side,
    ) -> Poll<Result<(), SideError>> {
        if let Kept::All { bytes, resent, .. } = &mut self.kept
            && !self.is_sent
        {
            while *resent < bytes.len() {
                *resent += ready!(node.poll_send(cx, &bytes[*resent..]))?;
            }
            if self.is_read {
                self.is_sent = true;
                node.finish(None)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, client: &mut Side, node: &mut Side) -> Result<(), UploadError> {
        let trailers: Option<Fields> = client.trailers().map_err(UploadError::Client)?;
        if trailers.is_some() {
            // What comes behind the body is not kept.
            self.kept = Kept::Overflowed;
        }
        (self.is_read, self.is_sent) = (true, true);
        node.finish(trailers.as_ref()).map_err(UploadError::Node)?;
        Ok(())
    }
}

impl Kept {
    fn push(&mut self, data: &[u8]) {
        if let Self::All { bytes, max, resent } = self {
            if bytes.len() + data.len() > *max {
                *self = Self::Overflowed;
            } else {
                bytes.extend_from_slice(data);
                *resent = bytes.len();
            }
        }
    }
}
