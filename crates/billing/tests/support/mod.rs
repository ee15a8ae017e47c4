//! A book, an instance and a short way to write events.
#![allow(dead_code)] // each test uses its part

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkeep_billing::{
    Agent, BookDocument, DiskRule, DiskSize, Event, EventKind, Instance, Measure, PriceBook, Redundancy,
    Selection, SizeRule, Tier, Usage, Window, rate_instance,
};
use vmkeep_model::{DiskRole, LineageId, Timestamp};

pub(crate) const HOUR: i64 = 3_600_000;
pub(crate) const DAY: i64 = 24 * HOUR;
pub(crate) const GIB: u64 = 1 << 30;
/// 2026-01-01T00:00:00Z.
pub(crate) const JANUARY: i64 = 1_767_225_600_000;

pub(crate) const HEAD: &str = r#"
name = "invented"
currency = "EUR"
zone = "UTC"
gigabyte = "GiB"
rounding = "half-even"
instance = { integration = "exact", agentless_factor = "0.5", step_gb = 500, step_units = "1", bands = [
    { up_to_gb = 50, units = "0.5" }, { up_to_gb = 500, units = "1" } ] }
storage = { integration = "exact", archive_days_min = 180 }
soft_delete = { free_days = 14, free = "last" }
"#;

pub(crate) const PRICES: &str = r#"
[[price]]
meter = "instance"
from = "2020-01-01"
price = "10"
[[price]]
meter = "vault"
redundancy = "lrs"
from = "2020-01-01"
price = "0.0224"
[[price]]
meter = "snapshot"
from = "2020-01-01"
price = "0.05"
[[price]]
meter = "archive"
redundancy = "lrs"
from = "2020-01-01"
price = "0.002"
"#;

pub(crate) fn document(text: &str) -> BookDocument {
    BookDocument::from_toml(text).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn book() -> PriceBook {
    document(&format!("{HEAD}{PRICES}")).check().unwrap_or_else(|e| panic!("{e}"))
}

/// The book with words of its head replaced.
pub(crate) fn book_with(replace: &[(&str, &str)], more: &str) -> PriceBook {
    let mut text = format!("{HEAD}{PRICES}{more}");
    for (from, to) in replace {
        assert!(text.contains(from), "{from} is not in the book");
        text = text.replace(from, to);
    }
    document(&text).check().unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn instance(id: u8) -> Arc<Instance> {
    Arc::new(Instance {
        id: LineageId([id; 16]),
        name: format!("vm-{id}"),
        region: "westeurope".to_owned(),
        redundancy: Redundancy::Lrs,
        size_rule: SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced },
        cost_center: (id % 2 == 1).then(|| format!("cc{}", id % 3)),
        tags: BTreeMap::from([("team".to_owned(), format!("team {}", id % 4))]),
    })
}

pub(crate) fn disk(bytes: u64) -> DiskSize {
    DiskSize {
        role: DiskRole::Os,
        selection: Selection::Included,
        nonzero_bytes: Some(bytes),
        filesystem_bytes: None,
    }
}

pub(crate) fn backup(bytes: u64) -> EventKind {
    EventKind::Backup { disks: vec![disk(bytes)], agent: Agent::Used }
}

pub(crate) fn stored(bytes: u64) -> EventKind {
    EventKind::Stored { tier: Tier::Vault, bytes }
}

/// Numbers events in the order given.
pub(crate) fn events(id: u8, kinds: &[(i64, EventKind)]) -> Vec<Event> {
    let event = |(number, (at, kind)): (u64, &(i64, EventKind))| Event {
        instance: LineageId([id; 16]),
        number,
        at: Timestamp(*at),
        kind: kind.clone(),
    };
    (0..).zip(kinds).map(event).collect()
}

pub(crate) fn window(from: i64, until: i64) -> Window {
    Window { from: Timestamp(from), until: Timestamp(until) }
}

pub(crate) fn rate(book: &PriceBook, events: &[Event], window: Window) -> Vec<Usage> {
    rate_instance(book, &instance(events[0].instance.0[0]), events, window).unwrap_or_else(|e| panic!("{e}"))
}
