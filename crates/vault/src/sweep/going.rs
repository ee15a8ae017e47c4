//! What goes with points: about how many stored bytes, before anything is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_model::{ByteLen, CancelToken, PointNumber, VmName};

use super::liveness::Judge;
use crate::error::VaultError;
use crate::format::PointBody;
use crate::layout::ObjectName;
use crate::lineage::AtNumber;
use crate::place::PackPlace;
use crate::store::ResultExt;
use crate::vault::Vault;

impl Vault {
    /// About how many bytes of disk data go with each point of `vm` in `going`, when all of these go and all others that are not
    /// forgotten stay: the sum is what goes in all. Blocks that are stored together share their bytes evenly; metadata is not counted,
    /// nor is what belongs to another VM.
    ///
    /// Costs what it counts, not what the points hold.
    pub fn bytes_going(
        &self,
        vm: &VmName,
        going: &BTreeSet<PointNumber>,
        cancel: &CancelToken,
    ) -> Result<BTreeMap<PointNumber, ByteLen>, VaultError> {
        let vault = &self.inner;
        let lineage = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let points = self.points(vm)?;
        let counts: Vec<_> = points
            .iter()
            .filter(|p| !p.forgotten || going.contains(&p.id.number))
            .map(|p| p.id.number)
            .collect();
        let judge = Judge::new(vault, &lineage, counts.iter().map(|number| number.0).collect());
        let body = |number: PointNumber| -> Result<Option<Box<PointBody>>, VaultError> {
            let name = ObjectName::Point(lineage.id, number);
            match lineage.at(vault, number.0).or_missing(&name)? {
                AtNumber::Point(body) => Ok(Some(body)),
                _ => Ok(None),
            }
        };
        let mut bytes = BTreeMap::new();
        let mut since = PointNumber(0);
        for (at, number) in counts.iter().enumerate() {
            cancel.check()?;
            if !going.contains(number) {
                since = *number;
                continue;
            }
            let Some(point) = body(*number)? else { continue };
            let next = counts.get(at + 1).map(|next| body(*next)).transpose()?.flatten();
            let mut slots: BTreeMap<(PackPlace, u32), u64> = BTreeMap::new();
            judge.freed_blocks(&point, next.as_deref(), since, |at| {
                if at.pack.lineage.is_none_or(|own| own == lineage.id) {
                    *slots.entry((PackPlace { lineage: None, ..at.pack }, at.slot)).or_default() += 1;
                }
            })?;
            let mut sum = 0_u64;
            for ((pack, slot), units) in slots {
                let (len, of) = vault.at_slot(&lineage, &pack, slot, |at| {
                    let place = usize::try_from(at.at).ok().and_then(|place| at.index.slots.get(place));
                    Ok((place.map_or(0, |slot| slot.len), at.index.units(at.at).len()))
                })?;
                let of = u64::try_from(of).unwrap_or(u64::MAX).max(units);
                // No slot is longer than a few MiB, so this stays far below 2^64.
                sum = sum.saturating_add(len.saturating_mul(units) / of.max(1));
            }
            bytes.insert(*number, ByteLen(sum));
        }
        Ok(bytes)
    }
}
