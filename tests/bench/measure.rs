//! Measures one proxy once: what its exchanges cost it and how long they took, or what an idle connection keeps.

use std::io;
use std::time::{Duration, Instant};

use ::tests::load::http1::{Http1, Reuse};
use ::tests::load::tls::Handshakes;
use ::tests::load::websocket::WebSocket;
use ::tests::load::{Failure, Lane, Traffic};
use ::tests::process::{CostError, Memory, Pid, cpu_time, memory};

use crate::certificate::Certificate;
use crate::proxy::Running;
use crate::row::{Held, Kinds, MESSAGE, SMALL, get};

/// Before anything is counted: connections are made, pools fill, branch predictors learn.
const WARM_UP: Duration = Duration::from_millis(700);
/// How long a load may outlive its round until its last exchange has ended.
const FINISH_SPARE: Duration = Duration::from_secs(30);
/// Memory counts as settled when two readings this far apart are equal.
const SETTLE_STEP: Duration = Duration::from_millis(500);
/// Memory that has not settled by then is taken as it is.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// One round of exchanges.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// User and system time of the proxy per successful exchange.
    pub(crate) cpu_per_exchange: Duration,
    /// The share of the round during which the proxy was on its core.
    pub(crate) busy: f64,
    pub(crate) exchanges_per_second: f64,
    pub(crate) mib_per_second: f64,
    /// p50, p90, p99 and p99.9.
    pub(crate) latencies: [Duration; 4],
    pub(crate) failures: u64,
    /// The reason of the first failure.
    pub(crate) failure: Option<String>,
}

/// One round of idle connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdleSample {
    pub(crate) connections: usize,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    #[error("cannot run the load: {0}")]
    Load(#[from] io::Error),
    #[error(transparent)]
    Cost(#[from] CostError),
    #[error("nothing was answered: {0}")]
    Nothing(String),
    #[error("cannot open connection {index}: {cause}")]
    Connection { index: usize, cause: Failure },
}

/// Loads a proxy for `lasts`, after a warm-up.
pub(crate) async fn exchanges(
    proxy: &Running,
    traffic: Kinds,
    certificate: &Certificate,
    lanes: usize,
    lasts: Duration,
) -> Result<Sample, MeasureError> {
    let patience = WARM_UP + lasts + FINISH_SPARE;
    let load = traffic.start(proxy.entry(), certificate, lanes, patience)?;
    tokio::time::sleep(WARM_UP).await;
    load.take();
    let (began, cpu_before) = (Instant::now(), cpu_time(proxy.pid())?);
    tokio::time::sleep(lasts).await;
    let (cpu_after, lasted, report) = (cpu_time(proxy.pid())?, began.elapsed(), load.take());
    load.stop();
    load.finish().await?;
    let failure = report
        .failed_exchanges()
        .first()
        .map(|it| it.reason.clone());
    if report.succeeded() == 0 {
        return Err(MeasureError::Nothing(
            failure.unwrap_or_else(|| "no failure either".into()),
        ));
    }
    let cpu = cpu_after.saturating_sub(cpu_before);
    Ok(Sample {
        cpu_per_exchange: cpu.div_f64(report.succeeded() as f64),
        busy: cpu.as_secs_f64() / lasted.as_secs_f64(),
        exchanges_per_second: report.rate(),
        mib_per_second: report.bytes() as f64 / lasted.as_secs_f64() / f64::from(1 << 20),
        latencies: [0.5, 0.9, 0.99, 0.999].map(|share| report.quantile(share)),
        failures: report.failures(),
        failure,
    })
}

/// Opens connections, makes one exchange over each, and weighs the proxy while they idle.
pub(crate) async fn idle(
    proxy: &Running,
    held: Held,
    certificate: &Certificate,
    connections: usize,
) -> Result<IdleSample, MeasureError> {
    let http1 = || Http1::new(proxy.entry(), &get(SMALL), Reuse::KeepAlive);
    match held {
        Held::Http1 => hold(proxy, http1(), connections).await,
        Held::Https => {
            let client = certificate.client(Handshakes::Full);
            hold(proxy, http1().over_tls(client), connections).await
        }
        Held::WebSocket => hold(proxy, WebSocket::new(proxy.entry(), MESSAGE), connections).await,
    }
}

async fn hold(
    proxy: &Running,
    mut traffic: impl Traffic,
    connections: usize,
) -> Result<IdleSample, MeasureError> {
    // The first connection makes what all of them share.
    let first = opened(&mut traffic, 0).await?;
    let before = settled_memory(proxy.pid()).await?;
    let mut lanes = Vec::with_capacity(connections);
    for index in 1..=connections {
        lanes.push(opened(&mut traffic, index).await?);
    }
    let after = settled_memory(proxy.pid()).await?;
    drop((first, lanes));
    Ok(IdleSample {
        connections,
        before,
        after,
    })
}

async fn opened<T: Traffic>(traffic: &mut T, index: usize) -> Result<T::Lane, MeasureError> {
    let mut lane = traffic.lane(index);
    let exchange = lane.exchange().await.map(|_| ());
    exchange.map_err(|cause| MeasureError::Connection { index, cause })?;
    Ok(lane)
}

/// Memory, when what belongs to no file has stopped to change.
async fn settled_memory(pid: Pid) -> Result<Memory, CostError> {
    let deadline = Instant::now() + SETTLE_MAX;
    let mut last = memory(pid)?;
    loop {
        tokio::time::sleep(SETTLE_STEP).await;
        let now = memory(pid)?;
        if now.anonymous == last.anonymous || Instant::now() >= deadline {
            return Ok(now);
        }
        last = now;
    }
}

// === impl IdleSample ===

impl IdleSample {
    /// What of some kind of memory is there for one connection, in bytes.
    pub(crate) fn each(&self, kind: impl Fn(&Memory) -> u64) -> f64 {
        let grown = kind(&self.after).saturating_sub(kind(&self.before));
        grown as f64 / self.connections as f64
    }
}
