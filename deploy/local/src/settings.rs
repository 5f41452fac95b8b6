//! What the balancer and the nodes of a local cluster are told, in the words of their own configuration files.

use std::net::SocketAddr;

use crate::{data::Place, order::NodeId};

/// What a configuration file of the balancer would say.
pub(crate) fn balancer(place: &Place, entry: SocketAddr, admin: SocketAddr) -> String {
    format!(
        r#"id = "balancer-1"
drain_deadline = "10s"

[admin]
address = "{admin}"

[membership]
snapshot = {snapshot}

[log]
access = {access}

[[listener]]
name = "entry"
address = "{entry}"

[[route]]
path = "/"
service = "web"

[[service]]
name = "web"
discover = "registry"
protocol = "match"
"#,
        snapshot = quoted(&place.text("membership.json")),
        access = quoted(&place.text("access.log")),
    )
}

/// What a configuration file of one node would say.
///
/// Ports are the kernel's choice, since nobody but the balancer asks a node. Clients reach it through the balancer on
/// this machine, so what that says of them is believed.
pub(crate) fn node(place: &Place, id: &NodeId) -> String {
    format!(
        r#"[node]
id = "{id}"
zone = "local"
leave_deadline = "10s"

[admin]
address = "127.0.0.1:0"

[web]
address = "127.0.0.1:0"
sites = {sites}
trusted_proxies = ["127.0.0.0/8"]
"#,
        sites = quoted(&place.text("sites")),
    )
}

/// A TOML string, whatever the text holds (TOML v1.0.0, "String").
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::DataArg;

    #[test]
    fn both_programs_understand_what_they_are_told() {
        for folder in ["/srv/data", "/srv/it's \"odd\"\\n\n"] {
            let place = place(folder);
            let told = node(&place, &NodeId::numbered(7));
            node::config::Config::from_toml("node-7", &told).expect("a node understands it");
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let told = balancer(&place, any, any);
            balancer::config::Config::from_toml("balancer", &told)
                .expect("the balancer understands it");
        }
    }

    #[test]
    fn a_folder_of_any_name_is_told_as_it_is() {
        let folder = "/srv/it's \"odd\"\\n\n";
        let told: toml::Table = node(&place(folder), &NodeId::numbered(1))
            .parse()
            .expect("this is TOML");
        assert_eq!(
            told["web"]["sites"].as_str(),
            Some(format!("{folder}/sites").as_str())
        );
    }

    fn place(folder: &str) -> Place {
        Place::new(&DataArg {
            folder: Some(folder.into()),
        })
        .expect("an absolute name")
    }
}
