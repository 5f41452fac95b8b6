//! The machine a table was made on, and the two cores of it that the bench uses.

use std::fs;
use std::io;

use ::tests::process::Core;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which core does what; without two, everything shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// The load and the backend.
    pub(crate) ours: Option<Core>,
    /// The proxy under test.
    pub(crate) proxy: Option<Core>,
}

/// The first two cores this process may use.
pub(crate) fn cores() -> io::Result<Cores> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU)
        .filter(|it| allowed.is_set(*it))
        .map(Core);
    let (first, second) = (cores.next(), cores.next());
    Ok(Cores {
        ours: second.and(first),
        proxy: second,
    })
}

/// Keeps this thread, and those it will start, on one core.
pub(crate) fn stay_on(core: Core) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core.0);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets this process, and the proxies it starts, open as many files as the system permits.
pub(crate) fn raise_file_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?)
}

/// One line: processor, cores, kernel.
pub(crate) fn facts() -> String {
    let model = processor().unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

fn processor() -> Option<String> {
    let facts = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = facts.lines().find(|it| it.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}
