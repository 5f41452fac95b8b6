//! Which route a request takes: by the listener it came in through, the host it asks for and its path.
//!
//! Of the routes that match, the one with the most telling host wins (an exact name before a wildcard, the longer wildcard before
//! the shorter, any host last), and among those the one with the longest path. A look-up costs hash look-ups of the host and its
//! path's prefixes, however many routes there are, and allocates nothing. Paths are compared as they were sent: percent-encoding
//! and dot segments are the node's to interpret, so a route chooses a service and is no access control.

use std::{fmt, str::FromStr, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{host::HostPort, message::Request, rules::Conditions};

/// The longest name that DNS can hold, written with dots (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// All routes of a configuration, each leading to a `T`.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    targets: Vec<T>,
    /// By the place of the target.
    conditions: Vec<Conditions>,
    hosts_by_listener: Vec<Hosts>,
}

/// Which requests a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: RouteName,
    /// The listeners, by their place in the configuration.
    pub listeners: Vec<usize>,
    /// Any of these; an empty list means any host, as [`HostPattern::Any`] does.
    pub hosts: Vec<HostPattern>,
    pub path: PathPrefix,
    /// Of the routes for a host and path, the one with the most conditions that hold is taken.
    pub conditions: Conditions,
}

/// The name by which an operator knows a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteName(Arc<str>);

/// The hosts that a route answers to. The text is lower-case and without the dot of the root.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `*`
    Any,
    /// `*.example.org`: every name below it, at whatever depth, but not the name itself.
    Below(Box<str>),
    /// `www.example.org`
    Exactly(Box<str>),
}

/// A path and everything below it: `/api` takes `/api` and `/api/x` but not `/apix`. The slash at the end makes no difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(Box<str>);

/// Why a text is not a host pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    #[error("not a host name, `*.` and a host name, or `*`")]
    Name,
    #[error("a port has no place in a route, its listeners have one")]
    Port,
    #[error("a host name has at most {HOST_BYTES_MAX} bytes")]
    TooLong,
}

/// Why a text is not a path prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPrefixError {
    #[error("a path starts with `/`")]
    Relative,
    #[error("a path is visible ASCII without `?` and `#`")]
    Character,
}

/// Why routes do not make a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Neither is more telling than the other, so that one of them would never be taken.
    #[error("routes `{first}` and `{second}` both take host `{host}` and path `{path}`")]
    Ambiguous {
        first: RouteName,
        second: RouteName,
        host: HostPattern,
        path: PathPrefix,
    },
}

impl<T> RouteTable<T> {
    /// Builds the table. The order of the routes does not matter.
    pub fn build(routes: impl IntoIterator<Item = (Rule, T)>) -> Result<Self, TableError> {
        let (rules, targets): (Vec<Rule>, Vec<T>) = routes.into_iter().unzip();
        let conditions = rules.iter().map(|it| it.conditions.clone()).collect();
        let listeners = rules.iter().flat_map(|it| &it.listeners);
        let n_listeners = listeners.max().map_or(0, |last| last + 1);
        let mut hosts_by_listener = vec![Hosts::default(); n_listeners];
        for (route_idx, rule) in rules.iter().enumerate() {
            for &listener_idx in &rule.listeners {
                hosts_by_listener[listener_idx].add(route_idx, &rules)?;
            }
        }
        Ok(Self {
            targets,
            conditions,
            hosts_by_listener,
        })
    }

    /// The target of the route for a request. The host is what the client sent, with or without a port, in any case.
    pub fn find_for(&self, listener_idx: usize, head: &Request) -> Option<&T> {
        let host = head.host().unwrap_or_default();
        self.find_among(listener_idx, host, head.path(), &|conditions| {
            conditions.accept(head)
        })
    }

    /// The target of the route that a request takes which meets no condition.
    pub fn find(&self, listener_idx: usize, host: &str, path: &str) -> Option<&T> {
        self.find_among(listener_idx, host, path, &|it| it.count() == 0)
    }

    fn find_among(
        &self,
        listener_idx: usize,
        host: &str,
        path: &str,
        accept: &dyn Fn(&Conditions) -> bool,
    ) -> Option<&T> {
        let hosts = self.hosts_by_listener.get(listener_idx)?;
        let route_idx = hosts.find(host, path, &|idx| accept(&self.conditions[idx]))?;
        self.targets.get(route_idx)
    }
}

