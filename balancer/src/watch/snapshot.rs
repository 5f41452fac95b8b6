//! The file by which a balancer remembers its nodes while the registry is away, written beside everything else.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use balancer_core::{
    membership::NodeFacts,
    recall::{self, Kept, Recall},
};
use tokio::task::JoinHandle;

use crate::observe::ViewMetrics;

pub(super) struct Snapshot {
    path: Option<PathBuf>,
    pub(super) outdated: bool,
    writing: Option<JoinHandle<()>>,
}

impl Snapshot {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            outdated: false,
            writing: None,
        }
    }

    pub(super) fn read(&self) -> Option<Recall> {
        let path = self.path.as_ref()?;
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
            Err(err) => {
                tracing::error!(path = %path.display(), %err, "reading the membership snapshot");
                return None;
            }
        };
        match recall::decode(&text) {
            Ok(recall) => Some(recall),
            Err(err) => {
                tracing::error!(path = %path.display(), %err, "the membership snapshot is not used");
                None
            }
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.outdated
            && self.path.is_some()
            && self.writing.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Writes beside the file, syncs and renames, on a thread of its own: a slow disk stops nothing.
    pub(super) fn write(
        &mut self,
        nodes: Vec<NodeFacts>,
        overrides: Vec<Kept>,
        metrics: &ViewMetrics,
    ) {
        let Some(path) = self.path.clone() else {
            return;
        };
        self.outdated = false;
        let failures = metrics.snapshot_failures.clone();
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let saved_at = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis() as u64;
            let text = recall::encode(&Recall {
                saved_at,
                nodes,
                overrides,
            });
            if let Err(err) = replace_file(&path, &text) {
                failures.increment(1);
                tracing::error!(path = %path.display(), %err, "writing the membership snapshot");
            }
        }));
    }

    pub(super) async fn finish(&mut self) {
        if let Some(writing) = self.writing.take() {
            // A panic in there was reported by the thread itself.
            let _ = writing.await;
        }
    }
}

fn replace_file(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
