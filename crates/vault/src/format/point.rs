//! The point record: a fixed head and a list of sections (FORMAT.md section 9).

use serde::{Deserialize, Serialize};
use vmkeep_model::{
    BlockSize, ByteLen, ChangeMethod, ChangeProvenance, ConsistencyLevel, ContentHash, DiskDescription,
    DiskName, DiskRecord, DiskRole, GuestEncryption, Labels, LineageId, PointId, PointNumber, RecoveryPoint,
    SessionId, StorageEncryption, StoredDisk, Timestamp, Tracking, UsedBytes, VmDescription,
};

use super::codec::{FormatError, decode_exact, decode_prefix, encode};
use crate::map::{Child, LEVEL_MAX, Root};
use crate::place::{PackPlace, Reference, StorageId};

const VM: u16 = 1;
const DISKS: u16 = 2;
const CONFIG: u16 = 3;
const CONSISTENCY: u16 = 4;
const CAPTURED_KEYS: u16 = 5;
const JOB: u16 = 6;
const CHANGE_LISTS: u16 = 7;
const COPY: u16 = 8;
const CHANGES: u16 = 9;
const ENCRYPTION: u16 = 10;
const LABELS: u16 = 11;
const SNAPSHOT: u16 = 12;
/// Most bytes of what is kept of the snapshot.
pub(crate) const SNAPSHOT_MAX: usize = 256 * 1024;
const CRITICAL: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PointHead {
    pub(crate) lineage: [u8; 16],
    pub(crate) number: u64,
    /// 0 when there is none.
    pub(crate) base: u64,
    pub(crate) session: [u8; 16],
    pub(crate) created: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlaceBody {
    pub(crate) lineage: Option<[u8; 16]>,
    pub(crate) session: [u8; 16],
    pub(crate) name: [u8; 16],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootBody {
    pub(crate) place: PlaceBody,
    pub(crate) slot: u32,
    pub(crate) index: u32,
    pub(crate) birth: u64,
    pub(crate) level: u8,
    pub(crate) node_index: u64,
    pub(crate) newest_birth: u64,
    pub(crate) blocks: u64,
    pub(crate) hash: [u8; 16],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredBody {
    pub(crate) block_size_log2: u8,
    pub(crate) root: Option<RootBody>,
    pub(crate) changed_blocks: u64,
    pub(crate) zeroed_blocks: u64,
    pub(crate) provenance: u8,
    pub(crate) used: Option<(u64, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskBody {
    pub(crate) name: String,
    pub(crate) role: u8,
    pub(crate) lun: Option<u32>,
    pub(crate) size: u64,
    pub(crate) stored: Option<StoredBody>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobBody {
    pub(crate) bytes_read: u64,
    pub(crate) bytes_stored: u64,
    pub(crate) duration_ms: u64,
    pub(crate) software: String,
}

/// How the changes of one disk were found and stored, where it is more than the disk section says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangesBody {
    /// Which disk, by its place in the disk section.
    pub(crate) disk: u32,
    pub(crate) patched_blocks: u64,
    pub(crate) patched_pages: u64,
    pub(crate) tracking: Option<TrackingBody>,
    pub(crate) fallback: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrackingBody {
    pub(crate) method: u8,
    pub(crate) granularity: u64,
    pub(crate) audited: u64,
    pub(crate) whole_at: u64,
    pub(crate) windows_done: u32,
    pub(crate) windows: u32,
    pub(crate) round_from: u64,
}

impl TrackingBody {
    pub(crate) fn of(tracking: &Tracking) -> Self {
        Self {
            method: match tracking.method {
                ChangeMethod::DirtyBitmap => 1,
                ChangeMethod::ExtentList => 2,
                ChangeMethod::BlockStatus => 3,
                _ => 0,
            },
            granularity: tracking.granularity.0,
            audited: tracking.audited,
            whole_at: tracking.whole_at.0,
            windows_done: tracking.windows_done,
            windows: tracking.windows,
            round_from: tracking.round_from.0,
        }
    }

    fn to_tracking(&self) -> Result<Tracking, FormatError> {
        Ok(Tracking {
            method: match self.method {
                0 => ChangeMethod::FullScan,
                1 => ChangeMethod::DirtyBitmap,
                2 => ChangeMethod::ExtentList,
                3 => ChangeMethod::BlockStatus,
                other => return Err(FormatError(format!("change tracking by method {other}"))),
            },
            granularity: ByteLen(self.granularity),
            audited: self.audited,
            whole_at: PointNumber(self.whole_at),
            windows_done: self.windows_done,
            windows: self.windows,
            round_from: PointNumber(self.round_from),
        })
    }
}

/// What wrapped the vault's keys, and where the keys were of disks that their guests encrypt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EncryptionBody {
    /// URL of the key that wrapped the vault's keys; `None` for a key file or a passphrase.
    pub(crate) customer_key: Option<String>,
    pub(crate) disks: Vec<DiskKeysBody>,
}

/// Where the keys of one disk were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskKeysBody {
    /// Which disk, by its place in the disk section.
    pub(crate) disk: u32,
    pub(crate) bek: String,
    pub(crate) kek: Option<String>,
    pub(crate) kek_captured: bool,
}

/// A disk index and where its change list lies.
pub(crate) type ChangeListBody = (u32, Vec<(PlaceBody, u32)>);

/// Everything a point record says, decoded; sections of other versions are kept as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PointBody {
    pub(crate) head: PointHead,
    pub(crate) vm: String,
    pub(crate) disks: Vec<DiskBody>,
    pub(crate) config: Option<Vec<u8>>,
    pub(crate) consistency: (u8, Vec<String>),
    pub(crate) job: JobBody,
    pub(crate) change_lists: Vec<ChangeListBody>,
    /// Disks of which there is something to say, ascending.
    pub(crate) changes: Vec<ChangesBody>,
    /// What there is to say of encryption; `None` when the vault's keys were its own and no guest encrypts a disk.
    pub(crate) encryption: Option<EncryptionBody>,
    /// Why it was made and the like.
    pub(crate) labels: Labels,
    /// What was seen when the snapshot was taken, opaque.
    pub(crate) snapshot: Option<Vec<u8>>,
    /// Captured keys of guests, a record of its own, sealed with the data key.
    pub(crate) keys: Option<Vec<u8>>,
    /// Where the second copy of the sections lies; the copy itself does not say.
    pub(crate) copy: Option<(PlaceBody, u32)>,
    /// Sections this version does not know, none of them critical: tag, flags, bytes.
    pub(crate) unknown: Vec<(u16, u8, Vec<u8>)>,
}

impl PointBody {
    /// The stored bytes: head, then sections by ascending tag.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut sections: Vec<(u16, u8, Vec<u8>)> = vec![
            (VM, CRITICAL, encode(&self.vm)?),
            (DISKS, CRITICAL, encode(&self.disks)?),
            (CONSISTENCY, 0, encode(&self.consistency)?),
            (JOB, 0, encode(&self.job)?),
            (CHANGE_LISTS, 0, encode(&self.change_lists)?),
        ];
        sections.push((CAPTURED_KEYS, 0, self.keys.clone().unwrap_or_default()));
        if let Some(encryption) = &self.encryption {
            sections.push((ENCRYPTION, 0, encode(encryption)?));
        }
        if !self.labels.is_empty() {
            sections.push((LABELS, 0, encode(&self.labels.iter().collect::<Vec<_>>())?));
        }
        if let Some(snapshot) = &self.snapshot {
            sections.push((SNAPSHOT, 0, snapshot.clone()));
        }
        if !self.changes.is_empty() {
            sections.push((CHANGES, 0, encode(&self.changes)?));
        }
        if let Some(copy) = &self.copy {
            sections.push((COPY, 0, encode(copy)?));
        }
        sections.extend(self.config.iter().map(|config| (CONFIG, 0, config.clone())));
        sections.extend(self.unknown.iter().cloned());
        sections.sort_by_key(|(tag, ..)| *tag);
        let mut bytes = encode(&self.head)?;
        for (tag, flags, body) in sections {
            let len =
                u32::try_from(body.len()).map_err(|_| FormatError("a section of over 4 GiB".to_owned()))?;
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.push(flags);
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&body);
        }
        Ok(bytes)
    }

    /// The point that all of `bytes` are.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (head, used): (PointHead, usize) = decode_prefix(bytes)?;
        if head.number == 0 || head.base >= head.number {
            return Err(FormatError(format!("point {} on base {}", head.number, head.base)));
        }
        let (mut vm, mut disks, mut config, mut consistency, mut job) = (None, None, None, None, None);
        let (mut change_lists, mut changes, mut copy, mut unknown) =
            (Vec::new(), Vec::new(), None, Vec::new());
        let (mut encryption, mut keys, mut labels) = (None, None, Labels::default());
        let mut snapshot = None;
        let (mut rest, mut last) = (&bytes[used..], 0);
        while !rest.is_empty() {
            let (tag, flags, body, after) = section(rest)?;
            if tag <= last {
                return Err(FormatError(format!("section {tag} after section {last}")));
            }
            match tag {
                VM => vm = Some(decode_exact::<String>(body)?),
                DISKS => disks = Some(decode_exact::<Vec<DiskBody>>(body)?),
                CONFIG => config = Some(body.to_vec()),
                CONSISTENCY => consistency = Some(decode_exact(body)?),
                CAPTURED_KEYS => keys = (!body.is_empty()).then(|| body.to_vec()),
                ENCRYPTION => encryption = Some(decode_exact(body)?),
                JOB => job = Some(decode_exact(body)?),
                CHANGE_LISTS => change_lists = decode_exact(body)?,
                COPY => copy = Some(decode_exact(body)?),
                CHANGES => changes = decode_exact(body)?,
                LABELS => labels = decode_labels(body)?,
                SNAPSHOT if body.len() > SNAPSHOT_MAX => {
                    return Err(FormatError(format!("{} bytes about the snapshot", body.len())));
                }
                SNAPSHOT => snapshot = Some(body.to_vec()),
                _ if flags & CRITICAL != 0 => {
                    return Err(FormatError(format!("critical section {tag} is not known to this version")));
                }
                _ => unknown.push((tag, flags, body.to_vec())),
            }
            (rest, last) = (after, tag);
        }
        let missing = |what: &str| FormatError(format!("no {what} section"));
        Ok(Self {
            head,
            vm: vm.ok_or_else(|| missing("VM"))?,
            disks: disks.ok_or_else(|| missing("disks"))?,
            config,
            consistency: consistency.unwrap_or((0, Vec::new())),
            job: job.ok_or_else(|| missing("job"))?,
            change_lists,
            changes,
            encryption,
            labels,
            snapshot,
            keys,
            copy,
            unknown,
        })
    }

    /// The point as everyone else sees it.
    pub(crate) fn to_point(&self, forgotten: bool) -> Result<RecoveryPoint, FormatError> {
        let mut disks = self.disks.iter().map(DiskBody::to_record).collect::<Result<Vec<_>, _>>()?;
        for changes in &self.changes {
            let disk = usize::try_from(changes.disk).ok().and_then(|disk| disks.get_mut(disk));
            let Some(stored) = disk.and_then(|disk| disk.stored.as_mut()) else {
                return Err(FormatError(format!(
                    "changes of disk {}, of which nothing is stored",
                    changes.disk
                )));
            };
            stored.tracking = changes.tracking.as_ref().map(TrackingBody::to_tracking).transpose()?;
            stored.fallback.clone_from(&changes.fallback);
            (stored.patched_blocks, stored.patched_pages) = (changes.patched_blocks, changes.patched_pages);
        }
        for keys in self.encryption.iter().flat_map(|encryption| &encryption.disks) {
            let disk = usize::try_from(keys.disk).ok().and_then(|disk| disks.get_mut(disk));
            let disk =
                disk.ok_or_else(|| FormatError(format!("keys of disk {}, which is not there", keys.disk)))?;
            let (bek, kek) = (keys.bek.clone(), keys.kek.clone());
            disk.encryption = Some(GuestEncryption { bek, kek, kek_captured: keys.kek_captured });
        }
        let descriptions = disks.iter().map(|disk| disk.description.clone()).collect();
        let vm: vmkeep_model::VmName = self.vm.parse().map_err(invalid)?;
        VmDescription::new(vm.clone(), descriptions).map_err(invalid)?;
        Ok(RecoveryPoint {
            id: PointId { lineage: LineageId(self.head.lineage), number: PointNumber(self.head.number) },
            vm,
            base: (self.head.base > 0).then_some(PointNumber(self.head.base)),
            session: SessionId(self.head.session),
            created: Timestamp(self.head.created),
            consistency: match self.consistency.0 {
                0 => ConsistencyLevel::Crash,
                1 => ConsistencyLevel::FileSystem,
                2 => ConsistencyLevel::Application,
                other => return Err(FormatError(format!("consistency level {other}"))),
            },
            disks,
            config_len: self.config.as_ref().map_or(0, |config| config.len() as u64),
            storage_encryption: match self.encryption.as_ref().and_then(|e| e.customer_key.as_ref()) {
                None => StorageEncryption::VaultManaged,
                Some(key) => StorageEncryption::CustomerManaged { key: key.clone() },
            },
            forgotten,
            labels: self.labels.clone(),
            evidence: self.consistency.1.clone(),
        })
    }
}

