//! What goes with a point, against sets of references taken from whole walks; and looking up many blocks and nodes.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ContentHash, PageMask, PointNumber, SessionId};
use vmkeep_vault::map::testing::History;
use vmkeep_vault::map::{BLOCKS_MAX, Cursor, Entry, Freed, Lookup, MapReader, Root, Spot, Visit, freed};
use vmkeep_vault::{PackName, PackPlace, Reference, StorageId};

type Held = BTreeSet<(Spot, Reference)>;

#[derive(Clone, Debug)]
enum Step {
    Store,
    /// New pages over the whole block that is there; the whole block stays.
    Patch,
    Zero,
    Clear {
        len: u64,
    },
}

#[derive(Clone, Debug)]
struct Point {
    steps: BTreeMap<u64, Step>,
    /// The disk shrinks to so many blocks; a later store makes it grow.
    truncate: Option<u64>,
    /// All of it is written anew, as over a damaged base.
    anew: bool,
}

fn block() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0_u64..200,
        2 => 4000_u64..4200,
        2 => (0_u64..8).prop_map(|i| i * 4096),
        1 => (1_u64 << 20)..(1 << 20) + 70,
        1 => (1_u64 << 40)..(1 << 40) + 3,
        1 => BLOCKS_MAX - 3..BLOCKS_MAX,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Store),
        3 => Just(Step::Patch),
        2 => Just(Step::Zero),
        1 => prop_oneof![0_u64..80, 1000_u64..10_000, Just(u64::MAX)].prop_map(|len| Step::Clear { len }),
    ]
}

fn point(steps: std::ops::Range<usize>) -> impl Strategy<Value = Point> {
    let steps = prop::collection::btree_map(block(), step(), steps);
    let truncate = prop::option::weighted(0.15, block());
    (steps, truncate, prop::bool::weighted(0.05)).prop_map(|(steps, truncate, anew)| Point {
        steps,
        truncate,
        anew,
    })
}

/// The first point fills much, later ones change little of it, so that deltas come about.
fn points() -> impl Strategy<Value = Vec<Point>> {
    (point(60..250), prop::collection::vec(point(0..14), 3..9))
        .prop_map(|(first, rest)| std::iter::once(first).chain(rest).collect())
}

fn reference(point: u64, pack: u8, block: u64) -> Reference {
    let session = SessionId(u128::from(point).to_be_bytes());
    let pack = PackPlace { lineage: None, session, name: PackName([pack; 16]) };
    let index = u32::try_from(block % 64).unwrap();
    let slot = u32::try_from(block / 64 % 1_000_000_007).unwrap();
    Reference { at: StorageId { pack, slot, index }, birth: PointNumber(point) }
}

fn write(history: &mut History, base: Root, number: u64, point: &Point) -> Root {
    let block_size = history.block_size;
    // A second reader of the base: what a patch is laid over.
    let before: BTreeMap<u64, Entry> =
        history.reader(base).entries(BlockIndex(0)).map(|e| e.map(|(b, e)| (b.0, e)).unwrap()).collect();
    let base = if point.anew { None } else { base };
    let hash = ContentHash([number.to_le_bytes()[0] % 3; 16]);
    let written = history.write(base, PointNumber(number), |writer, sink| {
        let mut free_from = 0;
        let truncate = point.truncate.unwrap_or(BLOCKS_MAX);
        for (&block, step) in point.steps.range(..truncate) {
            if block < free_from {
                continue;
            }
            let at = BlockIndex(block);
            let below = before.get(&block).and_then(|entry| entry.references().next().copied());
            match (step, below.filter(|_| !point.anew)) {
                (Step::Patch, Some(base)) => {
                    let patch = reference(number, 3, block);
                    let pages = PageMask::from_pages(block_size, [0, 2]).unwrap();
                    writer.set(sink, at, Some(Entry::Patched { base, patch, pages, hash }))?;
                }
                (Step::Store | Step::Patch, _) => {
                    writer.set(sink, at, Some(Entry::Full { at: reference(number, 1, block), hash }))?;
                }
                (Step::Zero, _) => writer.set(sink, at, None)?,
                (Step::Clear { len }, _) => {
                    let run = BlockRun { start: at, len: *len };
                    writer.clear(sink, run)?;
                    free_from = run.end().0;
                }
            }
        }
        match point.truncate.map(|from| from.max(free_from)).filter(|&from| from < BLOCKS_MAX) {
            Some(from) => writer.truncate_from(sink, BlockIndex(from)),
            None => Ok(()),
        }
    });
    written.unwrap().root
}

