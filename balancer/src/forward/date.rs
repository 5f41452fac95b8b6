//! The text of `Date`, made once a second on each core.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

thread_local! {
    static NOW: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Lends the text for this moment (RFC 9110 §5.6.7).
pub(super) fn with_date<T>(write: impl FnOnce(&[u8]) -> T) -> T {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let second = now.map_or(0, |it| it.as_secs());
    NOW.with_borrow_mut(|(of, text)| {
        if *of != second || text.is_empty() {
            *of = second;
            *text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
        }
        write(text.as_bytes())
    })
}
