//! Gives a request another path or host before a node gets it.

use crate::message::Request;

/// What of a request's target is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// What stands in the place of the route's own path; without the slash at its end.
    pub prefix: Option<Box<str>>,
    /// The host that the node is asked for.
    pub host: Option<Box<str>>,
}

impl Rewrite {
    /// `matched` is the path of the route, without the slash at its end.
    pub fn apply(&self, head: &mut Request, matched: &str) {
        if let Some(prefix) = &self.prefix
            && let Some(path) = replace_prefix(head.path_and_query(), matched, prefix)
        {
            head.set_path_and_query(&path);
        }
        if let Some(host) = &self.host {
            head.set_authority(host);
        }
    }
}

/// Nothing if the target does not begin with what was matched, as `*` does not.
///
/// A path that would begin with two slashes begins with one: some readers take what follows two for a host.
pub fn replace_prefix(target: &str, matched: &str, prefix: &str) -> Option<String> {
    let rest = target.strip_prefix(matched)?;
    let rest = match rest.as_bytes().first() {
        None | Some(b'?') | Some(b'/') => rest,
        Some(_) => return None,
    };
    if !target.starts_with('/') {
        return None;
    }
    let joined = [prefix, rest].concat();
    Some(rooted(&joined))
}

/// Begins with exactly one slash.
fn rooted(path: &str) -> String {
    ["/", path.trim_start_matches(['/', '\\'])].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_takes_the_place_of_another() {
        for (target, matched, prefix, expected) in [
            ("/api/x", "/api", "/v1", "/v1/x"),
            ("/api", "/api", "/v1", "/v1"),
            ("/api?q", "/api", "/v1", "/v1?q"),
            ("/api/?q", "/api", "/v1", "/v1/?q"),
            ("/x/y", "", "/v1", "/v1/x/y"),
            ("/api/x?y=/api", "/api", "", "/x?y=/api"),
            ("/api", "/api", "", "/"),
            ("/api?q", "/api", "", "/?q"),
            ("/api//evil.example/x", "/api", "", "/evil.example/x"),
            ("/api/\\evil.example", "/api", "", "/evil.example"),
        ] {
            let path = replace_prefix(target, matched, prefix);
            assert_eq!(path.as_deref(), Some(expected), "{target}");
        }
    }

    #[test]
    fn what_was_not_matched_stays() {
        assert_eq!(replace_prefix("*", "", "/v1"), None);
        assert_eq!(replace_prefix("", "", "/v1"), None);
        assert_eq!(replace_prefix("/apix", "/api", "/v1"), None);
    }
}