/// The routes of one listener.
#[derive(Clone, Debug, Default)]
struct Hosts {
    exactly: FxHashMap<Box<str>, Paths>,
    /// By the name behind the `*.`, whose longest has `below_bytes_max` bytes.
    below: FxHashMap<Box<str>, Paths>,
    below_bytes_max: usize,
    any: Paths,
}

impl Hosts {
    fn add(&mut self, route_idx: usize, rules: &[Rule]) -> Result<(), TableError> {
        let rule = &rules[route_idx];
        let any = [HostPattern::Any];
        let hosts = if rule.hosts.is_empty() {
            &any[..]
        } else {
            &rule.hosts
        };
        for host in hosts {
            if let Some(first_idx) = self.paths_mut(host).add(route_idx, rules) {
                return Err(TableError::Ambiguous {
                    first: rules[first_idx].name.clone(),
                    second: rule.name.clone(),
                    host: host.clone(),
                    path: rule.path.clone(),
                });
            }
        }
        Ok(())
    }

    fn paths_mut(&mut self, host: &HostPattern) -> &mut Paths {
        match host {
            HostPattern::Any => &mut self.any,
            HostPattern::Exactly(name) => self.exactly.entry(name.clone()).or_default(),
            HostPattern::Below(name) => {
                self.below_bytes_max = self.below_bytes_max.max(name.len());
                self.below.entry(name.clone()).or_default()
            }
        }
    }

    fn find(&self, host: &str, path: &str, takes: Takes<'_>) -> Option<usize> {
        let mut buffer = [0; HOST_BYTES_MAX];
        let named = plain(host, &mut buffer).and_then(|name| self.find_named(name, path, takes));
        named.or_else(|| self.any.find(path, takes))
    }

    fn find_named(&self, name: &str, path: &str, takes: Takes<'_>) -> Option<usize> {
        let exactly = self.exactly.get(name).and_then(|it| it.find(path, takes));
        exactly.or_else(|| self.find_below(name, path, takes))
    }

    /// Tries the names above this one, the longest first.
    fn find_below(&self, name: &str, path: &str, takes: Takes<'_>) -> Option<usize> {
        if self.below.is_empty() {
            return None;
        }
        std::iter::successors(parent(name), |it| parent(it))
            .skip_while(|it| it.len() > self.below_bytes_max)
            .find_map(|it| self.below.get(it)?.find(path, takes))
    }
}

/// The name without its first label.
fn parent(name: &str) -> Option<&str> {
    Some(name.split_once('.')?.1)
}

/// Whether a route, by its place, takes the request that is looked up.
type Takes<'a> = &'a dyn Fn(usize) -> bool;

/// The routes of one host.
#[derive(Clone, Debug, Default)]
struct Paths {
    /// Of each prefix, those with the most conditions first.
    routes_by_prefix: FxHashMap<Box<str>, Vec<usize>>,
    prefix_bytes_max: usize,
}

impl Paths {
    /// Adds a route, or says which one has the place already.
    fn add(&mut self, route_idx: usize, rules: &[Rule]) -> Option<usize> {
        let prefix = &rules[route_idx].path.0;
        let conditions = |idx: usize| &rules[idx].conditions;
        let count = conditions(route_idx).count();
        let routes = self.routes_by_prefix.entry(prefix.clone()).or_default();
        let first = routes.iter().find(|it| {
            conditions(**it).count() == count && !conditions(**it).exclude(conditions(route_idx))
        });
        if let Some(&first_idx) = first {
            return Some(first_idx);
        }
        let place = routes.partition_point(|it| conditions(*it).count() >= count);
        routes.insert(place, route_idx);
        self.prefix_bytes_max = self.prefix_bytes_max.max(prefix.len());
        None
    }

    /// Tries the path and then everything above it; segments beyond the longest known prefix are not tried.
    fn find(&self, path: &str, takes: Takes<'_>) -> Option<usize> {
        if self.routes_by_prefix.is_empty() {
            return None;
        }
        let longest = whole_segments(path, self.prefix_bytes_max);
        std::iter::successors(Some(longest), |it| Some(&it[..it.rfind('/')?]))
            .chain([""])
            .filter_map(|it| self.routes_by_prefix.get(it))
            .find_map(|routes| routes.iter().copied().find(|idx| takes(*idx)))
    }
}

