//! Asks a second node when the first one takes long, and takes whichever answers first.
//!
//! Only a request that may be repeated and has no body is asked twice, and each second question is paid for like a retry.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use balancer_core::{
    message::{Framing, Response},
    name::NodeId,
};
use tokio::time::Sleep;

use super::http::{FORERUNNERS_MAX, Outgoing, Setback, Talk, connect, gone};
use crate::{
    dial::{AskError, Node},
    pick::Lease,
    rescue::Failure,
};

/// The first node to answer, or why none did.
pub(super) struct Won {
    pub(super) lease: Option<Lease>,
    pub(super) outcome: Result<(Node, Response), Setback>,
}

/// Up to two nodes that are asked the same.
pub(super) struct Race<'a> {
    outgoing: &'a Outgoing,
    tried: &'a mut Vec<NodeId>,
    first: NodeId,
    runners: [Runner<'a>; 2],
    /// When the second one is asked; none once it was.
    until_second: Option<Pin<Box<Sleep>>>,
    answer_by_ms: Option<u64>,
}

/// A connection on which the request was put, or why not.
type Started = (Lease, Result<Node, Setback>);

/// How one node's run ended.
type Run = (Lease, Result<(Node, Response), Setback>);

enum Runner<'a> {
    Idle,
    Starting(Pin<Box<dyn Future<Output = Started> + Send + 'a>>),
    Asked {
        lease: Lease,
        node: Box<Node>,
        forerunners: u32,
    },
}

/// Whether it is harmless to ask two nodes.
pub(super) fn may_hedge(outgoing: &Outgoing) -> bool {
    outgoing.head.method.is_idempotent() && outgoing.head.framing == Framing::Empty
}

impl<'a> Race<'a> {
    pub(super) fn new(
        first: Lease,
        hedge_after: Duration,
        outgoing: &'a Outgoing,
        tried: &'a mut Vec<NodeId>,
    ) -> Self {
        Self {
            first: first.node().clone(),
            runners: [Runner::start(first, outgoing), Runner::Idle],
            outgoing,
            tried,
            until_second: Some(Box::pin(tokio::time::sleep(hedge_after))),
            answer_by_ms: None,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, talk: &mut Talk<'_>) -> Poll<Won> {
        talk.lifeline.register(cx);
        if talk.lifeline.is_cut() {
            return Poll::Ready(Won::nobody(Setback::ends_it(Failure::Drained)));
        }
        if let Poll::Ready(won) = self.poll_runners(cx, talk) {
            return Poll::Ready(won);
        }
        self.poll_second(cx, talk);
        if talk.side.poll_gone(cx).is_ready() {
            return Poll::Ready(Won::nobody(Setback::ends_it(Failure::ClientGone)));
        }
        self.poll_deadline(talk)
    }

    /// A runner that falls is out; the last one's fall is everybody's.
    fn poll_runners(&mut self, cx: &mut Context<'_>, talk: &mut Talk<'_>) -> Poll<Won> {
        for idx in 0..self.runners.len() {
            let Poll::Ready((lease, outcome)) = self.runners[idx].poll(cx) else {
                continue;
            };
            let others_run = self.runners.iter().any(Runner::is_running);
            match &outcome {
                Err(setback) if others_run => {
                    talk.record
                        .try_failed(Some(&lease), setback.failure.ended());
                    if setback.blames_node {
                        let service = &self.outgoing.service;
                        let worker = talk.client.worker();
                        worker.suspect(service, &lease.upstream.endpoint);
                        self.tried.push(lease.node().clone());
                    }
                }
                _ => {
                    let lease = Some(lease);
                    return Poll::Ready(Won { lease, outcome });
                }
            }
        }
        Poll::Pending
    }

    /// Asks another node as well, if there is one at once and the budget allows it.
    fn poll_second(&mut self, cx: &mut Context<'_>, talk: &mut Talk<'_>) {
        let is_due = self
            .until_second
            .as_mut()
            .is_some_and(|it| it.as_mut().poll(cx).is_ready());
        if !is_due {
            return;
        }
        self.until_second = None;
        let service = &self.outgoing.service;
        // The first may yet be tried again, should it have fallen for a reason that does not speak against it.
        let avoided = [&self.tried[..], std::slice::from_ref(&self.first)].concat();
        let Some(lease) = service.pick_another(&self.outgoing.asked, &avoided) else {
            return;
        };
        if service.may_retry() {
            let free = self.runners.iter_mut().find(|it| !it.is_running());
            let free = free.expect("one of two runs until the second is asked");
            talk.record.hedged(&lease);
            *free = Runner::start(lease, self.outgoing);
            cx.waker().wake_by_ref();
        } else {
            talk.record.retry_denied();
        }
    }

    fn poll_deadline(&mut self, talk: &Talk<'_>) -> Poll<Won> {
        let clock = talk.lifeline.clock();
        let timeout = self.outgoing.service.policy.response_head_timeout;
        let by = *self
            .answer_by_ms
            .get_or_insert_with(|| clock.after(timeout));
        if by <= clock.now_ms() {
            let mut silent = Setback::ends_it(Failure::Silent);
            silent.is_final = false;
            return Poll::Ready(Won::nobody(silent));
        }
        talk.lifeline.until(Some(by));
        Poll::Pending
    }
}

impl Won {
    fn nobody(setback: Setback) -> Self {
        Self {
            lease: None,
            outcome: Err(setback),
        }
    }
}

impl<'a> Runner<'a> {
    fn start(mut lease: Lease, outgoing: &'a Outgoing) -> Self {
        Self::Starting(Box::pin(async move {
            let started = connect(&mut lease, outgoing).await;
            (lease, started)
        }))
    }

    fn is_running(&self) -> bool {
        !matches!(self, Self::Idle)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Run> {
        loop {
            match self {
                Self::Idle => return Poll::Pending,
                Self::Starting(starting) => {
                    let (mut lease, started) = ready!(starting.as_mut().poll(cx));
                    *self = Self::Idle;
                    let node = match started {
                        Ok(node) => Box::new(node),
                        Err(setback) => return Poll::Ready((lease, Err(setback))),
                    };
                    if !node.is_reused() {
                        lease.connected();
                    }
                    *self = Self::Asked {
                        lease,
                        node,
                        forerunners: 0,
                    };
                }
                Self::Asked {
                    node, forerunners, ..
                } => {
                    let answered = ready!(poll_head(cx, node, forerunners));
                    let Self::Asked { lease, node, .. } = std::mem::replace(self, Self::Idle)
                    else {
                        return Poll::Pending;
                    };
                    let outcome = match answered {
                        Ok(response) => Ok((*node, response)),
                        Err(setback) => Err(setback.unless_reused(&node)),
                    };
                    return Poll::Ready((lease, outcome));
                }
            }
        }
    }
}

/// What comes before the answer is not passed on: it may be of the node that loses.
fn poll_head(
    cx: &mut Context<'_>,
    node: &mut Node,
    forerunners: &mut u32,
) -> Poll<Result<Response, Setback>> {
    // A failure to write shows again when the answer is read.
    let _ = node.side.poll_flush(cx);
    loop {
        let head = ready!(node.poll_answer(cx, false)).map_err(gone)?;
        if !head.status.is_informational() {
            return Poll::Ready(Ok(head));
        }
        *forerunners += 1;
        if *forerunners > FORERUNNERS_MAX {
            return Poll::Ready(Err(gone(AskError::Closed)));
        }
    }
}
