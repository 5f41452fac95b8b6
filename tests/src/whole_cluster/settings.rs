//! Writes the settings of the cluster's programs: what an operator would, with the addresses of this test.

use std::{
    fmt::{Display, Formatter, Result},
    path::Path,
    time::Duration,
};

use super::{BalancerPorts, ClusterOptions, NodePorts, Probe};

/// So that a dead etcd is left soon; less than half of the shortest lease.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct OfBalancer<'a> {
    pub(super) id: String,
    pub(super) ports: &'a BalancerPorts,
    pub(super) snapshot: &'a Path,
    pub(super) etcd: &'a [String],
    pub(super) options: &'a ClusterOptions,
}

pub(super) struct OfNode<'a> {
    pub(super) id: String,
    pub(super) ports: &'a NodePorts,
    pub(super) etcd: &'a [String],
    pub(super) options: &'a ClusterOptions,
}

impl Display for OfBalancer<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let BalancerPorts { web, raw, admin } = self.ports;
        writeln!(
            f,
            "id = {:?}\nworkers = 2\ndrain_deadline = \"2s\"",
            self.id
        )?;
        writeln!(f, "[admin]\naddress = \"{}\"", admin.address())?;
        registry(f, self.etcd, self.options)?;
        writeln!(f, "[membership]\nsnapshot = {:?}", self.snapshot)?;
        writeln!(f, "[log]\naccess = \"off\"")?;
        writeln!(
            f,
            "[[listener]]\nname = \"web\"\naddress = \"{}\"",
            web.address()
        )?;
        writeln!(
            f,
            "[[listener]]\nname = \"raw\"\nprotocol = \"tcp\"\nservice = \"web\"\naddress = \"{}\"",
            raw.address()
        )?;
        writeln!(
            f,
            "[[route]]\nservice = \"web\"\n[[service]]\nname = \"web\""
        )?;
        if let Some(timeout) = self.options.response_head_timeout {
            writeln!(f, "response_head_timeout = {}", Span(timeout))?;
        }
        write!(f, "[service.probe]\n{}", self.options.probe)
    }
}

impl Display for OfNode<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let NodePorts { web, admin } = self.ports;
        let deadline = Span(self.options.leave_deadline);
        writeln!(f, "[node]\nid = {:?}\nleave_deadline = {deadline}", self.id)?;
        writeln!(f, "[admin]\naddress = \"{}\"", admin.address())?;
        registry(f, self.etcd, self.options)?;
        writeln!(f, "[web]\naddress = \"{}\"", web.address())
    }
}

fn registry(f: &mut Formatter<'_>, etcd: &[String], options: &ClusterOptions) -> Result {
    let (ttl, timeout) = (Span(options.lease_ttl), Span(REQUEST_TIMEOUT));
    writeln!(
        f,
        "[registry]\nendpoints = {etcd:?}\nlease_ttl = {ttl}\nrequest_timeout = {timeout}"
    )
}

impl Display for Probe {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Off => writeln!(f, "kind = \"off\""),
            Self::Tcp => writeln!(f, "kind = \"tcp\""),
            Self::Http {
                path,
                interval,
                timeout,
            } => {
                writeln!(f, "kind = \"http\"\npath = {path:?}")?;
                let (interval, timeout) = (Span(*interval), Span(*timeout));
                writeln!(f, "interval = {interval}\ntimeout = {timeout}")
            }
        }
    }
}

struct Span(Duration);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "\"{}ms\"", self.0.as_millis())
    }
}
