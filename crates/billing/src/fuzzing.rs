//! Entry points for a fuzzer: price books and price lists that somebody else wrote, as plain functions that must never panic.
//!
//! The test `fuzz_corpora` replays what was found.

use std::collections::BTreeMap;

use vmkeep_model::{DiskRole, LineageId, Timestamp};

use crate::{
    Agent, BookDocument, ClosedStatement, DiskRule, DiskSize, Event, EventKind, Instance, Measure,
    Redundancy, RetailPrices, Selection, SizeRule, Tier, Window, rate_instance,
};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 3] =
    [("price_book", price_book), ("retail_prices", retail_prices), ("closed_statement", closed_statement)];

/// A price book in TOML or JSON; with one that holds, a little is rated.
pub fn price_book(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for document in [BookDocument::from_toml(text), BookDocument::from_json(text)].into_iter().flatten() {
        let Ok(book) = document.check() else { continue };
        let instance = Instance {
            id: LineageId([1; 16]),
            name: "vm".to_owned(),
            region: "here".to_owned(),
            redundancy: Redundancy::Lrs,
            size_rule: SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced },
            cost_center: None,
            tags: BTreeMap::new(),
        };
        let disk = DiskSize {
            role: DiskRole::Os,
            selection: Selection::Included,
            nonzero_bytes: Some(u64::MAX),
            filesystem_bytes: None,
        };
        let kinds = [
            EventKind::Protected,
            EventKind::Backup { disks: vec![disk], agent: Agent::Agentless },
            EventKind::Stored { tier: Tier::Vault, bytes: u64::MAX },
        ];
        let from = Timestamp(1_767_225_600_000);
        let event = |(number, kind)| Event { instance: instance.id, number, at: from, kind };
        let events: Vec<Event> = (0..).zip(kinds).map(event).collect();
        let until = Timestamp(from.0 + 40 * 86_400_000);
        if let Ok(usages) = rate_instance(&book, &instance, &events, Window { from, until }) {
            assert!(usages.iter().all(|usage| usage.from < usage.until));
        }
    }
}

/// A page of the shape of the Azure Retail Prices API.
pub fn retail_prices(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        drop(RetailPrices::parse(&[text], &[]));
    }
}

/// A closed statement: what reads is written again as it was read.
///
/// # Panics
/// When it is not.
pub fn closed_statement(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(closed) = ClosedStatement::from_json(text) else { return };
    let written = closed.statement().to_json().expect("a statement is JSON");
    let again = ClosedStatement::from_json(&written).expect("what was written reads");
    assert_eq!(closed, again);
}
