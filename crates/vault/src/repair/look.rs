//! Looking at every point, so that what each of them has lost is known exactly: just that which a restore of it refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_model::{BlockIndex, BlockRun, CancelToken, DiskName, LineageId, PointNumber};

use super::marks::DamageMarks;
use crate::error::{StoreOperation, VaultError};
use crate::lineage::Lineage;
use crate::map::{Entry, MapError, Visit};
use crate::place::{PackPlace, StorageId};
use crate::point::OpenPoint;
use crate::read::{DiskReader, map_error};

/// How many blocks are read at a time.
const WINDOW: usize = 512;

/// Blocks that cannot be read.
#[derive(Clone, Debug)]
pub(super) struct LostBlocks {
    pub(super) len: u64,
    /// What the map says of the one block; `None` where it is the map that cannot be read.
    pub(super) entry: Option<Entry>,
    /// Where the map node lies that cannot be read.
    pub(super) node: Option<StorageId>,
    pub(super) error: Arc<VaultError>,
}

/// The blocks that a disk of a point has lost, by the first of each run.
pub(super) type LostOf = BTreeMap<BlockIndex, LostBlocks>;

/// What one point has lost.
#[derive(Debug)]
pub(super) struct PointLoss {
    pub(super) point: OpenPoint,
    pub(super) disks: Vec<(DiskReader, LostOf)>,
}

/// What a lineage holds, as far as its points can be read.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lineage: Lineage,
    /// Packs that map nodes, change lists and copies of points were born in.
    pub(super) metadata: BTreeSet<PackPlace>,
    /// What the newest point has lost.
    pub(super) marks: DamageMarks,
    /// The base of each point that can be read.
    pub(super) bases: BTreeMap<u64, u64>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) points: u64,
    pub(super) blocks: u64,
    pub(super) destroyed_blocks: u64,
    /// Points that have lost something, per lineage, oldest first.
    pub(super) losses: Vec<PointLoss>,
    /// Points that have lost nothing.
    pub(super) whole: BTreeSet<(LineageId, PointNumber)>,
    pub(super) lineages: BTreeMap<LineageId, Held>,
}

/// Reads everything that the points hold, each thing once.
pub(super) fn look(points: &[OpenPoint], cancel: &CancelToken) -> Result<Seen, VaultError> {
    let mut seen = Seen::default();
    // What a point inherits from the one looked at before, that one had looked at for it.
    let mut before: Option<(LineageId, PointNumber, BTreeMap<DiskName, LostOf>)> = None;
    for point in points {
        let id = point.point().id;
        let (since, lost_before) = match before.take().filter(|(lineage, ..)| *lineage == id.lineage) {
            Some((_, number, lost)) => (number, lost),
            None => (PointNumber(0), BTreeMap::new()),
        };
        let mut of_point = Looking { seen: &mut seen, point, cancel };
        let disks = of_point.disks(since, &lost_before)?;
        let has_lost = disks.iter().any(|(_, lost)| !lost.is_empty());
        // What is gone of a point that was swept meanwhile went rightly.
        if has_lost && point.swept().is_some() {
            before = Some((id.lineage, since, lost_before));
            continue;
        }
        of_point.hold(&disks);
        seen.points += 1;
        let lost = disks.iter().map(|(disk, lost)| (disk.name().clone(), lost.clone())).collect();
        before = Some((id.lineage, id.number, lost));
        if has_lost {
            seen.losses.push(PointLoss { point: point.clone(), disks });
        } else {
            seen.whole.insert((id.lineage, id.number));
        }
    }
    Ok(seen)
}

struct Looking<'a> {
    seen: &'a mut Seen,
    point: &'a OpenPoint,
    cancel: &'a CancelToken,
}

