//! What of the stored packs is dead: from the maps of the points that go and that stay, and from footers.
//!
//! Every point is made of the one before it, so a storage id is referred to by points next to one another, from its
//! birth on. Two things follow, and the sweep rests on them. What a point has and the next one has not is gone for
//! every later point, so comparing neighbours finds all that goes ([`Judge::touched`]). And the first point at or
//! after its birth that still counts tells whether anything that counts refers to it ([`Judge::judge`]).
//!
//! Where something cannot be read, nothing that only it could tell of is called dead.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use vmkeep_envelope::{PackContent, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, PointNumber};

use crate::error::VaultError;
use crate::format::{DiskBody, FormatError, PlaceBody, PointBody, SlotBirth, Unit};
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::map::{self, Cursor, Entry, Freed, Lookup, MapError, MapReader, Spot};
use crate::pack::{NodeSlot, PackIndex, PackNodes, SlotPlace, can_thin};
use crate::place::{PackPlace, Reference, StorageId};
use crate::read::map_error;
use crate::store::ResultExt;
use crate::vault::Inner;

/// Records of points that are remembered: packs of one session are judged one after another and ask for the same one.
const POINTS_KEPT: usize = 16;

/// Longest metadata pack that is read as a whole.
const WHOLE_MAX: u64 = 16 << 20;

/// What is dead in one pack.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Whether each slot is referred to by a point that counts.
    pub(crate) slots: Vec<bool>,
    /// Of slots that are referred to in part: of each entry of the footer, whether anything refers to it.
    pub(crate) entries: BTreeMap<u32, Vec<bool>>,
    /// Of those slots, the parts that nothing refers to: place, and where the part was born.
    dead_parts: BTreeSet<(u32, SlotBirth)>,
    /// Bytes of the slots that are not.
    pub(crate) dead_bytes: u64,
    /// Bytes of the slots that are.
    pub(crate) live_bytes: u64,
    /// Of the live bytes, about how many are of blocks and patches that nothing refers to.
    pub(crate) dead_within: u64,
    /// Whether slots that are dead in part can be thinned: the data key is at hand.
    pub(crate) can_thin: bool,
    /// A metadata pack: it has a second copy.
    pub(crate) metadata: bool,
    /// Size of one copy.
    pub(crate) size: u64,
    /// The first thing that could not be read. The slots it leaves in doubt are taken for live.
    pub(crate) unreadable: Option<Arc<VaultError>>,
}

impl Verdict {
    /// Whether the whole pack is dead.
    pub(crate) fn is_dead(&self) -> bool {
        !self.slots.contains(&true)
    }

    /// Bytes that are gone once it is repacked.
    pub(crate) fn to_free(&self) -> u64 {
        if self.can_thin { self.dead_bytes + self.dead_within } else { self.dead_bytes }
    }

    /// Whether nothing refers to what is left of the slot `birth` at place `at`.
    pub(crate) fn is_dead_at(&self, at: u32, birth: SlotBirth) -> bool {
        let slot = usize::try_from(at).ok().and_then(|at| self.slots.get(at));
        slot == Some(&false) || self.dead_parts.contains(&(at, birth))
    }

    /// The same without what is told of single entries: a few bits for each slot.
    pub(crate) fn without_entries(self) -> Self {
        Self { entries: BTreeMap::new(), ..self }
    }

    /// Sums up what was found of the entries of slots: whole slots, parts of them, bytes.
    fn sum_up(&mut self, pack: &PackPlace, index: &PackIndex, mut entries: BTreeMap<u32, Vec<bool>>) {
        entries.retain(|&at, lives| {
            let slot = at as usize;
            self.slots[slot] = lives.contains(&true);
            self.slots[slot] && lives.contains(&false)
        });
        for (slot, &live) in index.slots.iter().zip(&self.slots) {
            let bytes = if live { &mut self.live_bytes } else { &mut self.dead_bytes };
            *bytes += slot.len;
        }
        for (&at, lives) in &entries {
            let (units, slot) = (index.units(at), &index.slots[at as usize]);
            let mut parts: Vec<bool> = slot.origin.births(pack, at).map(|_| false).collect();
            let (mut all, mut dead) = (0_u64, 0_u64);
            for ((_, unit), &live) in units.iter().zip(lives) {
                all += u64::from(unit.len);
                dead += if live { 0 } else { u64::from(unit.len) };
                if let Some(part) = parts.get_mut(unit.part) {
                    *part |= live;
                }
            }
            self.dead_within += slot.len * dead / all.max(1);
            let births = slot.origin.births(pack, at).zip(parts);
            self.dead_parts.extend(births.filter(|(_, live)| !live).map(|(birth, _)| (at, birth)));
        }
        self.entries = entries;
    }

