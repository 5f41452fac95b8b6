//! Finds the file that a request means: by host, by path, as an index, or as a precompressed sibling.

use std::{
    fs::{File, Metadata},
    io,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use axum::body::Body;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use node_core::{
    negotiate::{self, Coding},
    site::{HostFolder, SitePath, with_slash},
};
use tokio::task::spawn_blocking;

use super::{
    beneath::Folder,
    file::{Asked, Representation},
};
use crate::rescue::Refusal;

/// The folder for every host that has none of its own.
const DEFAULT: &str = "default";
const INDEX: &str = "index.html";
const NOT_FOUND_PAGE: &str = "404.html";

/// A directory with one folder for each virtual host.
pub(crate) struct Sites {
    root: Arc<Folder>,
}

impl Sites {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let root = Folder::open(path)?;
        Ok(Self {
            root: Arc::new(root),
        })
    }

    pub(super) async fn answer(
        &self,
        request: &Parts,
        now: SystemTime,
    ) -> Result<Response<Body>, Refusal> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed);
        }
        let search = Search::of(request)?;
        let root = self.root.clone();
        let found = spawn_blocking(move || search.run(&root))
            .await
            .map_err(|_| Refusal::Panicked)??;
        match found {
            Found::File(it) => it.answer(Asked::of(request), now),
            Found::Folder => Ok(moved(request)),
            Found::Nothing(Some(page)) => Ok(page.not_found()),
            Found::Nothing(None) => Err(Refusal::NotFound),
        }
    }
}

/// What is looked for, away from the event loop.
struct Search {
    host: Option<HostFolder>,
    path: SitePath,
    accept_encoding: String,
}

enum Found {
    File(Representation),
    /// The client left out the slash.
    Folder,
    /// With the site's own page that says so.
    Nothing(Option<Representation>),
}

impl Search {
    fn of(request: &Parts) -> Result<Self, Refusal> {
        let headers = &request.headers;
        let field = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let authority = request.uri.authority().map(|it| it.as_str());
        let accept_encoding: Vec<_> = headers
            .get_all(header::ACCEPT_ENCODING)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        Ok(Self {
            host: authority
                .or_else(|| field(header::HOST))
                .and_then(HostFolder::of),
            path: SitePath::of(request.uri.path())?,
            accept_encoding: accept_encoding.join(","),
        })
    }

    fn run(&self, root: &Folder) -> io::Result<Found> {
        let Some(site) = self.site(root)? else {
            return Ok(Found::Nothing(None));
        };
        let path = match self.path.is_folder() {
            true => self.path.join(INDEX),
            false => self.path.as_str().to_owned(),
        };
        match existing(site.file(&path))? {
            Some((file, metadata)) if metadata.is_file() => {
                let it = self.best_form(&site, &path, file, metadata)?;
                Ok(Found::File(it))
            }
            Some((_, metadata)) if metadata.is_dir() && !self.path.is_folder() => Ok(Found::Folder),
            _ => Ok(Found::Nothing(not_found_page(&site)?)),
        }
    }

    fn site(&self, root: &Folder) -> io::Result<Option<Folder>> {
        if let Some(host) = &self.host
            && let Some(site) = if_there(root.folder(host.as_str()))?
        {
            return Ok(Some(site));
        }
        let site = if_there(root.folder(DEFAULT))?;
        Ok(site)
    }

    /// The file as it is, or a sibling that is compressed. A sibling older than the file is left over from an older one.
    fn best_form(
        &self,
        site: &Folder,
        path: &str,
        file: File,
        metadata: Metadata,
    ) -> io::Result<Representation> {
        let modified = metadata.modified()?;
        let mut siblings = Vec::new();
        for coding in Coding::ALL {
            if let Some((file, metadata)) =
                existing(site.file(&format!("{path}{}", coding.suffix())))?
                && metadata.is_file()
                && metadata.modified()? >= modified
            {
                siblings.push((coding, file, metadata));
            }
        }
        let available: Vec<_> = siblings.iter().map(|(coding, ..)| *coding).collect();
        let chosen = negotiate::choose(&self.accept_encoding, &available);
        let is_negotiated = !available.is_empty();
        let sibling = siblings
            .into_iter()
            .find(|(coding, ..)| Some(*coding) == chosen);
        let (file, metadata) =
            sibling.map_or((file, metadata), |(_, file, metadata)| (file, metadata));
        let it = Representation::of(path, file, &metadata)?.in_coding(chosen, is_negotiated);
        Ok(it)
    }
}

fn not_found_page(site: &Folder) -> io::Result<Option<Representation>> {
    match existing(site.file(NOT_FOUND_PAGE))? {
        Some((file, metadata)) if metadata.is_file() => {
            Representation::of(NOT_FOUND_PAGE, file, &metadata).map(Some)
        }
        _ => Ok(None),
    }
}

fn existing(file: io::Result<File>) -> io::Result<Option<(File, Metadata)>> {
    let Some(file) = if_there(file)? else {
        return Ok(None);
    };
    let metadata = file.metadata()?;
    Ok(Some((file, metadata)))
}

/// What is absent, forbidden or behind a link that leads away is the same to a client: not there.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    use rustix::io::Errno;

    match result {
        Ok(it) => Ok(Some(it)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::LOOP
                | Errno::XDEV
                | Errno::ACCESS
                | Errno::NAMETOOLONG
                | Errno::NXIO,
            ) => Ok(None),
            None if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        },
    }
}

fn moved(request: &Parts) -> Response<Body> {
    let uri = &request.uri;
    let location = HeaderValue::try_from(with_slash(uri.path(), uri.query()));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let location = location.expect("a request target holds visible characters");
    response.headers_mut().insert(header::LOCATION, location);
    response
}