fn decode_labels(body: &[u8]) -> Result<Labels, FormatError> {
    let mut labels = Labels::default();
    let mut last = None;
    for (name, value) in decode_exact::<Vec<(String, String)>>(body)? {
        if last.as_ref().is_some_and(|last| *last >= name) {
            return Err(FormatError("labels do not ascend".to_owned()));
        }
        last = Some(name.clone());
        labels.insert(name, value).map_err(invalid)?;
    }
    Ok(labels)
}

/// Tag, flags, body, and what follows.
type Section<'a> = (u16, u8, &'a [u8], &'a [u8]);

/// Takes one section off the front.
fn section(bytes: &[u8]) -> Result<Section<'_>, FormatError> {
    let cut = || FormatError("a section is cut short".to_owned());
    let (head, rest) = bytes.split_first_chunk::<7>().ok_or_else(cut)?;
    let len = u32::from_le_bytes([head[3], head[4], head[5], head[6]]);
    let (body, rest) = rest.split_at_checked(usize::try_from(len).map_err(|_| cut())?).ok_or_else(cut)?;
    Ok((u16::from_le_bytes([head[0], head[1]]), head[2], body, rest))
}

fn invalid(error: impl std::fmt::Display) -> FormatError {
    FormatError(error.to_string())
}

impl DiskBody {
    pub(crate) fn of(description: &DiskDescription, size: ByteLen, stored: Option<StoredBody>) -> Self {
        let role = match description.role {
            DiskRole::Os => 0,
            DiskRole::Data => 1,
            DiskRole::Temporary => 2,
        };
        Self { name: description.name.to_string(), role, lun: description.lun, size: size.0, stored }
    }

