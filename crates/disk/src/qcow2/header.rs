//! The header of a qcow2 image, read before anything else touches it.
//!
//! ```text
//!   0 magic "QFI\xfb"        40 L1 table offset
//!   4 version, 2 or 3        72 incompatible features    (from version 3)
//!   8 backing name offset   100 header length            (from version 3)
//!  16 backing name length   104 compression type         (when the header is longer)
//!  20 log2 of cluster size      then extensions: type, length, data padded to 8; type 0 ends them
//!  24 virtual size
//!  32 encryption method
//!  36 L1 table entries
//! ```
//! Numbers are big endian. The format is described in QEMU's `docs/interop/qcow2.rst`.

use vmkeep_model::ByteLen;

use crate::raw::{RawFile, head};
use crate::{BlockRead, DiskError};

/// How a qcow2 image begins.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Longest L1 table that QEMU opens. At the bound the image is called damaged, before anything of that size is read.
const L1_BYTES_MAX: u64 = 32 << 20;
const BACKING_NAME_LEN_MAX: u64 = 1023;
const VERSION_2_HEADER_LEN: u64 = 72;
const VERSION_3_HEADER_LEN_MIN: u64 = 104;

mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(super) const ENCRYPTION: u32 = 0x0537_be77;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
}

mod incompatible {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const SUBCLUSTERS: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | SUBCLUSTERS;
}

/// What a reader needs of the header of an image that can be read.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) cluster_bits: u32,
    pub(crate) size: ByteLen,
    pub(crate) l1_offset: u64,
    pub(crate) l1_entries: u64,
    /// The image that is read where this one has nothing.
    pub(crate) backing: Option<Backing>,
    /// The file that holds the clusters, when it is not the image itself.
    pub(crate) data_file: Option<String>,
}

/// A reference to a backing image, as it is written in the header.
#[derive(Debug)]
pub(crate) struct Backing {
    pub(crate) name: String,
    pub(crate) format: Option<String>,
}

impl Header {
    /// Reads the header and refuses an image that must not or cannot be read.
    pub(crate) fn read(image: &RawFile) -> Result<Self, DiskError> {
        let cluster = 1 << 21; // the largest there is; the header lies within the first
        let bytes = head(image, cluster)?;
        Fields { image, bytes: &bytes }.parse()
    }
}

