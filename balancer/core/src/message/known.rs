//! The field names that the balancer has an opinion about; all others are passed on unread.

macro_rules! known {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A field name by number; it is what makes asking for a field one look at a bit.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known {
            $($variant,)*
            /// Any other name.
            Other,
        }

        impl Known {
            /// Every name, in the order of the numbers.
            pub const NAMES: &[&str] = &[$($name),*];
            const ALL: &[Known] = &[$(Known::$variant),*];
        }
    };
}

known! {
    AcceptEncoding = "accept-encoding",
    Authorization = "authorization",
    CacheControl = "cache-control",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentRange = "content-range",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Etag = "etag",
    Expect = "expect",
    Forwarded = "forwarded",
    Host = "host",
    Http2Settings = "http2-settings",
    IdempotencyKey = "idempotency-key",
    KeepAlive = "keep-alive",
    Location = "location",
    Origin = "origin",
    ProxyConnection = "proxy-connection",
    RetryAfter = "retry-after",
    SecWebsocketAccept = "sec-websocket-accept",
    SecWebsocketKey = "sec-websocket-key",
    ServerTiming = "server-timing",
    SetCookie = "set-cookie",
    StrictTransportSecurity = "strict-transport-security",
    Te = "te",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    Vary = "vary",
    Via = "via",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XRealIp = "x-real-ip",
    XRequestId = "x-request-id",
}

const LONGEST: usize = 25;

/// For each length, which names have it: most field names are told from all known ones by their length and first letter.
const BY_LENGTH: [u64; LONGEST + 1] = by_length();

const fn by_length() -> [u64; LONGEST + 1] {
    let mut bits = [0; LONGEST + 1];
    let mut number = 0;
    while number < Known::NAMES.len() {
        bits[Known::NAMES[number].len()] |= 1 << number;
        number += 1;
    }
    bits
}

impl Known {
    pub fn of(name: &[u8]) -> Self {
        let Some(&candidates) = BY_LENGTH.get(name.len()) else {
            return Self::Other;
        };
        let mut left = candidates;
        while left != 0 {
            let number = left.trailing_zeros() as usize;
            if name.eq_ignore_ascii_case(Self::NAMES[number].as_bytes()) {
                return Self::ALL[number];
            }
            left &= left - 1;
        }
        Self::Other
    }

    /// In lower case; empty for [`Known::Other`].
    pub fn name(self) -> &'static str {
        Self::NAMES.get(self as usize).copied().unwrap_or_default()
    }

    /// This name's place in a set of names.
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// The set of several names.
    pub const fn bits(all: &[Known]) -> u64 {
        let (mut bits, mut at) = (0, 0);
        while at < all.len() {
            bits |= all[at].bit();
            at += 1;
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_knows_itself() {
        for (&name, &known) in Known::NAMES.iter().zip(Known::ALL) {
            assert_eq!(Known::of(name.as_bytes()), known);
            assert_eq!(Known::of(name.to_uppercase().as_bytes()), known);
            assert_eq!(known.name(), name);
        }
        assert!(Known::NAMES.len() < 64, "they are bits of one number");
    }

    #[test]
    fn others_are_others() {
        for name in [
            "",
            "x",
            "hosts",
            "hosu",
            "x-a-very-long-name-that-nobody-knows",
        ] {
            assert_eq!(Known::of(name.as_bytes()), Known::Other);
        }
    }
}
