//! What the points that count refer to, found by walking all of them: slow and plain, for tests to compare with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_model::{PointNumber, VmName};

use crate::error::VaultError;
use crate::format::PointBody;
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::map::Visit;
use crate::pack::second_copy;
use crate::place::PackPlace;
use crate::point::OpenPoint;
use crate::read::map_error;
use crate::store::ResultExt;
use crate::vault::{Inner, Vault};

/// Slots by the pack they were born in and their number there, each with whether it is metadata.
pub(super) type Reached = BTreeMap<(PackPlace, u32), bool>;

/// Adds every slot that a point refers to.
pub(super) fn reach(
    vault: &Arc<Inner>,
    lineage: &Lineage,
    point: &PointBody,
    reached: &mut Reached,
) -> Result<(), VaultError> {
    let open = OpenPoint::known(vault, lineage, Box::new(point.clone()), false)?;
    for name in open.stored_disks() {
        let disk = open.reader(name)?;
        disk.map()?.walk_new(PointNumber(0), |visit| {
            match visit {
                Visit::Node { node, base } => {
                    for reference in [Some(&node.at), base].into_iter().flatten() {
                        reached.insert((reference.at.pack, reference.at.slot), true);
                    }
                }
                Visit::Block { entry, .. } => {
                    for reference in entry.references() {
                        reached.insert((reference.at.pack, reference.at.slot), false);
                    }
                }
                Visit::Unreadable { error, .. } => return Err(map_error(&lineage.vm.to_string(), error)),
            }
            Ok(())
        })?;
    }
    let lists = point.change_lists.iter().flat_map(|(_, places)| places);
    for (place, slot) in lists.chain(&point.copy) {
        reached.insert((place.to_place(), *slot), true);
    }
    Ok(())
}

impl Vault {
    /// The names of all packs that a point of `vm` refers to, second copies among them; forgotten points count, retired
    /// ones do not. Walks every map from top to bottom.
    #[doc(hidden)]
    pub fn reachable(&self, vm: &VmName) -> Result<BTreeSet<String>, VaultError> {
        let vault = &self.inner;
        let lineage = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let head = lineage.head(vault)?;
        let mut reached = Reached::new();
        for number in 1..=head.top {
            if head.retired.as_ref().is_some_and(|retired| retired.holds(number)) {
                continue;
            }
            let name = ObjectName::Point(lineage.id, PointNumber(number));
            if let AtNumber::Point(point) = lineage.at(vault, number).or_missing(&name)? {
                reach(vault, &lineage, &point, &mut reached)?;
            }
        }
        let mut names = BTreeSet::new();
        for ((pack, slot), metadata) in reached {
            let name = ObjectName::pack(lineage.id, &holder(vault, &lineage, &pack, slot)?);
            if metadata {
                names.insert(second_copy(&name).to_string());
            }
            names.insert(name.to_string());
        }
        Ok(names)
    }
}

/// The pack in which a slot lies that was born in `birth`.
fn holder(vault: &Inner, lineage: &Lineage, birth: &PackPlace, slot: u32) -> Result<PackPlace, VaultError> {
    vault.at_slot(lineage, birth, slot, |at| Ok(at.pack))
}
