//! The HTTP exchange: from a request's head to an answer's last byte, over HTTP/1.1 or HTTP/2 on either side.
//!
//! Bodies stream both ways under back-pressure; a request is sent to a further node only under the rules of `balancer_core::retry`.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use balancer_core::{
    affinity::Asked,
    forwarded::{self, Wire, check_request},
    message::{Framing, Known, Request, Response},
    name::NodeId,
    pace::PaceRule,
    queue::Class,
    retry::{self, Replay},
};
use http::{Method, StatusCode, Version};

use super::{
    act::{self, Acting, Replied},
    answer,
    hedge::{Race, Won, may_hedge},
    upgrade::{self, Tunnel},
    upload::{Upload, UploadError},
};
use crate::{
    accept::ClientConnection,
    config::{HttpsRedirect, UpstreamProtocol},
    dial::{AskError, Node},
    lifeline::Lifeline,
    observe::Exchange,
    pick::{Lease, PickError, Service, fields},
    rescue::{self, Failure},
    route::{NoRoute, route},
    side::{HeadError, ReadError, Side, SideError},
};

/// How long a client that waits for `100 Continue` is made to wait for a node that does not say it (RFC 9110 §10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Informational answers to one request; a node that sends more says nothing.
pub(super) const FORERUNNERS_MAX: u32 = 32;

/// What becomes of the client's connection after an exchange.
pub(crate) enum After {
    /// It can carry another one.
    Reuse,
    /// It cannot.
    Close,
    /// It cannot, and what the client still sends must be read, or the answer could be lost with the close.
    Linger,
    /// It belongs to the two sides.
    Tunnel(Box<Tunnel>),
}

/// An exchange with its client: everything but the request.
pub(crate) struct Talk<'a> {
    pub(crate) client: &'a Arc<ClientConnection>,
    pub(crate) lifeline: &'a Lifeline,
    pub(crate) side: &'a mut Side,
    pub(crate) record: Exchange,
    pub(crate) manner: Manner,
    /// What the route does to the exchange; nothing if it merely leads to a service.
    pub(super) acting: Option<Box<Acting>>,
    /// When the whole exchange must be over.
    pub(super) deadline: Option<Instant>,
}

/// What of a request decides how it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) version: Version,
    pub(crate) is_head: bool,
    pub(crate) asks_grpc: bool,
    /// The client will send no other request on this connection.
    pub(crate) closes: bool,
    pub(crate) has_body: bool,
}

/// One exchange. It cannot fail: what goes wrong is rescued into an answer.
pub(crate) async fn exchange(
    client: &Arc<ClientConnection>,
    lifeline: &Lifeline,
    side: &mut Side,
    head: Request,
) -> After {
    let manner = Manner::of(&head);
    let mut talk = Talk {
        client,
        lifeline,
        record: Exchange::begin(client.clone(), &head, manner.asks_grpc),
        manner,
        side,
        acting: None,
        deadline: None,
    };
    let walked = match plan(&mut talk, head) {
        Ok(Plan::Send(outgoing)) => match talk.deadline {
            None => Box::pin(send(&mut talk, outgoing)).await,
            Some(deadline) => Box::pin(send_by(deadline, &mut talk, outgoing)).await,
        },
        Ok(Plan::Reply(replied)) => return Box::pin(act::send_reply(talk, *replied)).await,
        // Boxed: it is rare, and would make the future of every other exchange larger.
        Ok(Plan::Upgrade(wish)) => {
            return match Box::pin(upgrade::forward(&mut talk, wish)).await {
                Ok(upgrade::Forwarded::Switched(tunnel)) => talk.switch(tunnel).await,
                Ok(upgrade::Forwarded::Answered(answered)) => {
                    answer::forward(talk, *answered).await
                }
                Err(failure) => rescue::rescue(talk, failure).await,
            };
        }
        Ok(Plan::Redirect(location)) => return answer::redirect(talk, &location).await,
        Err(failure) => Err(failure),
    };
    match walked {
        Ok(answered) => answer::forward(talk, answered).await,
        Err(failure) => rescue::rescue(talk, failure).await,
    }
}

/// What is to be done with a request.
enum Plan {
    /// The client is to ask again, there.
    Redirect(String),
    Send(Outgoing),
    Upgrade(upgrade::Wish),
    Reply(Box<Replied>),
}

