//! Reads the Prometheus text format as far as our own balancer writes it.

use std::collections::BTreeMap;

/// Every series of one reading.
#[derive(Debug, Default)]
pub(super) struct Series(Vec<One>);

#[derive(Debug, PartialEq)]
struct One {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Series {
    /// Lines that are not understood are left out: a newer balancer may write other things too.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(one).collect())
    }

    /// The values of one label that the series of this name have.
    pub(super) fn values_of(&self, name: &str, label: &str) -> Vec<&str> {
        let mut values: Vec<_> = self
            .named(name)
            .filter_map(|it| it.labels.get(label).map(String::as_str))
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// The sum of all series of this name that have these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = self.named(name).filter(|it| it.has(labels));
        wanted.map(|it| it.value).sum()
    }

    /// The counts at or below each bound of a histogram, by bound; the last bound is without end.
    pub(super) fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let bucket = |it: &One| {
            let bound = it.labels.get("le")?;
            let bound = match bound.as_str() {
                "+Inf" => f64::INFINITY,
                number => number.parse().ok()?,
            };
            Some((bound, it.value))
        };
        let wanted = self.named(name).filter(|it| it.has(labels));
        let mut buckets: Vec<_> = wanted.filter_map(bucket).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &One> {
        self.0.iter().filter(move |it| it.name == name)
    }
}

impl One {
    fn has(&self, labels: &[(&str, &str)]) -> bool {
        let is_equal =
            |(key, value): &(&str, &str)| self.labels.get(*key).is_some_and(|it| it == value);
        labels.iter().all(is_equal)
    }
}

/// Where the `share`-th of all lies, by a straight line within its bucket; none if there was nothing.
pub(super) fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let all = buckets.last()?.1;
    if all <= 0.0 {
        return None;
    }
    let wanted = all * share;
    let (mut low, mut below) = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= wanted && bound.is_finite() {
            let within = (wanted - below) / (count - below).max(f64::MIN_POSITIVE);
            return Some(low + (bound - low) * within);
        }
        if bound.is_finite() {
            (low, below) = (bound, count);
        }
    }
    // More than the largest bound is all that is known.
    Some(low)
}

fn one(line: &str) -> Option<One> {
    if line.starts_with('#') {
        return None;
    }
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        Some((name, rest)) => (name, labels(rest.strip_suffix('}')?)?),
        None => (head, BTreeMap::new()),
    };
    Some(One {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

/// `a="b",c="d"`, where a value may hold a quote behind a backslash.
fn labels(text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let (value, len) = quoted(after)?;
        labels.insert(key.to_owned(), value);
        rest = after[len..].trim_start_matches(',');
    }
    Some(labels)
}

/// The text up to the closing quote, and how many bytes that took with it.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, at + 1)),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP r Requests.
# TYPE r counter
r{service="a",code="2xx"} 10
r{service="a",code="5xx"} 2
r{service="b \"x\", y",code="2xx"} 5
up 1
d_bucket{service="a",le="0.1"} 50
d_bucket{service="a",le="+Inf"} 100
d_bucket{service="a",le="0.2"} 90
"#;

    #[test]
    fn series_are_summed_by_their_labels() {
        let series = Series::parse(TEXT);
        assert_eq!(series.sum("r", &[("service", "a")]), 12.0);
        assert_eq!(series.sum("r", &[("service", "a"), ("code", "5xx")]), 2.0);
        assert_eq!(series.sum("up", &[]), 1.0);
        assert_eq!(series.values_of("r", "service"), ["a", "b \"x\", y"]);
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let series = Series::parse(TEXT);
        let buckets = series.buckets("d_bucket", &[("service", "a")]);
        let check = |share| quantile(&buckets, share).map(|it| (it * 1000.0).round());
        assert_eq!(check(0.25), Some(50.0));
        assert_eq!(check(0.7), Some(150.0));
        assert_eq!(
            check(0.99),
            Some(200.0),
            "the largest bound is all that is known"
        );
        assert_eq!(quantile(&[(0.1, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
    }
}
