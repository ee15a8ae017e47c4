//! The journal: what happens to points after they are made, and to the vault as a whole.
//!
//! Entries of a stream are numbered from 1, create-only, each with the hash of the one before, so that leaving
//! one out or changing its place shows. Acts that must be visible at once (a forgotten point) have an object of
//! their own; the entry records that they happened.

use vmkeep_model::{
    BlockIndex, DomainId, LineageId, NameError, PointNumber, Principal, SessionId, Timestamp, VmName,
};

use crate::authority::RoleChange;
use crate::error::VaultError;
use crate::format::{Body, EntryBody, FormatError, JournalBody, decode_exact, encode};
use crate::layout::{ObjectName, highest_taken};
use crate::records;
use crate::store::{Created, ResultExt};
use crate::vault::{Inner, Vault};
use crate::verify::Coverage;

/// How often an append starts over because another writer took the number first.
const APPEND_TRIES: u32 = 64;

/// A pack of which something is lost: its session, its name, and slot and index of what is; none is all of it.
pub type DamagedPack = ([u8; 16], [u8; 16], Vec<(u32, u32)>);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalEntry {
    /// The vault was made.
    VaultCreated,
    /// A point was forgotten.
    Forgotten {
        /// Its number.
        number: u64,
    },
    /// An abandoned session was ended.
    Voided {
        /// The number it can no longer commit.
        number: u64,
        /// The session.
        session: SessionId,
    },
    /// A forgotten point was had back.
    Undeleted {
        /// Its number.
        number: u64,
    },
    /// A point was held.
    Held {
        /// Its number.
        number: u64,
    },
    /// A hold was released.
    Released {
        /// The point's number.
        number: u64,
    },
    /// The protection of the VM was closed.
    Closed {
        /// The number that says so.
        number: u64,
    },
    /// A reader's pin was broken.
    PinBroken {
        /// The point's number.
        number: u64,
        /// The pin.
        pin: SessionId,
    },
    /// A sweep removed points for good.
    Swept {
        /// First and last number of each range, points and void numbers.
        ranges: Vec<(u64, u64)>,
        /// Bytes that were freed.
        bytes: u64,
    },
    /// Change tracking was found to have missed a change: points that relied on it may hold old data.
    Suspect {
        /// Which disk.
        disk: String,
        /// The first of the points, by number.
        from: u64,
        /// The last of them.
        to: u64,
        /// The number of the point being made when it was found.
        found: u64,
        /// A block in which a change was missed.
        block: u64,
    },
    /// The KEK was changed: an entry of the vault's own stream.
    KekRotated {
        /// Key objects that were wrapped anew.
        added: u64,
        /// Key objects of the KEK before that were found, and removed.
        removed: u64,
        /// The KEK before, by its id.
        from: Vec<u8>,
        /// The KEK since, by its id.
        to: Vec<u8>,
    },
    /// The VM has new keys for new data.
    BekRotated {
        /// Their epoch.
        epoch: u32,
    },
    /// Keys were destroyed; in the stream of the VM and in the vault's own.
    KeysDestroyed {
        /// Whose keys.
        domain: DomainId,
        /// Their epoch.
        epoch: u32,
        /// Points that cannot be restored any more.
        points: u64,
    },
    /// A write-only client was given keys: an entry of the vault's own stream.
    ClientGranted {
        /// Its KEK, by its id in hex.
        kek: String,
        /// Key objects that were made.
        added: u64,
    },
    /// What a write-only client had was removed.
    ClientWithdrawn {
        /// Its KEK, by its id in hex.
        kek: String,
        /// Key objects that were to be removed.
        removed: u64,
    },
    /// What was decided outside of this crate; in the stream of notes.
    Note {
        /// What kind of note it is.
        topic: String,
        /// What it says, to whoever wrote it.
        body: Vec<u8>,
    },
    /// Packs were checked; in a stream of its own. The newest entry says all there is to say.
    Verified(Box<Coverage>),
    /// Somebody was refused an operation.
    Denied {
        /// Who.
        who: String,
        /// What they wanted to do.
        operation: String,
        /// To which VM; `None` for the vault.
        scope: Option<String>,
    },
    /// Who may do what was changed.
    Authority(RoleChange),
    /// What cannot be read of a VM's newest point, as a repair found it: the newest such entry counts. In a stream of its own,
    /// which a backup looks at.
    Damaged {
        /// The number of that point.
        newest: u64,
        /// What is lost, per pack that it was born in.
        packs: Vec<DamagedPack>,
    },
    /// A repair put something back.
    Repaired {
        /// Copies of metadata packs that were written again.
        copies: u64,
        /// Blocks, and patches of blocks, that were stored again.
        blocks: u64,
        /// Records that were written again.
        records: u64,
    },
    /// Written by a later version.
    Unknown {
        /// Its kind.
        kind: u16,
    },
}

/// An entry with its place and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// Its number in its stream.
    pub number: u64,
    /// When, by the clock of the host that wrote it.
    pub at: Timestamp,
    /// Who did it, by the permit that was used; `None` in entries of early vaults, which do not say.
    pub by: Option<Principal>,
    /// What happened.
    pub entry: JournalEntry,
}

