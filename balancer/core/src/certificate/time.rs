//! Turns the two forms of time in a certificate (RFC 5280 §4.1.2.5) into seconds since 1970.

use super::der::Tag;

const SECONDS_OF_DAY: i64 = 24 * 60 * 60;

pub(super) fn read(kind: Tag, text: &[u8]) -> Option<i64> {
    let (year, rest) = match kind {
        Tag::UTC_TIME => {
            let (year, rest) = number(text, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        Tag::GENERALIZED_TIME => number(text, 4)?,
        _ => return None,
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = hour < 24 && minute < 60 && second < 60 && rest == b"Z";
    let of_day = hour * 3600 + minute * 60 + second;
    (is_date && is_time).then(|| days(year, month, day) * SECONDS_OF_DAY + of_day)
}

fn number(text: &[u8], digits: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(digits)?;
    let add = |number: i64, it: &u8| {
        it.is_ascii_digit()
            .then(|| number * 10 + i64::from(it - b'0'))
    };
    let number = digits.iter().try_fold(0, add)?;
    Some((number, rest))
}

/// Days since 1970 in the Gregorian calendar. The year is begun in March, so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // Months from March on have 31, 30, 31, 30, 31 days over and over: 153 in five.
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    // 719,468 days lie between the first of March of the year 0 and 1970.
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        check(Tag::UTC_TIME, "700101000000Z", Some(0));
        check(Tag::UTC_TIME, "491231235959Z", Some(2_524_607_999));
        check(Tag::UTC_TIME, "500101000000Z", Some(-631_152_000));
        check(Tag::UTC_TIME, "240229120000Z", Some(1_709_208_000));
        check(Tag::GENERALIZED_TIME, "20000301000000Z", Some(951_868_800));
        check(
            Tag::GENERALIZED_TIME,
            "99991231235959Z",
            Some(253_402_300_799),
        );
        check(Tag::GENERALIZED_TIME, "20000301000000+0100", None);
        check(Tag::UTC_TIME, "701301000000Z", None);
        check(Tag::UTC_TIME, "7001010000Z", None);
        check(Tag::UTC_TIME, "70010x000000Z", None);
        check(Tag::OID, "700101000000Z", None);
    }

    #[track_caller]
    fn check(kind: Tag, text: &str, expected: Option<i64>) {
        assert_eq!(read(kind, text.as_bytes()), expected, "{text}");
    }
}
