//! What is remembered of a client whose bytes are relayed as they are: told when it begins to last, and when it ends.

use std::{sync::Arc, time::Instant};

use super::{Ended, story};
use crate::{
    accept::ClientConnection,
    explain::{Kind, Live, Story},
    forward::Dial,
    pick::Service,
};

/// Dropping it says that the balancer let go of it.
#[derive(Debug)]
pub(crate) struct Relayed {
    client: Arc<ClientConnection>,
    began: Instant,
    story: Story,
    live: Option<Live>,
    ended: Ended,
}

impl Relayed {
    pub(crate) fn begin(client: Arc<ClientConnection>, service: &Service) -> Self {
        let page = &client.worker().page;
        let story = Story {
            kind: Kind::Relay,
            listener: page.name(client.listener().name.as_str()),
            service: page.name(service.name.as_str()),
            ..Story::default()
        };
        Self {
            client,
            began: Instant::now(),
            story,
            live: None,
            ended: Ended::ClientGone,
        }
    }

    pub(crate) fn dialled(&mut self, dial: Dial<'_>) {
        let after = self.began.elapsed();
        let (story, worker) = (&mut self.story, self.client.worker());
        match dial {
            Dial::Tried(lease, _) => story::begin_try(story, worker, lease, after),
            Dial::Reached => story::connected(story, after),
            Dial::Failed(lease) => story::fail_try(story, worker, Some(lease), Ended::Unreachable),
            Dial::Denied => story.retries_denied = story.retries_denied.saturating_add(1),
        }
    }

    /// Both sides are there, and may stay long.
    pub(crate) fn begins(&mut self) {
        self.story.began_us = story::began_us(self.began.elapsed());
        self.live = self.client.worker().page.live(&self.story);
    }

    pub(crate) fn end(&mut self, ended: Ended) {
        self.ended = ended;
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.story.began_us = story::began_us(took);
        self.story.took_us = took.as_micros() as u64;
        story::finish(&mut self.story, self.ended);
        self.client.worker().page.ended(&self.story);
    }
}
