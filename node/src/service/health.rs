//! The field's health protocol for gRPC, `grpc.health.v1.Health`, of a node that serves until it drains.
//!
//! It is ours and not tonic-health's own because a watch must end when the node drains, or it would hold the node until
//! its deadline.

use std::pin::Pin;

use proto::v1::whoami_server::WhoamiServer;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, server::NamedService};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

use crate::{
    register::{Phase, reached},
    service::whoami::Grpc,
};

pub(super) struct Health {
    phase: watch::Receiver<Phase>,
}

impl Health {
    pub(super) fn new(phase: watch::Receiver<Phase>) -> Self {
        Self { phase }
    }

    /// None for a service that is not here. The empty name is the node as a whole.
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let is_ours = service.is_empty() || service == name_of::<WhoamiServer<Grpc>>();
        let is_draining = Phase::Draining <= *self.phase.borrow();
        is_ours.then_some(match is_draining {
            true => ServingStatus::NotServing,
            false => ServingStatus::Serving,
        })
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.status(&request.into_inner().service);
        let status = status.ok_or_else(|| Status::not_found("no such service"))?;
        Ok(Response::new(response(status)))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let now = self.status(&service);
        let last = now.map_or(ServingStatus::ServiceUnknown, |_| ServingStatus::NotServing);
        let first = now.unwrap_or(ServingStatus::ServiceUnknown);
        let (sender, receiver) = mpsc::channel(1);
        let mut phase = self.phase.clone();
        tokio::spawn(async move {
            let told = async {
                sender.send(Ok(response(first))).await?;
                reached(&mut phase, Phase::Draining).await;
                sender.send(Ok(response(last))).await
            };
            tokio::select! {
                // A client that has gone needs no word of ours.
                _ = told => {}
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn name_of<S: NamedService>() -> &'static str {
    S::NAME
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
