//! Patterns are read as they are shown, and a table of many routes takes a request if and only if one of its routes alone would.
//!
//! Each line but the last is a host pattern and a path; the last is the host and path that are looked up.
#![no_main]

use balancer_core::{
    rules::Conditions,
    table::{HostPattern, PathPrefix, RouteTable, Rule},
};
use libfuzzer_sys::fuzz_target;

const ROUTES_MAX: usize = 16;

fuzz_target!(|text: &str| {
    let (routes, asked) = text.rsplit_once('\n').unwrap_or(("", text));
    let rules: Vec<Rule> = routes.lines().take(ROUTES_MAX).filter_map(rule).collect();
    let (host, path) = asked.split_once(' ').unwrap_or((asked, "/"));
    let Ok(table) = table(rules.iter()) else {
        return;
    };
    let takes = |rule| {
        let alone = self::table([rule].into_iter()).expect("one route contradicts none");
        alone.find(0, host, path).is_some()
    };
    match table.find(0, host, path) {
        Some(&found) => assert!(takes(&rules[found]), "{host} {path}"),
        None => assert!(!rules.iter().any(takes), "{host} {path}"),
    }
    assert_eq!(
        table.find(0, host, path),
        table.find(0, &host.to_ascii_uppercase(), path),
        "hosts have no case"
    );
});

fn rule(line: &str) -> Option<Rule> {
    let (host, path) = line.split_once(' ')?;
    let host: HostPattern = host.parse().ok()?;
    let path: PathPrefix = path.parse().ok()?;
    assert_eq!(host.to_string().parse().as_ref(), Ok(&host));
    assert_eq!(path.to_string().parse().as_ref(), Ok(&path));
    Some(Rule {
        name: line.into(),
        listeners: vec![0],
        hosts: vec![host],
        path,
        conditions: Conditions::default(),
    })
}

fn table<'a>(rules: impl Iterator<Item = &'a Rule>) -> Result<RouteTable<usize>, ()> {
    let routes = rules.cloned().enumerate().map(|(at, rule)| (rule, at));
    RouteTable::build(routes).map_err(drop)
}
