//! Writing what will be sealed: counted first, then written once, so that no growing vector leaves secrets behind in the
//! memory it gives up.

use zeroize::Zeroizing;

/// Something is larger than the format allows.
#[derive(Debug)]
pub(crate) struct TooLarge {
    pub(crate) what: &'static str,
    pub(crate) len: usize,
    pub(crate) max: usize,
}

/// Where bytes go: counted, or kept.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn u16(&mut self, number: u16) {
        self.put(&number.to_le_bytes());
    }

    fn flag(&mut self, flag: bool) {
        self.put(&[u8::from(flag)]);
    }

    /// A number of things, at most `max`.
    fn count(&mut self, what: &'static str, len: usize, max: usize) -> Result<(), TooLarge> {
        match u32::try_from(len) {
            Ok(count) if len <= max => {
                self.put(&count.to_le_bytes());
                Ok(())
            }
            _ => Err(TooLarge { what, len, max }),
        }
    }

    /// Bytes behind their number.
    fn counted(&mut self, what: &'static str, bytes: &[u8], max: usize) -> Result<(), TooLarge> {
        self.count(what, bytes.len(), max)?;
        self.put(bytes);
        Ok(())
    }

    /// 0, or 1 and the value.
    fn optional<T>(
        &mut self,
        value: Option<&T>,
        write: impl FnOnce(&mut Self, &T) -> Result<(), TooLarge>,
    ) -> Result<(), TooLarge>
    where
        Self: Sized,
    {
        self.flag(value.is_some());
        value.map_or(Ok(()), |value| write(self, value))
    }
}

struct Counter(usize);

impl Sink for Counter {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Something that is written the same way each time.
pub(crate) trait Written {
    fn write(&self, to: &mut impl Sink) -> Result<(), TooLarge>;

    /// All of it, in memory that is wiped.
    fn written(&self) -> Result<Zeroizing<Vec<u8>>, TooLarge> {
        let mut len = Counter(0);
        self.write(&mut len)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(len.0));
        self.write(&mut *bytes)?;
        Ok(bytes)
    }
}