    /// Notes what cannot be read and goes on; any other failure ends the judging.
    fn readable<T>(&mut self, result: Result<T, VaultError>) -> Result<Option<T>, VaultError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_of_one_object() => {
                self.unreadable.get_or_insert_with(|| Arc::new(e));
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// Tells what is dead in one lineage once only certain points count.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    vault: &'a Arc<Inner>,
    lineage: &'a Lineage,
    nodes: PackNodes,
    /// Numbers that count, ascending.
    counts: Vec<u64>,
    /// What stands at some of them.
    known: RefCell<BTreeMap<u64, Standing>>,
}

/// What stands at a number that counts.
#[derive(Clone, Debug)]
enum Standing {
    Point(Rc<PointBody>),
    /// A void or the end of the lineage: it refers to nothing.
    Nothing,
    /// It cannot be read.
    Unreadable(Arc<VaultError>),
}

impl<'a> Judge<'a> {
    /// Judges by the numbers that count, ascending: all that are taken, that are not retired and that are not about to
    /// be. Voids among them do no harm. Their records are read when they are needed.
    pub(crate) fn new(vault: &'a Arc<Inner>, lineage: &'a Lineage, counts: Vec<u64>) -> Self {
        debug_assert!(counts.windows(2).all(|pair| pair[0] < pair[1]));
        let nodes = PackNodes { vault: Arc::clone(vault), lineage: lineage.clone() };
        Self { vault, lineage, nodes, counts, known: RefCell::default() }
    }

    /// Adds to `out` the packs that lose a reference when point `j` is collected, as the packs their slots were born in.
    ///
    /// `since` is the nearest committed point below `j` that counts (0 without one; no void), `next` the next committed
    /// point above it, whether or not that goes too; `None` only when there is none, and not when it cannot be read. In
    /// a row of points that go, each is compared with the next. An error of one object ([`VaultError::is_of_one_object`]) means that some of what `j` refers to is not
    /// known; what is in `out` by then is right, and not all.
    pub(crate) fn touched(
        &self,
        j: &PointBody,
        next: Option<&PointBody>,
        since: PointNumber,
        out: &mut BTreeSet<PackPlace>,
    ) -> Result<(), VaultError> {
        let own = |place: PackPlace| {
            // Packs of another lineage are not this one's to remove.
            let is_own = place.lineage.is_none_or(|lineage| lineage == self.lineage.id);
            is_own.then_some(PackPlace { lineage: None, ..place })
        };
        self.visit_freed(j, next, since, |_, reference| out.extend(own(reference.at.pack)))?;
        let lists = j.change_lists.iter().flat_map(|(_, places)| places);
        out.extend(lists.chain(&j.copy).filter_map(|(place, _)| own(place.to_place())));
        Ok(())
    }

    /// Visits the blocks and patches that nothing refers to any more when point `j` is collected; see [`Judge::touched`].
    pub(crate) fn freed_blocks(
        &self,
        j: &PointBody,
        next: Option<&PointBody>,
        since: PointNumber,
        mut visit: impl FnMut(&StorageId),
    ) -> Result<(), VaultError> {
        self.visit_freed(j, next, since, |spot, reference| {
            if matches!(spot, Spot::Block(_)) {
                visit(&reference.at);
            }
        })
    }

    fn visit_freed(
        &self,
        j: &PointBody,
        next: Option<&PointBody>,
        since: PointNumber,
        mut visit: impl FnMut(Spot, &Reference),
    ) -> Result<(), VaultError> {
        for disk in &j.disks {
            let Some((before, block_size)) = self.map(j, disk)? else { continue };
            let after = match next.and_then(|next| Some((next, disk_named(next, &disk.name)?))) {
                Some((next, disk)) => self.map(next, disk)?,
                None => None,
            };
            let after = after.filter(|(_, size)| *size == block_size).map(|(map, _)| map);
            map::freed(&before, after.as_ref(), since, |freed| match freed {
                Freed::Reference { spot, reference } => {
                    visit(spot, reference);
                    Ok(())
                }
                Freed::Unreadable { error, .. } => Err(self.map_error(j.head.number, &disk.name, error)),
            })?;
        }
        Ok(())
    }

