//! Captured keys as bytes: what is sealed into a point (FORMAT.md section 9).

use std::collections::BTreeMap;

use vmkeep_model::DiskName;
use zeroize::Zeroizing;

use super::{CapturedDisk, CapturedKey, CapturedKeys, CapturedSecret, GuestKeysError};
use crate::reader::Reader;
use crate::{OpenError, SecretBytes, SecretValue};

const VERSION: u16 = 1;
/// Most disks, as many as a VM may have.
const DISKS_MAX: usize = vmkeep_model::DISKS_MAX;
/// Longest text: a URL, a content type, a tag.
const TEXT_MAX: usize = 1024;
const TAGS_MAX: usize = 64;
/// Longest value of a secret.
const VALUE_MAX: usize = 64 << 10;
/// Longest backup blob.
const BLOB_MAX: usize = 1 << 20;

impl CapturedKeys {
    /// The keys as bytes, in memory that is wiped.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, GuestKeysError> {
        // Counted first: a vector that grows would leave secrets behind in the memory it gives up.
        let mut len = Counter(0);
        self.write(&mut len)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(len.0));
        self.write(&mut *bytes)?;
        Ok(bytes)
    }

    fn write(&self, to: &mut impl Sink) -> Result<(), GuestKeysError> {
        to.put(&VERSION.to_le_bytes());
        count(to, "disks", self.disks.len(), DISKS_MAX)?;
        for CapturedDisk { disk, bek, kek } in &self.disks {
            text(to, "disk", disk.as_str())?;
            text(to, "secret URL", &bek.url.to_string())?;
            counted(to, "secret", bek.value.value.expose(), VALUE_MAX)?;
            optional(to, bek.value.content_type.as_ref(), |to, kind| text(to, "content type", kind))?;
            count(to, "tags", bek.value.tags.len(), TAGS_MAX)?;
            for (name, value) in &bek.value.tags {
                text(to, "tag", name)?;
                text(to, "tag", value)?;
            }
            optional(to, bek.backup.as_ref(), |to, blob| counted(to, "backup blob", blob, BLOB_MAX))?;
            optional(to, kek.as_ref(), |to, CapturedKey { url, backup }| {
                text(to, "key URL", &url.to_string())?;
                optional(to, backup.as_ref(), |to, blob| counted(to, "backup blob", blob, BLOB_MAX))
            })?;
        }
        Ok(())
    }

    /// The keys that all of `bytes` are.
    pub fn decode(bytes: &[u8]) -> Result<Self, GuestKeysError> {
        let mut reader = Reader::new(bytes);
        let keys = read(&mut reader).map_err(|e| malformed(e.to_string()))?;
        if reader.position() == bytes.len() {
            Ok(keys)
        } else {
            Err(malformed("bytes follow them".to_owned()))
        }
    }
}

/// Where bytes go: counted, or kept.
trait Sink {
    fn put(&mut self, bytes: &[u8]);
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

fn count(to: &mut impl Sink, what: &str, len: usize, max: usize) -> Result<(), GuestKeysError> {
    match u32::try_from(len) {
        Ok(count) if len <= max => {
            to.put(&count.to_le_bytes());
            Ok(())
        }
        _ => Err(malformed(format!("{what} of {len} are over the limit of {max}"))),
    }
}

fn counted(to: &mut impl Sink, what: &str, bytes: &[u8], max: usize) -> Result<(), GuestKeysError> {
    count(to, what, bytes.len(), max)?;
    to.put(bytes);
    Ok(())
}

fn text(to: &mut impl Sink, what: &str, text: &str) -> Result<(), GuestKeysError> {
    counted(to, what, text.as_bytes(), TEXT_MAX)
}

fn optional<S: Sink, T>(
    to: &mut S,
    value: Option<&T>,
    write: impl FnOnce(&mut S, &T) -> Result<(), GuestKeysError>,
) -> Result<(), GuestKeysError> {
    to.put(&[u8::from(value.is_some())]);
    value.map_or(Ok(()), |value| write(to, value))
}

fn malformed(what: String) -> GuestKeysError {
    GuestKeysError::Malformed { what }
}

fn read(from: &mut Reader<'_>) -> Result<CapturedKeys, OpenError> {
    from.version(VERSION)?;
    let disks = (0..read_count(from, DISKS_MAX)?).map(|_| read_disk(from)).collect::<Result<_, _>>()?;
    Ok(CapturedKeys { disks })
}

fn read_disk(from: &mut Reader<'_>) -> Result<CapturedDisk, OpenError> {
    let disk: DiskName = read_parsed(from)?;
    let url = read_parsed(from)?;
    let value = SecretBytes::new(read_bytes(from, VALUE_MAX)?.to_vec());
    let content_type = read_optional(from, |from| read_text(from).map(str::to_owned))?;
    let mut tags = BTreeMap::new();
    for _ in 0..read_count(from, TAGS_MAX)? {
        let (name, value) = (read_text(from)?.to_owned(), read_text(from)?.to_owned());
        if tags.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(OpenError::Malformed { what: "tags are not ascending" });
        }
        tags.insert(name, value);
    }
    let blob = |from: &mut Reader<'_>| read_bytes(from, BLOB_MAX).map(<[u8]>::to_vec);
    let backup = read_optional(from, blob)?;
    let bek = CapturedSecret { url, value: SecretValue { value, content_type, tags }, backup };
    let kek = read_optional(from, |from| {
        Ok(CapturedKey { url: read_parsed(from)?, backup: read_optional(from, blob)? })
    })?;
    Ok(CapturedDisk { disk, bek, kek })
}

fn read_count(from: &mut Reader<'_>, max: usize) -> Result<usize, OpenError> {
    crate::reader::within("captured keys", from.u32()?, max)
}

fn read_bytes<'a>(from: &mut Reader<'a>, max: usize) -> Result<&'a [u8], OpenError> {
    let len = read_count(from, max)?;
    from.take(len)
}

fn read_text<'a>(from: &mut Reader<'a>) -> Result<&'a str, OpenError> {
    let bytes = read_bytes(from, TEXT_MAX)?;
    std::str::from_utf8(bytes).map_err(|_| OpenError::Malformed { what: "text is not UTF-8" })
}

fn read_parsed<T: std::str::FromStr>(from: &mut Reader<'_>) -> Result<T, OpenError> {
    read_text(from)?.parse().map_err(|_| OpenError::Malformed { what: "a name or URL does not parse" })
}

fn read_optional<T>(
    from: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, OpenError>,
) -> Result<Option<T>, OpenError> {
    match from.u8()? {
        0 => Ok(None),
        1 => read(from).map(Some),
        _ => Err(OpenError::Malformed { what: "an option is not 0 or 1" }),
    }
}
