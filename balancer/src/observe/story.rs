//! What is remembered of an exchange for `balancer explain`: gathered while it goes on, told when it ends.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use balancer_core::load::Nanos;
use http::StatusCode;

use super::{Ended, Exchange};
use crate::{
    explain::{Candidate, Kind, Story, Try, TryEnd},
    pick::Lease,
    worker::Worker,
};

/// Another node is asked; whoever was asked before has failed, or there would be no other try.
pub(super) fn begin_try(story: &mut Story, worker: &Worker, lease: &Lease, after: Duration) {
    if let Some(before) = story.tries.last() {
        before.end = TryEnd::Failed;
    }
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

/// An answer begins; whether it is the node's own is known when it has ended.
pub(super) fn begin_answer(story: &mut Story, began: Instant) {
    if let Some(last) = story.tries.last() {
        last.first_byte_us = micros(began.elapsed()).saturating_sub(last.began_us).max(1);
    }
}

pub(super) fn remember(exchange: &mut Exchange, ended: Ended, took: Duration) {
    let worker = exchange.client.worker().clone();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let story = &mut exchange.story;
    story.began_us = now.saturating_sub(took).as_micros() as u64;
    story.took_us = took.as_micros() as u64;
    story.sent = exchange.sent;
    story.received = exchange.received;
    story.status = exchange.status.as_u16();
    story.listener = worker.page.name(exchange.client.listener().name.as_str());
    if let Some(service) = &exchange.service {
        story.service = worker.page.name(service.name.as_str());
    }
    if exchange.status == StatusCode::SWITCHING_PROTOCOLS
        || matches!(ended, Ended::TunnelClosed | Ended::TunnelCut)
    {
        story.kind = Kind::Tunnel;
    }
    story.ended = Some(ended.into());
    if let Some(last) = story.tries.last() {
        end_try(last, ended);
    }
    worker.page.ended(story);
}

fn end_try(last: &mut Try, ended: Ended) {
    last.end = match ended {
        Ended::NodeGone => TryEnd::Gone,
        Ended::NodeSilent => TryEnd::Silent,
        Ended::Unreachable => TryEnd::Unreachable,
        Ended::NoEndpoint | Ended::QueueFull => TryEnd::Failed,
        Ended::ClientGone if last.first_byte_us == 0 => TryEnd::ClientGone,
        _ => TryEnd::Answered,
    };
    if last.end != TryEnd::Answered {
        // What began then was our own answer.
        last.first_byte_us = 0;
    }
}

fn micros(span: Duration) -> u32 {
    span.as_micros().try_into().unwrap_or(u32::MAX)
}
