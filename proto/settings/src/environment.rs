//! Lays the variables of the environment over the settings of a file.

use std::sync::Arc;

use crate::{
    Error, Place,
    tree::{Body, Item},
};

const PREFIX: &str = "COLONNADE_";

/// Parts the segments of a path. Kubernetes hands every container `COLONNADE_SERVICE_HOST` and the like for a Service
/// called colonnade; none of those holds it, so a name without it is not ours.
const SEPARATOR: &str = "__";

/// Sets what the variables name, parents before children and list elements in their order.
pub(crate) fn lay_over(
    root: &mut Item,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<(), Error> {
    let mut variables: Vec<_> = env.into_iter().filter_map(Variable::of).collect();
    variables.sort_by(|a, b| (&a.path, &a.name).cmp(&(&b.path, &b.name)));
    for variable in variables {
        variable.set(root)?;
    }
    Ok(())
}

struct Variable {
    name: Arc<str>,
    path: Vec<Segment>,
    text: String,
}

/// One step of a path. The index orders `10` behind `9`, and decides only where the parent is a list.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Segment {
    index: Option<usize>,
    key: String,
}

impl Variable {
    fn of((name, text): (String, String)) -> Option<Self> {
        let rest = name
            .strip_prefix(PREFIX)
            .filter(|_| name.contains(SEPARATOR))?;
        let rest = rest.strip_prefix('_').unwrap_or(rest);
        let path = rest.split(SEPARATOR).map(Segment::of).collect();
        Some(Self {
            path,
            name: name.as_str().into(),
            text,
        })
    }

    fn set(self, root: &mut Item) -> Result<(), Error> {
        let place = Place::Variable(self.name.clone());
        let mut at = root;
        for (depth, segment) in self.path.iter().enumerate() {
            let fresh = || Item::new(place.clone(), empty_before(self.path.get(depth + 1)));
            at = child(at, segment, fresh).map_err(|message| Error::Key {
                place: place.clone(),
                key: self.path[..=depth]
                    .iter()
                    .map(|it| it.key.as_str())
                    .collect::<Vec<_>>()
                    .join("."),
                message,
            })?;
        }
        *at = Item::of_variable(&self.name, self.text);
        Ok(())
    }
}

impl Segment {
    fn of(text: &str) -> Self {
        Self {
            index: text.parse().ok(),
            key: text.to_lowercase(),
        }
    }
}

/// What a path makes where nothing is yet: a list if a number comes next, else a table.
fn empty_before(next: Option<&Segment>) -> Body {
    match next {
        Some(Segment { index: Some(_), .. }) => Body::List(Vec::new()),
        _ => Body::Table(Default::default()),
    }
}

fn child<'a>(
    at: &'a mut Item,
    segment: &Segment,
    fresh: impl FnOnce() -> Item,
) -> Result<&'a mut Item, String> {
    match (&mut at.body, segment.index) {
        (Body::Table(item_by_key), _) => {
            Ok(item_by_key.entry(segment.key.clone()).or_insert_with(fresh))
        }
        (Body::List(items), Some(index)) => element(items, index, fresh),
        (Body::List(_), None) => Err("the elements of a list are named by number".to_owned()),
        _ => Err("the key above it is set to a plain value".to_owned()),
    }
}

fn element(
    items: &mut Vec<Item>,
    index: usize,
    fresh: impl FnOnce() -> Item,
) -> Result<&mut Item, String> {
    let len = items.len();
    if index == len {
        items.push(fresh());
    }
    items
        .get_mut(index)
        .ok_or_else(|| format!("the list has {len} elements, so the next is number {len}"))
}
