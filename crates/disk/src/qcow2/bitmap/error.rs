//! Why a dirty bitmap could not be read.

use std::fmt;

use thiserror::Error;
use vmkeep_model::ByteLen;

use crate::DiskError;

/// Why a bitmap misses changes, or may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inconsistency {
    /// A program has the image open, or ended without writing the bitmap back (the flag `in_use`).
    InUse,
    /// A program that knows no bitmaps wrote to the image after they were stored (autoclear bit 0 is not set).
    Stale,
    /// It comes with data of a kind that is not known, and says that it must not be used without.
    UnknownData,
}

impl fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InUse => "a program has the image open or ended without writing the bitmap back",
            Self::Stale => "a program that knows no bitmaps has written to the image since",
            Self::UnknownData => "it comes with data of an unknown kind that it must not be used without",
        })
    }
}

/// Why a dirty bitmap could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BitmapError {
    /// The image has no bitmap of this name.
    #[error("there is no bitmap {name:?} in the image; {}", listed(there))]
    NoSuchBitmap {
        /// The name asked for.
        name: String,
        /// The names there are, in the order of the image.
        there: Vec<String>,
    },
    /// The bitmap misses changes. Nothing but a look at the whole disk can tell what changed.
    #[error("bitmap {name:?} must not be trusted: {why}")]
    Inconsistent {
        /// The bitmap.
        name: String,
        /// Why.
        why: Inconsistency,
    },
    /// The bitmap is not about a disk of this size.
    #[error(
        "bitmap {name:?} is not about this disk: it has {clusters} clusters of bits, and {disk_len} bytes need {needed}"
    )]
    WrongSize {
        /// The bitmap.
        name: String,
        /// Clusters of bits that it has.
        clusters: u64,
        /// Clusters of bits that the disk needs.
        needed: u64,
        /// Size of the disk in the image.
        disk_len: ByteLen,
    },
    /// The file is not a qcow2 image, or one of a kind that is not read.
    #[error("no bitmaps can be read: {reason}")]
    Unsupported {
        /// What it is.
        reason: String,
    },
    /// The image contradicts itself or its format.
    #[error("the image is damaged: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// The file could not be read.
    #[error("cannot read the image")]
    Disk(#[from] DiskError),
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "it has none".to_owned() } else { format!("there are {names:?}") }
}

pub(super) fn damaged(reason: impl Into<String>) -> BitmapError {
    BitmapError::Damaged { reason: reason.into() }
}
