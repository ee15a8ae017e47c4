//! The audit log: every journal of a vault in one, held against what a reader has seen before.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use vmkeep_envelope::{SealedObject, open_record, seal_record};
use vmkeep_model::{LineageId, Timestamp, VaultId, VmName};

use crate::error::VaultError;
use crate::format::{Body, CheckpointBody, FormatError, NameBody, decode_body, encode};
use crate::journal::{self, JournalRecord};
use crate::layout::ObjectName;
use crate::vault::{Inner, Vault};

/// What a checkpoint is sealed as: the name of no object of a vault.
const NAME: &str = "checkpoint";

/// Whose journal an entry is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogStream {
    /// The vault's own.
    Vault,
    /// Who may do what.
    Authority,
    /// What was decided about VMs: policies, states of their protection.
    Notes,
    /// What was verified.
    Verification,
    /// That of a VM, with the generation of its lineage.
    Vm {
        /// Which VM.
        vm: VmName,
        /// 0 for its first line of points, more after it was closed and protected again.
        generation: u32,
    },
    /// What of a VM is lost, as repairs found it.
    Damage {
        /// Which VM.
        vm: VmName,
        /// That of its lineage.
        generation: u32,
    },
    /// One that belongs to no name in the vault.
    Other {
        /// Its id.
        id: LineageId,
    },
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Whose journal.
    pub stream: LogStream,
    /// The entry.
    pub record: JournalRecord,
}

/// The log, and what is wrong with it.
#[derive(Debug)]
pub struct Log {
    /// Every entry that could be read, by time; of one journal, in its order.
    pub entries: Vec<LogEntry>,
    /// What was removed or changed, by the chain of entries or by the checkpoint given.
    pub faults: Vec<LogFault>,
    /// How far the vault was seen now.
    pub checkpoint: Checkpoint,
}

/// A journal that is not what it was, or a line of points that is shorter than it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum LogFault {
    /// An entry is damaged, or does not follow on the one before; what comes after it is not read.
    Broken {
        /// Whose journal.
        stream: LogStream,
        /// The number of the entry.
        number: u64,
        /// How it shows.
        error: VaultError,
    },
    /// An entry that a reader has seen is another one now.
    Rewritten {
        /// Whose journal.
        stream: LogStream,
        /// The number of the entry.
        number: u64,
    },
    /// Entries that a reader has seen are gone from the end.
    Shortened {
        /// Whose journal.
        stream: LogStream,
        /// The newest entry that was seen.
        seen: u64,
        /// The newest entry there is; 0 for none.
        found: u64,
    },
    /// Points that a reader has seen are gone, and no sweep took them.
    PointsGone {
        /// Which VM.
        vm: VmName,
        /// The newest number that was seen.
        seen: u64,
        /// The newest number that is taken now.
        found: u64,
    },
    /// A VM that a reader has seen has no name in the vault any more.
    VmGone {
        /// Its lineage.
        lineage: LineageId,
    },
}

/// How far a reader has seen a vault: the newest entry of every journal, and the newest number of every line of points.
///
/// Kept outside of the vault, it shows when the store takes something back: entries, points, or the whole vault as it was
/// before. ([`Vault::seal_checkpoint`] for a file.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    vault: VaultId,
    at: Timestamp,
    heads: BTreeMap<[u8; 16], (u64, [u8; 32])>,
    tops: BTreeMap<LineageId, u64>,
}

impl Checkpoint {
    /// When it was taken.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// How many entries it vouches for.
    pub fn entries(&self) -> u64 {
        self.heads.values().map(|(n, _)| n).sum()
    }
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault => f.write_str("the vault"),
            Self::Authority => f.write_str("roles"),
            Self::Notes => f.write_str("protection"),
            Self::Verification => f.write_str("verification"),
            Self::Vm { vm, generation: 0 } => write!(f, "{vm}"),
            Self::Vm { vm, generation } => write!(f, "{vm} (line {})", generation + 1),
            Self::Damage { vm, generation: 0 } => write!(f, "damage of {vm}"),
            Self::Damage { vm, generation } => write!(f, "damage of {vm} (line {})", generation + 1),
            Self::Other { id } => write!(f, "journal {id}"),
        }
    }
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { stream, number, .. } => {
                write!(
                    f,
                    "entry {number} of the journal of {stream} cannot be read, or does not follow on the one before"
                )
            }
            Self::Rewritten { stream, number } => {
                write!(f, "entry {number} of the journal of {stream} is another one than was seen before")
            }
            Self::Shortened { stream, seen, found } => {
                write!(f, "the journal of {stream} ends at entry {found}; entry {seen} was seen before")
            }
            Self::PointsGone { vm, seen, found } => {
                write!(f, "the points of {vm} end at number {found}; number {seen} was seen before")
            }
            Self::VmGone { lineage } => {
                write!(f, "lineage {lineage} was seen before, and no VM has it any more")
            }
        }
    }
}

