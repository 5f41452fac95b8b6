//! `balancer top`: what goes through a balancer, from two readings of its counters a second apart.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Out, client::Client};

mod frame;
mod series;

use frame::Frame;
use series::Series;

/// The alternate screen, so that what stood there before comes back, and no cursor in it.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the corner, and what is below it away.
const HOME: &str = "\x1b[H\x1b[J";

#[derive(Debug, Clone, clap::Args)]
pub struct TopArgs {
    /// Shows one interval and ends.
    #[arg(long)]
    once: bool,
    /// From one reading to the next, such as 1s or 500ms.
    #[arg(long, default_value = "1s", value_parser = interval, value_name = "TIME")]
    interval: Duration,
}

/// What was read at one time.
struct Reading {
    at: Instant,
    series: Series,
    endpoints: Value,
}

pub(super) async fn run(client: &Client, out: &Out, args: &TopArgs) -> Result<(), CliError> {
    // A screen of its own only for who watches; a pipe gets one frame after the other.
    let is_screen = !args.once && !out.json && out.style.width.is_some();
    if !is_screen {
        return frames(client, out, args, false).await;
    }
    print(ENTER)?;
    let ended = tokio::select! {
        ended = frames(client, out, args, true) => ended,
        stopped = stopped() => stopped,
    };
    print(LEAVE)?;
    ended
}

async fn frames(
    client: &Client,
    out: &Out,
    args: &TopArgs,
    is_screen: bool,
) -> Result<(), CliError> {
    let mut before = read(client).await?;
    loop {
        tokio::time::sleep(args.interval).await;
        let now = read(client).await?;
        show(&Frame::between(&before, &now), out, is_screen)?;
        if args.once {
            return Ok(());
        }
        before = now;
    }
}

async fn read(client: &Client) -> Result<Reading, CliError> {
    let metrics = client.metrics().await?;
    let endpoints = client.get("/api/v1/endpoints").await?;
    Ok(Reading {
        at: Instant::now(),
        series: Series::parse(&metrics),
        endpoints,
    })
}

fn show(frame: &Frame, out: &Out, is_screen: bool) -> Result<(), CliError> {
    if out.json {
        return out.text(&frame.json().to_string());
    }
    let text = frame.text(out.style);
    if !is_screen {
        return out.text(&format!("{text}\n"));
    }
    let rows = out.style.height.unwrap_or(usize::MAX).saturating_sub(1);
    let lines: Vec<_> = text
        .lines()
        .take(rows)
        .map(|it| out.style.cut(it))
        .collect();
    print(&format!("{HOME}{}", lines.join("\n")))
}

fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

async fn stopped() -> Result<(), CliError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    match (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&span) {
        true => Ok(span),
        false => Err("not within 100ms to 1h".to_owned()),
    }
}
