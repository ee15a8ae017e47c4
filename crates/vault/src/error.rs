//! What can go wrong with a vault, by what the caller does about it.

use thiserror::Error;
use vmkeep_envelope::guest::GuestKeysError;
use vmkeep_envelope::{EntropyError, KeyError, OpenError, SealError};
use vmkeep_model::{Cancelled, Denied, DiskName, PointNumber, PointRef, SessionId, Timestamp, VmName};

use crate::format::FormatError;
use crate::map::MapError;

/// What was being asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreOperation {
    /// Reading an object.
    Read,
    /// Writing an object.
    Write,
    /// Listing objects.
    List,
    /// Deleting an object.
    Delete,
}

impl std::fmt::Display for StoreOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::Delete => "delete",
        })
    }
}

/// What can go wrong with a vault.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VaultError {
    /// Whoever asked may not do that.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Captured keys of guests cannot be stored, or not be read.
    #[error("{object}")]
    GuestKeys {
        /// Of which point.
        object: String,
        /// What is wrong.
        #[source]
        source: Box<GuestKeysError>,
    },
    /// The vault has no such role.
    #[error("there is no role {role:?}")]
    NoSuchRole {
        /// Its name.
        role: String,
    },
    /// An approval that is none.
    #[error("this cannot be approved: {why}")]
    Approval {
        /// Why not.
        why: String,
    },
    /// The store failed; nothing is known to be wrong with the data. Try again when the store works.
    #[error("cannot {operation} {object} in the vault's store")]
    Store {
        /// What was asked.
        operation: StoreOperation,
        /// Of which object, or which prefix.
        object: String,
        /// What the store said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The runtime that talks to the store could not be started.
    #[error("cannot start the threads that talk to the vault's store")]
    Runtime(#[source] std::io::Error),
    /// The vault's folder could not be made.
    #[error("cannot make the folder {}", path.display())]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is no vault here.
    #[error("there is no vault in {store}; make one with init")]
    NoVault {
        /// Where was looked.
        store: String,
    },
    /// There is a vault here already.
    #[error("there is a vault in {store} already")]
    VaultExists {
        /// Where.
        store: String,
    },
    /// The folder or bucket holds other things.
    #[error("{store} is not empty (it holds {found}); a vault is made in an empty place")]
    NotEmpty {
        /// Where.
        store: String,
        /// One of the things found.
        found: String,
    },
    /// The key given opens none of the key objects.
    #[error("the key given does not open {what} (it is the wrong key, or the key was removed)")]
    WrongKey {
        /// The vault, or a VM's keys.
        what: String,
    },
    /// An object that must be there is not.
    #[error("{object} is missing")]
    Missing {
        /// The object.
        object: String,
    },
    /// A slot that nothing referred to when its pack was repacked: it was not kept.
    #[error("slot {slot} of {object} was not kept when the pack was repacked")]
    SlotGone {
        /// The pack it was born in.
        object: String,
        /// Its number there.
        slot: u32,
    },
    /// An object does not open: it is damaged, swapped, foreign or cut short.
    #[error("{object} is damaged")]
    Damaged {
        /// The object.
        object: String,
        /// How it shows.
        #[source]
        source: OpenError,
    },
    /// An object opens and says something that no vault says.
    #[error("{object} is malformed")]
    Malformed {
        /// The object.
        object: String,
        /// What is wrong.
        #[source]
        source: FormatError,
    },
    /// The block map of a disk contradicts itself.
    #[error("the block map of {object} is damaged")]
    Map {
        /// The object whose map it is.
        object: String,
        /// How it shows.
        #[source]
        source: Box<MapError>,
    },
    /// An object was written by a newer version.
    #[error("{object} has format version {found}; this program knows up to {known}; use a newer one")]
    Newer {
        /// The object.
        object: String,
        /// Its version.
        found: u16,
        /// The newest this program knows.
        known: u16,
    },
    /// The vault protects no VM of this name.
    #[error("the vault holds no VM {0}")]
    NoSuchVm(VmName),
    /// The VM has no such point.
    #[error("there is no recovery point {point}: {why}")]
    NoSuchPoint {
        /// What was asked for.
        point: PointRef,
        /// Never made, void, removed, or no points at all.
        why: &'static str,
    },
    /// The point has no such disk.
    #[error("{point} has no stored disk {disk}")]
    NoSuchDisk {
        /// The point.
        point: PointRef,
        /// The disk.
        disk: DiskName,
    },
    /// Another session took the number this one wanted to commit.
    #[error(
        "another session committed {vm}@{number} first; this backup stored nothing that counts, run it again"
    )]
    LostRace {
        /// The VM.
        vm: VmName,
        /// The number both wanted.
        number: PointNumber,
    },
    /// The session was ended from outside.
    #[error("session {session} of {vm} was ended (voided) before it committed; run the backup again")]
    SessionVoided {
        /// The VM.
        vm: VmName,
        /// The session.
        session: SessionId,
    },
    /// A sweep has taken the point: it cannot be had back.
    #[error("{point} was taken by a sweep and cannot be had back")]
    PointTaken {
        /// The point.
        point: PointRef,
    },
    /// The point is held: it stays until the hold is released.
    #[error("{point} is held; release the hold first")]
    PointHeld {
        /// The point.
        point: PointRef,
    },
    /// The reader's pin was broken and the point was swept.
    #[error("the pin on {point} was broken and a sweep took the point; what was read until then is good")]
    PinBroken {
        /// The point.
        point: PointRef,
    },
    /// The point was swept while it was being read.
    #[error("{point} was forgotten and swept while it was read; pin a point that may be forgotten")]
    PointSwept {
        /// The point.
        point: PointRef,
    },
    /// There is no such session, or it has ended.
    #[error("there is no open session {session}")]
    NoSuchSession {
        /// The session.
        session: SessionId,
    },
    /// The session to go on from has ended otherwise: it committed, or somebody else ended it.
    #[error("session {session} cannot be gone on from: {why}")]
    NotAdoptable {
        /// The session.
        session: SessionId,
        /// What became of it.
        why: &'static str,
    },
    /// The store does not do what a vault needs of it.
    #[error("{store} cannot hold a vault: {what}")]
    UnfitStore {
        /// Where.
        store: String,
        /// What it did wrong.
        what: String,
    },
    /// The lineage was closed: the VM is no longer protected under it.
    #[error("the protection of {vm} was closed; this backup stored nothing that counts")]
    LineageClosed {
        /// The VM.
        vm: VmName,
    },
    /// Another object than the one being created is there under a name that only one writer uses.
    #[error("{object} is there already with other content: two hosts run with one state (a cloned machine?)")]
    Taken {
        /// The object.
        object: String,
    },
    /// A caller of the writing interface broke its order or bounds.
    #[error("disk {disk}: {what}")]
    Misuse {
        /// The disk being written.
        disk: DiskName,
        /// Which rule was broken.
        what: String,
    },
    /// Sealing failed.
    #[error("cannot seal {object}")]
    Seal {
        /// What was being sealed.
        object: String,
        /// Why.
        #[source]
        source: SealError,
    },
    /// A key vault failed or has not the key that is needed.
    #[error("cannot use the keys of {what}")]
    Key {
        /// Whose keys.
        what: String,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The newest keys do not open. What older ones sealed can be read; nothing new is sealed with those.
    #[error(
        "the newest keys of {what}, epoch {epoch}, do not open, and nothing is sealed with older ones; verify says why"
    )]
    NewestKeys {
        /// Whose keys.
        what: String,
        /// Their epoch.
        epoch: u32,
    },
    /// The keys were destroyed on purpose: what they sealed can be read by nobody any more.
    #[error("{what} was destroyed on purpose at {at} by {by}; what it sealed is gone for ever")]
    KeyDestroyed {
        /// Which keys.
        what: String,
        /// When, by the clock of the host that did it.
        at: Timestamp,
        /// Who did it.
        by: String,
    },
    /// The newest keys are wrapped for other KEKs too, and new ones could not be.
    #[error(
        "the keys of {what} are wrapped by other KEKs as well ({}); give them all, or their holders would be locked out",
        keks.join(", ")
    )]
    ForeignWraps {
        /// Whose keys.
        what: String,
        /// The ids of the KEKs that were not given, in hex.
        keks: Vec<String>,
    },
    /// Two key objects of one domain and epoch hold different keys.
    #[error(
        "{object} opens and holds other keys than those that are in use; find out whose it is, and remove it"
    )]
    KeysDiffer {
        /// The object.
        object: String,
    },
    /// Both are one KEK, or one of them opens nothing of what has to be wrapped anew.
    #[error("cannot rotate the KEK: {why}")]
    NoRotation {
        /// What is wrong with the KEKs given.
        why: &'static str,
    },
    /// A KEK that is not, or may not become, that of a write-only client.
    #[error("no write-only client: {why}")]
    NoClient {
        /// What is wrong with it.
        why: &'static str,
    },
    /// A write-only client does not make keys: it would have all of them, and the owner none.
    #[error(
        "{vm} has no keys in this vault that a write-only client could use; its owner has to grant them first"
    )]
    NotGranted {
        /// The VM.
        vm: VmName,
    },
    /// A sweep is repacking, and may seal what it moves with keys that are to be destroyed.
    #[error(
        "a sweep is repacking data of {vm}, or was stopped while it did; wait for it, or run a sweep to its end, and then destroy the keys"
    )]
    SweepUnderWay {
        /// Whose data.
        vm: VmName,
    },
    /// Another change of the KEK is under way, and removes what this one would rest on.
    #[error(
        "the KEK {to} is itself being changed for another; finish that change first, by the command that began it, and then run this"
    )]
    RotationUnderWay {
        /// The KEK whose wraps are being removed, by its id in hex.
        to: String,
    },
    /// There are no keys of this epoch.
    #[error("{what} has no keys of epoch {epoch}")]
    NoSuchEpoch {
        /// Whose keys.
        what: String,
        /// The epoch.
        epoch: u32,
    },
    /// More would be lost than was planned and agreed to.
    #[error("more points of {vm} would be lost by now than the plan says; make a new plan")]
    PlanOutdated {
        /// The VM.
        vm: VmName,
    },
    /// The random source failed.
    #[error("the random source failed")]
    Entropy(#[from] EntropyError),
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl VaultError {
    /// Whether stored data is wrong: damaged, missing, swapped or foreign.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::SlotGone { .. } | Self::Damaged { .. } | Self::Malformed { .. } => {
                true
            }
            Self::Map { source, .. } => source.is_corrupt(),
            _ => false,
        }
    }

    /// Whether one object cannot be used, damaged or too new: what does not need it goes on.
    pub fn is_of_one_object(&self) -> bool {
        self.is_damage() || matches!(self, Self::Newer { .. })
    }

    /// The object of the vault that it is about, when it is about one.
    pub fn object(&self) -> Option<&str> {
        match self {
            Self::Missing { object }
            | Self::SlotGone { object, .. }
            | Self::Damaged { object, .. }
            | Self::Malformed { object, .. }
            | Self::Newer { object, .. }
            | Self::Store { object, .. } => Some(object),
            _ => None,
        }
    }

    /// Whether it says that keys were destroyed on purpose: nothing is damaged, and nothing can be had back.
    pub fn is_destroyed(&self) -> bool {
        matches!(self, Self::KeyDestroyed { .. })
    }

    /// Whether the caller asked to stop.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled(_))
    }

    pub(crate) fn store(
        operation: StoreOperation,
        object: impl ToString,
        source: object_store::Error,
    ) -> Self {
        Self::Store { operation, object: object.to_string(), source: Box::new(source) }
    }

    pub(crate) fn open(object: impl ToString, source: OpenError) -> Self {
        match source {
            OpenError::Newer { found, known } => Self::Newer { object: object.to_string(), found, known },
            // Nothing is wrong with the object: whoever holds the KEK does not let it be used.
            OpenError::KeyVault(source) => Self::Key { what: object.to_string(), source },
            source => Self::Damaged { object: object.to_string(), source },
        }
    }

    pub(crate) fn malformed(object: impl ToString, source: FormatError) -> Self {
        Self::Malformed { object: object.to_string(), source }
    }
}
