//! A text with variables of a request in it, as operators write it: `https://${host}${uri}`.
//!
//! It is taken apart once, when the configuration is read. What a request fills in cannot end a line: a byte that has no place in a
//! field's value is left out.

use std::fmt;

/// A text that was taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    ClientIp,
    RequestId,
    Host,
    Path,
    Uri,
    Listener,
}

/// What a request fills in.
#[derive(Clone, Copy, Debug)]
pub struct Variables<'a> {
    /// The address of whoever is connected.
    pub client_ip: &'a str,
    pub request_id: &'a str,
    /// As the client asked for it, with or without a port.
    pub host: &'a str,
    pub path_and_query: &'a str,
    pub listener: &'a str,
    pub is_https: bool,
}

/// Why a text is no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error(
        "a variable is one of `${{client_ip}}`, `${{request_id}}`, `${{host}}`, `${{path}}`, `${{uri}}` and `${{listener}}`"
    )]
    Variable,
    #[error("control characters, such as the end of a line, have no place in a field's value")]
    Character,
    #[error("a value neither begins nor ends with a blank")]
    Blank,
    #[error("a value has at most {BYTES_MAX} bytes")]
    TooLong,
}

const BYTES_MAX: usize = 4096;

impl Template {
    /// # Errors
    /// When the text has an unknown variable or could not stand in a field's value.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > BYTES_MAX {
            return Err(TemplateError::TooLong);
        }
        if !text.bytes().all(is_value_byte) {
            return Err(TemplateError::Character);
        }
        if text.trim_matches([' ', '\t']).len() != text.len() {
            return Err(TemplateError::Blank);
        }
        Ok(Self {
            text: text.into(),
            parts: parts(text)?,
        })
    }

    /// Appends the text with everything filled in.
    pub fn write(&self, variables: &Variables<'_>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => {
                    let value = variables.value(*variable).bytes();
                    out.extend(value.filter(|it| is_value_byte(*it)));
                }
            }
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a request without a host leaves a hole in the text.
    pub(super) fn needs_host(&self) -> bool {
        self.parts.contains(&Part::Variable(Variable::Host))
    }

    pub(super) fn begins_with_path(&self) -> bool {
        matches!(
            self.parts.first(),
            Some(Part::Variable(Variable::Path | Variable::Uri))
        )
    }
}

fn parts(text: &str) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut left = text;
    while let Some(at) = left.find("${") {
        let (before, rest) = (&left[..at], &left[at + 2..]);
        let (name, after) = rest.split_once('}').ok_or(TemplateError::Variable)?;
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        parts.push(Part::Variable(variable(name)?));
        left = after;
    }
    if !left.is_empty() {
        parts.push(Part::Text(left.into()));
    }
    Ok(parts)
}

fn variable(name: &str) -> Result<Variable, TemplateError> {
    Ok(match name {
        "client_ip" => Variable::ClientIp,
        "request_id" => Variable::RequestId,
        "host" => Variable::Host,
        "path" => Variable::Path,
        "uri" => Variable::Uri,
        "listener" => Variable::Listener,
        _ => return Err(TemplateError::Variable),
    })
}

/// What RFC 9110 §5.5 allows in a value.
fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

impl<'a> Variables<'a> {
    pub(super) fn value(&self, variable: Variable) -> &'a str {
        match variable {
            Variable::ClientIp => self.client_ip,
            Variable::RequestId => self.request_id,
            Variable::Host => self.host_name(),
            Variable::Path => self.path(),
            Variable::Uri => match self.path_and_query {
                uri if uri.starts_with('/') => uri,
                _ => "/",
            },
            Variable::Listener => self.listener,
        }
    }

    /// Without the port, which is that of this listener and of no other address.
    pub(super) fn host_name(&self) -> &'a str {
        crate::host::HostPort::split(self.host).host
    }

    /// Without the query. A target that is no path (`*`, or an authority alone) counts as `/`.
    pub(super) fn path(&self) -> &'a str {
        let text = self.path_and_query;
        let path = text.split_once('?').map_or(text, |(path, _)| path);
        if path.starts_with('/') { path } else { "/" }
    }

    /// With its question mark; empty if there is none.
    pub(super) fn query(&self) -> &'a str {
        let at = self.path_and_query.find('?');
        at.map_or("", |at| &self.path_and_query[at..])
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const ASKED: Variables<'_> = Variables {
        client_ip: "192.0.2.7",
        request_id: "id",
        host: "a.example:8080",
        path_and_query: "/x/y?z=1",
        listener: "web",
        is_https: false,
    };

    #[test]
    fn variables_are_filled_in() {
        check("plain", "plain");
        check("", "");
        check("$ {} $x", "$ {} $x");
        check("https://${host}${uri}", "https://a.example/x/y?z=1");
        check("${path}", "/x/y");
        check(
            "a=${client_ip}; b=${request_id}; c=${listener}",
            "a=192.0.2.7; b=id; c=web",
        );
    }

    #[test]
    fn what_could_not_be_a_value_is_refused() {
        for (text, expected) in [
            ("a\r\nb", TemplateError::Character),
            ("a\0", TemplateError::Character),
            (" a", TemplateError::Blank),
            ("${cookie}", TemplateError::Variable),
            ("${host", TemplateError::Variable),
            ("${}", TemplateError::Variable),
        ] {
            assert_eq!(Template::parse(text), Err(expected), "{text:?}");
        }
        let long = "x".repeat(BYTES_MAX + 1);
        assert_eq!(Template::parse(&long), Err(TemplateError::TooLong));
    }

    proptest! {
        #[test]
        fn no_request_ends_a_line(host: String, path: String, id: String) {
            let asked = Variables { host: &host, path_and_query: &path, request_id: &id, ..ASKED };
            let template = Template::parse("${host}|${path}|${uri}|${request_id}").expect("it is valid");
            let mut out = Vec::new();
            template.write(&asked, &mut out);
            prop_assert!(out.iter().all(|it| is_value_byte(*it)));
        }
    }

    fn check(text: &str, expected: &str) {
        let mut out = Vec::new();
        let template = Template::parse(text).expect("it is valid");
        template.write(&ASKED, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
