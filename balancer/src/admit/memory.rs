//! Looks at the memory that the process has for itself, and says how hard that presses.

use std::{fs, io, path::Path, sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use balancer_core::limit::memory::{Meter, Pressure, Thresholds};

use super::Admission;
use crate::config::MemoryMax;

/// How often it is looked at: a flood takes longer than this to fill what lies between the thresholds.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// Watches for as long as the balancer runs, by the limits in force.
pub(crate) async fn watch(admission: Arc<Admission>) {
    let mut watched = Watched::default();
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    loop {
        ticks.tick().await;
        watched.look(&admission);
    }
}

/// What is watched, and by which policy.
#[derive(Default)]
struct Watched {
    policy: Option<(MemoryMax, Thresholds)>,
    meter: Option<Meter>,
}

impl Watched {
    fn look(&mut self, admission: &Admission) {
        let policy = policy(admission);
        if self.policy != policy {
            self.policy = policy;
            self.meter = policy.and_then(|(memory_max, it)| meter(admission, memory_max, it));
            admission.pressure.store(Pressure::None as u8, Relaxed);
        }
        let Some(meter) = &mut self.meter else {
            return;
        };
        match resident_bytes() {
            Ok(used) => sample(admission, meter, used),
            Err(err) => tracing::warn!(%err, "reading how much memory is used"),
        }
    }
}

/// None where there is nothing to watch.
fn policy(admission: &Admission) -> Option<(MemoryMax, Thresholds)> {
    let policy = &admission.limits.load().policy;
    let thresholds = Thresholds {
        shed_at: policy.memory_shed_at,
        refuse_at: policy.memory_refuse_at,
    };
    policy.memory_max.map(|it| (it, thresholds))
}

fn meter(admission: &Admission, memory_max: MemoryMax, thresholds: Thresholds) -> Option<Meter> {
    match bytes_of(memory_max) {
        Ok(bytes_max) => {
            admission.metrics.memory_max.set(bytes_max as f64);
            Some(Meter::new(bytes_max, thresholds))
        }
        Err(err) => {
            tracing::error!(%err, "memory is not watched: its limit cannot be read");
            None
        }
    }
}

fn sample(admission: &Admission, meter: &mut Meter, used: u64) {
    let pressure = meter.sample(used);
    let before = admission.pressure.swap(pressure as u8, Relaxed);
    if before != pressure as u8 {
        tracing::warn!(?pressure, used, "the pressure of memory has changed");
    }
    admission.metrics.memory_used.set(used as f64);
    admission
        .metrics
        .memory_pressure
        .set(f64::from(pressure as u8));
}

fn bytes_of(memory_max: MemoryMax) -> io::Result<u64> {
    let share = match memory_max {
        MemoryMax::Bytes(bytes) => return Ok(bytes),
        MemoryMax::Share(share) => share,
    };
    let machine = machine_bytes()?;
    let all = cgroup_bytes().map_or(machine, |it| it.min(machine));
    Ok((all as f64 * share) as u64)
}

/// The least of the limits of this process's cgroup (version 2) and those above it; none where there is no limit.
fn cgroup_bytes() -> Option<u64> {
    let line = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = line.lines().find_map(|it| it.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join(path);
    let limits = own.ancestors().take_while(|it| it.starts_with(root));
    limits
        .filter_map(|it| fs::read_to_string(it.join("memory.max")).ok())
        .filter_map(|it| it.trim().parse().ok())
        .min()
}

fn machine_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kibibytes = text
        .lines()
        .find_map(|it| it.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .and_then(|it| it.parse::<u64>().ok());
    kibibytes
        .map(|it| it << 10)
        .ok_or_else(|| io::Error::other("/proc/meminfo tells no MemTotal"))
}

/// The second number of statm counts the pages in memory.
fn resident_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).and_then(|it| it.parse::<u64>().ok());
    let page = rustix::param::page_size() as u64;
    pages
        .map(|it| it * page)
        .ok_or_else(|| io::Error::other("/proc/self/statm tells no resident pages"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some_memory_of_the_machine() {
        let used = resident_bytes().expect("Linux tells");
        let all = bytes_of(MemoryMax::Share(1.0)).expect("Linux tells");
        assert!(used > 1 << 20 && used < all, "{used} of {all}");
        let half = bytes_of(MemoryMax::Share(0.5)).expect("Linux tells");
        assert!(half.abs_diff(all / 2) <= 1);
    }
}
