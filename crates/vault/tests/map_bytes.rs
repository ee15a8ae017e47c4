//! The stored form of nodes: read back as written, refused when it is wrong.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod map_common;

use map_common::{at, child, full, hash, inner, leaf, own, pack};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use vmkeep_model::{BlockIndex, BlockSize, PageMask, PointNumber};
use vmkeep_vault::map::testing::History;
use vmkeep_vault::map::{
    Base, Child, Decoded, Entry, MapError, Node, Places, Slots, Visit, decode, encode, fuzzing,
};
use vmkeep_vault::{Reference, StorageId};

// --- what is written reads back -------------------------------------------------------------------------------------

fn any_reference() -> impl Strategy<Value = Reference> {
    let pack = prop_oneof![0_u8..4, 100_u8..102];
    let number = || prop_oneof![0_u32..4, any::<u32>().prop_map(|n| n >> 12), Just(u32::MAX - 2000)];
    (pack, number(), number(), 1_u64..400).prop_map(|(n, slot, index, birth)| at(n, slot, index, birth))
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let pages = prop::collection::vec(0_usize..16, 1..16);
    prop_oneof![
        3 => (any_reference(), any::<u8>()).prop_map(|(at, content)| full(at, content)),
        1 => (any_reference(), any_reference(), pages, any::<u8>()).prop_map(|(base, patch, pages, content)| {
            let pages = PageMask::from_pages(BlockSize::default(), pages).unwrap();
            Entry::Patched { base, patch, pages, hash: hash(content) }
        }),
    ]
}

/// Runs of blocks that follow one another in a slot, and single ones.
fn any_leaf() -> impl Strategy<Value = Slots> {
    prop::collection::btree_map(0_u8..64, (any_entry(), 1_u8..5), 1..40).prop_map(|runs| {
        let (mut places, mut free_from) = (Places::default(), 0);
        for (place, (entry, len)) in runs {
            for i in (0..len).filter(|i| place + i >= free_from && place + i < 64) {
                let entry = match &entry {
                    Entry::Full { at, hash } => {
                        let index = at.at.index + u32::from(i);
                        Entry::Full { at: Reference { at: StorageId { index, ..at.at }, ..*at }, hash: *hash }
                    }
                    patched @ Entry::Patched { .. } => patched.clone(),
                };
                places.push(place + i, entry).unwrap();
            }
            free_from = free_from.max(place + len);
        }
        Slots::Leaf(places)
    })
}

fn any_inner() -> impl Strategy<Value = Slots> {
    let any_child = (any_reference(), any::<bool>(), 0_u64..3, 1_u64..=64, any::<u8>());
    prop::collection::btree_map(0_u8..64, any_child, 2..40).prop_map(|children| {
        inner(children.into_iter().map(|(place, (at, is_leaf, later, blocks, content))| {
            let (level, index) =
                if is_leaf { (0, (128 + u64::from(place)) * 64) } else { (1, 128 + u64::from(place)) };
            (place, child(at, level, index, at.birth.0 + later, blocks, content))
        }))
    })
}

fn config() -> ProptestConfig {
    let seeds = FileFailurePersistence::WithSource("proptest-regressions");
    ProptestConfig { failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::with_cases(256) }
}

