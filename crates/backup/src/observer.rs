//! What a backup tells while it runs.

use vmkeep_blockdiff::FingerprintError;
use vmkeep_model::{BlockIndex, BlockRun, ByteLen, DiskName, PointNumber, SessionId, VmName};
use vmkeep_vault::{OpenSession, VaultError};

/// How a disk differs from what it was at the point before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskChange {
    /// It was not in the point before: all of it is stored.
    Appeared,
    /// What it was cannot be read, because the vault is damaged there: all of it is stored again.
    Anew,
    /// It has the size it had.
    SameSize,
    /// It became larger.
    Grew {
        /// Its size before.
        from: ByteLen,
    },
    /// It became smaller.
    Shrank {
        /// Its size before.
        from: ByteLen,
    },
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// There is another backup of the VM that has not committed, running or abandoned, and this one does not go on from
    /// it ([`Resume`](crate::Resume)).
    LeftOpen {
        /// Which.
        session: &'a OpenSession,
    },
    /// The backup to go on from committed or was ended meanwhile: this one begins afresh.
    NotResumed {
        /// Which.
        session: SessionId,
        /// What became of it.
        error: &'a VaultError,
    },
    /// The session is open.
    Began {
        /// The VM.
        vm: &'a VmName,
        /// The number the point will have.
        target: PointNumber,
        /// The point it is made against.
        base: Option<PointNumber>,
    },
    /// The point before, or the map of one of its disks, is damaged: what depends on it is stored again as a whole.
    BaseUnreadable {
        /// Which disk; `None` for the whole point.
        disk: Option<&'a DiskName>,
        /// What is wrong; it names the object.
        error: &'a VaultError,
    },
    /// It goes on from a backup of the VM that was interrupted, and uses what that one has stored.
    Inherited {
        /// The session of that backup.
        from: SessionId,
        /// Packs of data whose blocks need not be stored again.
        packs: u64,
        /// Packs that are of no use, because they are damaged or missing.
        skipped: u64,
    },
    /// A disk of the point before is not in the plan; the new point will not have it.
    Vanished {
        /// Its name.
        disk: &'a str,
    },
    /// A disk is about to be read.
    DiskBegan {
        /// Which disk.
        disk: &'a DiskName,
        /// Its size.
        size: ByteLen,
        /// How it differs from the point before.
        change: DiskChange,
    },
    /// The disk was looked at up to this position; what changed there is stored or on its way.
    Progress {
        /// Which disk.
        disk: &'a DiskName,
        /// The position reached, in bytes from its start.
        position: ByteLen,
        /// Bytes read of it so far.
        bytes_read: u64,
        /// Bytes in changed blocks that were handed to the vault so far; it lags a frame or two behind.
        bytes_changed: u64,
        /// Of these, bytes in blocks that an interrupted backup had stored already.
        bytes_adopted: u64,
    },
    /// Fingerprints of pages cannot be kept or read. Blocks are compared or stored as a whole instead.
    FingerprintsUnusable {
        /// Which disk.
        disk: &'a DiskName,
        /// Why.
        error: &'a FingerprintError,
    },
    /// What fingerprints said of a block was checked and is wrong: the disk is scanned again without them.
    FingerprintsWrong {
        /// Which disk.
        disk: &'a DiskName,
        /// Which block.
        block: BlockIndex,
    },
    /// Change tracking was to be believed and was not: all of the disk was scanned.
    ScannedInstead {
        /// Which disk.
        disk: &'a DiskName,
        /// Why.
        why: &'a str,
    },
    /// Change tracking missed a change. The disk is scanned at once, and the points that rest on it alone are marked.
    TrackingMissed {
        /// Which disk.
        disk: &'a DiskName,
        /// A block in which a change was missed.
        block: BlockIndex,
        /// The first and last of the points that may hold old data.
        suspect: Option<(PointNumber, PointNumber)>,
    },
    /// Blocks that held data are zero now.
    Zeroed {
        /// Which disk.
        disk: &'a DiskName,
        /// Which blocks.
        run: BlockRun,
    },
    /// A disk is stored.
    DiskDone {
        /// Which disk.
        disk: &'a DiskName,
    },
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
