//! What is remembered of an exchange for `balancer explain`: gathered while it goes on, told when it ends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use balancer_core::load::Nanos;
use http::Version;

use super::{Ended, Exchange};
use crate::{
    explain::{Candidate, Kind, Story, Try, TryEnd},
    pick::Lease,
    worker::Worker,
};

pub(super) fn begin(spoken: Version, asks_grpc: bool) -> Story {
    let kind = match spoken {
        _ if asks_grpc => Kind::Grpc,
        Version::HTTP_2 => Kind::Http2,
        _ => Kind::Http1,
    };
    Story {
        kind,
        ..Story::default()
    }
}

/// A node is asked.
pub(super) fn begin_try(story: &mut Story, worker: &Worker, lease: &Lease, after: Duration) {
    let load = &lease.upstream.endpoint.load;
    let now = Nanos(worker.epoch.elapsed().as_nanos() as u64);
    story.tries.push(Try {
        picked: Candidate {
            node: worker.page.name(lease.node().as_str()),
            latency_us: load.latency(now).map_or(0, micros),
            in_flight: load.in_flight().try_into().unwrap_or(u16::MAX),
        },
        began_us: micros(after),
        ..Try::default()
    });
}

/// A connection was made for the last try, so long after the exchange began.
pub(super) fn connected(story: &mut Story, after: Duration) {
    if let Some(last) = story.tries.last() {
        last.connect_us = micros(after).saturating_sub(last.began_us).max(1);
    }
}

/// The node's answer begins, which is the end of every other try.
pub(super) fn answered(story: &mut Story, worker: &Worker, lease: &Lease, latency: Duration) {
    let node = worker.page.name(lease.node().as_str());
    for it in story.tries.under_way() {
        if it.picked.node == node {
            it.end = TryEnd::Answered;
            it.first_byte_us = micros(latency).max(1);
        } else {
            it.end = TryEnd::Overtaken;
        }
    }
}

/// Of the tries that are under way the one at this node has failed, or all have.
pub(super) fn fail_try(story: &mut Story, worker: &Worker, lease: Option<&Lease>, why: Ended) {
    let node = lease.map(|it| worker.page.name(it.node().as_str()));
    let is_it = |it: &&mut Try| node.is_none_or(|node| it.picked.node == node);
    let end = end_of_try(why);
    story
        .tries
        .under_way()
        .filter(is_it)
        .for_each(|it| it.end = end);
}

/// What is known of the exchange as a whole.
pub(super) fn fill(exchange: &mut Exchange, took: Duration) {
    let page = &exchange.client.worker().page;
    let story = &mut exchange.story;
    story.began_us = began_us(took);
    story.took_us = took.as_micros() as u64;
    story.sent = exchange.sent;
    story.received = exchange.received;
    story.status = exchange.status.as_u16();
    story.listener = page.name(exchange.client.listener().name.as_str());
    if let Some(service) = &exchange.service {
        story.service = page.name(service.name.as_str());
    }
}

pub(super) fn remember(exchange: &mut Exchange, ended: Ended, took: Duration) {
    fill(exchange, took);
    finish(&mut exchange.story, ended);
    exchange.client.worker().page.ended(&exchange.story);
}

pub(super) fn finish(story: &mut Story, ended: Ended) {
    story.ended = Some(ended.into());
    let end = match (story.kind, ended) {
        // Somebody answered, or there would have been no tunnel.
        (Kind::Tunnel | Kind::Relay, Ended::TunnelClosed | Ended::TunnelCut) => TryEnd::Answered,
        _ => end_of_try(ended),
    };
    story.tries.under_way().for_each(|it| it.end = end);
    if let Some(last) = story.tries.last()
        && ended == Ended::NodeGone
    {
        // It answered what cannot be passed on.
        last.end = TryEnd::Gone;
        last.first_byte_us = 0;
    }
}

/// How the try under way ended when the exchange ended like this.
pub(super) fn end_of_try(ended: Ended) -> TryEnd {
    match ended {
        Ended::NodeGone => TryEnd::Gone,
        Ended::NodeSilent => TryEnd::Silent,
        Ended::Unreachable => TryEnd::Unreachable,
        Ended::ClientGone | Ended::ClientSlow => TryEnd::ClientGone,
        _ => TryEnd::Failed,
    }
}

/// When something began that took so long.
pub(super) fn began_us(took: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().saturating_sub(took).as_micros() as u64
}

fn micros(span: Duration) -> u32 {
    span.as_micros().try_into().unwrap_or(u32::MAX)
}
