//! The stored form of nodes and change lists: byte for byte what it was in version 1.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod map_common;

use std::path::Path;

use map_common::{at, child, full, hash, inner, leaf, own};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, PageMask};
use vmkeep_vault::map::{
    Base, ChangeKind, ChangeListBuilder, ChangedRun, Decoded, Entry, Node, Slots, decode, encode,
};

/// Compares with `tests/golden/<name>.bin`. With `VMKEEP_BLESS=1` a missing or other file is written instead.
fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.bin"));
    if std::env::var_os("VMKEEP_BLESS").is_some_and(|v| v == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let stored = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(stored == bytes, "{name} is not stored as it was in version 1:\n{bytes:02x?}");
}

fn golden_leaf() -> Slots {
    leaf([
        (0, full(at(1, 3, 0, 1), 0x10)),
        (1, full(at(1, 3, 1, 1), 0x11)),
        (2, full(at(1, 3, 2, 1), 0x12)),
        (3, full(at(1, 4, 0, 1), 0x13)),
        (9, full(at(2, 200, 7, 300), 0x19)),
        (20, full(at(100, 0, 0, 2), 0x20)),
        (63, full(at(0, 1, 70_000, 2), 0x3f)),
    ])
}

fn golden_inner() -> Slots {
    inner([
        (0, child(at(0, 2, 5, 7), 0, 0, 7, 1, 0x30)),
        (1, child(at(1, 2, 6, 3), 1, 1, 9, 4096, 0x31)),
        (63, child(at(1, 2, 7, 4), 0, 63 * 64 + 2, 4, 64, 0x32)),
    ])
}

#[test]
fn full_nodes_are_stored_as_ever() {
    let node = Node::new(0, 4711, golden_leaf()).unwrap();
    golden("map-leaf", &encode(&node, own()));
    golden("map-leaf.expanded", &node.expanded_bytes());
    let node = Node::new(2, 0, golden_inner()).unwrap();
    golden("map-inner", &encode(&node, own()));
    golden("map-inner.expanded", &node.expanded_bytes());
}

#[test]
fn delta_nodes_are_stored_as_ever() {
    let Slots::Leaf(old) = golden_leaf() else { panic!("a leaf") };
    // Places 9 and 63 removed, 20 replaced, 21 added.
    let kept = old.iter().filter(|(place, _)| *place < 9).map(|(place, entry)| (place, entry.clone()));
    let new = [(20, full(at(3, 1, 0, 301), 0x40)), (21, full(at(3, 1, 1, 301), 0x41))];
    let changed = leaf(kept.chain(new));
    let base = Base { at: at(4, 9, 1, 300), slots: golden_leaf() };
    let node = Node::new(0, 4711, changed).unwrap().over(base);
    golden("map-leaf-delta", &encode(&node, own()));

    let slots = inner([
        (0, child(at(0, 2, 5, 7), 0, 0, 7, 1, 0x30)),
        (63, child(at(0, 0, 0, 10), 0, 63 * 64 + 2, 10, 63, 0x33)),
    ]);
    let base = Base { at: at(1, 9, 1, 9), slots: golden_inner() };
    let node = Node::new(2, 0, slots).unwrap().over(base);
    golden("map-inner-delta", &encode(&node, own()));
}

#[test]
fn patched_entries_are_stored_as_ever() {
    for (name, block_size, pages) in [
        ("map-patched-16k", BlockSize::MIN, vec![0, 3]),
        ("map-patched-64k", BlockSize::default(), vec![1, 2, 15]),
        ("map-patched-4m", BlockSize::MAX, vec![0, 1023]),
    ] {
        let pages = PageMask::from_pages(block_size, pages).unwrap();
        let entry = |content| Entry::Patched {
            base: at(1, 3, 2, 1),
            patch: at(2, 0, 129, 5),
            pages: pages.clone(),
            hash: hash(content),
        };
        let node = Node::new(0, 0, leaf([(5, entry(1)), (6, entry(2))])).unwrap();
        let bytes = encode(&node, own());
        golden(name, &bytes);
        assert_eq!(decode(&bytes, own(), block_size), Ok(Decoded::Full(node)));
    }
}

#[test]
fn change_lists_are_stored_as_ever() {
    let mut builder = ChangeListBuilder::new();
    for (kind, start, len) in [
        (ChangeKind::Data, 0, 2),
        (ChangeKind::Data, 2, 1),
        (ChangeKind::Zero, 3, 130),
        (ChangeKind::Data, 100_000, 1),
        (ChangeKind::Dropped, 1_000_000, 1 << 30),
    ] {
        let change = ChangedRun { kind, run: BlockRun { start: BlockIndex(start), len } };
        assert_eq!(builder.push(change), Ok(None));
    }
    golden("change-list", &builder.finish().unwrap());
}
