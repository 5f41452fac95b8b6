//! Turns what a client asks for into a path that is safe to open beneath a site's folder.
//!
//! Only names are judged here. Symbolic links are a matter of the disk and are refused where files are opened.

use std::fmt;

use percent_encoding::percent_decode_str;

/// The longest path in bytes, decoded. Linux opens none that is longer.
pub const PATH_BYTES_MAX: usize = 4096;

/// The longest name of a file in bytes on the usual file systems.
const NAME_BYTES_MAX: usize = 255;

/// The one name with a leading dot that is served (RFC 8615).
const WELL_KNOWN: &str = ".well-known";

/// A relative path of plain names, parted by single slashes; empty for the folder itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SitePath {
    path: String,
    is_folder: bool,
}

/// The folder of one virtual host: a lower-case host name without port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFolder(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400.
    #[error("the path cannot be read")]
    Malformed,
    /// 404: a name that is never served, and that nobody learns anything about.
    #[error("the path names nothing that is served")]
    Forbidden,
}

impl SitePath {
    /// Decodes the path of a request target once, and refuses what could leave the folder or show what is hidden.
    pub fn of(target_path: &str) -> Result<Self, Refusal> {
        let rest = target_path.strip_prefix('/').ok_or(Refusal::Malformed)?;
        let (rest, is_folder) = match rest.strip_suffix('/') {
            Some(rest) => (rest, true),
            None => (rest, rest.is_empty()),
        };
        let names = match rest {
            "" if target_path.len() > 1 => return Err(Refusal::Forbidden),
            "" => Vec::new(),
            rest => rest.split('/').map(name).collect::<Result<Vec<_>, _>>()?,
        };
        let is_hidden = |(idx, name): (usize, &String)| {
            name.starts_with('.') && !(idx == 0 && name == WELL_KNOWN)
        };
        let path = names.join("/");
        if names.iter().enumerate().any(is_hidden) || path.len() > PATH_BYTES_MAX {
            return Err(Refusal::Forbidden);
        }
        Ok(Self { path, is_folder })
    }

    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// Whether the target ended in a slash, and so means a folder's index.
    pub fn is_folder(&self) -> bool {
        self.is_folder
    }

    /// The path of a file in this folder.
    pub fn join(&self, name: &str) -> String {
        match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        }
    }
}

/// Where a client that left the slash out finds the folder. The target begins with exactly one slash, or
/// [`SitePath::of`] would have refused it, so the location never names another host.
pub fn with_slash(target_path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{target_path}/?{query}"),
        None => format!("{target_path}/"),
    }
}

impl HostFolder {
    /// The folder for a `Host` field or an authority; none where it holds no host name, as with an IPv6 address.
    pub fn of(authority: &str) -> Option<Self> {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            Some(_) => return None,
            None => authority,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_name = host.len() <= NAME_BYTES_MAX && host.split('.').all(is_label);
        is_name.then(|| Self(host.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SitePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

fn name(encoded: &str) -> Result<String, Refusal> {
    if !is_well_encoded(encoded) {
        return Err(Refusal::Malformed);
    }
    let name = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| Refusal::Malformed)?;
    let is_plain =
        !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(is_never_in_a_name);
    is_plain
        .then(|| name.into_owned())
        .ok_or(Refusal::Forbidden)
}

/// A backslash parts names on some systems, and a control character in a name has no honest use.
fn is_never_in_a_name(char: char) -> bool {
    matches!(char, '/' | '\\') || char.is_control()
}

fn is_well_encoded(text: &str) -> bool {
    let is_pair =
        |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    text.split('%').skip(1).all(is_pair)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Refusal::*, *};

    #[test]
    fn a_path_is_decoded_once() {
        check("/", Ok(("", true)));
        check("/a/b.html", Ok(("a/b.html", false)));
        check("/a/", Ok(("a", true)));
        check("/a%20b/%C3%A9", Ok(("a b/é", false)));
        check("/%2541", Ok(("%41", false)));
        check("/.well-known/acme", Ok((".well-known/acme", false)));
        check("/a..b", Ok(("a..b", false)));
    }

    #[test]
    fn nothing_above_or_hidden_is_reached() {
        for target in [
            "/..",
            "/../etc/passwd",
            "/a/../b",
            "/%2e%2e/x",
            "/%2E./x",
            "/.",
            "/a/./b",
            "/..%2fetc",
            "/a%2fb",
            "/a%5c..%5cb",
            "/a\\b",
            "/a%00.html",
            "/a%0a",
            "//etc",
            "//",
            "/a//b",
            "/.git/config",
            "/a/.htaccess",
            "/a/.well-known/x",
            "/%2egit",
            "/%7f",
        ] {
            check(target, Err(Forbidden));
        }
        check(&format!("/{}", "a".repeat(256)), Err(Forbidden));
        check(&"/a".repeat(PATH_BYTES_MAX), Err(Forbidden));
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        for target in ["", "a", "*", "/%", "/%2", "/%zz", "/%ff", "/%+1", "/a%c3"] {
            check(target, Err(Malformed));
        }
    }

    #[test]
    fn a_host_is_a_folder() {
        let folder = |host| HostFolder::of(host).map(|it| it.0);
        assert_eq!(
            folder("WWW.Example.org:8080").as_deref(),
            Some("www.example.org")
        );
        assert_eq!(folder("example.org.").as_deref(), Some("example.org"));
        for host in [
            "", ".", "..", "../x", "a/b", "[::1]:80", "::1", "a..b", ".hidden", "a:b", "é",
        ] {
            assert_eq!(folder(host), None, "{host}");
        }
    }

    #[test]
    fn the_slash_goes_before_the_query() {
        assert_eq!(with_slash("/a%20b", None), "/a%20b/");
        assert_eq!(with_slash("/a", Some("x=1")), "/a/?x=1");
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_beneath(target in "(/|%2f|%2e|\\.|%5c|[a-c]|%00|%25){0,12}") {
            if let Ok(path) = SitePath::of(&target) {
                let is_safe = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['\\', '\0']);
                prop_assert!(path.as_str().is_empty() || path.as_str().split('/').all(is_safe), "{:?}", path);
            }
        }

        #[test]
        fn any_text_is_survived(target in ".{0,64}") {
            let _ = (SitePath::of(&target), HostFolder::of(&target));
        }
    }

    #[track_caller]
    fn check(target: &str, expected: Result<(&str, bool), Refusal>) {
        let path = SitePath::of(target);
        let shown = path
            .as_ref()
            .map(|path| (path.as_str(), path.is_folder()))
            .map_err(|refusal| *refusal);
        assert_eq!(shown, expected, "{target}");
    }
}
