//! What a pack of data is needed for: every block and patch in it that a point refers to, by where it lies now.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_envelope::{PackName, SlotKind};
use vmkeep_model::{
    BlockIndex, BlockSize, CancelToken, DiskName, LineageId, PageMask, PointNumber, SessionId,
};

use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::map::{Entry, Visit};
use crate::pack::{Whereabouts, moved_to};
use crate::place::PackPlace;
use crate::point::OpenPoint;
use crate::read::map_error;
use crate::vault::Inner;

/// A block or a patch by where it was born: pack, slot, and index of the block or of the first page.
pub(super) type UnitKey = (PackPlace, u32, u32);

/// A block, or the pages of a patch.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) block: BlockIndex,
    /// The point that first held it.
    pub(super) birth: PointNumber,
    /// The pages that a patch holds; `None` for a whole block.
    pub(super) pages: Option<PageMask>,
    /// The map entries that it is a part of, each once.
    pub(super) uses: Vec<Entry>,
}

impl Unit {
    pub(super) fn kind(&self) -> SlotKind {
        if self.pages.is_some() { SlotKind::Patches } else { SlotKind::Blocks }
    }

    /// How many it counts for.
    pub(super) fn len(&self) -> u32 {
        self.pages.as_ref().map_or(1, PageMask::count)
    }
}

/// What is needed of one pack.
#[derive(Clone, Debug, Default)]
pub(super) struct Needed {
    pub(super) units: BTreeMap<UnitKey, Unit>,
    /// The disk it holds data of; `None` when there are two, which no writer makes.
    pub(super) disk: Option<(DiskName, BlockSize)>,
    mixed: bool,
}

impl Needed {
    pub(super) fn is_of_one_disk(&self) -> bool {
        !self.mixed
    }
}

/// The pack that a slot lies in, or would.
pub(super) fn home_of(
    vault: &Inner,
    lineage: &Lineage,
    birth: &PackPlace,
    slot: u32,
) -> Result<PackPlace, VaultError> {
    match vault.whereabouts(lineage, birth) {
        Ok(Whereabouts::InBirthPack(_)) => Ok(*birth),
        Ok(Whereabouts::Moved(moved)) => {
            Ok(moved_to(&moved, lineage, birth, slot).map_or(*birth, |(pack, _)| pack))
        }
        Err(e) if e.is_of_one_object() => Ok(*birth),
        Err(e) => Err(e),
    }
}

/// What the points of a lineage need of the packs `homes`. `None` when not all of their maps can be read.
///
/// Reads every map once, and no data.
pub(super) fn needed(
    vault: &Inner,
    points: &[&OpenPoint],
    lineage: &Lineage,
    homes: &BTreeSet<PackPlace>,
    cancel: &CancelToken,
) -> Result<(BTreeMap<PackPlace, Needed>, bool), VaultError> {
    let births = births_in(vault, lineage, homes)?;
    let (mut found, mut whole) = (BTreeMap::<PackPlace, Needed>::new(), true);
    let mut lies_in = BTreeMap::<(PackPlace, u32), PackPlace>::new();
    let mut since = PointNumber(0);
    for point in points {
        cancel.check()?;
        let mut of_point = true;
        for name in point.stored_disks() {
            let disk = point.reader(name)?;
            disk.map()?.walk_new(since, |visit| -> Result<(), VaultError> {
                let (block, entry) = match visit {
                    Visit::Block { block, entry } => (block, entry),
                    Visit::Node { .. } => return Ok(()),
                    Visit::Unreadable { error, .. } => {
                        let error = map_error("a disk", error);
                        of_point = false;
                        return if error.is_of_one_object() { Ok(()) } else { Err(error) };
                    }
                };
                for (nth, reference) in entry.references().enumerate() {
                    let at = reference.at;
                    if !births.contains(&at.pack) {
                        continue;
                    }
                    let home = match lies_in.get(&(at.pack, at.slot)) {
                        Some(home) => *home,
                        None => {
                            let home = home_of(vault, lineage, &at.pack, at.slot)?;
                            lies_in.insert((at.pack, at.slot), home);
                            home
                        }
                    };
                    if !homes.contains(&home) {
                        continue;
                    }
                    let pages = match entry {
                        Entry::Patched { pages, .. } if nth == 1 => Some(pages.clone()),
                        _ => None,
                    };
                    let needed = found.entry(home).or_default();
                    let own = (disk.name().clone(), disk.block_size());
                    needed.mixed |= needed.disk.as_ref().is_some_and(|known| *known != own);
                    needed.disk = Some(own);
                    let unit = needed.units.entry((at.pack, at.slot, at.index)).or_insert_with(|| Unit {
                        block,
                        birth: reference.birth,
                        pages: pages.clone(),
                        uses: Vec::new(),
                    });
                    // One storage id is one thing, whoever refers to it.
                    needed.mixed |= unit.block != block || unit.pages != pages;
                    if !unit.uses.contains(entry) {
                        unit.uses.push(entry.clone());
                    }
                }
                Ok(())
            })?;
        }
        whole &= of_point;
        if of_point {
            since = point.point().id.number;
        }
    }
    Ok((found, whole))
}

/// Packs of which a slot may lie in one of `homes`.
fn births_in(
    vault: &Inner,
    lineage: &Lineage,
    homes: &BTreeSet<PackPlace>,
) -> Result<BTreeSet<PackPlace>, VaultError> {
    let mut births = homes.clone();
    let mut moved = BTreeSet::<(LineageId, PackName)>::new();
    for (path, _) in vault.objects.list(&format!("moved/{}", lineage.id))? {
        if let Some(ObjectName::Moved(lineage, birth, _)) = ObjectName::parse(&path) {
            moved.insert((lineage, birth));
        }
    }
    for (of, birth) in moved {
        // The session is not in the name: any record of it says it.
        let name = ObjectName::Moved(of, birth, 1);
        let Some(bytes) = vault.objects.read(&name)? else { continue };
        match crate::records::open::<crate::format::MovedBody>(&name, &bytes, &vault.record) {
            Ok(body) => {
                births.insert(PackPlace { lineage: None, session: SessionId(body.session), name: birth });
            }
            Err(e) if e.is_of_one_object() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(births)
}
