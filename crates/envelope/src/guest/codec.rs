//! Captured keys as bytes: what is sealed into a point (FORMAT.md section 9).

use zeroize::Zeroizing;

use super::{CapturedDisk, CapturedKey, CapturedKeys, CapturedSecret, GuestKeysError};
use crate::OpenError;
use crate::reader::Reader;
use crate::store::codec::{read_secret, write_secret};
use crate::writer::{Sink, TooLarge, Written};

const VERSION: u16 = 1;
/// Most disks, as many as a VM may have.
const DISKS_MAX: usize = vmkeep_model::DISKS_MAX;
/// Longest name or URL.
const TEXT_MAX: usize = 1024;
/// Longest backup blob.
const BLOB_MAX: usize = 1 << 20;

impl CapturedKeys {
    /// The keys as bytes, in memory that is wiped.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, GuestKeysError> {
        self.written().map_err(|TooLarge { what, len, max }| {
            malformed(format!("{what} of {len} is over the limit of {max}"))
        })
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

impl Written for CapturedKeys {
    fn write(&self, to: &mut impl Sink) -> Result<(), TooLarge> {
        to.u16(VERSION);
        to.count("disks", self.disks.len(), DISKS_MAX)?;
        for CapturedDisk { disk, bek, kek } in &self.disks {
            to.counted("disk", disk.as_str().as_bytes(), TEXT_MAX)?;
            to.counted("secret URL", bek.url.to_string().as_bytes(), TEXT_MAX)?;
            write_secret(to, &bek.value)?;
            to.optional(bek.backup.as_ref(), |to, blob| to.counted("backup blob", blob, BLOB_MAX))?;
            to.optional(kek.as_ref(), |to, CapturedKey { url, backup }| {
                to.counted("key URL", url.to_string().as_bytes(), TEXT_MAX)?;
                to.optional(backup.as_ref(), |to, blob| to.counted("backup blob", blob, BLOB_MAX))
            })?;
        }
        Ok(())
    }
}

fn malformed(what: String) -> GuestKeysError {
    GuestKeysError::Malformed { what }
}

fn read(from: &mut Reader<'_>) -> Result<CapturedKeys, OpenError> {
    from.version(VERSION)?;
    let disks = (0..from.count("disks", DISKS_MAX)?).map(|_| read_disk(from)).collect::<Result<_, _>>()?;
    Ok(CapturedKeys { disks })
}

fn read_disk(from: &mut Reader<'_>) -> Result<CapturedDisk, OpenError> {
    let (disk, url) = (parsed(from)?, parsed(from)?);
    let value = read_secret(from)?;
    let blob = |from: &mut Reader<'_>| from.counted("backup blob", BLOB_MAX).map(<[u8]>::to_vec);
    let bek = CapturedSecret { url, value, backup: from.optional(blob)? };
    let kek = from.optional(|from| Ok(CapturedKey { url: parsed(from)?, backup: from.optional(blob)? }))?;
    Ok(CapturedDisk { disk, bek, kek })
}

fn parsed<T: std::str::FromStr>(from: &mut Reader<'_>) -> Result<T, OpenError> {
    let text = from.text("name or URL", TEXT_MAX)?;
    text.parse().map_err(|_| OpenError::Malformed { what: "a name or URL does not parse" })
}
