//! What a single key may hold, so that whatever is out of bounds is refused where it stands.

use std::{fmt, path::PathBuf, time::Duration};

use humantime_serde::re::humantime;
use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

const SPAN_MIN: Duration = Duration::from_millis(1);
const SPAN_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const RATIO_MAX: f64 = 10.0;
const NAME_LEN_MAX: usize = 63;
/// As long as a host name may be (RFC 1035 §2.3.4): the host name is what an id is by default.
const ID_LEN_MAX: usize = 253;
const PATH_LEN_MAX: usize = 1024;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A whole number from `MIN` to `MAX`.
pub(super) fn count<'de, const MIN: u32, const MAX: u32, T, D>(
    deserializer: D,
) -> Result<T, D::Error>
where
    T: TryFrom<u32>,
    D: Deserializer<'de>,
{
    let number = i64::deserialize(deserializer)?;
    u32::try_from(number)
        .ok()
        .filter(|it| (MIN..=MAX).contains(it))
        .and_then(|it| T::try_from(it).ok())
        .ok_or_else(|| Error::custom(format_args!("{number} is not within {MIN} to {MAX}")))
}

pub(super) fn ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    match (0.0..=RATIO_MAX).contains(&ratio) {
        true => Ok(ratio),
        false => Err(Error::custom(format_args!(
            "{ratio} is not within 0 to {RATIO_MAX}"
        ))),
    }
}

/// A duration that is neither nothing nor for ever.
pub(super) fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Span)
}

pub(super) fn optional_span<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    span(deserializer).map(Some)
}

pub(super) fn path<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.is_empty() || text.ends_with('/') {
        true => Err(Error::custom(format_args!("`{text}` is not a file's path"))),
        false => Ok(Some(text.into())),
    }
}

pub(super) fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match LEVELS.contains(&text.as_str()) {
        true => Ok(text),
        false => Err(Error::unknown_variant(&text, &LEVELS)),
    }
}

/// Names stand in metrics, in logs and in addresses of the admin API, none of which should need to quote them.
pub(super) fn check_name(text: &str) -> Result<(), String> {
    check_word(text, NAME_LEN_MAX)
}

pub(super) fn check_id(text: &str) -> Result<(), String> {
    check_word(text, ID_LEN_MAX)
}

/// What a request can ask for (RFC 9112 §3.2.1): a path, and a query if need be.
pub(super) fn check_target(text: &str) -> Result<(), String> {
    let is_plain = text.bytes().all(|it| it.is_ascii_graphic() && it != b'#');
    match text.starts_with('/') && is_plain && text.len() <= PATH_LEN_MAX {
        true => Ok(()),
        false => Err(format!(
            "`{text}` does not begin with `/`, or has `#`, white space or other than ASCII in it, or is longer than {PATH_LEN_MAX} bytes"
        )),
    }
}

fn check_word(text: &str, len_max: usize) -> Result<(), String> {
    let is_word = text
        .bytes()
        .all(|it| it.is_ascii_alphanumeric() || b"._-".contains(&it));
    match is_word && (1..=len_max).contains(&text.len()) {
        true => Ok(()),
        false => Err(format!(
            "`{text}` is not 1 to {len_max} of the letters a to z and A to Z, digits, `.`, `_` and `-`"
        )),
    }
}

struct Span;

impl Visitor<'_> for Span {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"10s\" or \"1m 30s\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        let span = humantime::parse_duration(text).map_err(|cause| {
            E::custom(format_args!(
                "`{text}` is not a duration such as \"10s\" or \"1m 30s\": {cause}"
            ))
        })?;
        match (SPAN_MIN..=SPAN_MAX).contains(&span) {
            true => Ok(span),
            false => Err(E::custom(format_args!(
                "`{text}` is not within {} to {}",
                humantime::format_duration(SPAN_MIN),
                humantime::format_duration(SPAN_MAX)
            ))),
        }
    }
}
