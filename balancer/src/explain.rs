//! What became of single exchanges, remembered for a while, so that an operator can ask why one went where it went.
//!
//! Each core writes [`Story`]s on a [`Page`] of its own; the [`Book`] of all pages is read by the admin API. A story holds numbers and no
//! texts: names are told once to the page and are a [`NameId`] from then on, so that writing one down copies less than 200 bytes and
//! allocates nothing. A page is bounded by `[explain]`; the oldest stories make room.

use std::{
    collections::HashMap,
    hash::Hasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustc_hash::{FxHashMap, FxHasher};
use slab::Slab;

use crate::config::ExplainConfig;

mod story;
mod told;

pub use story::{Candidate, Ending, ExchangeId, Kind, Policy, Story, Tries, Try, TryEnd};
pub use told::Told;

/// Names that may be known, as [`NameId`] can count them. Routes, services and listeners are few; nodes come and go, and after so many the new ones go unnamed.
#[cfg(test)]
const NAMES_MAX: usize = u16::MAX as usize;

/// The names that have no number of their own.
const UNNAMED: &str = "(unnamed)";

/// A route, service, listener or node, by the number that [`Page::name`] gave it. The default names nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameId(u16);

/// The pages of all cores.
#[derive(Debug)]
pub struct Book {
    pages: Vec<Arc<Page>>,
    names: Arc<Mutex<Names>>,
}

/// What one core remembers.
#[derive(Debug)]
pub struct Page {
    stories: Mutex<Stories>,
    /// Of all pages.
    names: Arc<Mutex<Names>>,
}

/// A long exchange that is remembered while it lives; dropped without [`Page::ended`] it is forgotten.
#[derive(Debug)]
pub struct Live {
    page: Arc<Page>,
    key: usize,
}

#[derive(Debug)]
struct Stories {
    recent: Ring,
    failed: Ring,
    live: Slab<Story>,
    live_max: usize,
    /// The names that this core has used, so that it need not ask for them again.
    id_by_name: FxHashMap<Box<str>, NameId>,
}

/// The last so many stories; the next one takes the place of the oldest.
#[derive(Debug)]
struct Ring {
    stories: Vec<Story>,
    next: usize,
    max: usize,
}

/// Number 0 is for what has no name.
#[derive(Debug)]
struct Names {
    texts: Vec<Arc<str>>,
    id_by_text: HashMap<Arc<str>, NameId>,
}

impl Book {
    pub fn new(config: &ExplainConfig, cores: usize) -> Self {
        let names = Arc::new(Mutex::new(Names {
            texts: vec![UNNAMED.into()],
            id_by_text: HashMap::new(),
        }));
        let page = |_| Arc::new(Page::new(config, names.clone()));
        Self {
            pages: (0..cores).map(page).collect(),
            names,
        }
    }

    /// The page of a core, counted from 0.
    pub fn page(&self, core: usize) -> Arc<Page> {
        self.pages[core].clone()
    }

    /// All that is remembered by this id of a request, a trace or a connection, told in words; the newest comes first.
    pub fn find(&self, id: &str) -> Vec<Told> {
        let wanted = ExchangeId::of(id.as_bytes());
        let connection = id.parse().ok();
        let is_it = |story: &Story| story.answers_to(wanted, connection);
        self.told(usize::MAX, is_it)
    }

    /// The newest of all that did not end as completed, or is still under way.
    pub fn notable(&self, max: usize) -> Vec<Told> {
        self.told(max, |story| !story.is_completed())
    }

    /// The newest of all.
    pub fn newest(&self, max: usize) -> Vec<Told> {
        self.told(max, |_| true)
    }

    fn told(&self, max: usize, is_wanted: impl Fn(&Story) -> bool) -> Vec<Told> {
        let mut stories: Vec<Story> = Vec::new();
        for page in &self.pages {
            stories.extend(lock(&page.stories).all().filter(|it| is_wanted(it)));
        }
        stories.sort_by_key(|it| std::cmp::Reverse((it.began_us, it.id)));
        // What ended badly stands in both rings.
        stories.dedup();
        stories.truncate(max);
        let names = lock(&self.names);
        stories
            .iter()
            .map(|it| Told::of(it, |id| names.text(id)))
            .collect()
    }
}

impl Page {
    fn new(config: &ExplainConfig, names: Arc<Mutex<Names>>) -> Self {
        let stories = Stories {
            recent: Ring::new(config.recent),
            failed: Ring::new(config.failed),
            live: Slab::new(),
            live_max: config.live,
            id_by_name: FxHashMap::default(),
        };
        Self {
            stories: Mutex::new(stories),
            names,
        }
    }

    /// The number of a name, the same on all pages.
    pub fn name(&self, text: &str) -> NameId {
        let mut stories = lock(&self.stories);
        if let Some(id) = stories.id_by_name.get(text) {
            return *id;
        }
        let id = lock(&self.names).id_of(text);
        if id != NameId::default() {
            stories.id_by_name.insert(text.into(), id);
        }
        id
    }

    /// An exchange has ended.
    pub fn ended(&self, story: &Story) {
        let mut stories = lock(&self.stories);
        stories.recent.push(story);
        if !story.is_completed() {
            stories.failed.push(story);
        }
    }

    /// A tunnel or stream that will last begins; none when too many are remembered already.
    pub fn live(self: &Arc<Self>, story: &Story) -> Option<Live> {
        let mut stories = lock(&self.stories);
        let has_room = stories.live.len() < stories.live_max;
        has_room.then(|| Live {
            page: self.clone(),
            key: stories.live.insert(*story),
        })
    }
}

impl Live {
    /// More has become known of it.
    pub fn update(&self, story: &Story) {
        if let Some(kept) = lock(&self.page.stories).live.get_mut(self.key) {
            *kept = *story;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        lock(&self.page.stories).live.try_remove(self.key);
    }
}

impl Stories {
    fn all(&self) -> impl Iterator<Item = Story> {
        let ended = self.recent.stories.iter().chain(&self.failed.stories);
        ended.chain(self.live.iter().map(|(_, it)| it)).copied()
    }
}

impl Ring {
    fn new(max: usize) -> Self {
        Self {
            stories: Vec::new(),
            next: 0,
            max,
        }
    }

    fn push(&mut self, story: &Story) {
        if self.stories.len() < self.max {
            self.stories.push(*story);
        } else if let Some(oldest) = self.stories.get_mut(self.next) {
            *oldest = *story;
            self.next = (self.next + 1) % self.max;
        }
    }
}

impl Names {
    fn id_of(&mut self, text: &str) -> NameId {
        if let Some(id) = self.id_by_text.get(text) {
            return *id;
        }
        let id = match u16::try_from(self.texts.len()) {
            Ok(number) => NameId(number),
            Err(_) => return NameId::default(),
        };
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.id_by_text.insert(text, id);
        id
    }

    fn text(&self, id: NameId) -> &str {
        &self.texts[usize::from(id.0)]
    }
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ids that are no numbers of ours are known by their hash.
fn hash(bytes: &[u8]) -> u128 {
    let half = |seed: u8| {
        let mut hasher = FxHasher::default();
        hasher.write_u8(seed);
        hasher.write(bytes);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: ExplainConfig = ExplainConfig {
        recent: 3,
        failed: 2,
        live: 1,
    };

    #[test]
    fn the_oldest_makes_room_and_failures_are_kept_longer() {
        let book = Book::new(&SMALL, 1);
        let page = book.page(0);
        page.ended(&story(1, Ending::of(1)));
        for n in 2..=5 {
            page.ended(&story(n, Ending::COMPLETED));
        }
        let began: Vec<_> = book.newest(9).iter().map(|it| it.began_us).collect();
        assert_eq!(began, [5, 4, 3, 1]);
        assert_eq!(book.notable(9).len(), 1);
        assert_eq!(book.newest(2).len(), 2);
    }

    #[test]
    fn a_story_is_found_on_whatever_page_by_request_trace_and_connection() {
        let book = Book::new(&SMALL, 2);
        let mut it = story(9, Ending::of(3));
        it.id = ExchangeId::of(b"order-7");
        it.trace = ExchangeId::of(b"4bf92f3577b34da6a3ce929d0e0e4736");
        it.connection = 41;
        book.page(1).ended(&it);
        for id in ["order-7", "4bf92f3577b34da6a3ce929d0e0e4736", "41"] {
            assert_eq!(book.find(id).len(), 1, "{id}: found, and only once");
        }
        assert_eq!(book.find("order-8").len(), 0);
        assert_eq!(book.find("").len(), 0);
    }

    #[test]
    fn a_long_one_is_remembered_while_it_lives_and_there_is_room() {
        let book = Book::new(&SMALL, 1);
        let page = book.page(0);
        let under_way = Story {
            ended: None,
            ..story(1, Ending::COMPLETED)
        };
        let live = page.live(&under_way).expect("there is room for one");
        assert!(page.live(&under_way).is_none(), "and for no other");
        live.update(&Story {
            sent: 7,
            ..under_way
        });
        let told = book.newest(9);
        assert_eq!((told.len(), told[0].sent_bytes), (1, 7));
        assert_eq!(told[0].ended, None);
        drop(live);
        assert_eq!(book.newest(9).len(), 0);
    }

    #[test]
    fn a_name_has_one_number_and_too_many_go_unnamed() {
        let book = Book::new(&SMALL, 1);
        let page = book.page(0);
        let web = page.name("web");
        assert_eq!(page.name("web"), web);
        for n in 0..NAMES_MAX {
            page.name(&format!("n{n}"));
        }
        assert_eq!(page.name("one more"), NameId::default());
        assert_eq!(lock(&book.names).text(NameId::default()), UNNAMED);
        assert_eq!(lock(&book.names).text(web), "web");
    }

    fn story(began_us: u64, ended: Ending) -> Story {
        Story {
            id: ExchangeId::from(u128::from(began_us) + 1000),
            began_us,
            ended: Some(ended),
            ..Story::default()
        }
    }
}
