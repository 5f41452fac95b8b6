//! Starts the programs under test as real processes, and ends them however a test wants them to end.
//!
//! A process started here dies with the test: when its value is dropped, and when the test's own process dies. Its
//! output goes to a file, so that a chatty program never blocks on a full pipe and a failed start can show its reason.

mod cost;
mod ours;
mod spawn;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub use cost::{CostError, Memory, cpu_time, memory};
pub use ours::{OursError, ours};

/// How often a condition is looked at; the start of a program takes some tens of milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long one probe may take, so that a server that accepts and says nothing does not outlast the deadline.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of the output an error shows: its end, where programs say what went wrong.
const OUTPUT_SHOWN_MAX: u64 = 4_096;
/// How much of a status line a probe reads; `HTTP/1.1 200` is 12 bytes.
const STATUS_LINE_MIN: usize = 12;

/// A program about to be started.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    core: Option<Core>,
}

/// A processor core, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core(pub usize);

/// A running program; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: NamedTempFile,
}

/// A process id of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pid(rustix::process::Pid);

/// What must answer before a program counts as ready.
#[derive(Clone, Debug)]
pub enum Ready {
    /// Something accepts connections there.
    Port(SocketAddr),
    /// `GET path` there answers 2xx.
    Url { address: SocketAddr, path: String },
}

/// Why a process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot start {program}: {cause}")]
    Start { program: String, cause: io::Error },
    #[error("cannot keep the output of {program}: {cause}")]
    Output { program: String, cause: io::Error },
    #[error("{program} ended with {status} before it was ready: {output}")]
    EndedEarly {
        program: String,
        status: ExitStatus,
        output: String,
    },
    #[error("{program} was not ready after {waited:?}: {output}")]
    NotReady {
        program: String,
        waited: Duration,
        output: String,
    },
    #[error("{program} was still running after {waited:?}")]
    StillRunning { program: String, waited: Duration },
    #[error("cannot signal {program}: {cause}")]
    Signal { program: String, cause: io::Error },
    #[error("cannot wait for {program}: {cause}")]
    Wait { program: String, cause: io::Error },
}

// === impl Program ===

impl Program {
    /// A program by path, or by name when it is to be found in `PATH`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            core: None,
        }
    }

    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn environment(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Keeps the program, with every thread it will start, on one core.
    #[must_use]
    pub fn on(mut self, core: Core) -> Self {
        self.core = Some(core);
        self
    }

    /// Starts the program; it may not be ready yet.
    pub fn start(self) -> Result<Process, ProcessError> {
        let name = self.name();
        let output = NamedTempFile::new().map_err(|cause| output_error(&name, cause))?;
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .envs(self.environment)
            .stdin(Stdio::null());
        // Both streams share one open file, and so one position: neither overwrites the other.
        let stdout = output
            .reopen()
            .map_err(|cause| output_error(&name, cause))?;
        command.stderr(
            stdout
                .try_clone()
                .map_err(|cause| output_error(&name, cause))?,
        );
        command.stdout(stdout);
        let started = spawn::spawn(command, self.core);
        let child = started.map_err(|cause| ProcessError::Start {
            program: name.clone(),
            cause,
        })?;
        Ok(Process {
            name,
            child,
            output,
        })
    }

    fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or(self.path.as_os_str())
            .to_string_lossy()
            .into_owned()
    }
}

// === impl Process ===

impl Process {
    pub fn pid(&self) -> Pid {
        Pid(rustix::process::Pid::from_child(&self.child))
    }