    fn to_record(&self) -> Result<DiskRecord, FormatError> {
        let name: DiskName = self.name.parse().map_err(invalid)?;
        let role = match self.role {
            0 => DiskRole::Os,
            1 => DiskRole::Data,
            2 => DiskRole::Temporary,
            other => return Err(FormatError(format!("disk role {other}"))),
        };
        if (role == DiskRole::Temporary) != self.stored.is_none() {
            return Err(FormatError(format!("{role} disk {name}: stored or not does not fit its role")));
        }
        let stored = self.stored.as_ref().map(|stored| stored.to_stored(self.size)).transpose()?;
        Ok(DiskRecord {
            description: DiskDescription { name, role, lun: self.lun },
            size: ByteLen(self.size),
            stored,
            encryption: None,
        })
    }
}

impl StoredBody {
    pub(crate) fn block_size(&self) -> Result<BlockSize, FormatError> {
        let bytes = 1_u64.checked_shl(u32::from(self.block_size_log2)).unwrap_or(0);
        BlockSize::try_from(bytes).map_err(invalid)
    }

    /// The root of the disk's map, checked against the disk's size.
    pub(crate) fn root(&self, size: u64) -> Result<Root, FormatError> {
        let Some(root) = &self.root else { return Ok(None) };
        let blocks = self.block_size()?.count_for(ByteLen(size));
        let width = 1_u64.checked_shl(6 * (u32::from(root.level) + 1));
        let first = width.and_then(|width| root.node_index.checked_mul(width)).unwrap_or(u64::MAX);
        if root.level > LEVEL_MAX || first >= blocks || root.blocks > blocks || root.blocks == 0 {
            return Err(FormatError(format!("the map's root does not fit a disk of {size} bytes")));
        }
        Ok(Some(Child {
            at: Reference {
                at: StorageId { pack: root.place.to_place(), slot: root.slot, index: root.index },
                birth: PointNumber(root.birth),
            },
            level: root.level,
            index: root.node_index,
            hash: ContentHash(root.hash),
            newest_birth: PointNumber(root.newest_birth),
            blocks: root.blocks,
        }))
    }

