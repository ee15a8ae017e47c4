//! Rating: 100,000 VMs for a month, on one thread, priced and rounded.
//!
//! Each VM has a backup a day that stores bytes, and expires the oldest: 94 events. They are made as they are asked for,
//! which is measured too, and each VM's lines are rounded when it is done. `day` and `exact` say how instances and bytes
//! over time become quantities. With `-- --test` there are 1,000 VMs.
#![allow(missing_docs)] // criterion's macros make public functions

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::model::{DiskRole, LineageId, Timestamp};
use vmkeep_billing::{
    Agent, BookDocument, DiskRule, DiskSize, Event, EventKind, Instance, Measure, Month, PriceBook,
    Redundancy, Selection, SizeRule, Statement, Tier, Window, rate_all,
};

const DAYS: u64 = 31;
const EVENTS: u64 = 1 + 3 * DAYS;
const DAY_MS: i64 = 86_400_000;

const BOOK: &str = r#"
name = "invented"
currency = "EUR"
zone = "Europe/Berlin"
gigabyte = "GiB"
rounding = "half-even"
instance = { integration = "HOW", agentless_factor = "0.5", step_gb = 500, step_units = "1", bands = [
    { up_to_gb = 50, units = "0.5" }, { up_to_gb = 500, units = "1" } ] }
storage = { integration = "HOW", archive_days_min = 180 }
soft_delete = { free_days = 14, free = "last" }
price = [
    { meter = "instance", from = "2020-01-01", until = "2026-01-15", price = "10" },
    { meter = "instance", from = "2026-01-15", price = "11" },
    { meter = "vault", redundancy = "lrs", from = "2020-01-01", price = "0.0224" } ]
"#;

fn id(vm: u64) -> LineageId {
    LineageId(u128::from(vm).to_be_bytes())
}

fn instance(vm: u64) -> Arc<Instance> {
    Arc::new(Instance {
        id: id(vm),
        name: format!("vm-{vm}"),
        region: "here".to_owned(),
        redundancy: Redundancy::Lrs,
        size_rule: SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced },
        cost_center: None,
        tags: BTreeMap::new(),
    })
}

/// The `number`th event of a VM.
fn event(vm: u64, number: u64, start: Timestamp) -> Event {
    let day = number.saturating_sub(1) / 3;
    let at = Timestamp(
        start.0 + i64::try_from(day).expect("a month") * DAY_MS + 1000 * i64::from(!vm.is_multiple_of(3600)),
    );
    let bytes = (vm % 100 + 1) << 20;
    let disk = DiskSize {
        role: DiskRole::Os,
        selection: Selection::Included,
        nonzero_bytes: Some((vm % 900) << 30 | day),
        filesystem_bytes: None,
    };
    let kind = match (number, number % 3) {
        (0, _) => EventKind::Protected,
        (_, 1) => EventKind::Backup { disks: vec![disk], agent: Agent::Used },
        (_, 2) => EventKind::Stored { tier: Tier::Vault, bytes },
        _ if day < 7 => EventKind::Restored { bytes },
        _ => EventKind::Removed { tier: Tier::Vault, bytes, since: start },
    };
    Event { instance: id(vm), number, at, kind }
}

fn bill(book: &PriceBook, vms: &[Arc<Instance>], month: Month) -> i128 {
    let (from, until) = Statement::new(book, month).expect("a month of the calendar").period();
    let count = vms.len() as u64;
    let events = (0..count).flat_map(|vm| (0..EVENTS).map(move |number| event(vm, number, from)));
    let place = |id: LineageId| usize::try_from(u128::from_be_bytes(id.0)).expect("a number of a VM");
    let mut total = 0;
    let describe = |event: &Event| vms.get(place(event.instance)).map(AsRef::as_ref);
    rate_all(book, events, Window { from, until }, describe, |instance, usages| {
        let mut statement = Statement::new(book, month)?;
        statement.add(book, &vms[place(instance.id)], &usages)?;
        total += statement.total_minor();
        Ok(())
    })
    .expect("possible events");
    total
}

fn rating(c: &mut Criterion) {
    let brief = std::env::args().any(|arg| arg == "--test");
    let vms: Vec<_> = (0..if brief { 1000 } else { 100_000 }).map(instance).collect();
    let month = Month::new(2026, 1).expect("January");
    let mut group = c.benchmark_group("billing");
    group.throughput(Throughput::Elements(vms.len() as u64 * EVENTS)).sample_size(10);
    for how in ["day", "exact"] {
        let book = BookDocument::from_toml(&BOOK.replace("HOW", how)).and_then(|book| book.check());
        let book = book.expect("a sound book");
        group.bench_function(format!("month of {} VMs, {how}", vms.len()), |b| {
            b.iter(|| {
                let total = bill(&book, &vms, month);
                assert!(total > 0);
                black_box(total)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rating);
criterion_main!(benches);