    /// Which slots of `pack` anything that counts refers to, by its footer.
    ///
    /// `settled`: the pack's session can no longer commit, or has committed. Until then slots for a point that is not
    /// there yet are live. Fails when the pack itself cannot be read.
    pub(crate) fn judge(&self, pack: &PackPlace, settled: bool) -> Result<Verdict, VaultError> {
        let index = self.with_bytes(pack, self.vault.pack_index(self.lineage, pack)?)?;
        let mut verdict = Verdict {
            slots: vec![true; index.slots.len()],
            entries: BTreeMap::new(),
            dead_parts: BTreeSet::new(),
            dead_bytes: 0,
            live_bytes: 0,
            dead_within: 0,
            can_thin: can_thin(self.lineage, index.content, index.epoch),
            metadata: index.content == PackContent::Metadata,
            size: index.size,
            unreadable: None,
        };
        // One point after another, so that the way into its maps is gone once.
        let mut order: Vec<(PointNumber, u32, usize)> = Vec::with_capacity(index.slots.len());
        for (at, slot) in (0_u32..).zip(&index.slots) {
            let points = slot.origin.points(slot.point).into_iter().enumerate();
            order.extend(points.map(|(part, point)| (point, at, part)));
        }
        order.sort_unstable();
        let mut entries = BTreeMap::new();
        for parts in order.chunk_by(|a, b| a.0 == b.0) {
            let birth = parts.first().map_or(PointNumber(0), |&(point, ..)| point);
            let mut view = match self.first_from(birth)? {
                Standing::Point(point) => {
                    let Some(view) = verdict.readable(View::new(self, &point))? else { continue };
                    Some(view)
                }
                Standing::Nothing => None,
                Standing::Unreadable(error) => {
                    verdict.unreadable.get_or_insert(error);
                    continue;
                }
            };
            for &(_, at, part) in parts {
                let units = index.units(at);
                if units.is_empty() {
                    let live = match &mut view {
                        Some(view) => verdict.readable(view.lives(pack, &index, at))?.unwrap_or(true),
                        None => !settled,
                    };
                    verdict.slots[at as usize] = live;
                    continue;
                }
                let lives = match &mut view {
                    Some(view) => match verdict.readable(view.units(pack, &index, (at, part), &units))? {
                        Some(lives) => lives,
                        None => continue,
                    },
                    None => Some(!settled).into_iter().cycle().take(units.len()).collect(),
                };
                let known: &mut Vec<bool> = entries.entry(at).or_insert_with(|| vec![true; units.len()]);
                for ((known, live), (_, unit)) in known.iter_mut().zip(lives).zip(&units) {
                    *known = if unit.part == part { live } else { *known };
                }
            }
        }
        verdict.sum_up(pack, &index, entries);
        Ok(verdict)
    }

    /// The same with the pack's bytes, when there are several slots of nodes to be read: one request, not one for each.
    fn with_bytes(&self, pack: &PackPlace, index: Arc<PackIndex>) -> Result<Arc<PackIndex>, VaultError> {
        let node_slots = index.slots.iter().filter(|slot| slot.kind == SlotKind::Nodes).count();
        if node_slots < 2 || index.whole.is_some() || index.size > WHOLE_MAX {
            return Ok(index);
        }
        let name = ObjectName::pack(self.lineage.id, pack);
        match self.vault.read_slots(&name, &index, 0..index.size) {
            Ok(bytes) => Ok(Arc::new(PackIndex { whole: Some(bytes.into()), ..(*index).clone() })),
            // The second copy is good, or its index would not have been read. Slots are read from it one by one.
            Err(e) if e.is_of_one_object() => Ok(index),
            Err(e) => Err(e),
        }
    }

    /// The nodes of a slot, from the pack's bytes when they are at hand, else from wherever the slot can be had.
    fn node_slot(
        &self,
        pack: &PackPlace,
        index: &PackIndex,
        position: u32,
        born: &StorageId,
    ) -> Result<Arc<NodeSlot>, VaultError> {
        if index.whole.is_some() {
            let name = ObjectName::pack(self.lineage.id, pack);
            let plain = self.vault.plain_slot(self.lineage, pack, index, &name, position, SlotKind::Nodes);
            if let Some(slot) = plain.ok().and_then(|plain| NodeSlot::parse(plain).ok()) {
                return Ok(Arc::new(slot));
            }
        }
        self.nodes.slot(born)
    }

