//! How much memory a process holds, at most and at the end: what an attack on memory is measured by.

use std::{fs, io};

use crate::process::Pid;

/// Resident memory in bytes, from `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    pub now: u64,
    /// The most since the start, or since [`forget_peak`].
    pub peak: u64,
}

/// # Errors
/// When the process has ended.
pub fn resident(pid: Pid) -> io::Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Resident {
        now: kib(&status, "VmRSS:") * 1024,
        peak: kib(&status, "VmHWM:") * 1024,
    })
}

/// Lets the peak begin anew with what is held at this moment (`clear_refs` in `proc(5)`).
///
/// # Errors
/// When the process has ended, or is not ours.
pub fn forget_peak(pid: Pid) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|it| it.strip_prefix(name));
    let number = line.and_then(|it| it.split_whitespace().next());
    let number = number.and_then(|it| it.parse().ok());
    number.expect("the kernel tells the memory of a process that lives")
}

#[cfg(test)]
mod tests {
    use crate::process::Program;

    use super::*;

    #[test]
    fn the_peak_is_told_and_forgotten() {
        let program = Program::new("sh").argument("-c").argument("exec sleep 60");
        let process = program.start().expect("sh is installed");
        forget_peak(process.pid()).expect("it is ours");
        let told = resident(process.pid()).expect("it lives");
        assert!(told.peak >= told.now && told.now > 0, "{told:?}");
    }
}