impl JournalEntry {
    pub(crate) fn encode(&self) -> Result<(u16, Vec<u8>), FormatError> {
        Ok(match self {
            Self::VaultCreated => (1, Vec::new()),
            Self::Forgotten { number } => (2, encode(number)?),
            Self::Voided { number, session } => (3, encode(&(number, session.0))?),
            Self::Undeleted { number } => (4, encode(number)?),
            Self::Held { number } => (5, encode(number)?),
            Self::Released { number } => (6, encode(number)?),
            Self::Closed { number } => (7, encode(number)?),
            Self::PinBroken { number, pin } => (8, encode(&(number, pin.0))?),
            Self::Swept { ranges, bytes } => (9, encode(&(ranges, bytes))?),
            Self::Suspect { disk, from, to, found, block } => (10, encode(&(disk, from, to, found, block))?),
            Self::KekRotated { added, removed, from, to } => (11, encode(&(added, removed, from, to))?),
            Self::BekRotated { epoch } => (12, encode(epoch)?),
            Self::KeysDestroyed { domain, epoch, points } => (13, encode(&(domain.0, epoch, points))?),
            Self::Denied { who, operation, scope } => (14, encode(&(who, operation, scope))?),
            Self::Authority(change) => (15, change.encode()?),
            Self::ClientGranted { kek, added } => (16, encode(&(kek, added))?),
            Self::ClientWithdrawn { kek, removed } => (17, encode(&(kek, removed))?),
            Self::Note { topic, body } => (18, encode(&(topic, body))?),
            Self::Verified(coverage) => (19, coverage.encode()?),
            Self::Damaged { newest, packs } => (21, encode(&(newest, packs))?),
            Self::Repaired { copies, blocks, records } => (22, encode(&(copies, blocks, records))?),
            Self::Unknown { kind } => return Err(FormatError(format!("journal kind {kind} is not written"))),
        })
    }

    pub(crate) fn decode(kind: u16, body: &[u8]) -> Result<Self, FormatError> {
        Ok(match kind {
            1 if body.is_empty() => Self::VaultCreated,
            2 => Self::Forgotten { number: decode_exact(body)? },
            3 => {
                let (number, session) = decode_exact(body)?;
                Self::Voided { number, session: SessionId(session) }
            }
            4 => Self::Undeleted { number: decode_exact(body)? },
            5 => Self::Held { number: decode_exact(body)? },
            6 => Self::Released { number: decode_exact(body)? },
            7 => Self::Closed { number: decode_exact(body)? },
            8 => {
                let (number, pin) = decode_exact(body)?;
                Self::PinBroken { number, pin: SessionId(pin) }
            }
            9 => {
                let (ranges, bytes) = decode_exact(body)?;
                Self::Swept { ranges, bytes }
            }
            10 => {
                let (disk, from, to, found, block) = decode_exact(body)?;
                Self::Suspect { disk, from, to, found, block }
            }
            11 => {
                let (added, removed, from, to) = decode_exact(body)?;
                Self::KekRotated { added, removed, from, to }
            }
            12 => Self::BekRotated { epoch: decode_exact(body)? },
            13 => {
                let (domain, epoch, points) = decode_exact(body)?;
                Self::KeysDestroyed { domain: DomainId(domain), epoch, points }
            }
            14 => {
                let (who, operation, scope) = decode_exact(body)?;
                Self::Denied { who, operation, scope }
            }
            15 => match RoleChange::decode(body)? {
                Some(change) => Self::Authority(change),
                None => Self::Unknown { kind },
            },
            16 => {
                let (kek, added) = decode_exact(body)?;
                Self::ClientGranted { kek, added }
            }
            17 => {
                let (kek, removed) = decode_exact(body)?;
                Self::ClientWithdrawn { kek, removed }
            }
            18 => {
                let (topic, body) = decode_exact(body)?;
                Self::Note { topic, body }
            }
            19 => Self::Verified(Box::new(Coverage::decode(body)?)),
            21 => {
                let (newest, packs) = decode_exact(body)?;
                Self::Damaged { newest, packs }
            }
            22 => {
                let (copies, blocks, records) = decode_exact(body)?;
                Self::Repaired { copies, blocks, records }
            }
            1 => return Err(FormatError("an entry without a body has one".to_owned())),
            kind => Self::Unknown { kind },
        })
    }
}

/// Appends `entry`, an act of `by`, to `stream`. A number that another writer takes first is left to it.
pub(crate) fn append(
    vault: &Inner,
    stream: [u8; 16],
    by: &Principal,
    entry: &JournalEntry,
) -> Result<(), VaultError> {
    for _ in 0..APPEND_TRIES {
        let last = last_number(vault, stream)?;
        let before = match last {
            0 => [0; 32],
            n => {
                let name = ObjectName::Journal(stream, n);
                *blake3::hash(&vault.objects.read(&name).or_missing(&name)?).as_bytes()
            }
        };
        let name = ObjectName::Journal(stream, last + 1);
        let (kind, body) = entry.encode().map_err(|e| VaultError::malformed(&name, e))?;
        let (at, by) = (vault.ports.clock.now().0, by.to_string());
        let record = EntryBody { stream, n: last + 1, before, at, by, kind, body };
        let object =
            records::seal(&name, &record, &vault.record, &vault.sealer.context(&*vault.ports.entropy))?;
        if vault.objects.create(&name, &object)? == Created::Ours {
            return Ok(());
        }
    }
    Err(VaultError::Taken { object: format!("journal/{}", LineageId(stream)) })
}