impl Vault {
    /// Reads every journal, checks the chain of each, and holds all of it against `seen`, what this reader saw before.
    ///
    /// Cost: a listing, and a read for each entry and each VM. An entry that is damaged is a fault and no error.
    ///
    /// # Errors
    /// When the store fails, or `seen` is of another vault.
    pub fn log(&self, seen: Option<&Checkpoint>) -> Result<Log, VaultError> {
        let vault = &self.uncached().inner;
        if let Some(seen) = seen.filter(|seen| seen.vault != vault.id) {
            let what = FormatError(format!("it is of vault {}, and this is vault {}", seen.vault, vault.id));
            return Err(VaultError::malformed(NAME, what));
        }
        let now = Checkpoint {
            vault: vault.id,
            at: vault.ports.clock.now(),
            heads: BTreeMap::new(),
            tops: BTreeMap::new(),
        };
        let mut log = Log { entries: Vec::new(), faults: Vec::new(), checkpoint: now };
        let mut streams = BTreeMap::from([
            (vault.id.0, LogStream::Vault),
            (vault.authority_stream(), LogStream::Authority),
            (vault.note_stream(), LogStream::Notes),
            (vault.verify_stream(), LogStream::Verification),
        ]);
        for (body, vm) in vault.name_records()? {
            streams.insert(body.lineage, LogStream::Vm { vm: vm.clone(), generation: body.generation });
            let (id, generation) = (LineageId(body.lineage), body.generation);
            streams.insert(vault.damage_stream(id), LogStream::Damage { vm: vm.clone(), generation });
            log.top_of(vault, &body, &vm, seen)?;
        }
        for (path, _) in vault.objects.list("journal")? {
            if let Some(ObjectName::Journal(id, _)) = ObjectName::parse(&path) {
                streams.entry(id).or_insert(LogStream::Other { id: LineageId(id) });
            }
        }
        for id in seen.iter().flat_map(|seen| seen.heads.keys()) {
            streams.entry(*id).or_insert(LogStream::Other { id: LineageId(*id) });
        }
        for lineage in seen.iter().flat_map(|seen| seen.tops.keys()) {
            if !log.checkpoint.tops.contains_key(lineage) {
                log.faults.push(LogFault::VmGone { lineage: *lineage });
            }
        }
        for (id, stream) in streams {
            log.stream(vault, id, &stream, seen)?;
        }
        // Stable: of one journal, entries stay in their order where a clock did not.
        log.entries.sort_by_key(|entry| entry.record.at);
        Ok(log)
    }

    /// `checkpoint` as bytes for a file, sealed with the vault's record key: nobody else makes one that opens.
    pub fn seal_checkpoint(&self, checkpoint: &Checkpoint) -> Result<Bytes, VaultError> {
        let vault = &self.inner;
        let body = CheckpointBody {
            vault: checkpoint.vault.0,
            at: checkpoint.at.0,
            heads: checkpoint.heads.iter().map(|(id, (n, hash))| (*id, *n, *hash)).collect(),
            tops: checkpoint.tops.iter().map(|(lineage, top)| (lineage.0, *top)).collect(),
        };
        let plain = encode(&body).map_err(|e| VaultError::malformed(NAME, e))?;
        let context = vault.sealer.context(&*vault.ports.entropy);
        let sealed = seal_record(CheckpointBody::KIND.number(), &*vault.record, NAME, &plain, &context);
        let failed = |source| VaultError::Seal { object: NAME.to_owned(), source };
        sealed.map(SealedObject::into_bytes).map_err(failed)
    }

    /// What [`seal_checkpoint`](Self::seal_checkpoint) made.
    pub fn open_checkpoint(&self, bytes: &[u8]) -> Result<Checkpoint, VaultError> {
        let plain = open_record(bytes, NAME, &self.inner.record, CheckpointBody::KIND.number())
            .map_err(|source| VaultError::open(NAME, source))?;
        let body: CheckpointBody = decode_body(&plain).map_err(|e| VaultError::malformed(NAME, e))?;
        Ok(Checkpoint {
            vault: VaultId(body.vault),
            at: Timestamp(body.at),
            heads: body.heads.into_iter().map(|(id, n, hash)| (id, (n, hash))).collect(),
            tops: body.tops.into_iter().map(|(lineage, top)| (LineageId(lineage), top)).collect(),
        })
    }
}

impl Log {
    /// The newest number of a line of points, held against what was seen.
    fn top_of(
        &mut self,
        vault: &Arc<Inner>,
        body: &NameBody,
        vm: &VmName,
        seen: Option<&Checkpoint>,
    ) -> Result<(), VaultError> {
        let id = LineageId(body.lineage);
        let before = seen.and_then(|seen| seen.tops.get(&id)).copied().unwrap_or(0);
        let found = match vault.unlock_lineage(body, vm).and_then(|lineage| lineage.head(vault)) {
            Ok(head) => head.top,
            // Damage of one object is for verify to tell; here nothing is known of the line.
            Err(e) if e.is_of_one_object() => before,
            Err(e) => return Err(e),
        };
        if found < before {
            self.faults.push(LogFault::PointsGone { vm: vm.clone(), seen: before, found });
        }
        self.checkpoint.tops.insert(id, found.max(before));
        Ok(())
    }

    fn stream(
        &mut self,
        vault: &Inner,
        id: [u8; 16],
        stream: &LogStream,
        seen: Option<&Checkpoint>,
    ) -> Result<(), VaultError> {
        let known = seen.and_then(|seen| seen.heads.get(&id)).copied();
        let (mut last, mut before, mut broken) = (0, [0; 32], false);
        for n in 1.. {
            let (record, hash) = match journal::entry(vault, id, n, Some(before)) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(error) if error.is_of_one_object() => {
                    self.faults.push(LogFault::Broken { stream: stream.clone(), number: n, error });
                    broken = true;
                    break;
                }
                Err(error) => return Err(error),
            };
            if known.is_some_and(|(number, seen)| number == n && seen != hash) {
                self.faults.push(LogFault::Rewritten { stream: stream.clone(), number: n });
            }
            self.entries.push(LogEntry { stream: stream.clone(), record });
            (last, before) = (n, hash);
        }
        if let Some((number, _)) = known.filter(|(number, _)| *number > last && !broken) {
            self.faults.push(LogFault::Shortened { stream: stream.clone(), seen: number, found: last });
        }
        if last > 0 {
            self.checkpoint.heads.insert(id, (last, before));
        }
        Ok(())
    }
}