/// Every reference of a map, by a walk over all of it.
fn held(map: &MapReader<'_>) -> Held {
    let mut held = Held::new();
    let done = map.walk_new(PointNumber(0), |visit| {
        match visit {
            Visit::Node { node, base } => {
                let spot = Spot::Node { level: node.level, index: node.index };
                held.extend([Some(&node.at), base].into_iter().flatten().map(|&at| (spot, at)));
            }
            Visit::Block { block, entry } => {
                held.extend(entry.references().map(|&at| (Spot::Block(block), at)));
            }
            Visit::Unreadable { error, .. } => panic!("{error}"),
        }
        Ok::<_, Infallible>(())
    });
    done.unwrap();
    held
}

fn goes(before: &MapReader<'_>, after: Option<&MapReader<'_>>, since: u64) -> Held {
    let mut found = Held::new();
    let done = freed(before, after, PointNumber(since), |freed| {
        match freed {
            Freed::Reference { spot, reference } => {
                assert!(found.insert((spot, *reference)), "{spot:?} was visited twice");
            }
            Freed::Unreadable { error, .. } => panic!("{error}"),
        }
        Ok::<_, Infallible>(())
    });
    done.unwrap();
    found
}

fn storage(held: &Held) -> BTreeSet<StorageId> {
    held.iter().map(|(_, reference)| reference.at).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_goes_is_what_the_earlier_map_has_and_the_later_has_not(
        points in points(),
        stays in prop::collection::vec(any::<bool>(), 9),
    ) {
        let mut history = History::new(BlockSize::default(), 5);
        let mut roots = vec![None];
        for (number, point) in (1..).zip(&points) {
            roots.push(write(&mut history, roots[roots.len() - 1], number, point));
        }
        let readers: Vec<MapReader<'_>> = roots.iter().map(|root| history.reader(*root)).collect();
        let helds: Vec<Held> = readers.iter().map(held).collect();

        // A reference is in points next to one another, the first of them its birth.
        for reference in helds.iter().flatten() {
            let within: Vec<u64> = (0..).zip(&helds).filter(|(_, held)| held.contains(reference)).map(|(n, _)| n)
                .collect();
            prop_assert_eq!(within[0], reference.1.birth.0);
            prop_assert_eq!(within[within.len() - 1] - within[0] + 1, within.len() as u64);
        }

        for i in 0..readers.len() {
            for j in i..readers.len() {
                let since = i as u64;
                let newer = |held: &Held| -> Held {
                    held.iter().copied().filter(|(_, at)| at.birth.0 > since).collect()
                };
                prop_assert_eq!(goes(&readers[j], None, since), newer(&helds[j]));
                for m in j..readers.len() {
                    let expected: Held = newer(&helds[j]).difference(&helds[m]).copied().collect();
                    prop_assert_eq!(goes(&readers[j], Some(&readers[m]), since), expected);
                }
                // Backwards as well: nothing rests on the later map being made of the earlier one.
                let expected: Held = helds[j].difference(&helds[i]).copied().collect();
                prop_assert_eq!(goes(&readers[j], Some(&readers[i]), 0), expected);
            }
        }

        // Some points go, others stay; the newest always does.
        let newest = points.len();
        let stays = |n: usize| n == newest || stays[n - 1];
        let (mut gone, mut since) = (BTreeSet::new(), 0);
        for n in 1..newest {
            if stays(n) {
                since = n as u64;
            } else {
                gone.extend(storage(&goes(&readers[n], Some(&readers[n + 1]), since)));
            }
        }
        let all = |kept: bool| -> BTreeSet<StorageId> {
            (1..=newest).filter(|&n| stays(n) == kept).flat_map(|n| storage(&helds[n])).collect()
        };
        let unreached: BTreeSet<StorageId> = all(false).difference(&all(true)).copied().collect();
        prop_assert_eq!(gone, unreached);
    }

    #[test]
    fn looking_up_says_what_a_walk_says(points in points(), shuffle in any::<u64>()) {
        let mut history = History::new(BlockSize::default(), 5);
        let mut root = None;
        let (mut blocks, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for (number, point) in (1..).zip(&points) {
            root = write(&mut history, root, number, point);
            for (spot, _) in held(&history.reader(root)) {
                match spot {
                    Spot::Block(block) => blocks.extend([block.0, block.0 ^ 1, block.0 ^ 4096]),
                    Spot::Node { level, index } => {
                        nodes.extend([(level, index), (level, index ^ 1), (level + 1, index), (9, 0)]);
                    }
                }
            }
        }
        let map = history.reader(root);
        let held = held(&map);
        let mut cursor = Cursor::new(map);
        let mut blocks: Vec<u64> = blocks.into_iter().collect();
        let mut nodes: Vec<(u8, u64)> = nodes.into_iter().collect();
        for _ in 0..2 {
            for &block in &blocks {
                let expected = map.entry(BlockIndex(block)).unwrap();
                let found = match cursor.entry(BlockIndex(block)).unwrap() {
                    Lookup::Found(entry) => Some(entry.clone()),
                    Lookup::Absent => None,
                    Lookup::Unknown => panic!("every node can be read"),
                };
                prop_assert_eq!(found, expected);
            }
            for &(level, index) in &nodes {
                let spot = Spot::Node { level, index };
                let expected: BTreeSet<Reference> =
                    held.iter().filter(|(at, _)| *at == spot).map(|(_, reference)| *reference).collect();
                let found = match cursor.node(level, index).unwrap() {
                    Lookup::Found(found) => Some(found),
                    Lookup::Absent => None,
                    Lookup::Unknown => panic!("every node can be read"),
                };
                prop_assert_eq!(found, map.node_at(level, index).unwrap());
                let references = found.map(|(child, base)| [Some(child.at), base]);
                let found: BTreeSet<Reference> = references.into_iter().flatten().flatten().collect();
                prop_assert_eq!(found, expected);
            }
            // The second time in another order.
            blocks.sort_by_key(|block| block.wrapping_mul(shuffle | 1));
            nodes.sort_by_key(|(level, index)| (index ^ u64::from(*level)).wrapping_mul(shuffle | 1));
        }
    }
}

/// A point that stores `blocks`.
fn store(history: &mut History, base: Root, number: u64, blocks: impl IntoIterator<Item = u64>) -> Root {
    let blocks: BTreeSet<u64> = blocks.into_iter().collect();
    let written = history.write(base, PointNumber(number), |writer, sink| {
        blocks.iter().try_for_each(|&block| {
            let entry = Entry::Full { at: reference(number, 1, block), hash: ContentHash([1; 16]) };
            writer.set(sink, BlockIndex(block), Some(entry))
        })
    });
    written.unwrap().root
}

fn reads(history: &History) -> usize {
    history.nodes.reads.load(Ordering::Relaxed)
}

#[test]
fn a_full_node_that_a_delta_is_laid_over_stays() {
    let mut history = History::new(BlockSize::default(), 5);
    let full = store(&mut history, None, 1, 0..64);
    let first = store(&mut history, full, 2, [3]);
    let second = store(&mut history, first, 3, [4]);
    let (full, first, second) = (history.reader(full), history.reader(first), history.reader(second));
    let leaf = Spot::Node { level: 0, index: 0 };
    assert_eq!(held(&first).iter().filter(|(spot, _)| *spot == leaf).count(), 2);
    // With the first only the block that was replaced goes; with the second its own delta, and not what it is over.
    let blocks = |n: u64| (Spot::Block(BlockIndex(n)), reference(1, 1, n));
    assert_eq!(goes(&full, Some(&first), 0), Held::from([blocks(3)]));
    let delta = (leaf, first.root().unwrap().at);
    assert_eq!(goes(&first, Some(&second), 0), Held::from([blocks(4), delta]));
}

#[test]
fn costs_what_changed_whatever_the_size_of_the_disk() {
    // A tebibyte in blocks of 64 KiB, sparse: every 700th block, and some dense places.
    let mut history = History::new(BlockSize::default(), 1000);
    let all = (0..1 << 24).step_by(700).chain(5_000_000..5_001_000);
    let old = store(&mut history, None, 1, all);
    let some = |seed: u64| (0..20).map(move |i| ((seed + i * 7919) * 104_729) % (1 << 24));
    let before = store(&mut history, old, 2, some(1).chain([5_000_100]));
    let after = store(&mut history, before, 3, some(9).chain(some(1).take(10)).chain([5_000_101]));
    let held = |root: Root| held(&history.reader(root));
    let whole = held(old).len();

    for (later, since) in [(after, 1), (after, 0), (before, 0), (old, 1)] {
        // Nodes that only one of the two maps has; where both changed, one has a delta and the other may have its base.
        let nodes = |root: Root| -> Held {
            held(root).into_iter().filter(|(spot, _)| matches!(spot, Spot::Node { .. })).collect()
        };
        let changed = nodes(before).symmetric_difference(&nodes(later)).count();
        let start = reads(&history);
        let gone = goes(&history.reader(before), Some(&history.reader(later)), since).len();
        let cost = reads(&history) - start;
        println!("since {since}: {gone} of {whole} go, {changed} nodes changed, {cost} reads");
        assert!(cost <= 2 * (gone + changed), "{cost} reads for {gone} and {changed}");
        assert!(gone + changed < 300 && whole > 20_000);
    }
}

#[test]
fn many_lookups_in_order_read_every_node_once() {
    let mut history = History::new(BlockSize::default(), 1000);
    let root = store(&mut history, None, 1, (0..100_000).step_by(3));
    let map = history.reader(root);
    let nodes = held(&map).iter().filter(|(spot, _)| matches!(spot, Spot::Node { .. })).count();
    let start = reads(&history);
    let mut cursor = Cursor::new(map);
    for block in 0..100_100 {
        let found = matches!(cursor.entry(BlockIndex(block)).unwrap(), Lookup::Found(_));
        assert_eq!(found, block % 3 == 0 && block < 100_000);
    }
    assert_eq!(reads(&history) - start, nodes);
}

#[test]
fn what_lies_below_a_node_that_cannot_be_read_is_told_and_passed_by() {
    let mut history = History::new(BlockSize::default(), 5);
    let old = store(&mut history, None, 1, (0..64).chain(4096..4200).chain(10_000..10_010));
    let before = store(&mut history, old, 2, [5, 4100, 10_001]);
    let after = store(&mut history, before, 3, [5, 4100, 10_001]);
    let whole = goes(&history.reader(before), Some(&history.reader(after)), 0);
    for lost_map in [before, after] {
        let leaf = history.reader(lost_map).node_at(0, 64).unwrap().unwrap().0;
        let bytes = history.nodes.nodes.remove(&leaf.at.at).unwrap();
        let (mut told, mut found) = (0, Held::new());
        let (before, after) = (history.reader(before), history.reader(after));
        freed(&before, Some(&after), PointNumber(0), |freed| {
            match freed {
                Freed::Reference { spot, reference } => drop(found.insert((spot, *reference))),
                Freed::Unreadable { node, .. } => {
                    assert_eq!((node.level, node.index), (0, 64));
                    told += 1;
                }
            }
            Ok::<_, Infallible>(())
        })
        .unwrap();
        assert_eq!(told, 1);
        assert!(
            found.is_subset(&whole)
                && !found.contains(&(Spot::Block(BlockIndex(4100)), reference(2, 1, 4100)))
        );
        for block in [5, 10_001] {
            assert!(found.contains(&(Spot::Block(BlockIndex(block)), reference(2, 1, block))));
        }
        assert!(
            freed(&before, Some(&after), PointNumber(0), |freed| match freed {
                Freed::Reference { .. } => Ok(()),
                Freed::Unreadable { error, .. } => Err(error),
            })
            .is_err()
        );

        let mut cursor = Cursor::new(history.reader(lost_map));
        assert!(matches!(cursor.entry(BlockIndex(5)).unwrap(), Lookup::Found(_)));
        assert!(cursor.entry(BlockIndex(4100)).is_err());
        assert_eq!(cursor.entry(BlockIndex(4101)).unwrap(), Lookup::Unknown);
        assert_eq!(cursor.child(0, 64).unwrap(), Lookup::Found(leaf));
        assert_eq!(cursor.node(0, 64).unwrap(), Lookup::Unknown);
        assert!(matches!(cursor.entry(BlockIndex(10_001)).unwrap(), Lookup::Found(_)));
        history.nodes.nodes.insert(leaf.at.at, bytes);
    }
}