/// As much of the path's start as ends with a segment and has at most `bytes_max` bytes.
fn whole_segments(path: &str, bytes_max: usize) -> &str {
    let bytes = path.as_bytes();
    match bytes.get(bytes_max) {
        None => path,
        Some(b'/') => &path[..bytes_max],
        Some(_) => {
            &path[..bytes[..bytes_max]
                .iter()
                .rposition(|&it| it == b'/')
                .unwrap_or(0)]
        }
    }
}

/// The name as the table knows it: without port and final dot, in lower case. Names that are too long for one are in no table.
fn plain<'a>(host: &'a str, buffer: &'a mut [u8; HOST_BYTES_MAX]) -> Option<&'a str> {
    let name = without_root(HostPort::split(host).host);
    let buffer = buffer.get_mut(..name.len())?;
    if !name.bytes().any(|it| it.is_ascii_uppercase()) {
        return Some(name);
    }
    buffer.copy_from_slice(name.as_bytes());
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).ok()
}

fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(name) => checked_name(name).map(Self::Below),
            None => checked_name(text).map(Self::Exactly),
        }
    }
}

fn checked_name(text: &str) -> Result<Box<str>, HostPatternError> {
    let parts = HostPort::parse(text).ok_or(HostPatternError::Name)?;
    if parts.port.is_some() {
        return Err(HostPatternError::Port);
    }
    let name = without_root(parts.host);
    if name.is_empty() || name.contains('*') || name.split('.').any(str::is_empty) {
        return Err(HostPatternError::Name);
    }
    if name.len() > HOST_BYTES_MAX {
        return Err(HostPatternError::TooLong);
    }
    Ok(name.to_ascii_lowercase().into())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Exactly(name) => f.write_str(name),
        }
    }
}

impl FromStr for PathPrefix {
    type Err = PathPrefixError;

    fn from_str(text: &str) -> Result<Self, PathPrefixError> {
        if !text.starts_with('/') {
            return Err(PathPrefixError::Relative);
        }
        if !text
            .bytes()
            .all(|it| it.is_ascii_graphic() && it != b'?' && it != b'#')
        {
            return Err(PathPrefixError::Character);
        }
        Ok(Self(text.strip_suffix('/').unwrap_or(text).into()))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)?;
        // The slash that was cut off tells `//` from `/`.
        if self.0.is_empty() || self.0.ends_with('/') {
            f.write_str("/")?;
        }
        Ok(())
    }
}

impl From<&str> for RouteName {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::FieldCondition;
    use http::{Method, Version};
    use proptest::prelude::*;

    #[test]
    fn a_path_is_shown_as_it_would_be_read() {
        for (text, shown) in [("/", "/"), ("//", "//"), ("/a/", "/a"), ("/a//", "/a//")] {
            let path: PathPrefix = text.parse().expect("it is a path");
            assert_eq!(path.to_string(), shown);
            assert_eq!(shown.parse(), Ok(path));
        }
    }

    #[test]
    fn a_path_takes_what_lies_below_it() {
        let table = table(&["* / root", "* /api api", "* /api/v2/ v2"]);
        for (path, expected) in [
            ("/", "root"),
            ("/api", "api"),
            ("/api/", "api"),
            ("/api/x/y", "api"),
            ("/apix", "root"),
            ("/apix/y", "root"),
            ("/api/v2", "v2"),
            ("/api/v2/x", "v2"),
            ("/api/v22", "api"),
            ("/api/v2é", "api"),
            ("*", "root"),
            ("", "root"),
        ] {
            assert_eq!(
                table.find(0, "a.example", path),
                Some(&expected.to_owned()),
                "{path}"
            );
        }
    }

    #[test]
    fn the_most_telling_host_wins() {
        let table = table(&[
            "* / any",
            "*.example.org / below",
            "*.b.example.org / deeper",
            "www.example.org / exactly",
        ]);
        for (host, expected) in [
            ("www.example.org", "exactly"),
            ("WWW.Example.ORG", "exactly"),
            ("www.example.org:8080", "exactly"),
            ("www.example.org.", "exactly"),
            ("Www.example.org.:80", "exactly"),
            ("a.example.org", "below"),
            ("x.a.example.org", "below"),
            ("a.b.example.org", "deeper"),
            ("b.example.org", "below"),
            ("example.org", "any"),
            ("notexample.org", "any"),
            ("[::1]:8080", "any"),
            ("", "any"),
            ("ÄRGER.example.org", "below"),
        ] {
            assert_eq!(
                table.find(0, host, "/"),
                Some(&expected.to_owned()),
                "{host}"
            );
        }
    }

