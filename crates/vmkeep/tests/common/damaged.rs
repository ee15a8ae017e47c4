//! Damage done to a vault on purpose, and what restores then give and refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use vmkeep::disk::BlockRead;
use vmkeep::model::{BlockIndex, BlockSize, ByteOffset, CancelToken, DiskName, VmName, op};
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::restore::RecoveredDisk;
use vmkeep::vault::{LiveDisks, NoLiveDisks, RepairReport, Vault, VaultError};
use vmkeep_testkit::{permit, store_of};

use super::{BLOCK, Disks, point_ref, vm};

pub(crate) type Objects = BTreeMap<Path, Bytes>;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    Missing,
    /// Cut to so many thousandths of its length.
    Truncated(u16),
    /// A bit is another one, so many thousandths into the object.
    Rotten(u16),
}

pub(crate) const HARMS: [Harm; 3] = [Harm::Missing, Harm::Truncated(600), Harm::Rotten(500)];

pub(crate) fn harm(objects: &mut Objects, path: &Path, how: Harm) {
    let Some(bytes) = objects.get(path).cloned() else { return };
    let at = |thousandths: u16| bytes.len() * usize::from(thousandths) / 1000;
    match how {
        Harm::Missing => drop(objects.remove(path)),
        Harm::Truncated(to) => drop(objects.insert(path.clone(), bytes.slice(..at(to)))),
        Harm::Rotten(place) => {
            let mut rotten = bytes.to_vec();
            let place = at(place).min(rotten.len() - 1);
            rotten[place] ^= 0x10;
            objects.insert(path.clone(), rotten.into());
        }
    }
}

pub(crate) fn store(objects: &Objects) -> Arc<InMemory> {
    Arc::new(store_of(objects))
}

pub(crate) fn repair(vault: &Vault, apply: bool) -> RepairReport {
    vault.repair(&permit(), apply, &NoLiveDisks, &CancelToken::new()).unwrap()
}

/// A VM's disks as they are now.
pub(crate) struct Live<'a>(pub(crate) &'a str, pub(crate) &'a Disks);

impl LiveDisks for Live<'_> {
    fn read(&self, vm: &VmName, disk: &DiskName, block: BlockIndex, size: BlockSize, buf: &mut [u8]) -> bool {
        let Some(disk) = self.1.get(disk.as_str()).filter(|_| vm.as_str() == self.0) else { return false };
        let start = usize::try_from(block.0).unwrap() * size.bytes();
        let Some(bytes) = disk.get(start..disk.len().min(start + size.bytes())) else { return false };
        buf[..bytes.len()].copy_from_slice(bytes);
        buf[bytes.len()..].fill(0);
        true
    }
}

pub(crate) fn repair_with(vault: &Vault, live: &dyn LiveDisks, apply: bool) -> RepairReport {
    vault.repair(&permit(), apply, live, &CancelToken::new()).unwrap()
}

/// The byte offsets of the blocks of a point that a restore refuses, by disk, when those it gives are right; `None` when the point does
/// not open.
pub(crate) fn refused(vault: &Vault, point: &str, expected: &Disks) -> Option<BTreeSet<(String, u64)>> {
    let open = match vault.point(&point_ref(point)) {
        Ok(open) => open,
        Err(e) => {
            use VaultError as E;
            let of_names = matches!(
                e,
                E::WrongKey { .. }
                    | E::NoSuchVm(_)
                    | E::NoSuchPoint { .. }
                    | E::Newer { .. }
                    | E::Key { .. }
                    | E::NewestKeys { .. }
            );
            assert!(e.is_damage() || of_names, "{point}: {e:?}");
            return None;
        }
    };
    let mut refused = BTreeSet::new();
    for (name, content) in expected {
        let disk = open.disk(&permit::<op::Restore>(), &name.parse().unwrap()).unwrap();
        let disk = RecoveredDisk::new(disk);
        for (nth, block) in content.chunks(BLOCK).enumerate() {
            let (mut found, offset) = (vec![0; block.len()], (nth * BLOCK) as u64);
            match disk.read_at(ByteOffset(offset), &mut found) {
                Ok(()) => assert!(found == block, "{point} {name} at {offset}: other bytes"),
                Err(_) => drop(refused.insert((name.clone(), offset))),
            }
        }
    }
    Some(refused)
}

/// The same by what a report says.
pub(crate) fn reported(report: &RepairReport, point: &str) -> BTreeSet<(String, u64)> {
    let of_point = report.lost.iter().filter(|lost| lost.point == point_ref(point));
    let mut blocks = BTreeSet::new();
    for lost in of_point {
        let (start, end) = (lost.extent.start().0, lost.extent.end().0);
        assert_eq!(start % BLOCK as u64, 0, "{lost:?}");
        blocks.extend((start..end).step_by(BLOCK).map(|offset| (lost.disk.to_string(), offset)));
    }
    blocks
}

/// Holds the report against what restores do: what it calls lost is what they refuse, and the rest is right. Gives that.
///
/// A newest point that is gone together with the hint that says it was there is as one that was never made: `unseen`.
#[track_caller]
pub(crate) fn assert_told_exactly(
    vault: &Vault,
    report: &RepairReport,
    points: &BTreeMap<String, Disks>,
    unseen: bool,
) -> BTreeMap<String, BTreeSet<(String, u64)>> {
    let mut of_points = BTreeMap::new();
    for (point, expected) in points {
        match refused(vault, point, expected) {
            Some(refused) => {
                assert_eq!(refused, reported(report, point), "{point}: {report:#?}");
                of_points.insert(point.clone(), refused);
            }
            None => {
                // A record that all points of the VM need, maybe, which is no part of this one.
                let is_told = !report.objects.is_empty() || unseen;
                assert!(is_told, "{point}: {report:#?}");
            }
        }
    }
    of_points
}

/// Paths of the objects whose name begins with `prefix`.
pub(crate) fn under(objects: &Objects, prefix: &str) -> Vec<Path> {
    objects.keys().filter(|path| path.as_ref().starts_with(prefix)).cloned().collect()
}

/// Packs of a point's session: data, and first copies of metadata.
pub(crate) fn packs_of(vault: &Vault, objects: &Objects, point: &str) -> (Vec<Path>, Vec<Path>) {
    let session = vault.point(&point_ref(point)).unwrap().point().session.to_string();
    let packs: Vec<Path> =
        objects.keys().filter(|path| path.as_ref().contains(&format!("/{session}/"))).cloned().collect();
    let has_copy = |path: &&Path| objects.contains_key(&copy_of(path));
    let firsts = packs
        .iter()
        .filter(|path| path.as_ref().starts_with("packs/") && path.as_ref().strip_suffix(".copy").is_none());
    let (metadata, data): (Vec<&Path>, Vec<&Path>) = firsts.partition(|path| has_copy(path));
    (data.into_iter().cloned().collect(), metadata.into_iter().cloned().collect())
}

pub(crate) fn copy_of(path: &Path) -> Path {
    Path::from(format!("{path}.copy"))
}

/// Whether the vault still holds the VM.
pub(crate) fn holds(vault: &Vault, name: &str) -> bool {
    vault.vms().is_ok_and(|vms| vms.contains(&vm(name)))
}
