//! What a service's configuration means to the parts that are made of it.

use std::sync::Arc;

use balancer_core::{
    health,
    membership::{Picking, Source, Watched},
    sticky::Sticky,
};

use super::StartError;
use crate::{
    config::{self, Discover, ProbeKind},
    scene::ServiceParts,
};

/// A service as the membership sees it.
pub(crate) fn watched(parts: &ServiceParts) -> Watched {
    let service = &parts.policy;
    Watched {
        name: service.name.clone(),
        source: match service.discover {
            Discover::Registry => Source::Registry,
            Discover::Static(_) | Discover::Dns(_) => Source::Addresses,
        },
        probing: health::Policy {
            regular: service.probe.kind != ProbeKind::Off,
            interval: service.probe.interval,
            healthy_after: service.probe.healthy_after,
            unhealthy_after: service.probe.unhealthy_after,
        },
        picking: Picking {
            outlier: service.outlier.policy(),
            slow_start: service.slow_start.as_ref().map(config::SlowStart::rule),
            panic_threshold: service.pick.panic_threshold,
            is_keyed: service.pick.key_source().is_some(),
            shared: parts.picker.shared.clone(),
        },
    }
}

/// The cookies of a service, with their secrets read.
///
/// # Errors
/// When the file cannot be read or holds no secrets.
pub(crate) fn sticky(service: &config::Service) -> Result<Option<Arc<Sticky>>, StartError> {
    let Some(it) = &service.sticky else {
        return Ok(None);
    };
    let (name, path) = (service.name.to_string(), it.secret_file.display());
    let secrets = std::fs::read_to_string(&it.secret_file);
    let secrets = secrets.map_err(|cause| StartError::SecretFile {
        service: name.clone(),
        path: path.to_string(),
        cause,
    })?;
    let sticky = Sticky::new(it.attributes(), service.name.clone(), &secrets);
    let sticky = sticky.map_err(|cause| StartError::Secret {
        service: name,
        path: path.to_string(),
        cause,
    })?;
    Ok(Some(Arc::new(sticky)))
}
