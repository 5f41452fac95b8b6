//! Turns the rounds of every row into Markdown, with the spread of the rounds and the ratios to the peers.

use std::fmt::Write;
use std::time::Duration;

use ::tests::process::Memory;

use crate::measure::{IdleSample, Sample};
use crate::pool::PoolSample;

/// A peer that every proxy is compared with.
const REFERENCE: &str = "haproxy";
/// The one that is not a peer.
pub(crate) const OURS: &str = "colonnade";

/// What the bench found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) exchanges: Vec<Line<Sample>>,
    pub(crate) idle: Vec<Line<IdleSample>>,
    pub(crate) pool: Vec<Line<PoolSample>>,
    /// Peers that are not on this machine.
    pub(crate) absent: Vec<String>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
}

/// The rounds of one proxy in one row.
#[derive(Debug)]
pub(crate) struct Line<S> {
    pub(crate) row: &'static str,
    pub(crate) proxy: String,
    pub(crate) rounds: Vec<S>,
}

/// Least, middle and greatest of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Findings {
    /// Failed exchanges of all rows.
    pub(crate) fn failures(&self) -> u64 {
        self.exchanges
            .iter()
            .flat_map(|it| &it.rounds)
            .map(|it| it.failures)
            .sum()
    }

    pub(crate) fn markdown(&self) -> String {
        let parts = [
            (!self.exchanges.is_empty()).then(|| self.exchanges_table()),
            (!self.idle.is_empty()).then(|| self.idle_table()),
            (!self.pool.is_empty()).then(|| self.pool_table()),
            (!self.absent.is_empty()).then(|| list("absent", &self.absent)),
            (!self.missing.is_empty()).then(|| list("not measured", &self.missing)),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }

    fn exchanges_table(&self) -> String {
        let mut table = String::from(
            "| row | proxy | CPU µs per exchange: median (min–max) | to HAProxy | to the best peer | exchanges/s | MiB/s | p50 µs | p90 | p99 | p99.9 | busy | failed |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for line in &self.exchanges {
            let cpu = Spread::of(&line.rounds, |it| micros(it.cpu_per_exchange));
            let to_reference = ratio(cpu.median, self.reference(line.row));
            let to_best = ratio(cpu.median, self.best_peer(line.row));
            let rate = Spread::of(&line.rounds, |it| it.exchanges_per_second).median;
            let mib = Spread::of(&line.rounds, |it| it.mib_per_second).median;
            let [p50, p90, p99, p999] = [0, 1, 2, 3]
                .map(|at| Spread::of(&line.rounds, |it| micros(it.latencies[at])).median);
            let busy = Spread::of(&line.rounds, |it| it.busy).median * 100.0;
            let failed: u64 = line.rounds.iter().map(|it| it.failures).sum();
            let (row, proxy) = (line.row, &line.proxy);
            let _ = writeln!(
                table,
                "| {row} | {proxy} | {} | {to_reference} | {to_best} | {rate:.0} | {mib:.1} | {p50:.0} | {p90:.0} | {p99:.0} | {p999:.0} | {busy:.0} % | {failed} |",
                cpu.text(1)
            );
        }
        table
    }

    fn idle_table(&self) -> String {
        let mut table = String::from(
            "| row | proxy | KiB per idle connection, its own memory: median (min–max) | RSS | PSS | before, MiB | with all, MiB |\n|---|---|---|---|---|---|---|\n",
        );
        for line in &self.idle {
            let own = kib(&line.rounds, |it| it.anonymous);
            let resident = kib(&line.rounds, |it| it.resident).median;
            let proportional = kib(&line.rounds, |it| it.proportional).median;
            let before = Spread::of(&line.rounds, |it| mib(it.before.anonymous)).median;
            let after = Spread::of(&line.rounds, |it| mib(it.after.anonymous)).median;
            let (row, proxy) = (line.row, &line.proxy);
            let _ = writeln!(
                table,
                "| {row} | {proxy} | {} | {resident:.2} | {proportional:.2} | {before:.1} | {after:.1} |",
                own.text(2)
            );
        }
        table
    }

    fn pool_table(&self) -> String {
        let mut table = String::from(
            "| row | ns per pick: median (min–max) | ns per change: median (min–max) |\n|---|---|---|\n",
        );
        for line in &self.pool {
            let pick = Spread::of(&line.rounds, |it| it.per_pick.as_nanos() as f64);
            let change = Spread::of(&line.rounds, |it| it.per_change.as_nanos() as f64);
            let _ = writeln!(
                table,
                "| {} | {} | {} |",
                line.row,
                pick.text(0),
                change.text(0)
            );
        }
        table
    }

    /// The median cost of the reference in a row.
    fn reference(&self, row: &str) -> Option<f64> {
        self.costs(row, |proxy| proxy == REFERENCE).next()
    }

    /// The least median cost that any peer has in a row.
    fn best_peer(&self, row: &str) -> Option<f64> {
        self.costs(row, |proxy| proxy != OURS)
            .min_by(f64::total_cmp)
    }

    fn costs(&self, row: &str, whose: impl Fn(&str) -> bool) -> impl Iterator<Item = f64> {
        let lines = self.exchanges.iter();
        let lines = lines.filter(move |it| it.row == row && whose(&it.proxy));
        lines.map(|it| Spread::of(&it.rounds, |it| micros(it.cpu_per_exchange)).median)
    }
}