    #[test]
    fn the_most_conditions_that_hold_win() {
        let with = |text: &str, methods: &[Method], fields: &[&str]| {
            let (mut rule, name) = rule(text);
            rule.conditions.methods = methods.into();
            let fields = fields.iter().map(|it| FieldCondition {
                name: (*it).into(),
                value: None,
            });
            rule.conditions.fields = fields.collect();
            (rule, name)
        };
        let table = RouteTable::build([
            rule("* / any"),
            with("* /api post", &[Method::POST], &[]),
            with("* /api put", &[Method::PUT], &[]),
            with("* /api both", &[Method::POST], &["x-a"]),
        ])
        .expect("no two alike");
        let find = |method: Method, field: &str| {
            let mut head = Request::new(method, Version::HTTP_11, None, b"/api/x");
            head.fields.push(field.as_bytes(), b"1");
            table.find_for(0, &head).cloned()
        };
        assert_eq!(find(Method::POST, "x-a").as_deref(), Some("both"));
        assert_eq!(find(Method::POST, "x-b").as_deref(), Some("post"));
        assert_eq!(find(Method::PUT, "x-a").as_deref(), Some("put"));
        assert_eq!(find(Method::GET, "x-a").as_deref(), Some("any"));
        let alike = [
            with("* / a", &[Method::POST], &[]),
            with("* / b", &[], &["x-a"]),
        ];
        assert!(RouteTable::build(alike).is_err(), "both could hold");
    }

    #[test]
    fn a_host_without_the_path_leaves_it_to_the_next() {
        let table = table(&[
            "* /static files",
            "*.example.org / below",
            "www.example.org /api api",
        ]);
        assert_eq!(
            table.find(0, "www.example.org", "/api"),
            Some(&"api".to_owned())
        );
        assert_eq!(
            table.find(0, "www.example.org", "/x"),
            Some(&"below".to_owned())
        );
        assert_eq!(
            table.find(0, "other.example", "/static/x"),
            Some(&"files".to_owned())
        );
        assert_eq!(table.find(0, "other.example", "/x"), None);
    }

    #[test]
    fn an_address_is_a_host_too() {
        let table = table(&["[::1] / six", "127.0.0.1 / four"]);
        assert_eq!(table.find(0, "[::1]:8080", "/"), Some(&"six".to_owned()));
        assert_eq!(
            table.find(0, "127.0.0.1:8080", "/"),
            Some(&"four".to_owned())
        );
    }

    #[test]
    fn a_name_longer_than_dns_allows_matches_no_name() {
        let table = table(&["*.example / below"]);
        let host = |len: usize| format!("{}.example", "x".repeat(len - ".example".len()));
        assert!(table.find(0, &host(HOST_BYTES_MAX), "/").is_some());
        assert!(table.find(0, &host(HOST_BYTES_MAX + 1), "/").is_none());
    }

    #[test]
    fn listeners_do_not_see_each_others_routes() {
        let on = |listeners: &[usize]| Rule {
            listeners: listeners.into(),
            ..rule("* / x").0
        };
        let table = RouteTable::build([(on(&[0, 2]), "x"), (on(&[1]), "y")]).expect("a table");
        let found = [0, 1, 2, 3].map(|listener_idx| table.find(listener_idx, "a", "/"));
        assert_eq!(found, [Some(&"x"), Some(&"y"), Some(&"x"), None]);
    }

    #[test]
    fn two_routes_cannot_take_the_same_requests() {
        ambiguous(
            &["* /api/ a", "* /api b"],
            "routes `a` and `b` both take host `*` and path `/api`",
        );
        ambiguous(
            &["A.example / a", "* / b", "a.example. / c"],
            "routes `a` and `c` both take host `a.example` and path `/`",
        );
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let host = |text: &str| text.parse::<HostPattern>().map(|it| it.to_string());
        assert_eq!(host("*.Example.org."), Ok("*.example.org".into()));
        for text in [
            "",
            "*.",
            "*.*.a",
            "a.*",
            "www.*.org",
            "a b",
            "a..b",
            ".",
            ".a",
            "*a",
            "a/b",
            "http://a",
        ] {
            assert_eq!(host(text), Err(HostPatternError::Name), "{text:?}");
        }
        assert_eq!(host("a.example:80"), Err(HostPatternError::Port));
        assert_eq!(host(&"a".repeat(254)), Err(HostPatternError::TooLong));
        let path = |text: &str| text.parse::<PathPrefix>().map(|it| it.to_string());
        assert_eq!(path("/"), Ok("/".into()));
        assert_eq!(path("/a/b/"), Ok("/a/b".into()));
        assert_eq!(path(""), Err(PathPrefixError::Relative));
        assert_eq!(path("a"), Err(PathPrefixError::Relative));
        assert_eq!(path("/a?b"), Err(PathPrefixError::Character));
        assert_eq!(path("/a b"), Err(PathPrefixError::Character));
    }