/// A request on its way to a node.
pub(super) struct Outgoing {
    pub(super) service: Arc<Service>,
    pub(super) asked: Asked,
    wire: Wire,
    pub(super) head: Request,
    upload: Upload,
}

/// A node that has begun to answer.
pub(super) struct Answered {
    pub(super) response: Response,
    pub(super) node: Node,
    pub(super) lease: Lease,
    pub(super) service: Arc<Service>,
    pub(super) upload: Upload,
    /// How long the node took to begin.
    pub(super) latency: Duration,
}

impl Manner {
    fn of(head: &Request) -> Self {
        let fields = &head.fields;
        let keeps = match head.version {
            Version::HTTP_10 => fields.has_token(Known::Connection, "keep-alive"),
            _ => !fields.has_token(Known::Connection, "close"),
        };
        Self {
            version: head.version,
            is_head: head.is_head(),
            asks_grpc: asks_grpc(head),
            closes: !keeps,
            has_body: head.framing != Framing::Empty,
        }
    }
}

fn asks_grpc(head: &Request) -> bool {
    head.version == Version::HTTP_2
        && head
            .fields
            .get(Known::ContentType)
            .is_some_and(|it| it.starts_with(b"application/grpc"))
}

fn plan(talk: &mut Talk<'_>, mut head: Request) -> Result<Plan, Failure> {
    check_request(&head)?;
    if let Some(redirect) = talk.client.listener().policy.https_redirect {
        let location = location(redirect, &head)?;
        return Ok(Plan::Redirect(location));
    }
    let routed = route(talk.client, &head)?;
    let target = routed.target;
    let actions = &target.actions;
    talk.record.led_by(&target.route);
    talk.acting = Acting::begin(actions, &head);
    let class = routed.service.as_ref().map(|service| {
        talk.record.routed(service);
        talk.record
            .note(|line| line.service = Some(service.name.clone()));
        service.class(&head.fields)
    });
    admit(talk, &head, &target.route, class.unwrap_or_default())?;
    if let Some(reply) = &actions.reply {
        let replied = act::reply(talk, reply, head)?;
        return Ok(Plan::Reply(Box::new(replied)));
    }
    let service = routed.service.ok_or(NoRoute)?;
    let mut asked = service.asked(talk.client.address().ip(), head.path(), || {
        fields(&head.fields)
    });
    asked.class = class.unwrap_or_default();
    if let Some(wanted) = upgrade::wanted(&mut head) {
        let wish = upgrade::wish(talk, service, asked, wanted, head)?;
        return Ok(Plan::Upgrade(wish));
    }
    if head.method == Method::CONNECT {
        // What follows was meant for somebody else.
        talk.manner.closes = true;
        return Err(Failure::ConnectRefused);
    }
    let timeout = actions.request_timeout;
    let timeout = timeout.or(service.policy.tries.request_timeout);
    talk.deadline = timeout.map(|it| Instant::now() + it);
    let wire = wire(&service, head.version);
    talk.mark(&mut head, forwarded::Exchange::Plain);
    forwarded::aim(&mut head, wire)?;
    let upload = talk.upload(&service, &head);
    Ok(Plan::Send(Outgoing {
        service,
        asked,
        wire,
        head,
        upload,
    }))
}

/// The same host and path, by `https`.
fn location(redirect: HttpsRedirect, head: &Request) -> Result<String, Failure> {
    let host = head.host().ok_or(forwarded::BadRequest::MissingHost)?;
    let target = match head.path_and_query() {
        // Only a `CONNECT` has no path.
        "" => return Err(Failure::ConnectRefused),
        // It asks about the server as a whole.
        "*" => "/",
        target => target,
    };
    Ok(redirect.location(host, target))
}

/// Asks the limits whether the request may go on.
fn admit(talk: &Talk<'_>, head: &Request, route: &str, class: Class) -> Result<(), Failure> {
    let asks = talk.client.asks(route, class);
    let admission = &talk.client.worker().admission;
    let now = talk.record.time_of_try(1);
    admission.request(now, asks, |name| head.fields.named(name.as_str()))?;
    Ok(())
}

