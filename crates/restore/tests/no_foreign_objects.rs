//! Property 4, no vault-wide index on the path: what is done with one VM touches no object of another and lists
//! nothing that grows with the vault.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use vmkeep_testkit::permit;

use common::{back_up, block, counted_store, created, disk_of, opened, restored, settings};
use object_store::memory::InMemory;
use object_store::path::Path;
use vmkeep_disk::Memory;
use vmkeep_model::{CancelToken, DomainId, LineageId};
use vmkeep_restore::{Depth, Silent, verify_point};
use vmkeep_testkit::{CountingStore, RequestKind, snapshot, store_of};
use vmkeep_vault::object_store::ObjectStore;

const VMS: [&str; 3] = ["web", "db", "mail"];
const POINTS: u64 = 4;
const BLOCKS: u64 = 6;

/// Content of `vm` at its point `number`: the first blocks are new in every point, the others never.
fn content(vm: usize, number: u64) -> Vec<u8> {
    let age = |n: u64| if n < 2 { number } else { 0 };
    (0..BLOCKS).flat_map(|n| block(vm as u64 * 1000 + n * 10 + age(n))).collect()
}

/// Three VMs with four points each, made in turn, and the names of the objects that each of them brought.
struct Vaultful {
    memory: Arc<InMemory>,
    store: CountingStore,
    lineages: [LineageId; 3],
    own: [BTreeSet<Path>; 3],
    /// What was there before the first VM.
    common: BTreeSet<Path>,
}

fn names(store: &InMemory) -> BTreeSet<Path> {
    snapshot(store).into_keys().collect()
}

fn vaultful() -> Vaultful {
    let (memory, store) = counted_store();
    let vault = created(&store, 1);
    let common = names(&memory);
    let mut seen = common.clone();
    let (mut lineages, mut own) = ([LineageId([0; 16]); 3], [const { BTreeSet::new() }; 3]);
    for number in 1..=POINTS {
        for (which, vm) in VMS.into_iter().enumerate() {
            let id = back_up(&vault, vm, &Memory::from(content(which, number)));
            assert_eq!(id.number.0, number);
            lineages[which] = id.lineage;
            let now = names(&memory);
            own[which].extend(now.difference(&seen).cloned());
            seen = now;
        }
    }
    store.reset();
    Vaultful { memory, store, lineages, own, common }
}

impl Vaultful {
    /// Fails unless every call since the last look was about the VM `which` or the vault's own record and key.
    fn check_calls(&self, which: usize, what: &str) {
        let calls = self.store.take_log();
        assert!(
            calls.iter().any(|(_, path)| path.as_ref().starts_with("packs/")),
            "{what}: nothing was read"
        );
        let lineage = self.lineages[which].to_string();
        let domain = self.own[which].iter().find_map(|path| path.as_ref().strip_prefix("keys/"));
        let domain = domain.and_then(|rest| rest.split('/').next()).unwrap();
        let lists =
            [format!("keys/{}", DomainId::VAULT), format!("keys/{domain}"), format!("forgets/{lineage}")];
        for (kind, path) in calls {
            let own =
                self.own[which].contains(&path) || path.parts().nth(1).is_some_and(|p| p.as_ref() == lineage);
            let fits = match kind {
                RequestKind::List => lists.contains(&path.to_string()),
                RequestKind::Get | RequestKind::Head => own || self.common.contains(&path),
                _ => false,
            };
            assert!(fits, "{what}: {kind:?} of {path}");
        }
    }
}

#[test]
fn what_is_done_with_one_vm_touches_no_object_of_another() {
    let all = vaultful();
    for (which, vm) in VMS.into_iter().enumerate() {
        for (selector, number) in [("1", 1), ("3", 3), ("latest", POINTS)] {
            let fresh = || opened(Arc::new(all.store.clone()), 9);
            let point = format!("{vm}@{selector}");
            assert!(restored(&fresh(), &point) == content(which, number), "{point}");
            all.check_calls(which, &format!("restore of {point}"));

            for depth in [Depth::Structure, Depth::Data] {
                let open = fresh().point(&point.parse().unwrap()).unwrap();
                let report =
                    verify_point(&permit(), &open, depth, &settings(), &Silent, &CancelToken::new()).unwrap();
                assert!(report.is_clean() && report.blocks == BLOCKS, "{point}: {report:?}");
                all.check_calls(which, &format!("verify of {point}"));
            }
        }
        let vault = opened(Arc::new(all.store.clone()), 9);
        let (old, new) = (disk_of(&vault, &format!("{vm}@1")), disk_of(&vault, &format!("{vm}@latest")));
        let changed: u64 =
            old.differences(&new, &CancelToken::new()).unwrap().iter().map(|(run, _)| run.len).sum();
        assert_eq!(changed, 2);
        all.check_calls(which, &format!("diff of {vm}"));
    }
}

/// The sharper form: the other VMs are not there at all.
#[test]
fn a_vm_restores_from_its_own_objects_alone() {
    let all = vaultful();
    for (which, vm) in VMS.into_iter().enumerate() {
        let mut objects = snapshot(&*all.memory);
        objects.retain(|path, _| all.own[which].contains(path) || all.common.contains(path));
        let vault = opened(Arc::new(store_of(&objects)), 9);
        for number in 1..=POINTS {
            assert!(restored(&vault, &format!("{vm}@{number}")) == content(which, number), "{vm}@{number}");
        }
    }
}

#[test]
fn a_fresh_machine_with_the_vault_and_the_key_restores_everything() {
    let all = vaultful();
    let copy: Arc<dyn ObjectStore> = Arc::new(store_of(&snapshot(&*all.memory)));
    let vault = opened(copy, 9);
    let mut vms: Vec<String> = vault.vms().unwrap().iter().map(ToString::to_string).collect();
    vms.sort();
    assert_eq!(vms, ["db", "mail", "web"]);
    for (which, vm) in VMS.into_iter().enumerate() {
        assert_eq!(vault.points(&vm.parse().unwrap()).unwrap().len() as u64, POINTS);
        for number in 1..=POINTS {
            assert!(restored(&vault, &format!("{vm}@{number}")) == content(which, number), "{vm}@{number}");
        }
    }
}
