//! The running program's side of a takeover: offers its sockets to whoever of its own user asks, one at a time.

use std::{
    io,
    net::TcpListener,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::wire::{self, DoorOffer, Message, WireError};
use crate::{config::Takeover, net, observe::TakeoverMetrics, watch::Order, world::Offered};

/// How long each word but the last may take.
const WORD_WITHIN: Duration = Duration::from_secs(5);

/// Waited after a failure to accept, which only time can mend.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// What is needed to hand over.
pub(crate) struct Elder {
    /// Absent where the predecessor listens there still.
    pub(crate) listener: Option<UnixListener>,
    pub(crate) config: Takeover,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) admin: TcpListener,
    /// Whoever asks at the admin address is to reach the successor.
    pub(crate) admin_ends: CancellationToken,
    pub(crate) metrics: TakeoverMetrics,
    /// Fires when a successor has taken over.
    pub(crate) succeeded: Arc<Notify>,
}

impl Elder {
    /// Listens for successors on a thread of its own, which ends with the process or when one has taken over.
    ///
    /// # Errors
    /// When the socket cannot be put where it should be, or no thread can be had.
    pub(crate) fn start(mut self) -> io::Result<()> {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => net::listen_at_path(&self.config.socket)?,
        };
        std::thread::Builder::new()
            .name("takeover".to_owned())
            .spawn(move || self.serve(&listener))?;
        Ok(())
    }

    fn serve(&self, listener: &UnixListener) {
        loop {
            match listener.accept() {
                Ok((stream, _)) => match self.hand_over(stream) {
                    Ok(()) => {
                        self.metrics.completed.increment(1);
                        self.admin_ends.cancel();
                        return self.succeeded.notify_one();
                    }
                    Err(err) => {
                        self.metrics.abandoned.increment(1);
                        tracing::warn!(%err, "nobody took over: going on");
                    }
                },
                Err(err) => {
                    tracing::warn!(%err, "accepting a successor");
                    std::thread::park_timeout(ACCEPT_BACKOFF);
                }
            }
        }
    }

    fn hand_over(&self, mut stream: UnixStream) -> Result<(), WireError> {
        stream.set_write_timeout(Some(WORD_WITHIN))?;
        stream.set_read_timeout(Some(WORD_WITHIN))?;
        wire::check_peer(&stream)?;
        match wire::receive(&mut stream)? {
            Message::Hello { version } if version == wire::VERSION => {}
            Message::Hello { version } => {
                let err = WireError::Version(version);
                let reason = err.to_string();
                wire::send(&mut stream, &Message::Refused { reason })?;
                return Err(err);
            }
            _ => return Err(WireError::Unexpected),
        }
        self.offer(&mut stream)?;
        tracing::info!("a successor is starting");
        let handed_over = self.until_ready(&mut stream);
        if let Err(err) = &handed_over {
            // The view may have gone with the whole process.
            let _ = self.orders.blocking_send(Order::TakeBack);
            // An heir that hears nothing takes its elder for dead; one that lives on has to say so.
            let reason = err.to_string();
            let _ = wire::send(&mut stream, &Message::Refused { reason });
        }
        handed_over
    }

    fn offer(&self, stream: &mut UnixStream) -> Result<(), WireError> {
        let doors = self.ask(Order::Offer)??;
        let offer = Message::Offer {
            doors: doors.iter().map(door_offer).collect(),
            has_admin: true,
        };
        wire::send(stream, &offer)?;
        let sockets = doors.iter().flat_map(|it| &it.sockets);
        let sockets: Vec<_> = sockets.chain([&self.admin]).map(AsFd::as_fd).collect();
        wire::send_sockets(stream, &sockets)
    }

    fn until_ready(&self, stream: &mut UnixStream) -> Result<(), WireError> {
        stream.set_read_timeout(Some(self.config.ready_timeout))?;
        let Message::Ready { serves } = wire::receive(stream)? else {
            return Err(WireError::Unexpected);
        };
        self.ask(|reply| Order::HandOver(serves, reply))?;
        wire::send(stream, &Message::Going)
    }

    fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, WireError> {
        let (reply, answer) = oneshot::channel();
        let refused = || WireError::Refused("the balancer is leaving".to_owned());
        self.orders
            .blocking_send(order(reply))
            .map_err(|_| refused())?;
        answer.blocking_recv().map_err(|_| refused())
    }
}

fn door_offer(door: &Offered) -> DoorOffer {
    DoorOffer {
        name: door.name.clone(),
        configured: door.configured,
        bound: door.bound,
        n_sockets: door.sockets.len(),
    }
}