    fn to_stored(&self, size: u64) -> Result<StoredDisk, FormatError> {
        let block_size = self.block_size()?;
        let root = self.root(size)?;
        let bytes = |blocks: u64| ByteLen(blocks.saturating_mul(block_size.bytes_u64()));
        Ok(StoredDisk {
            block_size,
            content: root.as_ref().map(|root| root.hash),
            allocated: bytes(root.map_or(0, |root| root.blocks)),
            changed: bytes(self.changed_blocks),
            zeroed: bytes(self.zeroed_blocks),
            provenance: match self.provenance {
                0 => ChangeProvenance::Full,
                1 => ChangeProvenance::Scan,
                2 => ChangeProvenance::Tracked,
                other => return Err(FormatError(format!("change provenance {other}"))),
            },
            tracking: None,
            fallback: None,
            patched_blocks: 0,
            patched_pages: 0,
            used: self.used.clone().map(|(bytes, method)| UsedBytes { bytes: ByteLen(bytes), method }),
        })
    }
}

impl RootBody {
    pub(crate) fn of(root: &Child) -> Self {
        Self {
            place: PlaceBody::of(&root.at.at.pack),
            slot: root.at.at.slot,
            index: root.at.at.index,
            birth: root.at.birth.0,
            level: root.level,
            node_index: root.index,
            newest_birth: root.newest_birth.0,
            blocks: root.blocks,
            hash: root.hash.0,
        }
    }
}

impl PlaceBody {
    pub(crate) fn of(place: &PackPlace) -> Self {
        Self { lineage: place.lineage.map(|id| id.0), session: place.session.0, name: place.name.0 }
    }

    pub(crate) fn to_place(&self) -> PackPlace {
        PackPlace {
            lineage: self.lineage.map(LineageId),
            session: SessionId(self.session),
            name: vmkeep_envelope::PackName(self.name),
        }
    }
}
