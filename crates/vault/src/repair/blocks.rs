//! A pack of data that is lost or damaged is replaced by new ones, where what was in it is known for certain.
//!
//! What still opens is taken from the pack itself; what does not, from whatever else has it: another point, or the live disk. It is
//! compared with the hashes that maps name, by making up every block that it is a part of. The rest is what a sweep does when it repacks:
//! a new pack, a `moved` record that says where slots lie now, and only then the old pack goes. A pack that is there is replaced only
//! when everything that any point needs of it is in the new one; of a pack that is gone, whatever is known is put back.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_envelope::{PackBuilder, PackContent, SealError, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, CancelToken, DiskName, PAGE_SIZE, PointNumber, SessionId, VmName};

use super::units::{Needed, Unit, UnitKey};
use crate::drive::{DataPlane, Driver, NoData};
use crate::error::VaultError;
use crate::format::{
    DeadPackBody, FooterBody, FooterSlot, MovedBody, MovedSlotBody, Origin, PackBody, Part, Thinned,
};
use crate::frame::{CompressionLevel, FrameEncoder};
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::map::Entry;
use crate::pack::{SlotAt, birth_in, next_moved};
use crate::place::{PackPlace, StorageId};
use crate::point::OpenPoint;
use crate::protocol::{Build, Built, FindHead, Repack, Reply, Request};
use crate::records::{Sealer, random_id};
use crate::store::PendingCreate;
use crate::vault::Inner;

/// Most bytes of blocks that are kept to replace those of one pack.
const SUBSTITUTES_MAX: usize = 256 << 20;

/// Disks as they are now, for blocks that the vault has lost.
pub trait LiveDisks {
    /// Reads block `block`, of `block_size`, of a disk into `buf`, padded with zeros past its end; false when it cannot be had.
    fn read(
        &self,
        vm: &VmName,
        disk: &DiskName,
        block: BlockIndex,
        block_size: BlockSize,
        buf: &mut [u8],
    ) -> bool;
}

/// No live disk is at hand.
#[derive(Clone, Copy, Debug)]
pub struct NoLiveDisks;

impl LiveDisks for NoLiveDisks {
    fn read(&self, _: &VmName, _: &DiskName, _: BlockIndex, _: BlockSize, _: &mut [u8]) -> bool {
        false
    }
}

/// A pack of which what is lost is known from elsewhere.
pub(super) struct MendBlocks {
    pub(super) lineage: Lineage,
    pub(super) pack: PackPlace,
    /// Something lies under its name.
    pub(super) is_there: bool,
    /// Blocks and patches that are put back.
    pub(super) blocks: u64,
    pub(super) from: String,
    disk: (DiskName, BlockSize),
    /// What goes into the new pack.
    keep: BTreeMap<UnitKey, Unit>,
    /// The content of what the pack does not have.
    substitutes: BTreeMap<UnitKey, Vec<u8>>,
}

impl std::fmt::Debug for MendBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MendBlocks({}, {} blocks)", self.pack, self.blocks)
    }
}

/// Where content may be found that a pack has lost.
pub(super) struct Elsewhere<'a> {
    pub(super) vault: &'a Inner,
    pub(super) lineage: &'a Lineage,
    pub(super) points: &'a [&'a OpenPoint],
    pub(super) live: &'a dyn LiveDisks,
}