impl Spread {
    fn of<S>(rounds: &[S], value: impl Fn(&S) -> f64) -> Self {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let [min, .., max] = values[..] else {
            let only = values.first().copied().unwrap_or(f64::NAN);
            return Self {
                min: only,
                median: only,
                max: only,
            };
        };
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Self {
            min,
            median: f64::midpoint(low, high),
            max,
        }
    }

    fn text(self, digits: usize) -> String {
        let Self { min, median, max } = self;
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

/// KiB of some kind of memory for one connection.
fn kib(rounds: &[IdleSample], kind: impl Fn(&Memory) -> u64) -> Spread {
    Spread::of(rounds, |it| it.each(&kind) / 1024.0)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn list(what: &str, items: &[String]) -> String {
    items.iter().map(|it| format!("- {what}: {it}\n")).collect()
}

fn ratio(value: f64, reference: Option<f64>) -> String {
    reference.map_or_else(|| "–".into(), |it| format!("{:.2}", value / it))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_of_its_rounds() {
        assert_eq!(
            Spread::of(&[3.0, 1.0, 2.0], |it| *it),
            Spread {
                min: 1.0,
                median: 2.0,
                max: 3.0
            }
        );
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0], |it| *it).median, 2.5);
        assert_eq!(
            Spread::of(&[4.0], |it| *it),
            Spread {
                min: 4.0,
                median: 4.0,
                max: 4.0
            }
        );
    }

    #[test]
    fn a_row_is_compared_with_haproxy_and_the_best_peer_in_the_same_row() {
        let line = |row, proxy: &str, micros| Line {
            row,
            proxy: proxy.into(),
            rounds: vec![sample(micros)],
        };
        let exchanges = vec![
            line("a", OURS, 10),
            line("a", "haproxy", 20),
            line("a", "nginx", 16),
            line("b", OURS, 10),
        ];
        let markdown = Findings {
            exchanges,
            ..Findings::default()
        }
        .markdown();
        assert!(
            markdown.contains("| a | colonnade | 10.0 (10.0–10.0) | 0.50 | 0.62 |"),
            "{markdown}"
        );
        assert!(
            markdown.contains("| b | colonnade | 10.0 (10.0–10.0) | – | – |"),
            "{markdown}"
        );
    }

    fn sample(micros: u64) -> Sample {
        Sample {
            cpu_per_exchange: Duration::from_micros(micros),
            busy: 0.5,
            exchanges_per_second: 1.0,
            mib_per_second: 1.0,
            latencies: [Duration::ZERO; 4],
            failures: 0,
            failure: None,
        }
    }
}
