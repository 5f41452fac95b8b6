//! Sends a client elsewhere, and never where a crafted path wants it to go.

use http::{StatusCode, Uri};

use super::{
    rewrite::replace_prefix,
    template::{Template, TemplateError, Variables},
};

/// Where a client is sent, and with which status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub status: StatusCode,
    pub to: Location,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    Whole(Template),
    /// The request's own address with some parts of it replaced.
    Parts {
        scheme: Option<Box<str>>,
        host: Option<Box<str>>,
        /// Without the slash at its end.
        prefix: Option<Box<str>>,
    },
}

/// Why a redirect is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    #[error("a redirect has the status 301, 302, 303, 307 or 308")]
    Status,
    #[error(
        "a location begins with `https://` or `http://` and a host, with a single `/`, or with `${{path}}` or `${{uri}}`"
    )]
    Start,
    #[error("a location has no blanks and is ASCII")]
    Character,
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl Redirect {
    /// # Errors
    /// When clients could be sent elsewhere than the text says.
    pub fn whole(status: u16, location: &str) -> Result<Self, RedirectError> {
        if !location.bytes().all(|it| it.is_ascii_graphic()) {
            return Err(RedirectError::Character);
        }
        let template = Template::parse(location)?;
        if !(template.begins_with_path() || begins_well(location)) {
            return Err(RedirectError::Start);
        }
        Ok(Self {
            status: redirect_status(status)?,
            to: Location::Whole(template),
        })
    }

    pub fn parts(
        status: u16,
        scheme: Option<&str>,
        host: Option<&str>,
        prefix: Option<&str>,
    ) -> Result<Self, RedirectError> {
        Ok(Self {
            status: redirect_status(status)?,
            to: Location::Parts {
                scheme: scheme.map(Box::from),
                host: host.map(Box::from),
                prefix: prefix.map(Box::from),
            },
        })
    }

    /// The value of `Location`; none for a request that names no host where one is needed. `matched` is the route's own path.
    pub fn location(&self, asked: &Variables<'_>, matched: &str) -> Option<String> {
        let has_host = !asked.host_name().is_empty();
        let location = match &self.to {
            Location::Whole(template) if template.needs_host() && !has_host => return None,
            Location::Whole(template) => filled(template, asked),
            Location::Parts {
                scheme,
                host,
                prefix,
            } => {
                let path = path(asked, matched, prefix.as_deref());
                match (scheme, host) {
                    (None, None) => path,
                    (_, None) if !has_host => return None,
                    (scheme, host) => {
                        let scheme = scheme.as_deref().unwrap_or(own_scheme(asked));
                        let host = host.as_deref().unwrap_or(asked.host_name());
                        format!("{scheme}://{host}{path}")
                    }
                }
            }
        };
        Some(single_slash(location))
    }
}

fn redirect_status(status: u16) -> Result<StatusCode, RedirectError> {
    match status {
        301 | 302 | 303 | 307 | 308 => {
            StatusCode::from_u16(status).map_err(|_| RedirectError::Status)
        }
        _ => Err(RedirectError::Status),
    }
}

/// A variable cannot become part of the scheme, and a path not a host.
fn begins_well(text: &str) -> bool {
    let after_scheme = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match after_scheme {
        Some(rest) => rest.strip_prefix("${host}").map_or_else(
            || is_host_first(rest),
            |rest| matches!(rest.as_bytes().first(), None | Some(b'/' | b':')) || is_path(rest),
        ),
        None => {
            text.starts_with('/')
                && !text.starts_with("//")
                && !text.starts_with("/\\")
                && !text.starts_with("/$")
        }
    }
}

/// A fixed host, so that what follows it is a path. A variable within it could make another host of it.
fn is_host_first(rest: &str) -> bool {
    let end = rest.find('/').or_else(|| path_variable(rest));
    let host = &rest[..end.unwrap_or(rest.len())];
    !host.contains('$') && host.parse::<http::uri::Authority>().is_ok() && !host.contains('@')
}

fn path_variable(rest: &str) -> Option<usize> {
    let found = [rest.find("${path}"), rest.find("${uri}")];
    found.into_iter().flatten().min()
}

fn is_path(rest: &str) -> bool {
    rest.starts_with("${path}") || rest.starts_with("${uri}")
}

