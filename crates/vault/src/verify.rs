//! Looking for damage: every object of a vault accounted for, and the maps of its points checked.
//!
//! [`Vault::audit`] lists the store once and accounts for every object in it; [`DiskReader::walk_since`] goes
//! through the map of a point and tells what cannot be read. [`Vault::rolling`] checks some of the packs by themselves, and
//! remembers which. Damage is a finding and the search goes on; a store
//! that does not answer ends it, because nothing can be said then.

mod auditor;
mod coverage;
mod line;
mod pack;
mod packs;
mod reach;
mod ring;
mod rolling;

use std::sync::Arc;

use vmkeep_model::{BlockIndex, BlockRun, CancelToken, Permit, PointNumber, op};

use self::auditor::Auditor;
pub use self::coverage::{Checked, Coverage, NAMED_MAX, PackDepth};
pub use self::pack::{DamagedBlocks, PackDamage, PackToCheck};
pub use self::ring::ROUND_RUNS_MAX;
#[cfg(test)]
pub(crate) use self::ring::Ring;
pub use self::rolling::{Budget, Rolling};
use crate::error::VaultError;
use crate::format::FormatError;
use crate::keys::DestroyedKeys;
use crate::lineage::Lineage;
use crate::map::{Entry, Visit};
use crate::pack::SlotAt;
use crate::point::OpenPoint;
use crate::read::{DiskReader, map_error};
use crate::vault::{Inner, Vault};

/// How much of the packs an audit reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditDepth {
    /// Headers, footers and records.
    Structure,
    /// Also every slot of the metadata packs, both copies, and of packs that no point names yet.
    Metadata,
}

/// Something found wrong.
#[derive(Debug)]
pub struct Damage {
    /// The object it was found in, or found missing.
    pub object: String,
    /// What is wrong.
    pub error: VaultError,
}

/// A number of objects and the bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub objects: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// What every object of a vault is there for. The sum is the vault, to the byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// Belongs to points, keys, names or the journal.
    pub live: Tally,
    /// Needed by nothing any more: left by sessions that ended, or by points that were removed. The sweep removes it.
    pub garbage: Tally,
    /// Belongs to a session that may still commit, or to a sweep that was not finished: the next one goes on.
    pub in_progress: Tally,
    /// Does not belong to a vault, or to nothing in this one: names and sizes.
    pub unexplained: Vec<(String, u64)>,
}

/// What an audit saw.
#[derive(Debug)]
pub struct Audit {
    /// Every object accounted for.
    pub accounting: Accounting,
    /// The points that can be opened, per VM, oldest first.
    pub points: Vec<OpenPoint>,
    /// Keys wrapped for other KEKs, which this one cannot check.
    pub foreign_keys: u64,
    /// Keys that were destroyed on purpose, and the points that cannot be restored for it: no damage.
    pub destroyed: Vec<DestroyedKeys>,
    /// The lines of points whose keys open.
    pub(crate) lineages: Vec<Lineage>,
}

/// What a walk through a map comes by.
#[derive(Debug)]
pub enum Found<'a> {
    /// A block and what the map knows of it.
    Block(BlockIndex, &'a Entry),
    /// Blocks whose entries cannot be read.
    Unreadable(BlockRun, VaultError),
}

impl DiskReader {
    /// Goes through every reference born after `since` in block order; `PointNumber(0)` is the whole map.
    ///
    /// An error of `visit`, and a store that fails, end the walk. Damage does not: it is visited.
    pub fn walk_since(
        &self,
        since: PointNumber,
        visit: &mut dyn FnMut(Found<'_>) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let what = format!("the map of disk {}", self.name());
        self.map()?.walk_new(since, |seen| match seen {
            Visit::Node { .. } => Ok(()),
            Visit::Block { block, entry } => visit(Found::Block(block, entry)),
            Visit::Unreadable { node, error } => {
                let error = map_error(&what, error);
                if error.is_of_one_object() {
                    visit(Found::Unreadable(node.covers(), error))
                } else {
                    Err(error)
                }
            }
        })
    }

    /// Checks a map entry against the footers of the packs it names, without reading data.
    ///
    /// [`VaultError::KeyDestroyed`] when all is where it should be and a key that it needs was destroyed on purpose.
    pub fn check_entry(&self, block: BlockIndex, entry: &Entry) -> Result<(), VaultError> {
        let (vault, lineage) = (&self.nodes().vault, &self.nodes().lineage);
        let (full, patch) = match entry {
            Entry::Full { at, .. } => (at, None),
            Entry::Patched { base, patch, pages, .. } => (base, Some((patch, pages.count()))),
        };
        let mut destroyed = None;
        let fits = vault.at_slot(lineage, &full.at.pack, full.at.slot, |found| {
            let SlotAt { name, index, at, .. } = found;
            let (blocks, unit) = (index.blocks.get(*at as usize), found.unit(full.at.index, 1));
            let told = blocks.zip(unit).and_then(|(blocks, unit)| blocks.get(unit as usize));
            // The whole block below a patch has another hash than the entry, which is that of the patched block.
            let fits = told
                .is_some_and(|(number, hash)| *number == block && (patch.is_some() || *hash == entry.hash()));
            if fits {
                destroyed = lineage.domain.destroyed_error(index.epoch);
                return Ok(());
            }
            let what = format!("its footer does not hold block {block} where the map says it is");
            Err(VaultError::malformed(name, FormatError(what)))
        });
        fits?;
        let Some((patch, pages)) = patch else { return destroyed.map_or(Ok(()), Err) };
        vault.at_slot(lineage, &patch.at.pack, patch.at.slot, |found| {
            let SlotAt { name, index, at, .. } = found;
            let (unit, mut first) = (found.unit(patch.at.index, pages), 0);
            for (number, count) in index.patches.get(at).into_iter().flatten() {
                if (unit, *number, *count) == (Some(first), block, pages) {
                    destroyed = destroyed.take().or_else(|| lineage.domain.destroyed_error(index.epoch));
                    return Ok(());
                }
                first += count;
            }
            let what =
                format!("its footer does not hold the patch of block {block} where the map says it is");
            Err(VaultError::malformed(name, FormatError(what)))
        })?;
        destroyed.map_or(Ok(()), Err)
    }
}

impl Inner {
    /// As [`Vault::audit`], with a permit of another kind checked.
    pub(crate) fn audit_all(
        self: &Arc<Self>,
        depth: AuditDepth,
        cancel: &CancelToken,
        found: &mut dyn FnMut(Damage),
    ) -> Result<Audit, VaultError> {
        Auditor::new(self, depth, cancel, found)?.run()
    }
}

impl Vault {
    /// Accounts for every object in the store and checks all but the data of disks.
    ///
    /// `found` is told of everything that is wrong. An object that belongs to nothing is in
    /// [`Accounting::unexplained`] and is told of too.
    pub fn audit(
        &self,
        permit: &Permit<op::Verify>,
        depth: AuditDepth,
        cancel: &CancelToken,
        found: &mut dyn FnMut(Damage),
    ) -> Result<Audit, VaultError> {
        permit.check_vault()?;
        Auditor::new(&self.inner, depth, cancel, found)?.run()
    }
}
