//! Which service gets a connection whose TLS is passed on untouched, by the name the client asks for.

use balancer_core::server_names::{ServerName, ServerNames};

use crate::config::SniRoute;

/// The names of one listener.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassThrough {
    service_by_name: ServerNames<usize>,
}

impl PassThrough {
    pub(crate) fn new(routes: &[SniRoute]) -> Self {
        let mut service_by_name = ServerNames::default();
        for route in routes {
            for name in &route.names {
                service_by_name.entry(name.clone(), || route.service);
            }
        }
        Self { service_by_name }
    }

    /// Whether there is nobody to look for, so that a hello need not be waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.service_by_name.is_empty()
    }

    /// The place of the service, if the name is one of these.
    pub(crate) fn service(&self, name: &ServerName) -> Option<usize> {
        self.service_by_name.find(name.as_str()).copied()
    }
}