fn check_round_trip(level: u8, index: u64, slots: Slots, below: Slots, base_at: Reference) {
    let block_size = BlockSize::default();
    let node = Node::new(level, index, slots).unwrap();
    assert_eq!(decode(&encode(&node, own()), own(), block_size), Ok(Decoded::Full(node.clone())));

    let base = Node::new(level, index, below.clone()).unwrap();
    let over = node.clone().over(Base { at: base_at, slots: below });
    let Ok(Decoded::Delta(delta)) = decode(&encode(&over, own()), own(), block_size) else {
        panic!("a delta")
    };
    assert_eq!(*delta.base(), base_at);
    assert_eq!(over.expanded_bytes(), node.expanded_bytes());
    assert!(delta.clone().expand(over.clone()).is_err(), "delta over a delta");
    assert_eq!(delta.expand(base), Ok(over));
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn leaves_read_back(slots in any_leaf(), below in any_leaf(), base in any_reference()) {
        check_round_trip(0, 77, slots, below, base);
    }

    #[test]
    fn inner_nodes_read_back(slots in any_inner(), below in any_inner(), base in any_reference()) {
        check_round_trip(2, 2, slots, below, base);
    }

    #[test]
    fn any_bytes_are_a_node_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..300), form in 0_u8..4) {
        fuzzing::node(&bytes);
        if let [_, first, level, ..] = &mut bytes[..] {
            (*first, *level) = (form, *level % 4);
            fuzzing::node(&bytes);
        }
        fuzzing::change_list(&bytes);
    }

    #[test]
    fn a_node_with_bytes_changed_is_a_node_or_an_error(
        slots in prop_oneof![any_leaf(), any_inner()],
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (level, index) = if matches!(slots, Slots::Leaf(_)) { (0, 77) } else { (2, 2) };
        let mut bytes = encode(&Node::new(level, index, slots).unwrap(), own());
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        let _ = decode(&bytes, own(), BlockSize::default());
        bytes.insert(0, 2);
        fuzzing::node(&bytes);
    }
}

// --- what is wrong is refused ---------------------------------------------------------------------------------------

fn refused(bytes: &[u8]) -> &'static str {
    match decode(bytes, own(), BlockSize::default()) {
        Err(malformed) => malformed.what,
        Ok(node) => panic!("{bytes:02x?} was read as {node:?}"),
    }
}

#[test]
fn every_rule_of_a_node_is_kept() {
    const HASH: [u8; 16] = [7; 16];
    // A leaf of one block at place 5; a level 1 node of leaves 64 and 65 at places 0 and 1.
    let leaf = |run: &[u8]| [&[0, 0, 1, 0, 1][..], run, &HASH].concat();
    let children = |a: &[u8], b: &[u8]| [&[1, 1, 1, 0, 2][..], a, &HASH, b, &HASH].concat();
    let (a, b) = ([0, 0, 64, 0, 0, 0, 3, 4, 64], [1, 0, 65, 0, 0, 1, 3, 3, 1]);
    assert!(decode(&leaf(&[5, 1, 0, 0, 1, 2, 3]), own(), BlockSize::default()).is_ok());
    assert!(decode(&children(&a, &b), own(), BlockSize::default()).is_ok());

    for (bytes, what) in [
        (vec![], "form of a node"),
        (vec![4, 0, 0, 0, 0], "form of a node"),
        (vec![0, 9, 0, 0, 0], "level of a node"),
        (vec![0, 0, 0x81, 0x00, 0, 0], "index of a node"),
        (vec![0, 0, 1, 0, 0], "leaf without blocks or above level 0"),
        (vec![0, 0, 1, 0, 65], "number of runs"),
        (vec![0, 0, 1, 0x80, 2], "number of packs"),
        (vec![0, 0, 1, 1, 2], "flags of a pack"),
        (leaf(&[5, 0, 0, 0, 1, 2, 3]), "length of a run"),
        (leaf(&[63, 2, 0, 0, 1, 2, 3]), "length of a run"),
        (leaf(&[64, 1, 0, 0, 1, 2, 3]), "length of a run"),
        (leaf(&[5, 1, 2, 0, 1, 2, 3]), "kind of a run"),
        (leaf(&[5, 2, 1, 0, 1, 2, 3]), "kind of a run"),
        (leaf(&[5, 1, 0, 1, 1, 2, 3]), "pack of a reference"),
        (leaf(&[5, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x10, 2, 3]), "slot of a reference"),
        (leaf(&[5, 1, 0, 0, 1, 0x80, 0, 3]), "index of a reference"),
        (leaf(&[5, 1, 1, 0, 1, 2, 3, 0, 1, 2, 3, 1, 1]), "length of a page mask"),
        (leaf(&[5, 1, 1, 0, 1, 2, 3, 0, 1, 2, 3, 2, 0, 0]), "page mask"),
        (
            leaf(&[5, 1, 1, 0, 1, 2, 3, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 3, 2, 1, 0]),
            "first page of a patch",
        ),
        ([&leaf(&[5, 1, 0, 0, 1, 2, 3])[..], &[0]].concat(), "bytes after the last field"),
        (leaf(&[5, 1, 0, 0, 1, 2, 3])[..22].to_vec(), "hash"),
        (children(&b, &a), "order of places"),
        (children(&a, &a), "order of places"),
        (children(&a, &[2, 0, 65, 0, 0, 1, 3, 3, 1]), "index of a child outside its place"),
        (children(&a, &[1, 0, 1, 0, 0, 1, 3, 3, 1]), "index of a child outside its place"),
        (children(&a, &[1, 1, 1, 0, 0, 1, 3, 3, 1]), "level or index of a child"),
        (children(&a, &[1, 0, 65, 0, 0, 1, 3, 2, 1]), "newest birth, older than the birth of the child"),
        (children(&a, &[1, 0, 65, 0, 0, 1, 3, 3, 0]), "number of blocks below a child"),
        (children(&a, &[1, 0, 65, 0, 0, 1, 3, 3, 65]), "number of blocks below a child"),
        ([&[1, 1, 1, 0, 1][..], &a, &HASH].concat(), "inner node with fewer than two children or at level 0"),
        (vec![2, 0, 1, 0, 0, 0, 0, 1, 1, 2, 3], "mask of removed places"),
    ] {
        assert_eq!(refused(&bytes), what, "{bytes:02x?}");
    }
}