fn filled(template: &Template, asked: &Variables<'_>) -> String {
    let mut out = Vec::new();
    template.write(asked, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn path(asked: &Variables<'_>, matched: &str, prefix: Option<&str>) -> String {
    let own = || [asked.path(), asked.query()].concat();
    prefix
        .and_then(|it| replace_prefix(asked.path_and_query, matched, it))
        .unwrap_or_else(own)
}

fn own_scheme(asked: &Variables<'_>) -> &'static str {
    if asked.is_https { "https" } else { "http" }
}

/// A location that is a path begins with one slash, and with no backslash behind it: browsers take what follows two for a host.
fn single_slash(location: String) -> String {
    if !location.starts_with('/') {
        return location;
    }
    ["/", location.trim_start_matches(['/', '\\'])].concat()
}

/// Whether the text can stand in a location as its host.
pub fn is_location_host(text: &str) -> bool {
    let authority = text.parse::<Uri>();
    authority.is_ok_and(|it| it.authority().is_some_and(|it| it.as_str() == text))
        && !text.contains('@')
}

#[cfg(test)]
mod tests {
    use super::{super::template::tests::ASKED, *};

    #[test]
    fn a_client_is_sent_where_the_text_says() {
        whole("https://${host}${uri}", "/x?y=1", "https://a.example/x?y=1");
        whole("https://${host}${path}", "/x?y=1", "https://a.example/x");
        whole("https://b.example/", "/x", "https://b.example/");
        whole(
            "https://b.example:8443${uri}",
            "/x",
            "https://b.example:8443/x",
        );
        whole(
            "https://${host}:8443${uri}",
            "/x",
            "https://a.example:8443/x",
        );
        whole("/new${path}", "/x", "/new/x");
        whole("https://${host}${uri}", "*", "https://a.example/");
    }

    /// A browser takes `//evil.example` for the address of another host.
    #[test]
    fn a_crafted_path_is_no_host() {
        for path in [
            "//evil.example/x",
            "/\\evil.example/x",
            "///evil.example/x",
            "/\\/evil.example/x",
        ] {
            whole("${uri}", path, "/evil.example/x");
            parts((None, None, Some("")), path, "/evil.example/x");
        }
        whole(
            "https://b.example${uri}",
            "//evil.example",
            "https://b.example//evil.example",
        );
    }

    #[test]
    fn parts_of_the_address_are_replaced() {
        parts((Some("https"), None, None), "/x?y", "https://a.example/x?y");
        parts((None, Some("b.example"), None), "/x", "http://b.example/x");
        parts(
            (Some("https"), Some("b.example"), Some("/new")),
            "/x",
            "https://b.example/new/x",
        );
        parts((None, None, Some("/new")), "/x?y", "/new/x?y");
    }

    #[test]
    fn nobody_is_sent_to_a_host_that_was_not_named() {
        let nameless = Variables { host: "", ..ASKED };
        let redirect = Redirect::whole(301, "https://${host}${uri}").expect("it is valid");
        assert_eq!(redirect.location(&nameless, ""), None);
        let redirect = Redirect::parts(301, Some("https"), None, None).expect("it is valid");
        assert_eq!(redirect.location(&nameless, ""), None);
    }

    #[test]
    fn what_could_lead_anywhere_is_refused() {
        for text in [
            "${host}/x",
            "//b.example",
            "/${path}",
            "javascript:alert(1)",
            "https://",
            "https://b.example.${host}/",
            "https://${host}.b.example/",
            "https://a@b.example/",
            "b.example",
            "",
        ] {
            assert_eq!(
                Redirect::whole(301, text),
                Err(RedirectError::Start),
                "{text:?}"
            );
        }
        assert_eq!(Redirect::whole(301, "/a b"), Err(RedirectError::Character));
        assert_eq!(
            Redirect::whole(301, "/a\r\nx: y"),
            Err(RedirectError::Character)
        );
        for status in [200, 300, 304, 306, 400] {
            assert_eq!(Redirect::whole(status, "/a"), Err(RedirectError::Status));
        }
    }

    fn whole(text: &str, target: &str, expected: &str) {
        let redirect = Redirect::whole(308, text).expect(text);
        check(&redirect, target, expected);
    }

    fn parts(parts: (Option<&str>, Option<&str>, Option<&str>), target: &str, expected: &str) {
        let redirect = Redirect::parts(308, parts.0, parts.1, parts.2).expect("it is valid");
        check(&redirect, target, expected);
    }

    fn check(redirect: &Redirect, target: &str, expected: &str) {
        let asked = Variables {
            path_and_query: target,
            ..ASKED
        };
        assert_eq!(redirect.location(&asked, "").as_deref(), Some(expected));
    }
}
