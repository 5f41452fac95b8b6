//! A name server for one name: it answers every question for addresses with those it was given last.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::UdpSocket, task::JoinHandle};

/// RFC 1035 §4.1.1.
const HEADER_BYTES: usize = 12;
/// RFC 1035 §3.2.2.
const TYPE_A: [u8; 2] = [0, 1];
/// A message over UDP, RFC 1035 §2.3.4; larger questions are not asked.
const MESSAGE_BYTES_MAX: usize = 512;
/// How long an answer may be believed, in seconds.
const TTL: u32 = 1;

/// A running name server; dropped, it is gone.
#[derive(Debug)]
pub struct Names {
    address: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
    server: JoinHandle<()>,
}

impl Names {
    pub async fn start(addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let socket = socket.expect("loopback can be bound");
        let address = socket.local_addr().expect("a bound socket has an address");
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let server = tokio::spawn(serve(socket, addresses.clone()));
        Self {
            address,
            addresses,
            server,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the name stands for from here on.
    pub fn change(&self, addresses: &[Ipv4Addr]) {
        *self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = addresses.to_vec();
    }

    /// Questions go unanswered from here on.
    pub fn die(&self) {
        self.server.abort();
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(socket: UdpSocket, addresses: Arc<Mutex<Vec<Ipv4Addr>>>) {
    let mut question = [0; MESSAGE_BYTES_MAX];
    while let Ok((n, from)) = socket.recv_from(&mut question).await {
        let current = addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(answer) = answer(&question[..n], &current) {
            // Whoever asked asks again if this is lost.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// None for what is not a question with one name in it.
fn answer(message: &[u8], addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let name_len = message
        .get(HEADER_BYTES..)?
        .iter()
        .position(|it| *it == 0)?
        + 1;
    let question = message.get(HEADER_BYTES..HEADER_BYTES + name_len + 4)?;
    let asks_for_a = question[name_len..name_len + 2] == TYPE_A;
    let addresses = if asks_for_a { addresses } else { &[] };
    let mut answer = message[..2].to_vec();
    // A response, authoritative, recursion desired and available, no error; one question.
    answer.extend([
        0x85,
        0x80,
        0,
        1,
        0,
        u8::try_from(addresses.len()).ok()?,
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    for address in addresses {
        // The name is the one at byte 12; type A, class IN, time to live, four bytes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_for_an_address_is_answered_and_any_other_is_empty() {
        let question = |kind: u8| {
            let mut it = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            it.extend([1, b'a', 0, 0, kind, 0, 1]);
            it
        };
        let address = Ipv4Addr::new(127, 0, 0, 2);
        let full = answer(&question(1), &[address]).expect("it is a question");
        assert_eq!((full[7], &full[full.len() - 4..]), (1, &[127, 0, 0, 2][..]));
        let empty = answer(&question(28), &[address]).expect("it is a question");
        assert_eq!((empty[7], empty.len()), (0, 19));
        assert_eq!(answer(&[0; 5], &[address]), None);
    }
}