impl Looking<'_> {
    fn disks(
        &mut self,
        since: PointNumber,
        before: &BTreeMap<DiskName, LostOf>,
    ) -> Result<Vec<(DiskReader, LostOf)>, VaultError> {
        let (id, lineage) = (self.point.point().id, &self.point.lineage);
        let held = self.seen.lineages.entry(id.lineage).or_insert_with(|| Held {
            lineage: lineage.clone(),
            metadata: BTreeSet::new(),
            marks: DamageMarks::default(),
            bases: BTreeMap::new(),
        });
        held.bases.insert(id.number.0, self.point.body.head.base);
        let lists = self.point.body.change_lists.iter().flat_map(|(_, places)| places);
        held.metadata.extend(lists.chain(&self.point.body.copy).map(|(place, _)| place.to_place()));
        let none = LostOf::new();
        let mut disks = Vec::new();
        for name in self.point.stored_disks() {
            // A point whose disks do not open is not among those that opened.
            let disk = self.point.reader(name)?;
            let lost = self.disk(&disk, since, before.get(name).unwrap_or(&none))?;
            disks.push((disk, lost));
        }
        Ok(disks)
    }

    /// What of a disk is lost.
    fn disk(&mut self, disk: &DiskReader, since: PointNumber, before: &LostOf) -> Result<LostOf, VaultError> {
        let mut lost = LostOf::new();
        let mut births = BTreeSet::new();
        let mut window = Vec::new();
        let mut visit = |visit: Visit<'_>, lost: &mut LostOf, seen: &mut Seen| -> Result<(), VaultError> {
            match visit {
                Visit::Node { node, base } => {
                    births.insert(node.at.at.pack);
                    births.extend(base.map(|base| base.at.pack));
                }
                Visit::Block { block, entry } => {
                    window.push((block, entry.clone()));
                    if window.len() >= WINDOW {
                        self.cancel.check()?;
                        fetch(disk, &std::mem::take(&mut window), lost, seen)?;
                    }
                }
                Visit::Unreadable { node, error } => {
                    births.insert(node.at.at.pack);
                    let error = Arc::new(of_map(disk, error)?);
                    let run = node.covers();
                    let at = Some(node.at.at);
                    lost.insert(run.start, LostBlocks { len: run.len, entry: None, node: at, error });
                }
            }
            Ok(())
        };
        let map = disk.map()?;
        map.walk_new(since, |found| visit(found, &mut lost, self.seen))?;
        for (start, earlier) in before {
            self.cancel.check()?;
            match &earlier.entry {
                // It could not be seen before what lies there.
                None => {
                    let run = BlockRun { start: *start, len: earlier.len };
                    map.walk_within(run, |found| visit(found, &mut lost, self.seen))?;
                }
                Some(entry) => match map.entry(*start) {
                    Ok(now) if now.as_ref() == Some(entry) => drop(lost.insert(*start, earlier.clone())),
                    Ok(_) => {}
                    // The node was told of by the walk, unless it went bad just now.
                    Err(error) => {
                        let error = Arc::new(of_map(disk, error)?);
                        let one = LostBlocks { len: 1, entry: None, node: None, error };
                        lost.entry(*start).or_insert(one);
                    }
                },
            }
        }
        fetch(disk, &window, &mut lost, self.seen)?;
        let mut end = 0;
        lost.retain(|start, blocks| {
            let is_new = start.0 >= end;
            end = end.max(start.0.saturating_add(blocks.len));
            is_new
        });
        if let Some(held) = self.seen.lineages.get_mut(&self.point.point().id.lineage) {
            held.metadata.append(&mut births);
        }
        Ok(lost)
    }

    /// Notes what the newest point has lost: each point is taken for it until a newer one comes.
    fn hold(&mut self, disks: &[(DiskReader, LostOf)]) {
        let id = self.point.point().id;
        let mut marks = DamageMarks::of(id.number);
        for lost in disks.iter().flat_map(|(_, lost)| lost.values()) {
            let entry = lost.entry.iter().flat_map(Entry::references).map(|reference| reference.at);
            entry.chain(lost.node).for_each(|at| marks.add(at));
        }
        if let Some(held) = self.seen.lineages.get_mut(&id.lineage) {
            held.marks = marks;
        }
    }
}

/// The damage of a map; anything else ends the search.
fn of_map(disk: &DiskReader, error: MapError) -> Result<VaultError, VaultError> {
    let error = map_error(&format!("the map of disk {}", disk.name()), error);
    if error.is_of_one_object() { Ok(error) } else { Err(error) }
}

/// Fetches blocks and notes those that cannot be had.
fn fetch(
    disk: &DiskReader,
    window: &[(BlockIndex, Entry)],
    lost: &mut LostOf,
    seen: &mut Seen,
) -> Result<(), VaultError> {
    seen.blocks += window.len() as u64;
    let mut failed = None;
    let mut bad = Vec::new();
    disk.fetch(window, &mut |block, bytes| {
        match bytes {
            Ok(_) => {}
            Err(e) if e.is_destroyed() => seen.destroyed_blocks += 1,
            Err(e) if e.is_of_one_object() => bad.push((block, e)),
            Err(e) => failed = Some(e),
        }
        Ok(())
    })?;
    if let Some(e) = failed {
        return Err(Arc::try_unwrap(e).unwrap_or_else(|e| {
            let object = e.object().unwrap_or("a pack").to_owned();
            let source = object_store::Error::Generic { store: "vault", source: e.into() };
            VaultError::store(StoreOperation::Read, object, source)
        }));
    }
    let entries: BTreeMap<BlockIndex, &Entry> = window.iter().map(|(block, entry)| (*block, entry)).collect();
    for (block, error) in bad {
        let entry = entries.get(&block).map(|entry| (*entry).clone());
        lost.insert(block, LostBlocks { len: 1, entry, node: None, error });
    }
    Ok(())
}
