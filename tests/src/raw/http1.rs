//! The strictest reader of HTTP/1.1 requests: whatever RFC 9112 lets two readers see differently is broken here.

use std::borrow::Cow;

/// A request as the strict reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub host: String,
    /// Names in lower case, values without the space around them.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What stands at the beginning of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// So far good, and not at its end.
    NeedMore,
    Whole(Box<Request>, usize),
    Broken(&'static str),
}

/// Where a body ends.
enum Framing {
    Length(usize),
    Chunked,
}

enum Never {
    More,
    Broken(&'static str),
}

type Step<T> = Result<T, Never>;

/// Reads the first request.
pub fn read_request(bytes: &[u8]) -> Read {
    match request(bytes) {
        Ok((request, used)) => Read::Whole(Box::new(request), used),
        Err(Never::More) => Read::NeedMore,
        Err(Never::Broken(why)) => Read::Broken(why),
    }
}

impl Request {
    /// The values of a field, joined as RFC 9110 §5.3 does.
    pub fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut values = self.fields.iter().filter(|(it, _)| it == name);
        let first = Cow::Borrowed(values.next()?.1.as_str());
        Some(values.fold(first, |joined, (_, it)| format!("{joined}, {it}").into()))
    }
}

fn request(bytes: &[u8]) -> Step<(Request, usize)> {
    let end = head_end(bytes)?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| Never::Broken("not UTF-8"))?;
    let mut lines = head.split("\r\n");
    let (method, target) = request_line(lines.next().unwrap_or_default())?;
    let fields = lines
        .take_while(|it| !it.is_empty())
        .map(field)
        .collect::<Step<Vec<_>>>()?;
    let host = only(&fields, "host")?.ok_or(Never::Broken("no host"))?;
    let (body, used) = match framing(&fields)? {
        Framing::Length(n) => {
            let body = bytes.get(end..end + n).ok_or(Never::More)?;
            (body.to_vec(), n)
        }
        Framing::Chunked => chunks(&bytes[end..])?,
    };
    let request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        host: host.to_owned(),
        fields,
        body,
    };
    Ok((request, end + used))
}

/// Where the head ends, every line of which must end as RFC 9112 §2.2 says and hold nothing that could be an end.
fn head_end(bytes: &[u8]) -> Step<usize> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n");
    let looked_at = end.map_or(bytes, |it| &bytes[..it + 4]);
    let mut before = 0;
    for (at, byte) in looked_at.iter().enumerate() {
        match byte {
            0 => return Err(Never::Broken("a NUL in the head")),
            b'\n' if before != b'\r' => return Err(Never::Broken("a bare LF in the head")),
            b'\r' if looked_at.get(at + 1).is_some_and(|it| *it != b'\n') => {
                return Err(Never::Broken("a bare CR in the head"));
            }
            _ => before = *byte,
        }
    }
    Ok(end.ok_or(Never::More)? + 4)
}

fn request_line(line: &str) -> Step<(&str, &str)> {
    let parts: Vec<_> = line.split(' ').collect();
    let &[method, target, "HTTP/1.1"] = parts.as_slice() else {
        return Err(Never::Broken("a bad request line"));
    };
    let is_visible = |it: u8| it.is_ascii_graphic() || it >= 0x80;
    if !is_token(method) || target.is_empty() || !target.bytes().all(is_visible) {
        return Err(Never::Broken("a bad method or target"));
    }
    Ok((method, target))
}

fn field(line: &str) -> Step<(String, String)> {
    let (name, value) = line.split_once(':').ok_or(Never::Broken("no colon"))?;
    if !is_token(name) {
        return Err(Never::Broken("a bad field name"));
    }
    if value.bytes().any(|it| it.is_ascii_control() && it != b'\t') {
        return Err(Never::Broken("a control character in a field"));
    }
    let value = value.trim_matches([' ', '\t']);
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

fn only<'a>(fields: &'a [(String, String)], name: &str) -> Step<Option<&'a str>> {
    let mut values = fields.iter().filter(|(it, _)| it == name);
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Never::Broken("a field that may stand once stands twice")),
        (value, None) => Ok(value.map(|(_, it)| it.as_str())),
    }
}