    /// The first point at or after `birth` that counts: it has all that was born there and that any point has.
    fn first_from(&self, birth: PointNumber) -> Result<Standing, VaultError> {
        let from = self.counts.partition_point(|&number| number < birth.0);
        for &number in &self.counts[from..] {
            match self.standing(number)? {
                Standing::Nothing => {}
                found => return Ok(found),
            }
        }
        Ok(Standing::Nothing)
    }

    fn standing(&self, number: u64) -> Result<Standing, VaultError> {
        if let Some(known) = self.known.borrow().get(&number) {
            return Ok(known.clone());
        }
        let name = ObjectName::Point(self.lineage.id, PointNumber(number));
        let standing = match self.lineage.at(self.vault, number).or_missing(&name) {
            Ok(AtNumber::Point(point)) => Standing::Point(Rc::new(PointBody { config: None, ..*point })),
            Ok(_) => Standing::Nothing,
            Err(e) if e.is_of_one_object() => Standing::Unreadable(Arc::new(e)),
            Err(e) => return Err(e),
        };
        let mut known = self.known.borrow_mut();
        if known.len() >= POINTS_KEPT {
            known.clear();
        }
        known.insert(number, standing.clone());
        Ok(standing)
    }

    /// The map of a disk of a point; `None` when its content is not stored.
    fn map(
        &self,
        point: &PointBody,
        disk: &DiskBody,
    ) -> Result<Option<(MapReader<'_>, BlockSize)>, VaultError> {
        let Some(stored) = &disk.stored else { return Ok(None) };
        let name = ObjectName::Point(self.lineage.id, PointNumber(point.head.number));
        let malformed = |e| VaultError::malformed(&name, e);
        let block_size = stored.block_size().map_err(malformed)?;
        let root = stored.root(disk.size).map_err(malformed)?;
        let identity = self.lineage.domain.identity()?;
        Ok(Some((MapReader::new(&self.nodes, identity, block_size, root), block_size)))
    }

    fn map_error(&self, number: u64, disk: &str, error: MapError) -> VaultError {
        map_error(&format!("{}@{number}, disk {disk}", self.lineage.vm), error)
    }
}

fn disk_named<'p>(point: &'p PointBody, name: &str) -> Option<&'p DiskBody> {
    point.disks.iter().find(|disk| disk.name == name)
}

/// By what a part of the slot at place `at` of `pack` is referred to: the pack it was born in and its number there. `None`
/// when that cannot be told.
fn storage_of(at: u32, slot: &SlotPlace, pack: &PackPlace, part: usize) -> Option<(PackPlace, u32)> {
    let born = slot.origin.births(pack, at).nth(part)?;
    Some((PackPlace { lineage: None, session: born.session, name: born.id.pack }, born.id.slot))
}

/// One point, as the slots of a pack are looked for in it.
struct View<'j> {
    judge: &'j Judge<'j>,
    point: Rc<PointBody>,
    disks: Vec<SeenDisk<'j>>,
    /// The disk in which a node was found last: the nodes of a metadata pack are of one disk, as a rule.
    likely: usize,
}

struct SeenDisk<'j> {
    name: String,
    block_size: BlockSize,
    cursor: Cursor<'j>,
}

impl<'j> View<'j> {
    fn new(judge: &'j Judge<'j>, point: &Rc<PointBody>) -> Result<Self, VaultError> {
        let mut disks = Vec::new();
        for disk in &point.disks {
            if let Some((map, block_size)) = judge.map(point, disk)? {
                disks.push(SeenDisk { name: disk.name.clone(), block_size, cursor: Cursor::new(map) });
            }
        }
        Ok(Self { judge, point: Rc::clone(point), disks, likely: 0 })
    }

