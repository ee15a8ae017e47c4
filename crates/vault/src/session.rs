//! A backup session: from the newest point to the next, visible by one create and not before.

use std::sync::Arc;

use vmkeep_envelope::guest::CapturedKeys;
use vmkeep_envelope::{
    IdentityKey, KekManagement, SealContext, SealError, SealedObject, SlotKind, seal_record,
};
use vmkeep_model::{
    BlockIndex, BlockSize, ByteLen, ChangeProvenance, ConsistencyLevel, DiskDescription, DiskName, DiskRole,
    Labels, LineageId, PointNumber, Principal, RecoveryPoint, SessionId, Tracking, VmDescription,
};

use crate::drive::{Driver, NoData};
use crate::error::VaultError;
use crate::format::{
    DiskBody, DiskKeysBody, EncryptionBody, FormatError, JobBody, PlaceBody, PointBody, PointHead,
    RecordKind, RetiredBody, SNAPSHOT_MAX, SessionBody,
};
use crate::journal::{self, JournalEntry};
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::map::{Entry, MapError, MapReader, Root};
use crate::pack::{
    Adopted, DiskWriter, METADATA_PACK_BYTES, MetadataPacks, Orphans, PackNodes, StoredBytes, WrittenDisk,
};
use crate::protocol::{Commit, CommitOutcome, PointStub, Record};
use crate::read::{DiskReader, map_error};
use crate::records::{self, Sealer};
use crate::repair::DamageMarks;
use crate::store::PendingCreate;
use crate::vault::Inner;

/// Largest VM configuration that a point holds, in bytes.
pub const CONFIG_MAX: usize = 1 << 20;

/// A session that writes the next recovery point of a VM.
///
/// It names its base (the newest point) and its target (the next free number) when it begins, stores packs that
/// nobody sees, and makes the point visible with one create-if-absent. Dropped before that it leaves garbage and
/// nothing else.
#[derive(Debug)]
pub struct Session {
    pub(crate) writing: Writing,
    pub(crate) base: Option<Box<PointBody>>,
    pub(crate) unreadable: Option<(PointNumber, VaultError)>,
    /// What its own record says.
    pub(crate) body: SessionBody,
    pub(crate) retired: Option<RetiredBody>,
    /// What the point is to say of why it was made.
    pub(crate) labels: Labels,
    /// What was seen when the snapshot was taken.
    pub(crate) snapshot: Option<Vec<u8>>,
    /// What of the points before is known to be lost.
    pub(crate) marks: Arc<DamageMarks>,
    /// The sessions it goes on from, the first of them first.
    pub(crate) inherited: Vec<SessionId>,
    /// Bytes stored when it began: its own record, and the VM's keys and name when it is the first.
    pub(crate) stored: u64,
}

/// What the writers of a session share.
#[derive(Debug)]
pub(crate) struct Writing {
    pub(crate) vault: Arc<Inner>,
    pub(crate) lineage: Lineage,
    pub(crate) id: SessionId,
    pub(crate) target: PointNumber,
    pub(crate) nodes: PackNodes,
    /// What it may use of sessions that were interrupted before it.
    pub(crate) adopted: Option<Adopted>,
    pub(crate) orphans: Orphans,
    pub(crate) sealer: Sealer,
    /// Who makes the point.
    pub(crate) by: Principal,
}

/// What a disk was in the base point.
#[derive(Debug)]
pub struct BaseDisk<'s> {
    /// Size of its blocks, which the next backup keeps.
    pub block_size: BlockSize,
    /// Its size then.
    pub size: ByteLen,
    map: MapReader<'s>,
    marks: Arc<DamageMarks>,
}

/// What becomes of one disk in the new point.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one per disk of a VM, and nearly all are the large one
pub enum DraftDisk {
    /// Its content is stored.
    Stored {
        /// Which disk.
        description: DiskDescription,
        /// What was written of it.
        written: WrittenDisk,
        /// How its changes were found.
        provenance: ChangeProvenance,
    },
    /// It is described only: a temporary disk.
    Described {
        /// Which disk.
        description: DiskDescription,
        /// Its size.
        size: ByteLen,
    },
}

/// Most bytes of what is kept of how a snapshot was taken.
pub const SNAPSHOT_EVIDENCE_MAX: usize = SNAPSHOT_MAX;