impl Elsewhere<'_> {
    /// How the pack at `pack` can be replaced. `None` when nothing of it is lost, or not enough is known. `whole`: what is `needed` is
    /// all that any point needs.
    pub(super) fn plan(
        &self,
        pack: PackPlace,
        needed: Needed,
        whole: bool,
        cancel: &CancelToken,
    ) -> Result<Option<MendBlocks>, VaultError> {
        let domain = &self.lineage.domain;
        let can_seal = domain.data_key().is_ok() && domain.identity().is_ok();
        let is_there = self.vault.objects.exists(&ObjectName::pack(self.lineage.id, &pack))?;
        if !can_seal || !needed.is_of_one_disk() || is_there && !whole {
            return Ok(None);
        }
        let Some(disk) = needed.disk.clone() else { return Ok(None) };
        let mut lost = BTreeMap::new();
        for (key, unit) in &needed.units {
            cancel.check()?;
            match self.stored(key, unit, disk.1) {
                Ok(Some(_)) => {}
                Ok(None) => drop(lost.insert(*key, unit)),
                // What was destroyed on purpose does not come back.
                Err(e) if e.is_destroyed() => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        if lost.is_empty() {
            return Ok(None);
        }
        let (mut substitutes, mut bytes, mut sources) = (BTreeMap::new(), 0, BTreeSet::new());
        for (key, unit) in &lost {
            cancel.check()?;
            let found = self.substitute(unit, &disk)?;
            if let Some((content, source)) = found {
                bytes += content.len();
                sources.insert(source);
                substitutes.insert(*key, content);
            }
            if bytes > SUBSTITUTES_MAX {
                return Ok(None);
            }
        }
        self.prove(&lost, &mut substitutes, disk.1)?;
        if substitutes.is_empty() || is_there && substitutes.len() < lost.len() {
            return Ok(None);
        }
        let gone: BTreeSet<UnitKey> =
            lost.keys().filter(|key| !substitutes.contains_key(*key)).copied().collect();
        let blocks = substitutes.len() as u64;
        let from = sources.into_iter().collect::<Vec<_>>().join(" and ");
        let keep = needed.units.into_iter().filter(|(key, _)| !gone.contains(key)).collect();
        let lineage = self.lineage.clone();
        Ok(Some(MendBlocks { lineage, pack, is_there, blocks, from, disk, keep, substitutes }))
    }

    /// What is stored of a unit, when that can be read and is what its footer and the maps say.
    fn stored(&self, key: &UnitKey, unit: &Unit, size: BlockSize) -> Result<Option<Vec<u8>>, VaultError> {
        stored(self.vault, self.lineage, key, unit, size)
    }

    /// The content of a unit that is lost, from elsewhere, not proved yet; and where from.
    fn substitute(
        &self,
        unit: &Unit,
        (disk, size): &(DiskName, BlockSize),
    ) -> Result<Option<(Vec<u8>, &'static str)>, VaultError> {
        // A whole block by itself first: what lies below a patch may be made up, when nothing else is known.
        let whole_first = |entry: &&Entry| !matches!(entry, Entry::Full { .. });
        let mut uses: Vec<&Entry> = unit.uses.iter().collect();
        uses.sort_by_key(whole_first);
        for entry in uses {
            let Some((whole, source)) = self.whole(disk, *size, unit.block, entry)? else { continue };
            let content = match &unit.pages {
                None => whole,
                Some(pages) => {
                    let mut content = Vec::with_capacity(pages.count() as usize * PAGE_SIZE);
                    pages.copy_from(&whole, &mut content);
                    content
                }
            };
            return Ok(Some((content, source)));
        }
        Ok(None)
    }

    /// The block that has the hash of `entry`, from the live disk or another point.
    fn whole(
        &self,
        disk: &DiskName,
        size: BlockSize,
        block: BlockIndex,
        entry: &Entry,
    ) -> Result<Option<(Vec<u8>, &'static str)>, VaultError> {
        let identity = self.lineage.domain.identity()?;
        let mut buf = vec![0; size.bytes()];
        if self.live.read(&self.lineage.vm, disk, block, size, &mut buf)
            && identity.block_hash(&buf) == entry.hash()
        {
            return Ok(Some((buf, "the live disk")));
        }
        for point in self.points {
            if !point.stored_disks().any(|name| name == disk) {
                continue;
            }
            let reader = point.reader(disk)?;
            // What cannot be read there is of no help here.
            let Ok(Some(other)) = reader.map()?.entry(block) else { continue };
            if other.hash() != entry.hash() || other == *entry || reader.block_size() != size {
                continue;
            }
            let mut found = None;
            reader.fetch(&[(block, other)], &mut |_, bytes| {
                found = bytes.ok().map(<[u8]>::to_vec);
                Ok(())
            })?;
            if let Some(whole) = found {
                return Ok(Some((whole, "another point")));
            }
        }
        Ok(None)
    }

    /// Leaves only what makes up, with the rest, every block that it is a part of.
    fn prove(
        &self,
        lost: &BTreeMap<UnitKey, &Unit>,
        substitutes: &mut BTreeMap<UnitKey, Vec<u8>>,
        size: BlockSize,
    ) -> Result<(), VaultError> {
        let identity = self.lineage.domain.identity()?;
        loop {
            let mut wrong = BTreeSet::new();
            for (key, unit) in lost.iter().filter(|(key, _)| substitutes.contains_key(*key)) {
                for entry in &unit.uses {
                    let parts: Vec<(UnitKey, Unit)> = parts_of(entry, unit);
                    let mut content: Vec<Vec<u8>> = Vec::new();
                    let mut unknown = false;
                    for (part, unit) in &parts {
                        let bytes = match substitutes.get(part) {
                            Some(bytes) => Some(bytes.clone()),
                            None => match self.stored(part, unit, size) {
                                Err(e) if e.is_destroyed() => None,
                                bytes => bytes?,
                            },
                        };
                        unknown |= bytes.is_none();
                        content.extend(bytes);
                    }
                    // A block of which another part is lost for good cannot be read either way.
                    if unknown {
                        continue;
                    }
                    let mut whole = content.swap_remove(0);
                    if let (Entry::Patched { pages, .. }, Some(patch)) = (entry, content.first()) {
                        pages.copy_to(patch, &mut whole);
                    }
                    if identity.block_hash(&whole) != entry.hash() {
                        wrong.insert(*key);
                    }
                }
                let is_proved = unit.uses.iter().any(|entry| {
                    parts_of(entry, unit)
                        .iter()
                        .all(|(part, _)| substitutes.contains_key(part) || !lost.contains_key(part))
                });
                if !is_proved {
                    wrong.insert(*key);
                }
            }
            if wrong.is_empty() {
                return Ok(());
            }
            substitutes.retain(|key, _| !wrong.contains(key));
        }
    }
}

/// The parts of an entry: the whole block, then the patch.
fn parts_of(entry: &Entry, of: &Unit) -> Vec<(UnitKey, Unit)> {
    let key = |at: &StorageId| (at.pack, at.slot, at.index);
    let unit = |birth, pages| Unit { block: of.block, birth, pages, uses: vec![entry.clone()] };
    match entry {
        Entry::Full { at, .. } => vec![(key(&at.at), unit(at.birth, None))],
        Entry::Patched { base, patch, pages, .. } => vec![
            (key(&base.at), unit(base.birth, None)),
            (key(&patch.at), unit(patch.birth, Some(pages.clone()))),
        ],
    }
}

fn stored(
    vault: &Inner,
    lineage: &Lineage,
    key: &UnitKey,
    unit: &Unit,
    size: BlockSize,
) -> Result<Option<Vec<u8>>, VaultError> {
    let (birth, slot, index) = key;
    let (kind, len) = (unit.kind(), unit.len());
    let unit_bytes = if kind == SlotKind::Patches { PAGE_SIZE } else { size.bytes() };
    let found = vault.at_slot(lineage, birth, *slot, |found| {
        let SlotAt { pack, name, index: held, at, .. } = found;
        let Some(unit) = found.unit(*index, len) else { return Ok(None) };
        let plain = vault.plain_slot(lineage, pack, held, name, *at, kind)?;
        let (start, len) = (unit as usize * unit_bytes, len as usize * unit_bytes);
        Ok(plain.get(start..start + len).map(<[u8]>::to_vec))
    });
    let bytes = match found {
        Ok(bytes) => bytes,
        Err(e) if e.is_of_one_object() => None,
        Err(e) => return Err(e),
    };
    let identity = lineage.domain.identity()?;
    let is_right = |bytes: &Vec<u8>| {
        unit.uses.iter().all(|entry| match entry {
            Entry::Full { hash, .. } => identity.block_hash(bytes) == *hash,
            Entry::Patched { .. } => true,
        })
    };
    Ok(bytes.filter(is_right))
}

impl MendBlocks {
    /// Replaces the pack. False when it could not be: somebody else was there, or what was read before cannot be read now.
    pub(super) fn apply(&self, vault: &Inner, cancel: &CancelToken) -> Result<bool, VaultError> {
        let sealer = Sealer::new(SessionId(random_id(&*vault.ports.entropy)?));
        let mut none = NoData;
        let mut find = FindHead::new(self.lineage.id);
        let found = Driver::new(vault, Some(&self.lineage), &mut none).finish(|reply| find.step(reply));
        let head = match found {
            Ok(head) => head,
            Err(e) if e.is_of_one_object() => return Ok(false),
            Err(e) => return Err(e),
        };
        let (id, at) = (sealer.session.0, vault.ports.clock.now().0);
        let body = (self.pack.session.0, self.pack.name.0);
        let seals_with = self.lineage.seals_with();
        let mut repack = Repack::new(self.lineage.id, (id, at), head, seals_with, vec![body], vault.rules);
        let mut data = Mending { vault, mend: self, sealer, cancel, done: false };
        let gone = Driver::new(vault, Some(&self.lineage), &mut data).finish(|reply| repack.step(reply));
        match gone {
            Ok(_) => Ok(data.done),
            Err(e) if e.is_of_one_object() => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn births(&self) -> BTreeSet<PackBody> {
        self.keep.keys().map(|(birth, ..)| (birth.session.0, birth.name.0)).collect()
    }
}

/// Answers for the machine that repacks.
struct Mending<'a> {
    vault: &'a Inner,
    mend: &'a MendBlocks,
    sealer: Sealer,
    cancel: &'a CancelToken,
    done: bool,
}

impl DataPlane for Mending<'_> {
    fn answer(&mut self, request: &Request) -> Result<Reply, VaultError> {
        self.cancel.check()?;
        match request {
            Request::Births(_) => Ok(Reply::Births(self.mend.births().into_iter().collect())),
            Request::Build(build) => self.build(build),
            _ => Ok(Reply::Unreadable),
        }
    }

    fn removed(&mut self, _: &[ObjectName]) {}
}

impl Mending<'_> {
    /// Makes the new pack, stores it, and says what is to be said of it.
    fn build(&mut self, build: &Build) -> Result<Reply, VaultError> {
        let mend = self.mend;
        let (lineage, id) = (&mend.lineage, self.sealer.session);
        let failed =
            |source: SealError| VaultError::Seal { object: format!("a pack of repair {id}"), source };
        let Some((builder, footer, places)) = self.fill()? else {
            // What was read when this was planned cannot be read any more.
            return Ok(Reply::Unreadable);
        };
        let point = footer.iter().map(|slot| slot.birth).max().unwrap_or(PointNumber(0));
        let body = FooterBody {
            lineage: lineage.id,
            session: id,
            point,
            disk: Some(mend.disk.clone()),
            slots: footer,
        };
        let keys = (lineage.domain.data_key()?, lineage.domain.map_key()?);
        let context = self.sealer.context(&*self.vault.ports.entropy);
        let sealed = builder.seal(keys.0, keys.1, &body.encode(), &context).map_err(failed)?;
        let place = PackPlace { lineage: None, session: id, name: sealed.name };
        let name = ObjectName::pack(lineage.id, &place);
        PendingCreate::wait_ours(self.vault.objects.start_create(&name, &sealed.object))?;

        let old: PackBody = (mend.pack.session.0, mend.pack.name.0);
        let newest: BTreeMap<PackBody, Option<&MovedBody>> =
            build.moved.iter().map(|(birth, _, record)| (*birth, record.as_ref())).collect();
        let mut new = Built { made: vec![(id.0, sealed.name.0)], ..Built::default() };
        for birth in mend.births() {
            let slots = places.iter().filter(|((of, _), _)| (of.session.0, of.name.0) == birth);
            let slots = slots.map(|((_, slot), at)| MovedSlotBody {
                slot: *slot,
                pack: (id.0, sealed.name.0),
                at: *at,
            });
            let before = newest.get(&birth).copied().flatten();
            let moved = next_moved(lineage, birth, before, &BTreeSet::from([old]), slots.collect());
            new.moved.push(moved);
        }
        let dead = DeadPackBody { session: old.0, name: old.1, metadata: false, bytes: 0 };
        new.sources.push((dead, mend.births().into_iter().collect()));
        self.done = true;
        Ok(Reply::Built(new))
    }

    /// One slot for all that is kept of each slot, in the order in which they were born.
    #[allow(clippy::type_complexity)] // a pack, its footer, and where each slot went
    fn fill(
        &self,
    ) -> Result<Option<(PackBuilder, Vec<FooterSlot>, BTreeMap<(PackPlace, u32), u32>)>, VaultError> {
        let mend = self.mend;
        let id = self.sealer.session;
        let failed =
            |source: SealError| VaultError::Seal { object: format!("a pack of repair {id}"), source };
        let misuse = |e: crate::frame::FrameError| {
            VaultError::malformed(format!("a pack of repair {id}"), crate::format::FormatError(e.to_string()))
        };
        let mut encoder = FrameEncoder::new(CompressionLevel::Default).map_err(misuse)?;
        let mut builder = PackBuilder::new(PackContent::Data, 0);
        let (mut footer, mut places) = (Vec::new(), BTreeMap::new());
        let units: Vec<(&UnitKey, &Unit)> = mend.keep.iter().collect();
        for slot in units.chunk_by(|(a, _), (b, _)| (a.0, a.1) == (b.0, b.1)) {
            self.cancel.check()?;
            let Some(((birth, number, _), first)) = slot.first() else { continue };
            let mut part = Part::new(birth_in(birth, *number), PointNumber(0));
            let (mut plain, mut blocks, mut patches) = (Vec::new(), Vec::new(), Vec::new());
            for (key, unit) in slot {
                let bytes = match mend.substitutes.get(*key) {
                    Some(bytes) => Cow::Borrowed(bytes),
                    None => match stored(self.vault, &mend.lineage, key, unit, mend.disk.1)? {
                        Some(bytes) => Cow::Owned(bytes),
                        None => return Ok(None),
                    },
                };
                match (&unit.pages, unit.uses.first()) {
                    (Some(pages), Some(entry)) => patches.push((unit.block, pages.count(), entry.hash())),
                    _ => blocks.push((unit.block, mend.lineage.domain.identity()?.block_hash(&bytes))),
                }
                part.keep(key.2, unit.len());
                part.point = part.point.max(unit.birth);
                plain.extend_from_slice(&bytes);
            }
            let kind = first.kind();
            let (codec, plain_len, body) = encoder.pack(Cow::Owned(plain)).map_err(misuse)?;
            let at = builder.push(kind, codec, plain_len, &body).map_err(failed)?;
            let len = builder.slots().last().map_or(0, |layout| u64::from(layout.len));
            let birth_point = part.point;
            let origin = Origin::Thinned(Arc::new(Thinned { sealed: None, parts: vec![part] }));
            footer.push(FooterSlot {
                birth: birth_point,
                origin,
                len,
                plain_len,
                codec,
                kind,
                blocks,
                patches,
            });
            places.insert((*birth, *number), at);
        }
        Ok((!builder.is_empty()).then_some((builder, footer, places)))
    }
}
