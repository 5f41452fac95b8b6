//! The node's `Whoami/Echo` as gRPC traffic: each message comes back with the id of the node that carries the stream.

use std::borrow::Cow;

use prost::Message;
use proto::v1::{EchoReply, EchoRequest};

use super::content::pattern;
use super::grpc::{Call, Shape};

/// Streams of `messages` messages each, with a payload of this many bytes.
pub fn echo(authority: &str, messages: u64, payload: usize) -> Call {
    let request = EchoRequest {
        payload: pattern(payload),
    };
    Call {
        authority: authority.to_owned(),
        path: "/colonnade.v1.Whoami/Echo".to_owned(),
        message: request.encode_to_vec().into(),
        shape: Shape::Stream { messages },
        read,
    }
}

/// The payload that comes back must be a beginning of the pattern, as every payload sent is.
fn read(message: &[u8]) -> Result<Option<Cow<'_, str>>, String> {
    let reply = EchoReply::decode(message).map_err(|cause| cause.to_string())?;
    if pattern(reply.payload.len()) != reply.payload {
        return Err("the payload differs".to_owned());
    }
    Ok(Some(Cow::Owned(reply.node_id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_its_node() {
        let reply = reply(b"n-1", &pattern(64));
        assert_eq!(read(&reply).expect("it is whole"), Some("n-1".into()));
    }

    #[test]
    fn a_changed_payload_is_noticed() {
        assert!(read(&reply(b"n-1", b"something else")).is_err());
        assert!(read(b"\xff").is_err());
    }

    fn reply(node: &[u8], payload: &[u8]) -> Vec<u8> {
        let node_id = String::from_utf8_lossy(node).into_owned();
        let (sequence, payload) = (1, payload.to_vec().into());
        EchoReply {
            node_id,
            sequence,
            payload,
        }
        .encode_to_vec()
    }
}