fn wire(service: &Service, spoken: Version) -> Wire {
    match service.policy.protocol {
        UpstreamProtocol::Http1 => Wire::Http1,
        UpstreamProtocol::Http2 => Wire::Http2,
        UpstreamProtocol::Match if spoken == Version::HTTP_2 => Wire::Http2,
        UpstreamProtocol::Match => Wire::Http1,
    }
}

impl Talk<'_> {
    /// Writes down in the head who asks, and under which ids.
    pub(super) fn mark(&mut self, head: &mut Request, exchange: forwarded::Exchange) {
        let worker = self.client.worker();
        let hop = &self.client.hop;
        let mut trace = worker.with_rng(|rng| hop.request(head, exchange, rng));
        if let Some(exporter) = &worker.exporter {
            let word = trace.parent_id.map(|_| trace.is_sampled);
            trace.is_sampled = exporter.is_sampled(trace.trace_id, word, hop.is_trusted());
            trace.tell(&mut head.fields, trace.span_id);
        }
        self.record.known_as(&trace);
        if let Some(acting) = &mut self.acting {
            acting.request(self.client, head, &trace.request_id);
        }
        self.record
            .note(|line| line.request_id = Some(trace.request_id));
    }

    fn upload(&self, service: &Service, head: &Request) -> Upload {
        let waits = head.fields.has(Known::Expect);
        let gate = waits.then(|| self.lifeline.clock().after(CONTINUE_WAIT));
        let keep_max = if may_repeat(head) {
            service.policy.replay_max_bytes
        } else {
            0
        };
        Upload::new(self.manner.has_body, keep_max, gate)
    }

    fn pace_rule(&self) -> PaceRule {
        let policy = &self.client.listener().policy;
        PaceRule {
            bytes_per_second_min: policy.min_body_rate,
            grace: policy.min_body_rate_grace,
        }
    }

    /// Waits for an endpoint, for as long as somebody is there to be answered.
    async fn while_there(
        &mut self,
        picking: impl Future<Output = Result<Lease, PickError>>,
    ) -> Result<Lease, Failure> {
        let mut picking = pin!(picking);
        poll_fn(|cx| {
            if let Poll::Ready(picked) = picking.as_mut().poll(cx) {
                return Poll::Ready(picked.map_err(Failure::from));
            }
            self.lifeline.register(cx);
            if self.lifeline.is_cut() {
                return Poll::Ready(Err(Failure::Drained));
            }
            // Of a body that is still to come the end would look like the client's.
            let is_gone = self.side.is_body_over() && self.side.poll_gone(cx).is_ready();
            match is_gone {
                true => Poll::Ready(Err(Failure::ClientGone)),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Runs the tunnel here if its client is one stream among others, else hands the connection over.
    async fn switch(mut self, mut tunnel: Box<Tunnel>) -> After {
        match self.side {
            Side::Http1(_) => {
                tunnel.record = Some(self.record);
                After::Tunnel(tunnel)
            }
            Side::Http2(_) => {
                let ended = tunnel.run_on_stream(self.side, self.lifeline).await;
                self.record.end(ended);
                After::Close
            }
        }
    }
}

/// Whether doing it twice is the same as doing it once, or the client says how a repetition is known (RFC 9110 §9.2.2).
fn may_repeat(head: &Request) -> bool {
    head.method.is_idempotent() || head.fields.has(Known::IdempotencyKey)
}

/// Sends the request, and gives up when the exchange's time is over.
async fn send_by(
    deadline: Instant,
    talk: &mut Talk<'_>,
    outgoing: Outgoing,
) -> Result<Answered, Failure> {
    let sent = tokio::time::timeout_at(deadline.into(), send(talk, outgoing)).await;
    sent.unwrap_or(Err(Failure::TooLong))
}

/// Sends the request to one node after another until one answers or the rules forbid another try.
async fn send(talk: &mut Talk<'_>, mut outgoing: Outgoing) -> Result<Answered, Failure> {
    let service = outgoing.service.clone();
    service.deposit();
    let mut tried: Vec<NodeId> = Vec::new();
    let mut next = None;
    for tries in 1.. {
        let lease = match next.take() {
            Some(lease) => lease,
            None => {
                let now = talk.record.time_of_try(tries);
                let picking = service.pick(now, &outgoing.asked, &mut tried);
                talk.while_there(picking).await?
            }
        };
        talk.record.tried(&lease, tries);
        talk.record.tell_trace(&mut outgoing.head);
        let Won { lease, outcome } = once(talk, lease, &mut outgoing, &mut tried).await;
        let setback = match (outcome, lease) {
            (Ok((node, mut response)), Some(lease)) => {
                let latency = service.answered(&lease, Some(response.status));
                talk.record.try_answered(&lease, response.status, latency);
                next = outgoing.another(talk, &response, tries, &lease, &mut tried);
                if next.is_none() {
                    service.promise(&outgoing.asked, &lease, &mut response.fields);
                    return Ok(Answered {
                        response,
                        node,
                        lease,
                        service,
                        upload: outgoing.upload,
                        latency,
                    });
                }
                talk.record.received = outgoing.upload.bytes;
                outgoing.upload.repeat(talk.manner.has_body);
                if response.framing == Framing::Empty {
                    lease.give_back(node);
                }
                continue;
            }
            (Ok(_), None) => unreachable!("who has answered was lent"),
            (Err(setback), Some(lease)) if setback.blames_node => {
                talk.record
                    .try_failed(Some(&lease), setback.failure.ended());
                let worker = talk.client.worker();
                worker.suspect(&service, &lease.upstream.endpoint);
                tried.push(lease.node().clone());
                setback
            }
            (Err(setback), lease) => {
                talk.record
                    .try_failed(lease.as_ref(), setback.failure.ended());
                if let (Failure::Silent, Some(lease)) = (&setback.failure, &lease) {
                    service.unanswered(lease);
                }
                setback
            }
        };
        talk.record.received = outgoing.upload.bytes;
        let mut may_go_on = outgoing.may_go_again(&setback) && tries < service.policy.max_tries;
        if may_go_on && matches!(setback.failure, Failure::TrySilent) {
            // Nobody waits for another node while the one that is there is merely slow.
            next = service.pick_another(&outgoing.asked, &tried);
            may_go_on = next.is_some();
        }
        if !may_go_on {
            return Err(setback.failure);
        }
        if !service.may_retry() {
            talk.record.retry_denied();
            return Err(setback.failure);
        }
        outgoing.upload.repeat(talk.manner.has_body);
    }
    unreachable!("the loop ends by returning")
}

/// One try, which may go to two nodes.
async fn once(
    talk: &mut Talk<'_>,
    mut lease: Lease,
    outgoing: &mut Outgoing,
    tried: &mut Vec<NodeId>,
) -> Won {
    let policy = &outgoing.service.policy.tries;
    let timeout = policy.try_timeout;
    let hedge_after = policy.hedge_after.filter(|_| may_hedge(outgoing));
    if timeout.is_none() && hedge_after.is_none() {
        let outcome = attempt(talk, &mut lease, outgoing).await;
        let lease = Some(lease);
        return Won { lease, outcome };
    }
    let node = lease.node().clone();
    // Boxed, so that a try without timers is not made larger by those with.
    let tries = Box::pin(async {
        let Some(hedge_after) = hedge_after else {
            let outcome = attempt(talk, &mut lease, outgoing).await;
            let lease = Some(lease);
            return Won { lease, outcome };
        };
        let mut race = Race::new(lease, hedge_after, outgoing, tried);
        let won = poll_fn(|cx| race.poll(cx, talk)).await;
        talk.lifeline.until(None);
        won
    });
    let Some(timeout) = timeout else {
        return tries.await;
    };
    if let Ok(won) = tokio::time::timeout(timeout, tries).await {
        return won;
    }
    talk.lifeline.until(None);
    tried.push(node);
    let mut setback = Setback::ends_it(Failure::TrySilent);
    setback.is_final = false;
    Won {
        lease: None,
        outcome: Err(setback),
    }
}

impl Outgoing {
    /// Another node for a request whose answer is not good enough, if there is one at once: a poor answer is better than none.
    fn another(
        &self,
        talk: &mut Talk<'_>,
        response: &Response,
        tries: u32,
        lease: &Lease,
        tried: &mut Vec<NodeId>,
    ) -> Option<Lease> {
        let policy = &self.service.policy;
        let is_poor = policy.tries.retry_on.contains(&response.status.as_u16());
        let may_go = is_poor
            && tries < policy.max_tries
            && may_repeat(&self.head)
            && self.upload.can_repeat();
        if !may_go {
            return None;
        }
        tried.push(lease.node().clone());
        let another = self.service.pick_another(&self.asked, tried)?;
        if !self.service.may_retry() {
            talk.record.retry_denied();
            return None;
        }
        Some(another)
    }

    fn may_go_again(&self, setback: &Setback) -> bool {
        // The time for an answer is over once a node was silent; another try would double the wait.
        if setback.is_final || matches!(setback.failure, Failure::Silent) {
            return false;
        }
        let replay = if self.upload.can_repeat() {
            Replay::Whole
        } else {
            Replay::WhileUntouched
        };
        if !setback.was_sent {
            return replay == Replay::Whole || !self.upload.has_begun();
        }
        replay == Replay::Whole
            && (may_repeat(&self.head)
                || retry::is_safe(retry::Failure::Sent, &self.head.method, replay))
    }
}

/// An attempt that brought no answer.
pub(super) struct Setback {
    pub(super) failure: Failure,
    /// The failure speaks against the node, not merely against an old connection to it.
    pub(super) blames_node: bool,
    /// The node may have seen some of the request.
    was_sent: bool,
    /// It is the client's doing, or the end of the exchange's time.
    pub(super) is_final: bool,
}

impl Setback {
    fn before_sending(failure: Failure, blames_node: bool) -> Self {
        Self {
            failure,
            blames_node,
            was_sent: false,
            is_final: false,
        }
    }

    pub(super) fn ends_it(failure: Failure) -> Self {
        Self {
            failure,
            blames_node: false,
            was_sent: true,
            is_final: true,
        }
    }
}

/// Sends the request once and waits for the answer's head.
async fn attempt(
    talk: &mut Talk<'_>,
    lease: &mut Lease,
    outgoing: &mut Outgoing,
) -> Result<(Node, Response), Setback> {
    let mut node = connect(lease, outgoing).await?;
    if !node.is_reused() {
        lease.connected();
        talk.record.connected();
    }
    let mut waiting = Waiting {
        upload: &mut outgoing.upload,
        response_head_timeout: outgoing.service.policy.response_head_timeout,
        answer_by_ms: None,
        forerunners: 0,
        pace: talk.pace_rule(),
    };
    let answered = poll_fn(|cx| waiting.poll(cx, talk, &mut node)).await;
    talk.lifeline.until(None);
    match answered {
        Ok(response) => Ok((node, response)),
        Err(setback) => Err(setback.unless_reused(&node)),
    }
}

pub(super) async fn connect(lease: &mut Lease, outgoing: &Outgoing) -> Result<Node, Setback> {
    let unreachable = |err| Setback::before_sending(Failure::Unreachable(err), true);
    let metrics = &outgoing.service.metrics;
    let failed = |_: &_| metrics.dial_failures.increment(1);
    match outgoing.wire {
        Wire::Http1 => {
            let dialled = lease.upstream.http1().await.inspect_err(failed);
            let mut node = dialled.map_err(unreachable)?;
            node.ask(&outgoing.head);
            Ok(node)
        }
        Wire::Http2 => {
            let dialled = lease.upstream.http2().await.inspect_err(failed);
            let streams = dialled.map_err(unreachable)?;
            let is_whole = outgoing.head.framing == Framing::Empty;
            let asked = streams
                .ask(&outgoing.head, lease.upstream.has_tls(), is_whole)
                .await;
            // A shared connection that takes no more streams was closed by the node some time ago.
            asked.map_err(|err| Setback::before_sending(err.into(), false))
        }
    }
}

/// From the request's head to the answer's.
struct Waiting<'a> {
    upload: &'a mut Upload,
    response_head_timeout: Duration,
    /// Known once the whole request has gone.
    answer_by_ms: Option<u64>,
    forerunners: u32,
    pace: PaceRule,
}

impl Waiting<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        talk: &mut Talk<'_>,
        node: &mut Node,
    ) -> Poll<Result<Response, Setback>> {
        talk.lifeline.register(cx);
        if talk.lifeline.is_cut() {
            return Poll::Ready(Err(Setback::ends_it(Failure::Drained)));
        }
        self.poll_upload(cx, talk, node)?;
        if let Poll::Ready(answered) = self.poll_answer(cx, talk, node)? {
            return Poll::Ready(Ok(answered));
        }
        if !talk.side.is_flushed() && matches!(talk.side.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(Err(Setback::ends_it(Failure::ClientGone)));
        }
        if self.upload.is_over() && talk.side.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Setback::ends_it(Failure::ClientGone)));
        }
        if talk.lifeline.is_due() {
            self.due(cx, talk)?;
        }
        talk.lifeline.until(self.deadline_ms(talk));
        Poll::Pending
    }

    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        talk: &mut Talk<'_>,
        node: &mut Node,
    ) -> Result<(), Setback> {
        let clock = talk.lifeline.clock();
        match self.upload.poll(cx, clock, talk.side, &mut node.side) {
            Poll::Ready(Err(UploadError::Client(err))) => Err(Setback::ends_it(of_client(err))),
            Poll::Ready(_) | Poll::Pending => Ok(()),
        }
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        talk: &mut Talk<'_>,
        node: &mut Node,
    ) -> Result<Poll<Response>, Setback> {
        while let Poll::Ready(answer) = node.poll_answer(cx, false) {
            let head = answer.map_err(gone)?;
            if !head.status.is_informational() {
                return Ok(Poll::Ready(head));
            }
            self.forerunners += 1;
            if self.forerunners > FORERUNNERS_MAX {
                return Err(gone(AskError::Closed));
            }
            if head.status == StatusCode::CONTINUE {
                self.upload.open_gate();
            }
            answer::send_forerunner(talk, head);
            self.poll_upload(cx, talk, node)?;
        }
        Ok(Poll::Pending)
    }

    /// The earliest moment at which somebody will have taken too long.
    fn deadline_ms(&mut self, talk: &Talk<'_>) -> Option<u64> {
        if !self.upload.is_over() {
            return self.upload.deadline_ms(self.pace);
        }
        let timeout = self.response_head_timeout;
        let answer_by = self
            .answer_by_ms
            .get_or_insert_with(|| talk.lifeline.clock().after(timeout));
        Some(*answer_by)
    }

    fn due(&mut self, cx: &mut Context<'_>, talk: &mut Talk<'_>) -> Result<(), Setback> {
        let clock = talk.lifeline.clock();
        if self.upload.is_gate_due(clock) {
            // The node says nothing: the client is told to go on, as it would have done by itself.
            self.upload.open_gate();
            answer::send_continue(talk);
            cx.waker().wake_by_ref();
        } else if self.upload.is_too_slow(self.pace, clock) {
            return Err(Setback::ends_it(Failure::ClientSlow));
        } else if self.answer_by_ms.is_some_and(|it| it <= clock.now_ms()) {
            return Err(Setback {
                failure: Failure::Silent,
                blames_node: false,
                was_sent: true,
                is_final: false,
            });
        }
        Ok(())
    }
}

pub(super) fn gone(err: AskError) -> Setback {
    Setback {
        failure: Failure::Gone(err),
        blames_node: true,
        was_sent: true,
        is_final: false,
    }
}

impl Setback {
    /// An old connection that closes unused is how nodes tidy up, not how they fail.
    pub(super) fn unless_reused(mut self, node: &Node) -> Self {
        let closed = matches!(
            self.failure,
            Failure::Gone(AskError::Closed | AskError::Read(ReadError::Io(_)))
        );
        self.blames_node &= !(closed && node.is_reused());
        self
    }
}

/// What the client did, in the words of a failure.
pub(super) fn of_client(err: SideError) -> Failure {
    match err {
        SideError::Read(ReadError::Chunks(err)) => Failure::BadBody(err),
        SideError::Read(ReadError::Head(err)) => Failure::BadHead(err),
        _ => Failure::ClientGone,
    }
}

impl From<HeadError> for Failure {
    fn from(err: HeadError) -> Self {
        match err {
            HeadError::BadRequest(err) => Self::BadRequest(err),
            HeadError::Field => Self::BadRequest(forwarded::BadRequest::InvalidTarget),
        }
    }
}
