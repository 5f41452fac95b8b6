//! Measures the balancer beside its peers: the same traffic, the same backend, one core for each proxy, in turns.
//!
//! The load and the backend share one core, the proxy under test has another to itself, and each proxy has one worker.
//! Rounds are interleaved (A B C A B C), so that a machine that slows down slows everybody. What is compared is the
//! processor time per exchange, which a full core, a slow load or a noisy neighbour disturbs least.
//!
//! `cargo run --release -p tests --bin bench -- --out bench.md` runs everything; `--help` tells how to run less.
//!
//! It does NOT choose a winner: it prints what it saw, with the spread of the rounds.

mod backend;
mod certificate;
mod machine;
mod measure;
mod pool;
mod proxy;
mod row;
mod table;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use certificate::Certificate;
use proxy::{Proxy, Running, Site, Splice};
use row::{Held, Kind, Kinds, ROWS, Row, Setup};
use table::{Findings, Line};

/// Measures the balancer beside HAProxy, nginx and Envoy.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// How long each round of each proxy is measured, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many rounds each proxy gets.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// The rows to run; all when absent.
    #[arg(long, value_delimiter = ',', value_parser = row_named)]
    only: Vec<&'static str>,
    /// Who runs beside ours, where installed; `HAPROXY`, `NGINX` and `ENVOY` may name other builds.
    #[arg(long, value_delimiter = ',', default_value = "haproxy,nginx,envoy")]
    peers: Vec<Peer>,
    /// Leaves ours out, to see the peers alone.
    #[arg(long)]
    peers_only: bool,
    /// A file that gets the table too.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    Haproxy,
    Nginx,
    Envoy,
    None,
}

/// What helps against an absent peer.
const ADVICE: &str =
    "install it, or run tests/bench/peers, or name its program in HAPROXY, NGINX or ENVOY";

/// What every row needs.
struct Bench {
    proxies: Vec<Proxy>,
    site: Site,
    lasts: Duration,
    rounds: u16,
    findings: Findings,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything; `false` when something that should have been measured was not, or an exchange failed.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let rows: Vec<_> = ROWS.iter().filter(|row| arguments.wants(row)).collect();
    // A build uses every core, so it comes before this process is confined to one.
    let (proxies, absent) = if rows.iter().all(|row| row.is_pool()) {
        Default::default()
    } else {
        arguments.proxies()?
    };
    let (heading, cores) = (heading(arguments, &proxies), machine::cores()?);
    machine::raise_file_limit()?;
    cores.ours.map_or(Ok(()), machine::stay_on)?;
    let site = Site {
        backend: backend::start()?,
        certificate: Certificate::make()?,
        core: cores.proxy,
    };
    let (lasts, rounds) = (
        Duration::try_from_secs_f64(arguments.seconds)?,
        arguments.rounds,
    );
    let mut bench = Bench {
        proxies,
        site,
        lasts,
        rounds,
        findings: Findings {
            absent,
            ..Findings::default()
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for row in rows {
        eprintln!("{}: {}", row.name, row.what);
        runtime.block_on(bench.row(row));
    }
    let report = format!("{heading}\n{}\n{}", bench.findings.markdown(), legend());
    println!("{report}");
    if let Some(path) = &arguments.out {
        fs::write(path, &report)?;
    }
    Ok(bench.findings.missing.is_empty() && bench.findings.failures() == 0)
}

fn row_named(name: &str) -> Result<&'static str, String> {
    let names = ROWS.map(|row| row.name);
    let known = names.into_iter().find(|it| *it == name);
    known.ok_or_else(|| format!("there are the rows {}", names.join(", ")))
}

fn heading(arguments: &Arguments, proxies: &[Proxy]) -> String {
    let versions: Vec<_> = proxies
        .iter()
        .filter(|it| !it.is_variant())
        .map(|it| format!("{it}: {}", it.version().unwrap_or_default()))
        .collect();
    format!(
        "{}. {} rounds of {} s. {}.\n",
        machine::facts(),
        arguments.rounds,
        arguments.seconds,
        versions.join("; ")
    )
}

fn legend() -> String {
    let rows = ROWS
        .iter()
        .map(|row| format!("- `{}`: {}\n", row.name, row.what));
    format!(
        "CPU: user and system time of the proxy per successful exchange. busy: the share of its core that it took; well below \
         100 %, the load or the machine set the rate, and proxies that find several events at each wake-up look cheaper than \
         when they are alone. Ours and the peers forward the client's address and a request id.\n\nRows:\n{}",
        rows.collect::<String>()
    )
}

impl Arguments {
    fn wants(&self, row: &Row) -> bool {
        self.only.is_empty() || self.only.contains(&row.name)
    }

