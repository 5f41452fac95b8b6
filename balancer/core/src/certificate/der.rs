//! Steps through DER (X.690): one tag, one length, one value after another, and never past the end.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u8);

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl Tag {
    pub(super) const BOOLEAN: Self = Self(0x01);
    pub(super) const INTEGER: Self = Self(0x02);
    pub(super) const OCTET_STRING: Self = Self(0x04);
    pub(super) const OID: Self = Self(0x06);
    pub(super) const UTC_TIME: Self = Self(0x17);
    pub(super) const GENERALIZED_TIME: Self = Self(0x18);
    pub(super) const SEQUENCE: Self = Self(0x30);
    pub(super) const SET: Self = Self(0x31);
    pub(super) const IMPLICIT_1: Self = Self(0x81);
    pub(super) const IMPLICIT_2: Self = Self(0x82);
    pub(super) const IMPLICIT_6: Self = Self(0x86);
    pub(super) const IMPLICIT_7: Self = Self(0x87);
    pub(super) const EXPLICIT_0: Self = Self(0xa0);
    pub(super) const EXPLICIT_3: Self = Self(0xa3);

    /// UTF8String, PrintableString or IA5String: the strings that are UTF-8 as they stand.
    pub(super) fn is_text(self) -> bool {
        matches!(self.0, 0x0c | 0x13 | 0x16)
    }
}

impl<'a> Der<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn any(&mut self) -> Option<(Tag, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (len, rest) = length(rest)?;
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((Tag(tag), value))
    }

    pub(super) fn next(&mut self, wanted: Tag) -> Option<&'a [u8]> {
        let (tag, value) = self.any()?;
        (tag == wanted).then_some(value)
    }

    pub(super) fn within(&mut self, wanted: Tag) -> Option<Self> {
        self.next(wanted).map(Der)
    }

    /// Leaves out what may stand there and does not matter.
    pub(super) fn skip_if(&mut self, optional: Tag) {
        let mut ahead = *self;
        if ahead.next(optional).is_some() {
            *self = ahead;
        }
    }
}

/// Lengths of up to three bytes: certificates are far smaller than 16 MiB.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let be = |bytes: &[u8]| bytes.iter().fold(0, |len, it| len << 8 | usize::from(*it));
    match bytes {
        [short @ 0..=0x7f, rest @ ..] => Some((usize::from(*short), rest)),
        [0x81, rest @ ..] => rest.split_at_checked(1).map(|(len, rest)| (be(len), rest)),
        [0x82, rest @ ..] => rest.split_at_checked(2).map(|(len, rest)| (be(len), rest)),
        [0x83, rest @ ..] => rest.split_at_checked(3).map(|(len, rest)| (be(len), rest)),
        _ => None,
    }
}
