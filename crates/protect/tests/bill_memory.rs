//! Memory of a bill does not grow with the number of events that it rests on.
#![allow(clippy::unwrap_used)] // in helpers too

use std::sync::Arc;

use object_store::memory::InMemory;
use vmkeep_billing::{
    BookDocument, DiskRule, Instance, Measure, Month, PriceBook, Redundancy, SizeRule, Statement,
};
use vmkeep_envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep_heapwatch::{HeapWatch, peak_of};
use vmkeep_model::{LineageId, ManualClock, Timestamp, VmName, op};
use vmkeep_protect::{Bills, Ledger};
use vmkeep_testkit::{PRICE_BOOK, permit};
use vmkeep_vault::{Ports, Vault};

#[global_allocator]
static HEAP: HeapWatch = HeapWatch;

/// 2026-01-01.
const BEGIN: i64 = 1_767_225_600_000;
const HOUR: i64 = 3_600_000;

/// A vault in which `readings` of one VM are noted, one each hour.
fn vault(readings: i64) -> Vault {
    let clock = Arc::new(ManualClock::new(Timestamp(BEGIN)));
    let key = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
    let ports = Ports { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(1)) };
    let vault = Vault::create(Arc::new(InMemory::new()), key, ports).unwrap();
    let lineage = LineageId([7; 16]);
    for n in 1..=readings {
        let at = BEGIN + n * HOUR;
        clock.set(Timestamp(at));
        let note = format!(
            r#"{{"version":1,"reading":{{"vm":"web","lineage":"{lineage}","backups":[{{"point":{n},"at":{at},"#
        ) + &format!(
            r#""disks":[{{"role":"os","nonzero":{n}}}],"bytes":100}}],"bytes":{},"protected":true,"state":null}}}}"#,
            n * 100
        );
        vault.note(&permit::<op::Backup>(), "metering", note.as_bytes()).unwrap();
    }
    vault
}

fn bill(vault: &Vault, book: &PriceBook) -> (u64, Statement) {
    let ledger = Ledger::open(vault).unwrap();
    let describe = |id, vm: &VmName| {
        Arc::new(Instance {
            id,
            name: vm.to_string(),
            region: "here".to_owned(),
            redundancy: Redundancy::Lrs,
            size_rule: SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced },
            cost_center: None,
            tags: std::collections::BTreeMap::new(),
        })
    };
    let month: Month = "2026-01".parse().unwrap();
    let statement = Bills::open(vault).unwrap().statement(&ledger, book, describe, month).unwrap();
    (ledger.metered().map(|(_, metered)| metered.events).sum(), statement)
}

#[test]
fn a_bill_of_many_events_takes_no_more_memory_than_one_of_few() {
    let book = BookDocument::from_toml(PRICE_BOOK).unwrap().check().unwrap();
    let [few, many] = [30, 3_000].map(|readings| {
        let vault = vault(readings);
        let ((events, statement), peak) = peak_of(|| bill(&vault, &book));
        assert!(statement.total_minor() > 0);
        println!("{events} events: {peak} bytes at once");
        (events, peak)
    });
    assert!(many.0 > 90 * few.0, "{few:?} {many:?}");
    assert!(many.1 < few.1 * 3 / 2, "{few:?} {many:?}");
}
