//! What a restore or a verification tells while it runs.

use vmkeep_model::{ByteLen, DiskName};
use vmkeep_vault::{PackDamage, Tally};

/// Something that happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A disk is about to be read.
    DiskBegan {
        /// Which disk.
        disk: &'a DiskName,
        /// Its size.
        size: ByteLen,
        /// Bytes of it that are stored: what will be read at most.
        stored: ByteLen,
    },
    /// So many more bytes of the disk are done.
    Progress {
        /// Which disk.
        disk: &'a DiskName,
        /// Bytes done since the last event, padded to whole blocks.
        bytes: ByteLen,
    },
    /// A disk is done.
    DiskDone {
        /// Which disk.
        disk: &'a DiskName,
    },
    /// A rolling verification begins.
    RollingBegan {
        /// Everything that the vault holds, of which a part will be checked.
        total: Tally,
    },
    /// So many more bytes of packs are checked.
    PackChecked {
        /// Bytes of one pack.
        bytes: u64,
    },
    /// A rolling verification found damage.
    Damaged(&'a PackDamage),
}

/// Hears what a walk does. Calls come from the walk's threads and delay it; they cannot change it.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: Event<'_>) {}
}

impl<F: Fn(Event<'_>) + Sync> Observer for F {
    fn event(&self, event: Event<'_>) {
        self(event);
    }
}
