//! A cursor over untrusted bytes: every read is checked against what is there.

use crate::OpenError;

pub(crate) struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], OpenError> {
        let end = self.at.checked_add(len);
        match end.and_then(|end| self.all.get(self.at..end)) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => Err(OpenError::Truncated {
                needed: wide(self.at).saturating_add(wide(len)),
                found: wide(self.all.len()),
            }),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], OpenError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, OpenError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, OpenError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, OpenError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Requires `magic` here.
    pub(crate) fn magic(&mut self, magic: &'static str) -> Result<(), OpenError> {
        if self.take(magic.len())? == magic.as_bytes() {
            Ok(())
        } else {
            Err(OpenError::BadMagic { expected: magic })
        }
    }

    /// Requires a version this program knows, and says when it is a newer one.
    pub(crate) fn version(&mut self, known: u16) -> Result<u16, OpenError> {
        match self.u16()? {
            0 => Err(OpenError::Malformed { what: "version 0; versions count from 1" }),
            found if found > known => Err(OpenError::Newer { found, known }),
            found => Ok(found),
        }
    }

    /// A number of things, at most `max`.
    pub(crate) fn count(&mut self, what: &'static str, max: usize) -> Result<usize, OpenError> {
        within(what, self.u32()?, max)
    }

    /// Bytes behind their number.
    pub(crate) fn counted(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], OpenError> {
        let len = self.count(what, max)?;
        self.take(len)
    }

    /// As [`counted`](Self::counted), as text.
    pub(crate) fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str, OpenError> {
        std::str::from_utf8(self.counted(what, max)?)
            .map_err(|_| OpenError::Malformed { what: "text is not UTF-8" })
    }

    pub(crate) fn flag(&mut self) -> Result<bool, OpenError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(OpenError::Malformed { what: "a flag is not 0 or 1" }),
        }
    }

    /// What [`Sink::optional`](crate::writer::Sink::optional) wrote.
    pub(crate) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, OpenError>,
    ) -> Result<Option<T>, OpenError> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// Requires `len` zeros here.
    pub(crate) fn reserved(&mut self, len: usize) -> Result<(), OpenError> {
        if self.take(len)?.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err(OpenError::Malformed { what: "reserved bytes are not zero" })
        }
    }
}

/// A length in memory as a number in an error or a hash.
pub(crate) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A length that the caller has held against a limit of the format.
pub(crate) fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("every limit of the format is below 4 GiB")
}

/// Requires a length the format allows, and gives it as a `usize`.
pub(crate) fn within(what: &'static str, len: u32, max: usize) -> Result<usize, OpenError> {
    match usize::try_from(len) {
        Ok(len) if len <= max => Ok(len),
        _ => Err(OpenError::TooLarge { what, len: len.into(), max: wide(max) }),
    }
}

/// Requires that there are exactly `expected` bytes.
pub(crate) fn exactly(expected: usize, bytes: &[u8]) -> Result<(), OpenError> {
    let found = bytes.len();
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => Err(OpenError::Truncated { needed: wide(expected), found: wide(found) }),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => {
            Err(OpenError::TrailingBytes { expected: wide(expected), found: wide(found) })
        }
    }
}
