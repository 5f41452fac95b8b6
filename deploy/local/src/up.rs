//! The life of a local cluster: take the folder, start the balancer and the nodes, serve, leave in the order that loses
//! nothing.

use std::{
    env,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process,
    sync::Arc,
    time::Duration,
};

use balancer::app::Balancer;
use http_body_util::Full;
use hyper::{Request, StatusCode, body::Bytes, header};
use registry::{Registry, memory::Memory};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    cluster::{Cluster, OrderError},
    command_line::Up,
    control::{self, ControlError, Steered},
    data::{Data, DataError, Place},
    exchange, settings,
};

/// How long the first request through the entry may take to succeed.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
/// How often that is tried.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

#[derive(Debug, Error)]
pub(crate) enum UpError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(
        "{address} is busy, another program listens there: choose another address with {flag} ADDR"
    )]
    Busy {
        address: SocketAddr,
        flag: &'static str,
    },
    #[error("cannot listen on {address}: {error}: choose another address with {flag} ADDR")]
    Address {
        address: SocketAddr,
        flag: &'static str,
        error: io::Error,
    },
    #[error("--http and --admin both say {0}: choose two addresses")]
    SameAddress(SocketAddr),
    #[error("cannot configure the balancer: {0}")]
    Config(String),
    #[error("cannot start the balancer: {0}")]
    Balancer(#[from] balancer::app::StartError),
    #[error("cannot start a runtime: {0}")]
    Runtime(io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Nodes(#[from] OrderError),
    #[error("{entry} did not serve within {} s: {last}", SERVED_WITHIN.as_secs())]
    NotServed { entry: SocketAddr, last: String },
}

/// Starts a cluster and returns when it has ended.
pub(crate) fn run(args: &Up) -> Result<(), UpError> {
    listen_to_ourselves();
    let data = Data::open(Place::new(&args.data)?)?;
    check_addresses(args)?;
    let registry = Registry::Memory(Memory::new());
    // It brings its own threads, so it starts before there is a runtime on this one.
    let balancer = start_balancer(data.place(), args, &registry)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(UpError::Runtime)?;
    runtime.block_on(live(&data, args, balancer, registry))
}

/// Prints a line; a reader that has gone away is no reason to end.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// What the programs report goes to the error stream; `RUST_LOG` says how much of it.
fn listen_to_ourselves() {
    use tracing_subscriber::{EnvFilter, filter::LevelFilter};
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
}

fn check_addresses(args: &Up) -> Result<(), UpError> {
    if args.http == args.admin && args.http.port() != 0 {
        return Err(UpError::SameAddress(args.http));
    }
    check_free(args.http, "--http")?;
    check_free(args.admin, "--admin")
}

/// The balancer shares its address among its threads, and the kernel would let a second cluster of the same user share
/// it too, with half of the clients for each. So it is tried alone first.
fn check_free(address: SocketAddr, flag: &'static str) -> Result<(), UpError> {
    match std::net::TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(UpError::Busy { address, flag })
        }
        Err(error) => Err(UpError::Address {
            address,
            flag,
            error,
        }),
    }
}

fn start_balancer(place: &Place, args: &Up, registry: &Registry) -> Result<Balancer, UpError> {
    let text = settings::balancer(place, args.http, args.admin);
    let config = balancer::config::Config::from_toml("balancer", &text);
    let config = config.map_err(|error| UpError::Config(error.to_string()))?;
    let balancer = Balancer::start(config, Some(registry.clone()))?;
    Ok(balancer)
}

async fn live(
    data: &Data,
    args: &Up,
    balancer: Balancer,
    registry: Registry,
) -> Result<(), UpError> {
    let mut interrupts = Interrupts::new().map_err(UpError::Runtime)?;
    let entry = balancer
        .listeners()
        .first()
        .map_or(args.http, |(_, address)| *address);
    let admin = balancer.admin();
    let cluster = Arc::new(Cluster::new(data.place().clone(), registry));
    let steered = Steered {
        cluster: Arc::clone(&cluster),
        entry,
        admin,
    };
    tokio::spawn(control::serve(control::open(data.place())?, steered));

    tokio::select! {
        started = start(&cluster, args.nodes, entry) => {
            started?;
            say(&welcome(args, data.place(), entry, admin));
            interrupts.next().await;
        }
        () = interrupts.next() => {}
    }
    say(
        "\nLeaving: the balancer ends what it has, then the nodes do. Ctrl-C again ends all at once.",
    );
    tokio::select! {
        () = leave(balancer, &cluster) => Ok(()),
        () = interrupts.next() => process::exit(INTERRUPTED),
    }
}