struct Fields<'a> {
    image: &'a RawFile,
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn parse(&self) -> Result<Header, DiskError> {
        if self.bytes.get(..4) != Some(&MAGIC) {
            return Err(self.damaged("it is not a qcow2 image: the magic number is missing"));
        }
        let cluster_bits = self.u32(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(self.damaged(&format!("a cluster size of 2^{cluster_bits} bytes cannot be")));
        }
        let cluster = 1 << cluster_bits;
        self.refuse_encrypted(self.u32(32)?)?;
        let (names, data_file_flag) = match self.u32(4)? {
            2 => (self.version_2_extensions(cluster)?, false),
            3 => {
                let header_len = self.version_3_header_len(cluster)?;
                let data_file = self.refuse_features(header_len)?;
                (self.extensions(header_len, cluster, cluster)?, data_file)
            }
            version => {
                return Err(self.unsupported(&format!(
                    "version {version} of qcow is not read; convert it with qemu-img convert"
                )));
            }
        };
        let header = Header {
            cluster_bits,
            size: ByteLen(self.u64(24)?),
            l1_offset: self.u64(40)?,
            l1_entries: u64::from(self.u32(36)?),
            backing: self.backing_name()?.map(|name| Backing { name, format: names.backing_format }),
            data_file: if data_file_flag { Some(self.data_file(names.data_file)?) } else { None },
        };
        self.check_l1(&header)?;
        Ok(header)
    }

    fn version_3_header_len(&self, cluster: u64) -> Result<u64, DiskError> {
        let len = u64::from(self.u32(100)?);
        if (VERSION_3_HEADER_LEN_MIN..=cluster).contains(&len) && len.is_multiple_of(8) {
            Ok(len)
        } else {
            Err(self.damaged(&format!("a header of {len} bytes cannot be")))
        }
    }

    fn refuse_encrypted(&self, method: u32) -> Result<(), DiskError> {
        let method = match method {
            0 => return Ok(()),
            1 => "AES".to_owned(),
            2 => "LUKS".to_owned(),
            other => format!("method {other}"),
        };
        Err(self.encrypted(&method))
    }

    fn encrypted(&self, method: &str) -> DiskError {
        self.unsupported(&format!(
            "the image is encrypted ({method}); its ciphertext must not be backed up as if it were the disk: \
             decrypt it with qemu-img convert, or read the disk where the hypervisor decrypts it"
        ))
    }

    /// Refuses what the feature bits forbid; tells whether there is an external data file.
    fn refuse_features(&self, header_len: u64) -> Result<bool, DiskError> {
        let features = self.u64(72)?;
        if features & incompatible::CORRUPT != 0 {
            return Err(self.damaged("it is marked corrupt; repair a copy with qemu-img check -r all"));
        }
        if features & incompatible::DIRTY != 0 {
            return Err(self.unsupported(
                "the image is marked as in use: a VM has it open with lazy refcounts, or ended without closing it; \
                 with the VM off, qemu-img check -r all clears the mark",
            ));
        }
        let compression = header_len > VERSION_3_HEADER_LEN_MIN && self.bytes.get(104) != Some(&0);
        if compression || features & incompatible::COMPRESSION != 0 {
            return Err(self.unsupported(
                "its clusters are not compressed by zlib; convert it with qemu-img convert -O qcow2",
            ));
        }
        if features & incompatible::SUBCLUSTERS != 0 {
            return Err(self.unsupported(
                "it has subclusters (extended L2 entries); convert it with qemu-img convert -O qcow2",
            ));
        }
        match features & !incompatible::KNOWN {
            0 => Ok(features & incompatible::DATA_FILE != 0),
            other => Err(self.unsupported(&format!("it needs features that are not known ({other:#x})"))),
        }
    }

    /// The extensions of version 2 may end at the backing file name, without a mark.
    fn version_2_extensions(&self, cluster: u64) -> Result<Names, DiskError> {
        let backing_name = self.u64(8)?;
        let end = if backing_name == 0 { cluster } else { backing_name };
        self.extensions(VERSION_2_HEADER_LEN, end, cluster)
    }

    fn extensions(&self, from: u64, end: u64, cluster: u64) -> Result<Names, DiskError> {
        let mut names = Names::default();
        let mut at = from;
        while at < end {
            let (kind, len) = (self.u32(at)?, u64::from(self.u32(at + 4)?));
            if at + 8 + len > cluster {
                return Err(self.damaged("a header extension passes the first cluster"));
            }
            let data = || self.slice(at + 8, len).map(<[u8]>::to_vec);
            match kind {
                extension::END => return Ok(names),
                extension::ENCRYPTION => return Err(self.encrypted("LUKS")),
                extension::BACKING_FORMAT => names.backing_format = Some(self.text(data()?)?),
                extension::DATA_FILE => names.data_file = Some(self.text(data()?)?),
                extension::FEATURE_NAMES if len % 48 != 0 => {
                    return Err(self.damaged("its table of feature names is not of whole entries"));
                }
                _ => {}
            }
            at += 8 + len.next_multiple_of(8);
        }
        Ok(names)
    }

    fn backing_name(&self) -> Result<Option<String>, DiskError> {
        let (offset, len) = (self.u64(8)?, u64::from(self.u32(16)?));
        if offset == 0 {
            return Ok(None);
        }
        if len > BACKING_NAME_LEN_MAX {
            return Err(self.damaged(&format!("a backing file name of {len} bytes cannot be")));
        }
        self.text(self.slice(offset, len)?.to_vec()).map(Some)
    }

    fn data_file(&self, name: Option<String>) -> Result<String, DiskError> {
        name.ok_or_else(|| self.unsupported("its data is in another file, whose name it does not hold"))
    }

    /// The first table must lie in the file and reach the end of the disk: what it does not reach reads as zeros.
    fn check_l1(&self, header: &Header) -> Result<(), DiskError> {
        let len = header.l1_entries * 8;
        if len > L1_BYTES_MAX {
            return Err(self.damaged(&format!("an L1 table of {len} bytes cannot be")));
        }
        if !header.l1_offset.is_multiple_of(1 << header.cluster_bits) {
            return Err(self.damaged("its L1 table is not at the start of a cluster"));
        }
        let l2_reach = header.cluster_bits + (header.cluster_bits - 3);
        if header.l1_entries < header.size.0.div_ceil(1 << l2_reach) {
            return Err(self.damaged("its L1 table is too short for the size of the disk"));
        }
        match header.l1_offset.checked_add(len) {
            Some(end) if end <= self.image.len().0 => Ok(()),
            _ => Err(self.damaged("its L1 table lies behind the end of the file, which was cut short")),
        }
    }

    fn slice(&self, offset: u64, len: u64) -> Result<&[u8], DiskError> {
        let end = offset.checked_add(len).and_then(|end| usize::try_from(end).ok());
        let start = usize::try_from(offset).ok();
        start
            .zip(end)
            .and_then(|(start, end)| self.bytes.get(start..end))
            .ok_or_else(|| self.damaged("its header passes the end of the file or of the first cluster"))
    }

    fn u32(&self, offset: u64) -> Result<u32, DiskError> {
        self.slice(offset, 4).map(|b| b.iter().fold(0, |n, &byte| n << 8 | u32::from(byte)))
    }

    fn u64(&self, offset: u64) -> Result<u64, DiskError> {
        self.slice(offset, 8).map(|b| b.iter().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    fn text(&self, bytes: Vec<u8>) -> Result<String, DiskError> {
        String::from_utf8(bytes).map_err(|_| self.damaged("a name in its header is not UTF-8"))
    }

    fn damaged(&self, reason: &str) -> DiskError {
        DiskError::Damaged { path: self.image.path().to_owned(), reason: reason.to_owned() }
    }

    fn unsupported(&self, reason: &str) -> DiskError {
        DiskError::Unsupported { path: self.image.path().to_owned(), reason: reason.to_owned() }
    }
}

/// Names that stand in header extensions.
#[derive(Default)]
struct Names {
    backing_format: Option<String>,
    data_file: Option<String>,
}
