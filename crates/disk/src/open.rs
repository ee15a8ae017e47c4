//! The one way in: a path to a disk that can be read.

use std::fs;
use std::path::{Path, PathBuf};

use vmkeep_model::ByteOffset;

use crate::direct::DirectFile;
use crate::qcow2::{self, Header, Qcow2Image};
use crate::raw::{RawFile, head};
use crate::raw_target::folder_of;
use crate::vhd::{self, Footer};
use crate::{BlockRead, DiskError, DiskOperation};

/// Most images that one disk is read through. At the bound the chain is refused; `qemu-img commit` shortens it.
const CHAIN_LEN_MAX: usize = 64;

/// A format of disk images that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The bytes of the disk and nothing else; also a block device.
    Raw,
    /// QEMU's own, versions 2 and 3.
    Qcow2,
    /// Hyper-V's older one, fixed or dynamic.
    Vhd,
}

/// How to open a disk.
///
/// The default detects the format and follows no reference to another file.
///
/// # Security
/// Who writes to a raw disk, which is the guest, can make it begin like a qcow2 image. Detection then takes it for
/// one, and the backup holds what that image says instead of what is on the disk. It never holds another file of
/// the host, because a reference to one is refused unless it is in `allowed_backing`. Give the format of every disk
/// whose format you know; for raw disks in particular.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The format; `None` detects it.
    pub format: Option<Format>,
    /// The files that an image may refer to as backing or data file, at any depth. Compared after resolving
    /// symbolic links.
    pub allowed_backing: Vec<PathBuf>,
    /// Whether reads bypass the page cache (`O_DIRECT`), so that reading a whole disk does not push out what other
    /// programs of the host keep there. For raw images and block devices only: another format, and a file system that
    /// refuses it, is [`DiskError::Unsupported`].
    pub direct: bool,
}

/// Opens a disk image or a block device, read-only.
///
/// The format is `options.format`, or what the content looks like: qcow2 and VHD are read, VHDX, VMDK, VDI, QED
/// and Parallels are [`DiskError::Unsupported`], anything else is raw.
pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Box<dyn BlockRead>, DiskError> {
    let resolved = options.allowed_backing.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    let mut opening = Opening { given: &options.allowed_backing, allowed: resolved, chain: Vec::new() };
    opening.image(path.as_ref(), options.format, options.direct)
}

/// An open that follows a chain of images.
struct Opening<'a> {
    given: &'a [PathBuf],
    allowed: Vec<PathBuf>,
    /// The images being opened, resolved, the topmost first.
    chain: Vec<PathBuf>,
}

