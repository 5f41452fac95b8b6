//! An honest origin on a thread of its own, so that an attacker that keeps the test's thread busy does not slow its answers.

use std::{net::SocketAddr, sync::mpsc, thread};

use tokio::{runtime, sync::oneshot};

use crate::origin::web::{Speaks, Web};

/// A running origin; dropped, it is gone.
#[derive(Debug)]
pub struct Apart {
    web: Option<Web>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Apart {
    pub fn start(speaks: Speaks) -> Self {
        let (started, web) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be built").block_on(async {
                let web = Web::start(speaks).await;
                if started.send(web).is_ok() {
                    // Either end of this channel going away means the same.
                    let _ = stopped.await;
                }
            });
        });
        Self {
            web: Some(web.recv().expect("the origin starts")),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.web().address()
    }

    pub fn requests(&self) -> usize {
        self.web().requests()
    }

    fn web(&self) -> &Web {
        self.web.as_ref().expect("it is taken only at the end")
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(self.web.take());
        drop(self.stop.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(
            ended.is_none_or(|it| it.is_ok()) || thread::panicking(),
            "the origin's thread must not panic"
        );
    }
}
