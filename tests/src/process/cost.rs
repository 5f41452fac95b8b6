//! Reads from the kernel what a process has cost so far: processor time and memory of its own.

use std::fs;
use std::io;
use std::time::Duration;

use super::Pid;

/// The lowest bits of a process clock's id that make it count scheduled time (`clock_getcpuclockid(3)`).
const CLOCK_SCHEDULED: libc::clockid_t = 2;

/// User-space memory of a process, in bytes, from `/proc/PID/smaps_rollup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Heap, stacks and other pages that belong to no file.
    pub anonymous: u64,
    /// Pages that this process alone has written; they would come back if it ended.
    pub private_dirty: u64,
    /// All pages, those of programs and libraries too.
    pub resident: u64,
    /// The same, but of a page that several processes use only this one's share.
    pub proportional: u64,
}

/// Why a cost is not known.
#[derive(Debug, thiserror::Error)]
pub enum CostError {
    #[error("cannot read the processor clock of process {pid}: {cause}")]
    Clock { pid: Pid, cause: io::Error },
    #[error("cannot read the memory of process {pid}: {cause}")]
    Memory { pid: Pid, cause: io::Error },
    #[error("the kernel's memory summary has no {field}")]
    MissingField { field: &'static str },
}

/// User and system time of all threads of a process since its start, exact to the nanosecond.
///
/// `/proc/PID/stat` holds the same sum, cut to hundredths of a second, which is too coarse for short rounds.
#[expect(
    unsafe_code,
    reason = "no safe wrapper reads the clock of another process"
)]
pub fn cpu_time(pid: Pid) -> Result<Duration, CostError> {
    let clock = (!pid.number() << 3) | CLOCK_SCHEDULED;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec for the call to fill, and an unknown clock is an error, not a fault.
    let res = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if res != 0 {
        return Err(CostError::Clock {
            pid,
            cause: io::Error::last_os_error(),
        });
    }
    Ok(Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    ))
}

/// Memory that a process has for itself.
pub fn memory(pid: Pid) -> Result<Memory, CostError> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let summary = fs::read_to_string(path).map_err(|cause| CostError::Memory { pid, cause })?;
    Ok(Memory {
        anonymous: field(&summary, "Anonymous:")?,
        private_dirty: field(&summary, "Private_Dirty:")?,
        resident: field(&summary, "Rss:")?,
        proportional: field(&summary, "Pss:")?,
    })
}

/// One line of the summary, `Name:   123 kB`, in bytes.
fn field(summary: &str, name: &'static str) -> Result<u64, CostError> {
    let kib = summary.lines().find_map(|line| {
        line.strip_prefix(name)?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    Ok(kib.ok_or(CostError::MissingField { field: name })? * 1024)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn work_is_seen_on_the_clock() {
        let before = cpu_time(own_pid()).expect("the own clock is readable");
        black_box((0..20_000_000_u64).fold(0, |sum, it| black_box(sum ^ it)));
        let after = cpu_time(own_pid()).expect("the own clock is readable");
        assert!(
            after > before + Duration::from_millis(1),
            "{before:?} {after:?}"
        );
    }

    #[test]
    fn memory_that_is_written_is_seen() {
        const SIZE: u64 = 64 << 20;
        let before = memory(own_pid()).expect("the own memory is readable");
        let block = black_box(vec![1_u8; usize::try_from(SIZE).expect("64 MiB fit")]);
        let after = memory(own_pid()).expect("the own memory is readable");
        assert!(
            after.anonymous >= before.anonymous + SIZE / 2,
            "{before:?} {after:?}"
        );
        assert!(after.resident >= after.proportional, "{after:?}");
        assert!(
            after.private_dirty >= before.private_dirty + SIZE / 2,
            "{before:?} {after:?}"
        );
        drop(block);
    }

    #[test]
    fn a_summary_without_the_field_is_an_error() {
        assert!(matches!(
            field("Rss: 12 kB\n", "Anonymous:"),
            Err(CostError::MissingField { .. })
        ));
        assert_eq!(
            field("Rss: 12 kB\nAnonymous:   3 kB\n", "Anonymous:").expect("it is there"),
            3072
        );
    }

    fn own_pid() -> Pid {
        Pid(rustix::process::getpid())
    }
}