#[test]
fn a_delta_must_fit_its_base() {
    let base =
        || Node::new(0, 1, leaf([(5, full(at(1, 0, 0, 1), 1)), (6, full(at(1, 0, 1, 1), 2))])).unwrap();
    let delta = |index: u8, removed: u64, runs: &[u8]| {
        let bytes = [&[2, 0, index, 0, 0, 0, 0, 1][..], &removed.to_le_bytes(), runs].concat();
        match decode(&bytes, own(), BlockSize::default()) {
            Ok(Decoded::Delta(delta)) => delta.expand(base()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(delta(1, 0, &[0]).unwrap().blocks(), 2);
    assert_eq!(delta(1, 1 << 5, &[0]).unwrap().blocks(), 1);
    assert_eq!(delta(2, 0, &[0]).unwrap_err().what, "delta over a node of another place");
    assert_eq!(delta(1, 1 << 7, &[0]).unwrap_err().what, "mask of removed places");
    assert_eq!(delta(1, 3 << 5, &[0]).unwrap_err().what, "leaf without blocks or above level 0");
    let place_5 = [&[1, 5, 1, 0, 0, 1, 2, 3][..], &[7; 16]].concat();
    assert_eq!(delta(1, 0, &place_5).unwrap().blocks(), 2);
    assert_eq!(delta(1, 1 << 5, &place_5).unwrap_err().what, "mask of removed places");
}

#[test]
fn blocks_in_a_row_of_different_births_keep_them() {
    let patched = Entry::Patched {
        base: at(1, 1, 1, 9), // younger than its patch: nothing forbids it
        patch: at(1, 1, 1, 8),
        pages: PageMask::from_pages(BlockSize::default(), [3]).unwrap(),
        hash: hash(3),
    };
    let entries = [
        (0, full(at(1, 1, 0, 4), 1)),
        (1, full(at(1, 1, 1, 5), 2)),
        (3, full(at(1, 1, 2, 5), 3)),
        (4, patched),
    ];
    let node = Node::new(0, 0, leaf(entries)).unwrap();
    assert_eq!(node.newest_birth_below(), PointNumber(9));
    assert_eq!(decode(&encode(&node, own()), own(), BlockSize::default()), Ok(Decoded::Full(node)));
}

#[test]
fn a_foreign_node_speaks_of_its_own_lineage() {
    let node = Node::new(0, 0, leaf([(0, full(at(1, 0, 0, 1), 1)), (1, full(at(101, 0, 0, 1), 2))])).unwrap();
    let Ok(Decoded::Full(read)) = decode(&encode(&node, own()), pack(100), BlockSize::default()) else {
        panic!()
    };
    let Slots::Leaf(entries) = read.slots() else { panic!() };
    let lineages = entries.iter().map(|(_, entry)| match entry {
        Entry::Full { at, .. } => at.at.pack.lineage,
        Entry::Patched { .. } => None,
    });
    assert!(lineages.eq([pack(100).lineage, pack(101).lineage]));
}

#[test]
fn a_node_must_be_what_its_parent_says_of_it() {
    let mut history = History::new(BlockSize::default(), 3);
    let written = history.write(None, PointNumber(5), |writer, sink| {
        (0..100).try_for_each(|block| writer.set(sink, BlockIndex(block), Some(full(at(1, 1, 1, 5), 1))))
    });
    let root = written.unwrap().root.unwrap();
    let read = |root: Child| history.reader(Some(root)).entries(BlockIndex(0)).next().unwrap();
    assert!(read(root).is_ok());
    for wrong in [
        Child { level: 2, ..root },
        Child { index: 1, ..root },
        Child { blocks: 99, ..root },
        Child { blocks: 0, ..root },
        Child { newest_birth: PointNumber(6), ..root },
        Child { newest_birth: PointNumber(4), ..root },
        Child { hash: hash(0), ..root },
    ] {
        assert!(read(wrong).is_err_and(|error| error.is_corrupt()), "{wrong:?}");
    }
    let nowhere = Child { at: at(9, 9, 9, 5), ..root };
    assert!(matches!(read(nowhere), Err(MapError::Source { .. })));
}

/// References are not covered by the hash but by the sealing of the pack, so a change of those alone may pass here.
#[test]
fn a_flipped_bit_is_noticed_unless_it_only_moves_a_reference() {
    let mut history = History::new(BlockSize::default(), 3);
    let mut root = None;
    for point in 1..4_u8 {
        let step = [1, 17, 40][usize::from(point) - 1];
        let write = |writer: &mut vmkeep_vault::map::MapWriter<'_>,
                     sink: &mut vmkeep_vault::map::testing::MemorySink| {
            (0..130_u64).chain(5000..5010).step_by(step).try_for_each(|block| {
                let content = full(at(point, 0, u32::try_from(block).unwrap(), point.into()), point);
                writer.set(sink, BlockIndex(block), Some(content))
            })
        };
        root = history.write(root, PointNumber(point.into()), write).unwrap().root;
    }
    let (mut nodes, mut bases) = (Vec::new(), 0);
    let walk: Result<(), MapError> = history.reader(root).walk_new(PointNumber(0), |visit| {
        if let Visit::Node { node, base } = visit {
            nodes.push(*node);
            bases += usize::from(base.is_some());
        }
        Ok(())
    });
    walk.unwrap();
    assert!(bases >= 2 && nodes.len() >= 5, "{bases} deltas of {} nodes", nodes.len());

    let content = |history: &History, node: Child| -> Result<Vec<_>, MapError> {
        let entries = history.reader(Some(node)).entries(BlockIndex(0));
        entries.map(|entry| entry.map(|(block, entry)| (block, entry.hash()))).collect()
    };
    let mut noticed = 0;
    for node in nodes {
        let expected = content(&history, node).unwrap();
        let stored = history.nodes.nodes[&node.at.at].clone();
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            history.nodes.nodes.insert(node.at.at, flipped.into());
            match content(&history, node) {
                Ok(found) => assert_eq!(found, expected, "bit {bit} of {node:?}"),
                Err(_) => noticed += 1,
            }
        }
        history.nodes.nodes.insert(node.at.at, stored);
    }
    assert!(noticed > 1000);
}
