//! Chooses among the precompressed forms of a file the one its client likes best (RFC 9110 §12.5.3).

/// How the bytes of a file were compressed, in our order of preference: the first makes the smallest files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

impl Coding {
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// The name in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// What a compressed sibling's file name ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    fn is_named(self, name: &str) -> bool {
        name.eq_ignore_ascii_case(self.name())
            || (self == Self::Gzip && name.eq_ignore_ascii_case("x-gzip"))
    }
}

/// The best of the available codings, or none: the file as it is, which also answers a client that accepts nothing.
pub fn choose(accept_encoding: &str, available: &[Coding]) -> Option<Coding> {
    let plain = weight(accept_encoding, |name| {
        name.eq_ignore_ascii_case("identity")
    })
    .unwrap_or(LEAST);
    let liked = |coding: &Coding| {
        let weight = weight(accept_encoding, |name| coding.is_named(name))?;
        (weight > NEVER && weight >= plain).then_some((weight, std::cmp::Reverse(*coding)))
    };
    let (_, std::cmp::Reverse(coding)) = available.iter().filter_map(liked).max()?;
    Some(coding)
}

/// A q-value in thousandths (§12.4.2).
type Weight = u16;

const NEVER: Weight = 0;
const LEAST: Weight = 1;
const FULL: Weight = 1000;

/// The weight of the member that is named so, else that of `*`.
fn weight(accept_encoding: &str, is_named: impl Fn(&str) -> bool) -> Option<Weight> {
    let find = |wanted: &dyn Fn(&str) -> bool| {
        let mut members = accept_encoding.split(',').filter_map(member);
        members.find_map(|(name, weight)| wanted(name).then_some(weight))
    };
    find(&is_named).or_else(|| find(&|name| name == "*"))
}

/// A coding and its weight; none where the weight cannot be read.
fn member(text: &str) -> Option<(&str, Weight)> {
    let (name, params) = text.split_once(';').unwrap_or((text, ""));
    let weight = match params.trim() {
        "" => FULL,
        param => {
            let (key, value) = param.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then_some(())?;
            thousandths(value.trim())?
        }
    };
    Some((name.trim(), weight))
}

fn thousandths(text: &str) -> Option<Weight> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: Weight = format!("{fraction:0<3}").parse().ok()?;
    match (whole, fraction) {
        ("0", fraction) => Some(fraction),
        ("1", 0) => Some(FULL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Coding::*, *};

    #[test]
    fn the_heaviest_wins_and_the_smallest_breaks_the_tie() {
        check("gzip, br, zstd", Some(Brotli));
        check("gzip;q=1.0, br;q=0.9", Some(Gzip));
        check("gzip, zstd;q=1", Some(Zstd));
        check("X-GZIP", Some(Gzip));
    }

    #[test]
    fn a_star_stands_for_the_unnamed() {
        check("*", Some(Brotli));
        check("br;q=0, *", Some(Zstd));
        check("*;q=0, gzip;q=0.1", Some(Gzip));
        check("gzip;q=0.5, *;q=0.2", Some(Gzip));
    }

    #[test]
    fn plain_is_sent_where_it_is_liked_better_or_nothing_else_is() {
        check("", None);
        check("identity", None);
        check("gzip;q=0.5, identity", None);
        check("gzip;q=0.5, identity;q=0.5", Some(Gzip));
        check("br;q=0, gzip;q=0", None);
        check("*;q=0", None);
        check("deflate", None);
    }

    #[test]
    fn a_weight_that_cannot_be_read_is_no_member() {
        for text in [
            "br;q=2",
            "br;q=1.001",
            "br;q=0.1234",
            "br;q=-1",
            "br;q=",
            "br;level=1",
            "br;q=.5",
        ] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn nothing_refused_or_absent_is_chosen(q in 0u16..=9, text in "[a-z*;=,.01 ]{0,40}") {
            prop_assert_ne!(choose(&format!("br;q=0, zstd;q=0.{q}, {text}"), &[Brotli, Zstd]), Some(Brotli));
            prop_assert_eq!(choose(&text, &[]), None);
        }
    }

    #[track_caller]
    fn check(accept_encoding: &str, expected: Option<Coding>) {
        assert_eq!(
            choose(accept_encoding, &Coding::ALL),
            expected,
            "{accept_encoding}"
        );
    }
}