fn framing(fields: &[(String, String)]) -> Step<Framing> {
    let length = only(fields, "content-length")?;
    let encoding = only(fields, "transfer-encoding")?;
    match (length, encoding) {
        (None, None) => Ok(Framing::Length(0)),
        (None, Some("chunked")) => Ok(Framing::Chunked),
        (None, Some(_)) => Err(Never::Broken("an encoding other than chunked")),
        (Some(it), None) if !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit()) => {
            let length = it.parse();
            Ok(Framing::Length(
                length.map_err(|_| Never::Broken("a huge length"))?,
            ))
        }
        (Some(_), None) => Err(Never::Broken("a length that is no number")),
        (Some(_), Some(_)) => Err(Never::Broken("a length beside an encoding")),
    }
}

fn chunks(bytes: &[u8]) -> Step<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (size, begin) = chunk_size(bytes, at)?;
        if size == 0 {
            return Ok((body, trailers_end(bytes, begin)?));
        }
        let chunk = bytes.get(begin..begin + size).ok_or(Never::More)?;
        body.extend_from_slice(chunk);
        at = begin + size;
        match bytes.get(at..at + 2) {
            None => return Err(Never::More),
            Some(b"\r\n") => at += 2,
            Some(_) => return Err(Never::Broken("a chunk longer than its size")),
        }
    }
}

/// No extensions: nobody needs them, and RFC 9112 §7.1.1 lets a recipient drop them.
fn chunk_size(bytes: &[u8], at: usize) -> Step<(usize, usize)> {
    let line = &bytes[at..];
    let end = line.windows(2).position(|it| it == b"\r\n");
    let digits = &line[..end.unwrap_or(line.len())];
    let digits = match end {
        None => digits.strip_suffix(b"\r").unwrap_or(digits),
        Some(_) => digits,
    };
    if digits.len() > 8 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Never::Broken("a chunk size that is no number"));
    }
    let end = end.ok_or(Never::More)?;
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    let size = usize::from_str_radix(digits, 16);
    Ok((
        size.map_err(|_| Never::Broken("an empty chunk size"))?,
        at + end + 2,
    ))
}

fn trailers_end(bytes: &[u8], at: usize) -> Step<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"\r\n") {
        return Ok(at + 2);
    }
    let end = head_end(rest)?;
    let text = std::str::from_utf8(&rest[..end]).map_err(|_| Never::Broken("not UTF-8"))?;
    for line in text.split("\r\n").take_while(|it| !it.is_empty()) {
        let (name, _) = field(line)?;
        if ["content-length", "transfer-encoding", "host"].contains(&name.as_str()) {
            return Err(Never::Broken("framing in the trailers"));
        }
    }
    Ok(at + end)
}

fn is_token(text: &str) -> bool {
    let is_part = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    !text.is_empty() && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_request_is_read_to_its_end_and_no_further() {
        let sent = b"POST /a HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\nGET";
        let Read::Whole(request, used) = read_request(sent) else {
            panic!("it is good");
        };
        assert_eq!(
            (request.host.as_str(), &request.body[..]),
            ("h", &b"abc"[..])
        );
        assert_eq!(used, sent.len() - 3);
        for cut in 0..used {
            assert_eq!(read_request(&sent[..cut]), Read::NeedMore, "{cut}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_broken() {
        for sent in [
            "GET / HTTP/1.1\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\rx\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n a: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\na : b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\ncontent-length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n1;a\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
        ] {
            let read = read_request(sent.as_bytes());
            assert!(matches!(read, Read::Broken(_)), "{sent}: {read:?}");
        }
    }
}