    /// Whether the point refers to anything in a slot that is not told of block by block.
    fn lives(&mut self, pack: &PackPlace, index: &PackIndex, at: u32) -> Result<bool, VaultError> {
        let slot = &index.slots[at as usize];
        let Some((born, number)) = storage_of(at, slot, pack, 0) else { return Ok(true) };
        let is_here = |(place, slot): &(PlaceBody, u32)| place.to_place() == born && *slot == number;
        match slot.kind {
            // It holds none, unless nobody can say what it holds.
            SlotKind::Blocks | SlotKind::Patches => Ok(index.disk.is_none() || index.has_entries(at)),
            SlotKind::Nodes => {
                let born = StorageId { pack: born, slot: number, index: 0 };
                let nodes = self.judge.node_slot(pack, index, at, &born)?;
                self.any_node(&nodes, born)
            }
            SlotKind::ChangeList => Ok(self.point.change_lists.iter().flat_map(|(_, at)| at).any(is_here)),
            // Early points do not say where their copy is.
            SlotKind::PointCopy => Ok(match &self.point.copy {
                Some(copy) => is_here(copy),
                None => slot.point.0 == self.point.head.number,
            }),
            // No pack has one among its slots.
            SlotKind::Footer => Ok(true),
        }
    }

    /// Of each of `units`, which is what a slot holds, whether the point refers to it. Of other parts than `part` nothing
    /// is said: they are taken for live.
    fn units(
        &mut self,
        pack: &PackPlace,
        index: &PackIndex,
        (at, part): (u32, usize),
        units: &[(BlockIndex, Unit)],
    ) -> Result<Vec<bool>, VaultError> {
        let mut lives = vec![true; units.len()];
        let (Some((born, slot)), Some((name, block_size))) =
            (storage_of(at, &index.slots[at as usize], pack, part), &index.disk)
        else {
            return Ok(lives);
        };
        let is_it = |disk: &&mut SeenDisk<'_>| disk.name == name.as_str() && disk.block_size == *block_size;
        let mut disk = self.disks.iter_mut().find(is_it);
        for ((block, unit), live) in units.iter().zip(&mut lives).filter(|((_, unit), _)| unit.part == part) {
            let id = StorageId { pack: born, slot, index: unit.born };
            let refers = |entry: &Entry| entry.references().any(|reference| reference.at == id);
            *live = match disk.as_mut().map(|disk| disk.cursor.entry(*block)) {
                Some(Ok(Lookup::Found(entry))) => refers(entry),
                Some(Ok(Lookup::Absent)) | None => false,
                Some(Ok(Lookup::Unknown)) => true,
                Some(Err(e)) => {
                    return Err(self.judge.map_error(self.point.head.number, name.as_str(), e));
                }
            };
        }
        Ok(lives)
    }

    /// Whether one of the nodes in the slot that was born at `born` is one of a map of the point, or what one is laid
    /// over.
    fn any_node(&mut self, slot: &NodeSlot, born: StorageId) -> Result<bool, VaultError> {
        let mut nodes = Vec::new();
        for (index, node) in (0_u32..).zip(slot.nodes()) {
            let (level, at) = map::spot(node).map_err(|e| {
                let name = ObjectName::pack(self.judge.lineage.id, &born.pack);
                VaultError::malformed(&name, FormatError(e.to_string()))
            })?;
            nodes.push((level, at, index));
        }
        // As a cursor likes them: ascending, and each before what is below it.
        nodes.sort_by_key(|&(level, at, _)| (map::first_block(level, at), Reverse(level)));
        let disks = self.disks.len();
        for disk in (0..disks).map(|i| (i + self.likely) % disks) {
            let SeenDisk { name, cursor, .. } = &mut self.disks[disk];
            for &(level, at, index) in &nodes {
                let live = refers_to_node(cursor, level, at, &StorageId { index, ..born });
                match live {
                    Ok(false) => {}
                    Ok(true) => {
                        self.likely = disk;
                        return Ok(true);
                    }
                    Err(e) => return Err(self.judge.map_error(self.point.head.number, name, e)),
                }
            }
        }
        Ok(false)
    }
}

fn refers_to_node(cursor: &mut Cursor<'_>, level: u8, index: u64, id: &StorageId) -> Result<bool, MapError> {
    match cursor.child(level, index)? {
        Lookup::Found(child) if child.at.at == *id => return Ok(true),
        Lookup::Found(_) => {}
        Lookup::Absent => return Ok(false),
        Lookup::Unknown => return Ok(true),
    }
    // Another node is there; it may be a delta over this one.
    Ok(match cursor.node(level, index)? {
        Lookup::Found((_, base)) => base.is_some_and(|base| base.at == *id),
        Lookup::Absent => false,
        Lookup::Unknown => true,
    })
}

#[cfg(test)]
mod tests;