    /// Who is there, and who is not.
    fn proxies(&self) -> Result<(Vec<Proxy>, Vec<String>), Box<dyn Error>> {
        let mut absent = Vec::new();
        let mut proxies = if self.peers_only {
            Vec::new()
        } else {
            vec![Proxy::ours()?]
        };
        for peer in &self.peers {
            let found = peer.find();
            if found.is_empty() && *peer != Peer::None {
                let advice = format!("{peer:?} is not on this machine; {ADVICE}");
                eprintln!("\n*** {advice} ***\n");
                absent.push(advice);
            }
            proxies.extend(found);
        }
        Ok((proxies, absent))
    }
}

impl Peer {
    fn find(self) -> Vec<Proxy> {
        let found = match self {
            Self::Haproxy => [Splice::Off, Splice::On].map(Proxy::haproxy),
            Self::Nginx => [Proxy::nginx(), None],
            Self::Envoy => [Proxy::envoy(), None],
            Self::None => [None, None],
        };
        found.into_iter().flatten().collect()
    }
}

impl Row {
    fn is_pool(&self) -> bool {
        matches!(self.kind, Kind::Pool { .. })
    }
}

impl Bench {
    async fn row(&mut self, row: &Row) {
        match row.kind {
            Kind::Exchanges {
                setup,
                lanes,
                traffic,
            } => self.exchanges(row.name, setup, lanes, traffic).await,
            Kind::Idle {
                setup,
                held,
                connections,
            } => self.idle(row.name, setup, held, connections).await,
            Kind::Pool { endpoints } => self.pool(row.name, endpoints),
        }
    }

    async fn exchanges(&mut self, row: &'static str, setup: Setup, lanes: usize, traffic: Kinds) {
        let mut lines = Vec::new();
        let running = self.start_all(row, setup).await;
        for _ in 0..self.rounds {
            for (name, proxy) in &running {
                let certificate = &self.site.certificate;
                match measure::exchanges(proxy, traffic, certificate, lanes, self.lasts).await {
                    Ok(sample) => {
                        sample
                            .failure
                            .iter()
                            .for_each(|it| eprintln!("{row}, {name}: {it}"));
                        line_of(&mut lines, row, name).rounds.push(sample);
                    }
                    Err(cause) => self
                        .findings
                        .missing
                        .push(format!("{row}, {name}: {cause}")),
                }
            }
        }
        self.findings.exchanges.extend(lines);
    }

    /// A proxy that held many connections keeps some of their memory, so every round gets fresh ones.
    async fn idle(&mut self, row: &'static str, setup: Setup, held: Held, connections: usize) {
        let mut lines = Vec::new();
        for _ in 0..self.rounds {
            for (name, proxy) in self.start_all(row, setup).await {
                let certificate = &self.site.certificate;
                match measure::idle(&proxy, held, certificate, connections).await {
                    Ok(sample) => line_of(&mut lines, row, &name).rounds.push(sample),
                    Err(cause) => self
                        .findings
                        .missing
                        .push(format!("{row}, {name}: {cause}")),
                }
            }
        }
        self.findings.idle.extend(lines);
    }

    fn pool(&mut self, row: &'static str, endpoints: usize) {
        let rounds = (0..self.rounds).map(|_| pool::measure(endpoints)).collect();
        self.findings.pool.push(Line {
            row,
            proxy: String::new(),
            rounds,
        });
    }

    /// Starts each proxy that can do what the row asks; those that wait for their turn cost nothing.
    async fn start_all(&mut self, row: &str, setup: Setup) -> Vec<(String, Running)> {
        let mut running = Vec::new();
        for proxy in &self.proxies {
            match proxy.start(setup, &self.site).await {
                Ok(started) => running.push((proxy.to_string(), started)),
                Err(proxy::ProxyError::SameAsOther) => {}
                Err(proxy::ProxyError::Unable) => eprintln!("{row}: {proxy} cannot do this"),
                Err(cause) => self
                    .findings
                    .missing
                    .push(format!("{row}, {proxy}: {cause}")),
            }
        }
        running
    }
}

fn line_of<'a, S>(lines: &'a mut Vec<Line<S>>, row: &'static str, proxy: &str) -> &'a mut Line<S> {
    let at = lines
        .iter()
        .position(|it| it.proxy == proxy)
        .unwrap_or_else(|| {
            lines.push(Line {
                row,
                proxy: proxy.to_owned(),
                rounds: Vec::new(),
            });
            lines.len() - 1
        });
    &mut lines[at]
}