impl Opening<'_> {
    fn image(
        &mut self,
        path: &Path,
        format: Option<Format>,
        direct: bool,
    ) -> Result<Box<dyn BlockRead>, DiskError> {
        let file = RawFile::open(path)?;
        self.enter(path)?;
        let format = match format {
            Some(format) => format,
            None => detect(&file)?,
        };
        match format {
            Format::Raw if direct => Ok(Box::new(DirectFile::of(file)?)),
            Format::Raw => Ok(Box::new(file)),
            Format::Qcow2 | Format::Vhd if direct => Err(DiskError::Unsupported {
                path: path.to_owned(),
                reason: format!(
                    "only raw images and block devices are read past the page cache, and this is {}; read it without",
                    if format == Format::Vhd { "VHD" } else { "qcow2" }
                ),
            }),
            Format::Qcow2 => self.qcow2(file),
            Format::Vhd => match Footer::find(&file)? {
                Some(footer) => vhd::open(file, &footer),
                None => Err(DiskError::Damaged {
                    path: path.to_owned(),
                    reason: "it is not a VHD: it has no footer with a right checksum".to_owned(),
                }),
            },
        }
    }

    fn qcow2(&mut self, file: RawFile) -> Result<Box<dyn BlockRead>, DiskError> {
        let header = Header::read(&file)?;
        let data_file = match &header.data_file {
            Some(name) => Some(RawFile::open(self.allowed(file.path(), name)?)?),
            None => None,
        };
        let backing = match &header.backing {
            Some(backing) => {
                let format = backing_format(file.path(), backing.format.as_deref())?;
                let path = self.allowed(file.path(), &backing.name)?;
                Some(self.image(&path, format, false)?)
            }
            None => None,
        };
        Ok(Box::new(Qcow2Image::open(file, &header, data_file, backing)?))
    }

    /// The file that `image` names `name`, resolved, when the caller allowed it.
    fn allowed(&self, image: &Path, name: &str) -> Result<PathBuf, DiskError> {
        let named = folder_of(image).join(name.strip_prefix("file:").unwrap_or(name));
        match fs::canonicalize(&named) {
            Ok(resolved) if self.allowed.contains(&resolved) => Ok(resolved),
            Err(source) if self.given.contains(&named) => {
                Err(DiskError::io(DiskOperation::Open, named.display().to_string(), None, source))
            }
            // Whether a file that is not allowed exists is not for the image to find out.
            _ => Err(DiskError::BackingNotAllowed { path: image.to_owned(), other: name.to_owned() }),
        }
    }

    /// Notes that `path` is part of the chain.
    fn enter(&mut self, path: &Path) -> Result<(), DiskError> {
        let resolved = fs::canonicalize(path)
            .map_err(|e| DiskError::io(DiskOperation::Open, path.display().to_string(), None, e))?;
        if self.chain.contains(&resolved) {
            let reason = "its chain of backing files comes back to it".to_owned();
            return Err(DiskError::Damaged { path: path.to_owned(), reason });
        }
        if self.chain.len() == CHAIN_LEN_MAX {
            let reason = format!(
                "it is backed by more than {CHAIN_LEN_MAX} images; shorten the chain with qemu-img commit"
            );
            return Err(DiskError::Unsupported { path: self.chain[0].clone(), reason });
        }
        self.chain.push(resolved);
        Ok(())
    }
}

/// The format that an image names for its backing file, in QEMU's words.
fn backing_format(image: &Path, name: Option<&str>) -> Result<Option<Format>, DiskError> {
    match name {
        None => Ok(None),
        Some("raw" | "file" | "host_device") => Ok(Some(Format::Raw)),
        Some("qcow2") => Ok(Some(Format::Qcow2)),
        Some("vpc") => Ok(Some(Format::Vhd)),
        Some(other) => Err(DiskError::Unsupported {
            path: image.to_owned(),
            reason: format!(
                "its backing file is of format {other:?}, which is not read; flatten it with qemu-img convert"
            ),
        }),
    }
}

/// How images of other formats begin, and where.
const NOT_READ: [(usize, &[u8], &str); 8] = [
    (0, b"vhdxfile", "VHDX"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
];

fn detect(file: &RawFile) -> Result<Format, DiskError> {
    let head = head(file, 512)?;
    if head.starts_with(&qcow2::MAGIC) {
        return Ok(Format::Qcow2);
    }
    let has = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, _, name)) = NOT_READ.iter().find(|(at, magic, _)| has(*at, magic)) {
        return Err(DiskError::Unsupported {
            path: file.path().to_owned(),
            reason: format!(
                "it looks like a {name} image, which is not read: convert it with qemu-img convert -O qcow2, or give \
                 the format raw if this is what a guest wrote to a raw disk"
            ),
        });
    }
    if Footer::find(file)?.is_some() {
        return Ok(Format::Vhd);
    }
    if ends_like_vhd(file)? {
        let reason =
            "it ends like a VHD, but the footer's checksum or type is wrong; give the format raw if it is a \
                      raw disk"
                .to_owned();
        return Err(DiskError::Damaged { path: file.path().to_owned(), reason });
    }
    Ok(Format::Raw)
}

fn ends_like_vhd(file: &RawFile) -> Result<bool, DiskError> {
    let Some(last) = file.len().0.checked_sub(vhd::FOOTER_LEN) else { return Ok(false) };
    let mut cookie = [0; 8];
    file.read_at(ByteOffset(last), &mut cookie)?;
    Ok(cookie == vhd::COOKIE)
}
