//! The service `web`: one port that tells who answers, speaks gRPC, and serves sites.

use std::{sync::Arc, time::SystemTime};

use axum::{Router, body::Body};
use http::{Method, Request, Response};
use proto::v1::whoami_server::WhoamiServer;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower::ServiceExt;

use crate::{
    register::Phase,
    rescue::{Face, Refusal},
    service::{
        health::Health,
        whoami::{Grpc, Identity},
    },
};

mod beneath;
mod body;
mod file;
mod page;
mod sites;

pub(crate) use sites::Sites;

pub(crate) struct Web {
    identity: Arc<Identity>,
    grpc: Router,
    sites: Option<Sites>,
}

impl Web {
    pub(crate) fn new(
        identity: Arc<Identity>,
        sites: Option<Sites>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let whoami = WhoamiServer::new(Grpc::new(identity.clone(), phase.clone()));
        let health = HealthServer::new(Health::new(phase));
        Self {
            identity,
            grpc: Routes::new(whoami)
                .add_service(health)
                .prepare()
                .into_axum_router(),
            sites,
        }
    }

    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path();
        if Face::of(path, request.headers()) == Face::Grpc {
            let Ok(response) = self.grpc.clone().oneshot(request).await;
            return Ok(response);
        }
        if path == "/whoami" {
            return self.identity.answer(&request);
        }
        match &self.sites {
            Some(sites) => {
                sites
                    .answer(&request.into_parts().0, SystemTime::now())
                    .await
            }
            None => self.own_page(&request),
        }
    }

    /// Without sites the root says which node this is.
    fn own_page(&self, request: &Request<Body>) -> Result<Response<Body>, Refusal> {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/") => Ok(page::of(&self.identity)),
            (_, "/") => Err(Refusal::MethodNotAllowed),
            _ => Err(Refusal::NotFound),
        }
    }
}