/// Reads and checks the entries of `stream` one by one, oldest first; the first fault is the last that it gives.
pub(crate) fn entries(
    vault: &Inner,
    stream: [u8; 16],
) -> impl Iterator<Item = Result<JournalRecord, VaultError>> {
    let mut next = Some((1, [0; 32]));
    std::iter::from_fn(move || {
        let (n, before) = next.take()?;
        match entry(vault, stream, n, Some(before)) {
            Ok(Some((record, hash))) => {
                next = Some((n + 1, hash));
                Some(Ok(record))
            }
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        }
    })
}

/// Reads and checks every entry of `stream`, oldest first; the first fault ends the list.
pub(crate) fn read(vault: &Inner, stream: [u8; 16]) -> Result<Vec<JournalRecord>, VaultError> {
    entries(vault, stream).collect()
}

/// Reads and checks entry `n` and gives it with its hash. `before` is the hash of the entry before it, `None` when
/// that one cannot be read and the chain is not to be checked here.
pub(crate) fn entry(
    vault: &Inner,
    stream: [u8; 16],
    n: u64,
    before: Option<[u8; 32]>,
) -> Result<Option<(JournalRecord, [u8; 32])>, VaultError> {
    let name = ObjectName::Journal(stream, n);
    let Some(bytes) = vault.objects.read(&name)? else { return Ok(None) };
    let (body, by) = open_entry(vault, &name, &bytes)?;
    if (body.stream, body.n) != (stream, n) || before.is_some_and(|before| before != body.before) {
        let what = FormatError("the chain of entries is broken here".to_owned());
        return Err(VaultError::malformed(&name, what));
    }
    let entry = JournalEntry::decode(body.kind, &body.body).map_err(|e| VaultError::malformed(&name, e))?;
    let record = JournalRecord { number: n, at: Timestamp(body.at), by, entry };
    Ok(Some((record, *blake3::hash(&bytes).as_bytes())))
}

/// The body of an entry in either form, and who did it where it says so.
fn open_entry(
    vault: &Inner,
    name: &ObjectName,
    bytes: &[u8],
) -> Result<(JournalBody, Option<Principal>), VaultError> {
    if records::head(name, bytes)?.kind == JournalBody::KIND.number() {
        return Ok((records::open(name, bytes, &vault.record)?, None));
    }
    let EntryBody { stream, n, before, at, by, kind, body } = records::open(name, bytes, &vault.record)?;
    let by = by.parse().map_err(|e: NameError| VaultError::malformed(name, FormatError(e.to_string())))?;
    Ok((JournalBody { stream, n, before, at, kind, body }, Some(by)))
}

impl Vault {
    /// The journal of the vault as a whole, checked, oldest entry first.
    pub fn journal(&self) -> Result<Vec<JournalRecord>, VaultError> {
        read(&self.inner, self.inner.id.0)
    }

    /// The points of a VM that relied on change tracking which was later found to have missed changes. Reads the VM's
    /// journal.
    pub fn suspects(&self, vm: &VmName) -> Result<Vec<Suspect>, VaultError> {
        let Some(lineage) = self.inner.lineage(vm)? else { return Ok(Vec::new()) };
        let suspects = read(&self.inner, lineage.id.0)?.into_iter().filter_map(|record| match record.entry {
            JournalEntry::Suspect { disk, from, to, found, block } => {
                Some(Suspect::of(disk, (from, to), found, block, record.at))
            }
            _ => None,
        });
        Ok(suspects.collect())
    }
}

/// Points that may hold old data of a disk, because change tracking had missed a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Which disk.
    pub disk: String,
    /// The first of the points.
    pub from: PointNumber,
    /// The last of them.
    pub to: PointNumber,
    /// The number of the point being made when it was found: that one is sound.
    pub found: PointNumber,
    /// A block in which a change was missed.
    pub block: BlockIndex,
    /// When it was found.
    pub at: Timestamp,
}

impl Suspect {
    /// What an entry says.
    pub(crate) fn of(disk: String, (from, to): (u64, u64), found: u64, block: u64, at: Timestamp) -> Self {
        let (from, to, found) = (PointNumber(from), PointNumber(to), PointNumber(found));
        Self { disk, from, to, found, block: BlockIndex(block), at }
    }

    /// Whether the point is one of them.
    pub fn holds(&self, point: PointNumber) -> bool {
        (self.from..=self.to).contains(&point)
    }
}

/// Number of the last entry: entries are numbered without gaps.
pub(crate) fn last_number(vault: &Inner, stream: [u8; 16]) -> Result<u64, VaultError> {
    highest_taken(0, |n| vault.objects.exists(&ObjectName::Journal(stream, n)))
}
