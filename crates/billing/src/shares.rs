//! Who fills the vault: every byte of the folder belongs to a VM, or to one of two lines of the vault itself.

use std::collections::BTreeSet;

use vmkeep_model::LineageId;

use crate::error::Error;

/// What is known of one VM's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmBytes {
    /// Which instance.
    pub id: LineageId,
    /// What its points would take if nothing were shared with other VMs.
    pub logical: u64,
    /// What would be freed if it vanished, without metadata.
    pub exclusive: u64,
    /// How much of what it refers to is shared with other VMs.
    pub shared: u64,
    /// Its metadata: maps, points, footers.
    pub overhead: u64,
}

/// What is known of the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultBytes {
    /// Bytes that several VMs refer to, each counted once.
    pub shared: u64,
    /// Garbage that a sweep has not taken yet.
    pub garbage: u64,
    /// Records that belong to no VM.
    pub records: u64,
    /// All bytes in the folder.
    pub folder: u64,
}

/// What one VM answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// What it was made of.
    pub vm: VmBytes,
    /// Its part of the shared bytes, in proportion to what it refers to.
    pub shared_part: u64,
    /// All it answers for: exclusive, shared part and metadata.
    pub bytes: u64,
}

/// The lines, which add up to the bytes in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// One of each VM, in the order given.
    pub vms: Vec<Share>,
    /// Garbage that a sweep has not taken yet.
    pub garbage: u64,
    /// Records that belong to no VM.
    pub records: u64,
}

impl Shares {
    /// The sum of all lines.
    pub fn total(&self) -> u128 {
        let vms: u128 = self.vms.iter().map(|share| u128::from(share.bytes)).sum();
        vms + u128::from(self.garbage) + u128::from(self.records)
    }

    /// What the VMs would take without sharing between them, with the two lines of the vault.
    pub fn total_without_dedup(&self) -> u128 {
        let vms = self.vms.iter().map(|share| u128::from(share.vm.logical) + u128::from(share.vm.overhead));
        vms.sum::<u128>() + u128::from(self.garbage) + u128::from(self.records)
    }
}

/// Divides the bytes of a folder. Shared bytes are divided by the largest remainder, so that no byte is lost; of equal
/// remainders the smaller id has precedence.
///
/// # Errors
/// [`Error::Unexplained`] when the lines do not add up to the folder, also when bytes are shared and nobody refers to
/// them, or when a VM is named twice.
pub fn fair_shares(vms: &[VmBytes], vault: VaultBytes) -> Result<Shares, Error> {
    let weights: u128 = vms.iter().map(|vm| u128::from(vm.shared)).sum();
    let pool = u128::from(vault.shared);
    let mut parts = Vec::with_capacity(vms.len());
    let mut left = pool;
    for vm in vms {
        let product = pool * u128::from(vm.shared);
        let part = product.checked_div(weights).unwrap_or(0);
        let rest = product.checked_rem(weights).unwrap_or(0);
        left -= part;
        parts.push((part, rest));
    }
    let mut order: Vec<usize> = (0..vms.len()).filter(|index| parts[*index].1 > 0).collect();
    order.sort_by(|a, b| parts[*b].1.cmp(&parts[*a].1).then(vms[*a].id.cmp(&vms[*b].id)));
    for index in order {
        if left > 0 {
            parts[index].0 += 1;
            left -= 1;
        }
    }
    let lines = vms.iter().zip(&parts).map(|(vm, (part, _))| {
        let bytes = u128::from(vm.exclusive) + part + u128::from(vm.overhead);
        let shared_part = u64::try_from(*part).ok()?;
        Some(Share { vm: *vm, shared_part, bytes: u64::try_from(bytes).ok()? })
    });
    let lines: Option<Vec<_>> = lines.collect();
    let found = u128::from(vault.folder);
    let unexplained = |accounted| Error::Unexplained { accounted, found };
    let vms_once = vms.iter().map(|vm| vm.id).collect::<BTreeSet<_>>().len() == vms.len();
    let vms = lines.filter(|_| vms_once).ok_or(unexplained(u128::MAX))?;
    let shares = Shares { vms, garbage: vault.garbage, records: vault.records };
    if shares.total() == found { Ok(shares) } else { Err(unexplained(shares.total())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_add_up_to_the_folder_and_parts_are_fair(
            rows in prop::collection::vec((0_u64..1 << 50, 1_u64..1 << 50, 0_u64..1 << 30), 1..40),
            shared in 0_u64..1 << 55, garbage in 0_u64..1 << 50, records in 0_u64..1 << 20,
        ) {
            let vms: Vec<_> = (0_u8..).zip(&rows).map(|(id, &(exclusive, shared, overhead))| VmBytes {
                id: LineageId([id; 16]), logical: exclusive + shared, exclusive, shared, overhead,
            }).collect();
            let own: u64 = vms.iter().map(|vm| vm.exclusive + vm.overhead).sum();
            let folder = own + shared + garbage + records;
            let shares = fair_shares(&vms, VaultBytes { shared, garbage, records, folder }).unwrap();
            prop_assert_eq!(shares.total(), u128::from(folder));
            let weights: u128 = vms.iter().map(|vm| u128::from(vm.shared)).sum();
            for share in &shares.vms {
                let exact = u128::from(shared) * u128::from(share.vm.shared) / weights;
                prop_assert!(u128::from(share.shared_part).abs_diff(exact) <= 1);
            }
            let wrong = fair_shares(&vms, VaultBytes { shared, garbage, records, folder: folder + 1 });
            let refused = matches!(wrong, Err(Error::Unexplained { .. }));
            prop_assert!(refused);
        }
    }

    #[test]
    fn shared_bytes_that_nobody_refers_to_are_unexplained() {
        let vault = VaultBytes { shared: 10, garbage: 0, records: 0, folder: 10 };
        assert!(matches!(fair_shares(&[], vault), Err(Error::Unexplained { accounted: 0, found: 10 })));
    }
}
