//! Nodes, entries and references by small numbers.

#![allow(clippy::unwrap_used, unreachable_pub)] // shared by tests

use vmkeep_model::{ContentHash, LineageId, PointNumber, SessionId};
use vmkeep_vault::map::{Child, Entry, Places, Slots};
use vmkeep_vault::{PackName, PackPlace, Reference, StorageId};

pub fn pack(n: u8) -> PackPlace {
    let lineage = (n >= 100).then_some(LineageId([n; 16]));
    PackPlace { lineage, session: SessionId([0xa0 ^ n; 16]), name: PackName([n; 16]) }
}

/// The pack that the nodes of this file lie in.
pub fn own() -> PackPlace {
    pack(0)
}

pub fn at(n: u8, slot: u32, index: u32, birth: u64) -> Reference {
    Reference { at: StorageId { pack: pack(n), slot, index }, birth: PointNumber(birth) }
}

pub fn hash(n: u8) -> ContentHash {
    ContentHash([n; 16])
}

pub fn leaf(entries: impl IntoIterator<Item = (u8, Entry)>) -> Slots {
    let mut places = Places::default();
    for (place, entry) in entries {
        places.push(place, entry).unwrap();
    }
    Slots::Leaf(places)
}

pub fn inner(children: impl IntoIterator<Item = (u8, Child)>) -> Slots {
    let mut places = Places::default();
    for (place, child) in children {
        places.push(place, child).unwrap();
    }
    Slots::Inner(places)
}

pub fn full(at: Reference, content: u8) -> Entry {
    Entry::Full { at, hash: hash(content) }
}

pub fn child(at: Reference, level: u8, index: u64, newest: u64, blocks: u64, content: u8) -> Child {
    Child { at, level, index, hash: hash(content), newest_birth: PointNumber(newest), blocks }
}