async fn start(cluster: &Cluster, nodes: u32, entry: SocketAddr) -> Result<(), UpError> {
    cluster.scale(nodes).await?;
    served(entry).await
}

/// Clients first: when the balancer has ended its exchanges, no node has any.
async fn leave(balancer: Balancer, cluster: &Cluster) {
    balancer.leave().await;
    cluster.end().await;
}

/// Waits until a request gets through, so that what is printed next is true.
async fn served(entry: SocketAddr) -> Result<(), UpError> {
    let mut last = "no answer".to_owned();
    let tries = async {
        let mut ticks = interval(TRY_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match whoami(reachable(entry)).await {
                Ok(StatusCode::OK) => return,
                Ok(status) => last = format!("it answered {status}"),
                Err(error) => last = error.to_string(),
            }
        }
    };
    let served = timeout(SERVED_WITHIN, tries).await;
    served.map_err(|_| UpError::NotServed { entry, last })
}

async fn whoami(entry: SocketAddr) -> Result<StatusCode, exchange::ExchangeError> {
    let request = Request::get("/whoami")
        .header(header::HOST, entry.to_string())
        .body(Full::<Bytes>::default());
    let request = request.expect("a fixed path and an address make a request");
    let answer = exchange::ask(TcpStream::connect(entry).await?, request).await?;
    Ok(answer.status)
}

/// An address that means "all of this machine's" cannot be connected to everywhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn welcome(args: &Up, place: &Place, entry: SocketAddr, admin: SocketAddr) -> String {
    let program = env::args().next().unwrap_or_else(|| "colonnade".to_owned());
    // Another terminal finds the default folder by itself.
    let data = args.data.folder.as_ref().map_or_else(String::new, |_| {
        format!(" --data '{}'", place.path().display())
    });
    let site = place.path().join("sites/default");
    let url = format!("http://{}", reachable(entry));
    let admin_url = format!("http://{}", reachable(admin));
    format!(
        "Colonnade is up: {nodes} nodes behind one address.

  entry  {url}
  admin  {admin_url}
  site   {site}

Four things to try, in a second terminal:

  1. Ask who answers, a few times:
       for i in 1 2 3 4 5 6; do curl -s {url}/whoami | grep node_id; done
  2. Kill a node, and go on asking:
       {program} kill node-2{data}
  3. Add nodes, or let some leave:
       {program} scale 5{data}
  4. See who is there, and what was counted:
       {program} status{data}; curl -s {admin_url}/metrics

Ctrl-C lets everybody leave.",
        nodes = args.nodes,
        site = site.display(),
    )
}

/// What asks the whole program to end: Ctrl-C, and what service managers send.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

// === impl Interrupts ===

impl Interrupts {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_everywhere_is_reached_on_this_machine() {
        check("0.0.0.0:80", "127.0.0.1:80");
        check("[::]:80", "[::1]:80");
        check("127.0.0.2:80", "127.0.0.2:80");
    }

    #[test]
    fn a_busy_address_is_named_with_its_flag() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = taken.local_addr().expect("it is bound");
        let message = check_free(address, "--http")
            .expect_err("it is taken")
            .to_string();
        assert!(
            message.starts_with(&format!("{address} is busy")) && message.contains("--http"),
            "{message}"
        );
        drop(taken);
        assert!(check_free(address, "--http").is_ok());
    }

    fn check(address: &str, expected: &str) {
        let parsed = address.parse().expect("an address");
        assert_eq!(reachable(parsed).to_string(), expected);
    }
}