    /// Waits until the program answers, for at most `patience`.
    pub async fn ready(&mut self, ready: &Ready, patience: Duration) -> Result<(), ProcessError> {
        let deadline = Instant::now() + patience;
        while !ready.answers().await {
            if let Some(status) = self.ended()? {
                return Err(ProcessError::EndedEarly {
                    program: self.name.clone(),
                    status,
                    output: self.output_end(),
                });
            }
            if Instant::now() >= deadline {
                let (program, output) = (self.name.clone(), self.output_end());
                return Err(ProcessError::NotReady {
                    program,
                    waited: patience,
                    output,
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Waits until the program has ended, for at most `patience`.
    pub async fn exit(&mut self, patience: Duration) -> Result<ExitStatus, ProcessError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(ProcessError::StillRunning {
                    program: self.name.clone(),
                    waited: patience,
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Its exit status, when it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ProcessError> {
        self.child.try_wait().map_err(|cause| ProcessError::Wait {
            program: self.name.clone(),
            cause,
        })
    }

    /// `kill -9`: the program gets no chance to say goodbye.
    pub fn kill(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL)
    }

    /// SIGTERM: the program is asked to leave.
    pub fn terminate(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::TERM)
    }

    /// SIGHUP: the program is asked to read its configuration again.
    pub fn hang_up(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::HUP)
    }

    /// SIGUSR1: the program is asked to open its log anew.
    pub fn user_signal(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::USR1)
    }

    /// SIGSTOP: the program keeps its sockets and does nothing, as a hung one would.
    pub fn pause(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: the program goes on.
    pub fn resume(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::CONT)
    }

    /// What the program has written so far, both streams together.
    pub fn output(&self) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.output.path())?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A signal after the end would reach whoever got the number next, so the end is looked for first.
    fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let sent = rustix::process::kill_process(self.pid().0, signal);
        sent.map_err(|cause| ProcessError::Signal {
            program: self.name.clone(),
            cause: cause.into(),
        })
    }

    fn output_end(&self) -> String {
        read_end(&self.output).unwrap_or_else(|cause| format!("no output: {cause}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The only failure is that it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pid {
    fn number(self) -> i32 {
        self.0.as_raw_pid()
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

// === impl Ready ===

impl Ready {
    async fn answers(&self) -> bool {
        let probe = async {
            match self {
                Self::Port(address) => TcpStream::connect(address).await.map(|_| true),
                Self::Url { address, path } => answers_2xx(*address, path).await,
            }
        };
        matches!(
            tokio::time::timeout(PROBE_TIMEOUT, probe).await,
            Ok(Ok(true))
        )
    }
}

async fn answers_2xx(address: SocketAddr, path: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status_line = [0; STATUS_LINE_MIN];
    stream.read_exact(&mut status_line).await?;
    Ok(status_line.starts_with(b"HTTP/1.1 2"))
}

fn read_end(output: &NamedTempFile) -> io::Result<String> {
    let mut file = File::open(output.path())?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_SHOWN_MAX)))?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_SHOWN_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn output_error(program: &str, cause: io::Error) -> ProcessError {
    ProcessError::Output {
        program: program.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_program_that_ends_tells_its_status_and_output() {
        let mut process = shell("echo out; echo err >&2; exit 3");
        let status = process.exit(PATIENCE).await.expect("the shell ends");
        assert_eq!(status.code(), Some(3));
        let output = process.output().expect("output is kept");
        assert!(output.contains("out") && output.contains("err"), "{output}");
    }

    #[tokio::test]
    async fn a_start_that_fails_shows_what_the_program_said() {
        let lease = crate::ports::free().expect("a port is free");
        let mut process = shell("echo 'no such key'; exit 1");
        let error = process
            .ready(&Ready::Port(lease.address()), PATIENCE)
            .await
            .expect_err("nothing listens");
        assert!(error.to_string().contains("no such key"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_never_listens_is_not_ready() {
        let lease = crate::ports::free().expect("a port is free");
        let mut process = shell("exec sleep 60");
        let patience = Duration::from_millis(50);
        let error = process
            .ready(&Ready::Port(lease.address()), patience)
            .await
            .expect_err("nothing listens");
        assert!(matches!(error, ProcessError::NotReady { .. }), "{error}");
    }

    #[tokio::test]
    async fn killing_and_terminating_are_told_apart() {
        let mut killed = shell("exec sleep 60");
        killed.kill().expect("it runs");
        assert_eq!(
            killed.exit(PATIENCE).await.expect("it ends").signal(),
            Some(Signal::KILL.as_raw())
        );
        let mut terminated = shell("exec sleep 60");
        terminated.terminate().expect("it runs");
        assert_eq!(
            terminated.exit(PATIENCE).await.expect("it ends").signal(),
            Some(Signal::TERM.as_raw())
        );
    }

    /// The program handles SIGTERM itself, because the kernel ends even a stopped one that does not.
    #[tokio::test]
    async fn a_paused_program_does_nothing_until_it_is_resumed() {
        let mut process = shell("trap 'exit 7' TERM; echo ready; while :; do :; done");
        while !process.output().expect("output is kept").contains("ready") {
            tokio::task::yield_now().await;
        }
        process.pause().expect("it runs");
        process.terminate().expect("it exists");
        let waited = process.exit(Duration::from_millis(50)).await;
        assert!(
            matches!(waited, Err(ProcessError::StillRunning { .. })),
            "a stopped program handles no signal"
        );
        process.resume().expect("it exists");
        assert_eq!(
            process.exit(PATIENCE).await.expect("it ends").code(),
            Some(7)
        );
    }

    #[test]
    fn a_dropped_program_is_gone() {
        let process = shell("exec sleep 60");
        let pid = process.pid();
        drop(process);
        assert!(
            rustix::process::test_kill_process(pid.0).is_err(),
            "it must be killed and reaped"
        );
    }

    #[tokio::test]
    async fn a_program_stays_on_its_core() {
        let program = Program::new("sh")
            .argument("-c")
            .argument("grep Cpus_allowed_list /proc/self/status");
        let mut process = program.on(Core(0)).start().expect("sh is installed");
        process.exit(PATIENCE).await.expect("it ends");
        let output = process.output().expect("output is kept");
        assert_eq!(output.split_whitespace().last(), Some("0"));
    }

    fn shell(script: &str) -> Process {
        Program::new("sh")
            .argument("-c")
            .argument(script)
            .start()
            .expect("sh is installed")
    }
}