    #[test]
    fn ten_thousand_hosts_are_told_apart() {
        let routes = (0..10_000).flat_map(|it| {
            let exactly = format!("host-{it}.example / exactly-{it}");
            let below = format!("*.zone-{it}.example /api below-{it}");
            [exactly, below].map(|it| rule(&it))
        });
        let table = RouteTable::build(routes).expect("a table");
        for it in 0..10_000 {
            let exactly = table.find(0, &format!("Host-{it}.example:80"), "/a/b/c");
            assert_eq!(exactly, Some(&format!("exactly-{it}")));
            let below = table.find(0, &format!("a.b.zone-{it}.example"), "/api/x");
            assert_eq!(below, Some(&format!("below-{it}")));
        }
        assert_eq!(table.find(0, "host-10000.example", "/"), None);
    }

    fn table(routes: &[&str]) -> RouteTable<String> {
        RouteTable::build(routes.iter().map(|it| rule(it))).expect("a table")
    }

    fn ambiguous(routes: &[&str], expected: &str) {
        let err =
            RouteTable::build(routes.iter().map(|it| rule(it))).expect_err("two routes alike");
        assert_eq!(err.to_string(), expected);
    }

    /// A route of listener 0 in the form `host path name`, which leads to its own name.
    fn rule(text: &str) -> (Rule, String) {
        let words: Vec<&str> = text.split(' ').collect();
        let rule = Rule {
            name: words[2].into(),
            listeners: vec![0],
            hosts: vec![words[0].parse().expect(words[0])],
            path: words[1].parse().expect(words[1]),
            conditions: Conditions::default(),
        };
        (rule, words[2].to_owned())
    }

    /// What the table promises, said the slow way.
    fn find_slowly<'a>(rules: &'a [(Rule, String)], host: &str, path: &str) -> Option<&'a String> {
        let rank = |rule: &Rule| {
            let host_rank = match &rule.hosts[0] {
                HostPattern::Any => Some((0, 0)),
                HostPattern::Below(name) => host
                    .ends_with(&format!(".{name}"))
                    .then_some((1, name.len())),
                HostPattern::Exactly(name) => (host == &**name).then_some((2, 0)),
            }?;
            let prefix = &*rule.path.0;
            let takes = path == prefix || path.starts_with(&format!("{prefix}/"));
            takes.then_some((host_rank, prefix.len()))
        };
        let best = rules
            .iter()
            .filter(|(rule, _)| rank(rule).is_some())
            .max_by_key(|(rule, _)| rank(rule));
        best.map(|(_, target)| target)
    }

    proptest! {
        #[test]
        fn the_fast_way_finds_what_the_slow_way_finds(
            routes in prop::collection::btree_set("(\\*|(\\*\\.)?[ab](\\.[ab]){0,2}) (/[ab]){0,3}/", 0..12),
            asked in prop::collection::vec(("[ab](\\.[ab]){0,3}", "(/[ab]{1,2}){0,4}/?"), 1..20),
        ) {
            let rules: Vec<_> = routes.iter().enumerate().map(|(idx, it)| rule(&format!("{it} route-{idx}"))).collect();
            let table = RouteTable::build(rules.clone()).expect("no two alike");
            for (host, path) in asked.iter().filter(|(_, path)| !path.is_empty()) {
                prop_assert_eq!(table.find(0, host, path), find_slowly(&rules, host, path), "{} {}", host, path);
            }
        }

        #[test]
        fn no_request_disturbs_the_table(host: String, path: String) {
            table(&["*.b /aaaa x", "a.b / y"]).find(0, &host, &path);
        }
    }
}
