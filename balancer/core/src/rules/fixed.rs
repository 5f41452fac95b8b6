//! An answer that is the same for everybody, which no node is asked for.

use bytes::Bytes;
use http::{Method, StatusCode, Version};

use super::{fields::FieldRules, template::Variables};
use crate::message::{Framing, Known, Request, Response};

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedAnswer {
    pub status: StatusCode,
    pub content_type: Box<str>,
    pub fields: FieldRules,
    pub body: Bytes,
    /// Of an answer that a client may keep, the tag by which it asks whether it changed; in its quotes.
    pub etag: Option<Box<str>>,
}

impl FixedAnswer {
    /// The head of the answer to a request, and whether the body follows it.
    pub fn answer(&self, head: &Request, variables: &Variables<'_>) -> (Response, bool) {
        let is_known = self.is_known_to(head);
        let status = if is_known {
            StatusCode::NOT_MODIFIED
        } else {
            self.status
        };
        let mut response = Response::new(status, Version::HTTP_11);
        if !is_known {
            self.describe_body(&mut response);
        }
        if let Some(etag) = &self.etag {
            response.fields.push_known(Known::Etag, etag.as_bytes());
        }
        self.fields.apply(&mut response.fields, variables);
        (response, !is_known && !self.body.is_empty())
    }

    fn describe_body(&self, response: &mut Response) {
        if self.status == StatusCode::NO_CONTENT {
            return;
        }
        let length = self.body.len() as u64;
        response.framing = Framing::Length(length);
        let fields = &mut response.fields;
        if length > 0 {
            fields.push_known(Known::ContentType, self.content_type.as_bytes());
        }
        let mut digits = itoa::Buffer::new();
        fields.push_known(Known::ContentLength, digits.format(length).as_bytes());
    }

    /// Whether the client has this answer already (RFC 9110 §13.1.2).
    fn is_known_to(&self, head: &Request) -> bool {
        let Some(etag) = &self.etag else {
            return false;
        };
        let is_read = head.method == Method::GET || head.method == Method::HEAD;
        is_read
            && head
                .fields
                .lines_named("if-none-match")
                .any(|line| names(line, etag.as_bytes()))
    }
}

/// Whether a list of tags has this one; a weak one counts as well.
fn names(list: &[u8], etag: &[u8]) -> bool {
    let tag = |it: &[u8]| {
        let it = it.trim_ascii();
        it == b"*" || it.strip_prefix(b"W/").unwrap_or(it) == etag
    };
    // Tags of ours have no comma in them, so that one of another's that does is taken apart in vain.
    list.split(|it| *it == b',').any(tag)
}

#[cfg(test)]
mod tests {
    use super::{super::template::tests::ASKED, *};

    #[test]
    fn who_has_it_already_is_told_so() {
        for (method, asked, expected) in [
            (Method::GET, None, 200),
            (Method::GET, Some("\"a\""), 304),
            (Method::HEAD, Some("\"x\", W/\"a\""), 304),
            (Method::GET, Some("*"), 304),
            (Method::GET, Some("\"b\""), 200),
            (Method::GET, Some("a"), 200),
            (Method::POST, Some("\"a\""), 200),
        ] {
            let mut head = Request::new(method, Version::HTTP_11, None, b"/");
            if let Some(asked) = asked {
                head.fields.push(b"If-None-Match", asked.as_bytes());
            }
            let (response, has_body) = fixed(200).answer(&head, &ASKED);
            assert_eq!(response.status, expected, "{asked:?}");
            assert_eq!(has_body, expected == 200);
            assert_eq!(response.fields.get(Known::Etag), Some(&b"\"a\""[..]));
            assert_eq!(response.fields.has(Known::ContentLength), expected == 200);
        }
    }

    fn fixed(status: u16) -> FixedAnswer {
        FixedAnswer {
            status: StatusCode::from_u16(status).expect("a status in range"),
            content_type: "text/plain".into(),
            fields: FieldRules::default(),
            body: Bytes::from_static(b"hello"),
            etag: Some("\"a\"".into()),
        }
    }
}