/// A recovery point that is written and not yet visible.
#[derive(Debug)]
pub struct Draft {
    /// Every disk of the VM.
    pub disks: Vec<DraftDisk>,
    /// What the snapshot is worth.
    pub consistency: ConsistencyLevel,
    /// Why: one line per finding.
    pub evidence: Vec<String>,
    /// The VM's configuration as the embedder keeps it; at most [`CONFIG_MAX`] bytes.
    pub config: Option<Vec<u8>>,
    /// Bytes that were read from the disks.
    pub bytes_read: u64,
    /// How long the walk took, in milliseconds.
    pub duration_ms: u64,
    /// Keys of disks that their guests encrypt; they are sealed with the data key.
    pub keys: Option<CapturedKeys>,
}

/// A committed point and what it took.
#[derive(Debug)]
pub struct Committed {
    /// The point, visible now.
    pub point: RecoveryPoint,
    /// Bytes written to the vault by the session.
    pub stored: StoredBytes,
}

impl Writing {
    pub(crate) fn context(&self) -> SealContext<'_> {
        self.sealer.context(&*self.vault.ports.entropy)
    }

    pub(crate) fn start_create(&self, name: &ObjectName, object: &SealedObject) -> PendingCreate {
        self.vault.objects.start_create(name, object)
    }

    pub(crate) fn seal_error(&self, source: SealError) -> VaultError {
        VaultError::Seal { object: format!("a pack of session {}", self.id), source }
    }

    pub(crate) fn misuse(&self, error: &dyn std::fmt::Display) -> VaultError {
        VaultError::malformed(format!("session {}", self.id), FormatError(error.to_string()))
    }

    pub(crate) fn map_error(&self, disk: &DiskName, source: MapError) -> VaultError {
        map_error(&format!("{}@{}, disk {disk}", self.lineage.vm, self.target), source)
    }
}

