//! A well-behaved client beside an attack: it asks again and again on one connection, and tells how long each answer took.
//!
//! It has a thread and blocking sockets of its own, so that what it measures is the balancer and not the test's runtime.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// From one answer to the next question.
const PAUSE: Duration = Duration::from_millis(5);
/// How long an answer may take before it counts as none.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How many probes tell what is usual.
const BASELINE_PROBES: usize = 150;
/// How many probes a hundredth can be told of, however short the attack is.
const PROBES_MIN: usize = 100;
/// Below this a delay says more of a machine with two busy cores than of the balancer. A program built for debugging does a tenth as
/// much in the same time, so that a burst that costs a release build some milliseconds costs it a tenth of a second and more.
const P99_FLOOR: Duration = if cfg!(debug_assertions) {
    Duration::from_millis(750)
} else {
    Duration::from_millis(50)
};
/// More than the head and body of an answer to a probe.
const ANSWER_BYTES_MAX: usize = 4096;

const QUESTION: &[u8] = b"GET /sized/3 HTTP/1.1\r\nhost: app.example\r\n\r\n";
const BODY: &[u8] = &[0, 1, 2];

/// A client that has seen what is usual, and has not yet been told to watch.
#[derive(Debug)]
pub struct Prober {
    stream: TcpStream,
    usual: Duration,
}

/// A client that is asking at this moment.
#[derive(Debug)]
pub struct Watching {
    usual: Duration,
    enough: Arc<AtomicBool>,
    thread: thread::JoinHandle<(TcpStream, io::Result<Vec<Duration>>)>,
}

impl Prober {
    /// Connects, and learns what is usual.
    pub fn start(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the balancer listens");
        stream.set_nodelay(true).expect("a TCP socket has it");
        let patience = stream.set_read_timeout(Some(ANSWER_WITHIN));
        patience.expect("a TCP socket has it");
        let mut answers: Vec<_> = (0..BASELINE_PROBES)
            .map(|_| probe(&stream).expect("the balancer answers"))
            .collect();
        let usual = p99(&mut answers);
        Self { stream, usual }
    }

    pub fn watch(self) -> Watching {
        let enough = Arc::new(AtomicBool::new(false));
        let told = enough.clone();
        let thread = thread::spawn(move || {
            let answers = probe_until(&self.stream, &told);
            (self.stream, answers)
        });
        Watching {
            usual: self.usual,
            enough,
            thread,
        }
    }
}

impl Watching {
    /// Holds what was seen against the bar: everything was answered, and the slowest hundredth took at most twice as long.
    pub fn undisturbed(self) -> Prober {
        self.enough.store(true, Relaxed);
        let (stream, answers) = self.thread.join().expect("the prober does not panic");
        let mut answers = answers.expect("every probe must be answered");
        let most = (self.usual * 2).max(P99_FLOOR);
        let slow = p99(&mut answers);
        assert!(
            slow <= most,
            "the p99 of {} probes was {slow:?}, more than {most:?}",
            answers.len()
        );
        Prober {
            stream,
            usual: self.usual,
        }
    }
}

fn probe_until(stream: &TcpStream, enough: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut answers = Vec::new();
    while !enough.load(Relaxed) || answers.len() < PROBES_MIN {
        answers.push(probe(stream)?);
        // Nobody unparks this thread, so that this is the pause between two questions.
        thread::park_timeout(PAUSE);
    }
    Ok(answers)
}

fn probe(mut stream: &TcpStream) -> io::Result<Duration> {
    let asked = Instant::now();
    stream.write_all(QUESTION)?;
    let mut answer = Vec::new();
    let mut piece = [0; ANSWER_BYTES_MAX];
    while !is_whole(&answer)? {
        let n = stream.read(&mut piece)?;
        if n == 0 || answer.len() > ANSWER_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&piece[..n]);
    }
    Ok(asked.elapsed())
}

fn is_whole(answer: &[u8]) -> io::Result<bool> {
    let Some(end) = answer.windows(4).position(|it| it == b"\r\n\r\n") else {
        return Ok(false);
    };
    let body = &answer[end + 4..];
    let good = answer.starts_with(b"HTTP/1.1 200 ") && BODY.starts_with(body);
    if good {
        Ok(body.len() == BODY.len())
    } else {
        let answer = answer.escape_ascii().to_string();
        Err(io::Error::new(io::ErrorKind::InvalidData, answer))
    }
}

fn p99(answers: &mut [Duration]) -> Duration {
    answers.sort_unstable();
    let at = (answers.len() * 99).div_ceil(100).saturating_sub(1);
    answers.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_hundredth_is_left_out() {
        let mut answers: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(p99(&mut answers), Duration::from_millis(198));
        assert_eq!(
            p99(&mut [Duration::from_millis(3)]),
            Duration::from_millis(3)
        );
    }

    #[test]
    fn only_the_right_answer_is_one() {
        let answer = |it: &[u8]| is_whole(it).ok();
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n\0\x01\x02"), Some(true));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n\0\x01"), Some(false));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n"), Some(false));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n\0\x01\x02x"), None);
        assert_eq!(answer(b"HTTP/1.1 503 No\r\n\r\n"), None);
    }
}
