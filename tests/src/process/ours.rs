//! Finds our own programs, freshly built, beside the executable that asks for them.
//!
//! Cargo builds a test but not the programs it starts, so a test could run against last week's balancer. Under cargo
//! (which tells its own path in `CARGO`) the program is therefore built first; that takes a moment when nothing
//! changed. Started by hand, the executable takes what lies beside it.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// Why one of our programs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OursError {
    #[error("cannot tell where this executable lies: {0}")]
    Place(io::Error),
    #[error("this executable does not lie in a target directory: {0}")]
    NotInTarget(PathBuf),
    #[error("cannot run cargo: {0}")]
    Cargo(io::Error),
    #[error("cannot build {program}: {output}")]
    Build { program: String, output: String },
    #[error("{0} is not there; build it, or run under cargo")]
    Absent(PathBuf),
}

/// The path of one of our programs (`balancer`, `node`, `colonnade`), in the profile this executable was built in.
pub fn ours(program: &str) -> Result<PathBuf, OursError> {
    let executable = env::current_exe().map_err(OursError::Place)?;
    let folder =
        profile_folder(&executable).ok_or_else(|| OursError::NotInTarget(executable.clone()))?;
    if let Some(cargo) = env::var_os("CARGO") {
        build_once(&cargo, program, folder)?;
    }
    let path = folder.join(program);
    if !path.is_file() {
        return Err(OursError::Absent(path));
    }
    Ok(path)
}

/// `target/PROFILE` of an executable in it or in its `deps`.
fn profile_folder(executable: &Path) -> Option<&Path> {
    let folder = executable.parent()?;
    let folder = if folder.ends_with("deps") {
        folder.parent()?
    } else {
        folder
    };
    folder.parent()?.file_name().map(|_| folder)
}

/// One build per program and process; the others wait for it.
fn build_once(cargo: &OsStr, program: &str, folder: &Path) -> Result<(), OursError> {
    static BUILT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut built = BUILT.lock().expect("no build panics");
    if !built.contains(program) {
        build(cargo, program, folder)?;
        built.insert(program.to_owned());
    }
    Ok(())
}

fn build(cargo: &OsStr, program: &str, folder: &Path) -> Result<(), OursError> {
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--package",
        program,
        "--bin",
        program,
        "--profile",
        profile(folder),
    ]);
    command
        .arg("--target-dir")
        .arg(folder.parent().unwrap_or(folder));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null());
    // What cargo tells a test about the test's own package makes some build scripts run again, each time.
    for (key, _) in env::vars_os().filter(|(key, _)| is_of_package(key)) {
        command.env_remove(key);
    }
    let ended = command.output().map_err(OursError::Cargo)?;
    if !ended.status.success() {
        let output = String::from_utf8_lossy(&ended.stderr).into_owned();
        return Err(OursError::Build {
            program: program.to_owned(),
            output,
        });
    }
    Ok(())
}

fn is_of_package(key: &OsStr) -> bool {
    let key = key.to_string_lossy();
    key.starts_with("CARGO_PKG_") || key.starts_with("CARGO_MANIFEST_")
}

/// Cargo calls its default profile `dev` and puts it into `debug`.
fn profile(folder: &Path) -> &str {
    match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_told_by_the_folder() {
        let test = profile_folder(Path::new("/x/target/debug/deps/it-1"))
            .expect("it lies in a target directory");
        assert_eq!((test, profile(test)), (Path::new("/x/target/debug"), "dev"));
        let bench = profile_folder(Path::new("/x/target/release/bench"))
            .expect("it lies in a target directory");
        assert_eq!(
            (bench, profile(bench)),
            (Path::new("/x/target/release"), "release")
        );
    }

    #[test]
    fn a_program_that_does_not_exist_cannot_be_had() {
        assert!(ours("no-such-program").is_err());
    }
}