impl Session {
    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.writing.id
    }

    /// The line of points that it goes on with.
    pub fn lineage(&self) -> LineageId {
        self.writing.lineage.id
    }

    /// The number the point will have.
    pub fn target(&self) -> PointNumber {
        self.writing.target
    }

    /// The number of the point it is made against; `None` for a first backup.
    pub fn base(&self) -> Option<PointNumber> {
        self.base.as_ref().map(|base| PointNumber(base.head.number))
    }

    /// The point before, when it is damaged or missing: then there is no base and everything is stored anew.
    pub fn unreadable_base(&self) -> Option<(PointNumber, &VaultError)> {
        self.unreadable.as_ref().map(|(number, error)| (*number, error))
    }

    /// Names of the disks whose content the base point holds.
    pub fn base_disks(&self) -> Vec<String> {
        let disks = self.base.iter().flat_map(|base| &base.disks);
        disks.filter(|disk| disk.stored.is_some()).map(|disk| disk.name.clone()).collect()
    }

    /// What content is hashed with in this VM's key domain.
    pub fn identity(&self) -> Result<&IdentityKey, VaultError> {
        self.writing.lineage.domain.identity()
    }

    /// What `disk` was in the base point; `None` when it was not there or not stored.
    pub fn base_disk(&self, disk: &DiskName) -> Result<Option<BaseDisk<'_>>, VaultError> {
        let Some((root, block_size, size)) = self.base_root(disk)? else { return Ok(None) };
        let map = MapReader::new(&self.writing.nodes, self.identity()?, block_size, root);
        Ok(Some(BaseDisk { block_size, size, map, marks: Arc::clone(&self.marks) }))
    }

    /// How the changes of `disk` were found at the base point, and the newest point at which all of it had been read;
    /// `None` when it was not there or not stored.
    pub fn base_tracking(
        &self,
        disk: &DiskName,
    ) -> Result<Option<(PointNumber, Option<Tracking>)>, VaultError> {
        let Some(base) = &self.base else { return Ok(None) };
        let name = ObjectName::Point(self.writing.lineage.id, PointNumber(base.head.number));
        let point = base.to_point(false).map_err(|e| VaultError::malformed(&name, e))?;
        let found = point.disks.iter().find(|record| record.description.name == *disk);
        let Some(stored) = found.and_then(|record| record.stored.as_ref()) else { return Ok(None) };
        let whole_at = stored.tracking.map_or(point.id.number, |tracking| tracking.whole_at);
        Ok(Some((whole_at, stored.tracking)))
    }

    /// Reads what `disk` was in the base point; `None` when it was not there or not stored.
    pub fn base_reader(&self, disk: &DiskName) -> Result<Option<DiskReader>, VaultError> {
        let (Some(point), Some((root, block_size, size))) = (self.base(), self.base_root(disk)?) else {
            return Ok(None);
        };
        let (vault, lineage) = (Arc::clone(&self.writing.vault), self.writing.lineage.clone());
        Ok(Some(DiskReader::new(vault, lineage, (point, disk.clone()), block_size, size.0, root)))
    }

    /// A writer for what changed on `disk` since the base point. The block size is the base's when there is one.
    ///
    /// `pack_bytes` is the size at which a pack of data is stored, and about what the writer needs in memory, twice; two packs
    /// of metadata of an eighth of the size come on top.
    pub fn disk_writer(
        &self,
        disk: &DiskName,
        block_size: BlockSize,
        pack_bytes: usize,
    ) -> Result<DiskWriter<'_>, VaultError> {
        let base = self.base_root(disk)?;
        let block_size = base.as_ref().map_or(block_size, |(_, block_size, _)| *block_size);
        let base = base.map(|(root, _, size)| (root, size));
        DiskWriter::new(&self.writing, disk.clone(), block_size, base, pack_bytes)
    }

    /// A writer for all of `disk`, whatever it was in the base point: for when that cannot be read.
    pub fn disk_writer_anew(
        &self,
        disk: &DiskName,
        block_size: BlockSize,
        pack_bytes: usize,
    ) -> Result<DiskWriter<'_>, VaultError> {
        DiskWriter::new(&self.writing, disk.clone(), block_size, None, pack_bytes)
    }

    fn base_root(&self, disk: &DiskName) -> Result<Option<(Root, BlockSize, ByteLen)>, VaultError> {
        let Some(base) = &self.base else { return Ok(None) };
        let name = ObjectName::Point(self.writing.lineage.id, PointNumber(base.head.number));
        let Some(body) = base.disks.iter().find(|body| body.name == disk.as_str()) else { return Ok(None) };
        let Some(stored) = &body.stored else { return Ok(None) };
        let malformed = |e| VaultError::malformed(&name, e);
        let block_size = stored.block_size().map_err(malformed)?;
        let root = stored.root(body.size).map_err(malformed)?;
        Ok(Some((root, block_size, ByteLen(body.size))))
    }

    /// Notes that the points from `from` up to the base may hold old data of `disk`, because change tracking missed a
    /// change of `block`; the range, when there are such points. The note is there whether or not this session commits.
    pub fn mark_suspect(
        &self,
        disk: &DiskName,
        from: PointNumber,
        block: BlockIndex,
    ) -> Result<Option<(PointNumber, PointNumber)>, VaultError> {
        let Some(to) = self.base().filter(|base| *base >= from) else { return Ok(None) };
        let (disk, found) = (disk.to_string(), self.target().0);
        let entry = JournalEntry::Suspect { disk, from: from.0, to: to.0, found, block: block.0 };
        journal::append(&self.writing.vault, self.writing.lineage.id.0, &self.writing.by, &entry)?;
        Ok(Some((from, to)))
    }

    /// Puts `labels` on the point that is being made, in place of those put on it before.
    pub fn set_labels(&mut self, labels: Labels) {
        self.labels = labels;
    }

    /// Keeps what was seen when the snapshot was taken with the point, as its maker writes it: at most
    /// [`SNAPSHOT_EVIDENCE_MAX`] bytes, of which nothing is kept when there are more.
    pub fn set_snapshot_evidence(&mut self, evidence: Vec<u8>) {
        self.snapshot = Some(evidence).filter(|evidence| evidence.len() <= SNAPSHOT_EVIDENCE_MAX);
    }

    /// Makes the point visible: one create-if-absent, whose outcome is final whoever asks.
    pub fn commit(self, draft: Draft) -> Result<Committed, VaultError> {
        let vault = Arc::clone(&self.writing.vault);
        let mut body = self.body(&draft)?;
        let mut stored = written_bytes(&draft);
        body.job.bytes_stored = stored.data + stored.metadata;
        stored.metadata += self.stored;
        let name = ObjectName::Point(self.writing.lineage.id, self.writing.target);
        let plain = body.encode().map_err(|e| VaultError::malformed(&name, e))?;
        let (copy, copy_bytes) = self.store_copy(plain)?;
        stored.metadata += copy_bytes;
        body.copy = Some(copy);
        let plain = body.encode().map_err(|e| VaultError::malformed(&name, e))?;
        let key = self.writing.lineage.domain.map_key()?;
        let object = records::seal_bytes(&name, RecordKind::Point, &plain, key, &self.writing.context())?;
        stored.metadata += object.bytes().len() as u64;
        let unused = self.unused()?.into_iter().chain(self.orphans()).collect();
        let (retired, inherited) = (self.retired.clone(), self.inherited.clone());
        let mut commit = Commit::new(self.body.clone(), retired, unused, inherited, vault.rules);
        let mut data = NoData;
        let mut driver = Driver::new(&vault, Some(&self.writing.lineage), &mut data);
        let stub = PointStub { session: self.body.session, base: self.body.base };
        driver.prepare(name.clone(), Record::Point(stub), object);
        if let CommitOutcome::Lost(other) = driver.finish(|reply| commit.step(reply))? {
            return Err(self.why_lost(other));
        }
        stored.metadata += driver.stored(&ObjectName::Head(self.writing.lineage.id));
        let point = body.to_point(false).map_err(|e| VaultError::malformed(&name, e))?;
        Ok(Committed { point, stored })
    }

    /// The second copy of the point's sections, in a metadata pack of its own.
    fn store_copy(&self, plain: Vec<u8>) -> Result<((PlaceBody, u32), u64), VaultError> {
        let mut packs = MetadataPacks::new(&self.writing, METADATA_PACK_BYTES)?;
        let placed = packs.slot(SlotKind::PointCopy, plain)?;
        let bytes = packs.finish()?;
        packs.done();
        let pack = packs
            .place(placed.pack)
            .ok_or_else(|| self.writing.misuse(&"the copy of the point has no pack"))?;
        Ok(((PlaceBody::of(&pack), placed.slot), bytes))
    }

    fn body(&self, draft: &Draft) -> Result<PointBody, VaultError> {
        let vm = &self.writing.lineage.vm;
        let descriptions = draft.disks.iter().map(|disk| disk.description().clone()).collect();
        VmDescription::new(vm.clone(), descriptions).map_err(|e| self.writing.misuse(&e))?;
        if draft.config.as_ref().is_some_and(|config| config.len() > CONFIG_MAX) {
            return Err(self
                .writing
                .misuse(&format!("the VM configuration is longer than {CONFIG_MAX} bytes")));
        }
        let (mut disks, mut change_lists, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for (index, disk) in (0_u32..).zip(&draft.disks) {
            if (disk.description().role == DiskRole::Temporary) != matches!(disk, DraftDisk::Described { .. })
            {
                return Err(self.writing.misuse(&"a temporary disk is described, every other one is stored"));
            }
            match disk {
                DraftDisk::Described { description, size } => {
                    disks.push(DiskBody::of(description, *size, None));
                }
                DraftDisk::Stored { description, written, provenance } => {
                    if written.session != self.writing.id || written.disk != description.name {
                        let what = "what was written of it belongs to another disk or session".to_owned();
                        return Err(VaultError::Misuse { disk: description.name.clone(), what });
                    }
                    let provenance = match provenance {
                        ChangeProvenance::Full => 0,
                        ChangeProvenance::Scan => 1,
                        ChangeProvenance::Tracked => 2,
                    };
                    disks.push(DiskBody::of(description, written.size, Some(written.body(provenance))));
                    let places =
                        written.change_list.iter().map(|(pack, slot)| (PlaceBody::of(pack), *slot)).collect();
                    change_lists.push((index, places));
                    changes.extend(written.changes(index));
                }
            }
        }
        Ok(PointBody {
            head: PointHead {
                lineage: self.writing.lineage.id.0,
                number: self.writing.target.0,
                base: self.base().map_or(0, |base| base.0),
                session: self.writing.id.0,
                created: self.body.opened,
            },
            vm: vm.to_string(),
            disks,
            config: draft.config.clone(),
            consistency: (
                match draft.consistency {
                    ConsistencyLevel::Crash => 0,
                    ConsistencyLevel::FileSystem => 1,
                    ConsistencyLevel::Application => 2,
                },
                draft.evidence.clone(),
            ),
            job: JobBody {
                bytes_read: draft.bytes_read,
                bytes_stored: 0,
                duration_ms: draft.duration_ms,
                software: concat!("vmkeep ", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            change_lists,
            changes,
            encryption: self.encryption(draft)?,
            labels: self.labels.clone(),
            snapshot: self.snapshot.clone(),
            keys: self.sealed_keys(draft)?,
            copy: None,
            unknown: Vec::new(),
        })
    }

    /// What is to be said of encryption: of a key that is not the vault's own, and of the disks of guests.
    fn encryption(&self, draft: &Draft) -> Result<Option<EncryptionBody>, VaultError> {
        let kek = self.writing.vault.key_vault.describe();
        let mut disks = Vec::new();
        for captured in draft.keys.iter().flat_map(|keys| &keys.disks) {
            let at = draft.disks.iter().position(|disk| disk.description().name == captured.disk);
            let disk = at.and_then(|at| u32::try_from(at).ok()).ok_or_else(|| VaultError::Misuse {
                disk: captured.disk.clone(),
                what: "its keys were captured, and the point does not have it".to_owned(),
            })?;
            disks.push(DiskKeysBody {
                disk,
                bek: captured.bek.url.to_string(),
                kek: captured.kek.as_ref().map(|kek| kek.url.to_string()),
                kek_captured: captured.kek.as_ref().is_some_and(|kek| kek.backup.is_some()),
            });
        }
        let said = kek.managed == KekManagement::Customer || !disks.is_empty();
        Ok(said.then(|| EncryptionBody { customer_key: kek.url.map(|url| url.to_string()), disks }))
    }

    /// The captured keys, sealed with the data key: who may not read the disks may not have them.
    fn sealed_keys(&self, draft: &Draft) -> Result<Option<Vec<u8>>, VaultError> {
        let Some(keys) = draft.keys.as_ref().filter(|keys| !keys.disks.is_empty()) else { return Ok(None) };
        let name = captured_keys_name(self.writing.lineage.id, self.writing.target);
        let plain = keys
            .encode()
            .map_err(|source| VaultError::GuestKeys { object: name.clone(), source: Box::new(source) })?;
        let key = self.writing.lineage.domain.sealing_key()?;
        let kind = RecordKind::CapturedKeys.number();
        let sealed = seal_record(kind, key, &name, &plain, &self.writing.context())
            .map_err(|source| VaultError::Seal { object: name, source })?;
        Ok(Some(sealed.bytes().to_vec()))
    }

    fn lost_race(&self) -> VaultError {
        VaultError::LostRace { vm: self.writing.lineage.vm.clone(), number: self.writing.target }
    }

    /// What took the target instead, as the caller is to be told.
    fn why_lost(&self, other: Option<Record>) -> VaultError {
        let (vm, session) = (self.writing.lineage.vm.clone(), self.writing.id);
        match other {
            Some(Record::Void(void)) if void.session == session.0 => {
                VaultError::SessionVoided { vm, session }
            }
            Some(Record::Inherited(ended)) if ended.session == session.0 => {
                VaultError::SessionVoided { vm, session }
            }
            Some(Record::Closed(_)) => VaultError::LineageClosed { vm },
            _ => self.lost_race(),
        }
    }
}

impl DraftDisk {
    /// Which disk.
    pub fn description(&self) -> &DiskDescription {
        match self {
            Self::Stored { description, .. } | Self::Described { description, .. } => description,
        }
    }
}

impl<'s> BaseDisk<'s> {
    /// Whether a repair has found something of it lost. Then it is not enough to look where it changed.
    pub fn has_damage(&self) -> bool {
        !self.marks.is_empty()
    }

    /// What says of an entry whether the block it is of is lost.
    pub fn is_damaged(&self) -> impl Fn(&Entry) -> bool + use<> {
        let marks = Arc::clone(&self.marks);
        move |entry| marks.hold_some_of(entry)
    }

    /// The map of the disk.
    pub(crate) fn map(&self) -> &MapReader<'s> {
        &self.map
    }
}

fn written_bytes(draft: &Draft) -> StoredBytes {
    let mut sum = StoredBytes::default();
    for disk in &draft.disks {
        if let DraftDisk::Stored { written, .. } = disk {
            sum.data += written.stored.data;
            sum.metadata += written.stored.metadata;
        }
    }
    sum
}

/// What captured keys are bound to: the point that they lie in.
pub(crate) fn captured_keys_name(lineage: LineageId, number: PointNumber) -> String {
    format!("{}#keys", ObjectName::Point(lineage, number))
}
