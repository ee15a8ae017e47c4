//! The map against a plain ordered map: whatever is written, over however many points.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ContentHash, PageMask, PointNumber, SessionId};
use vmkeep_vault::map::testing::{History, MemoryNodes, MemorySink, TestHasher};
use vmkeep_vault::map::{
    BLOCKS_MAX, Change, Child, Entry, MapError, MapReader, MapWriter, Root, Visit, diff,
};
use vmkeep_vault::{PackName, PackPlace, Reference, StorageId};

type Model = BTreeMap<u64, Entry>;

#[derive(Clone, Debug)]
enum Step {
    /// New data; the same content byte is the same data.
    Store {
        content: u8,
    },
    /// A patch of pages over a block of an older point.
    Patch {
        content: u8,
        age: u64,
    },
    /// What was there before, said again.
    Again,
    Zero,
    Clear {
        len: u64,
    },
}

fn block() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0_u64..200,
        2 => 4000_u64..4200,
        2 => (0_u64..8).prop_map(|i| i * 4096),
        1 => (1_u64 << 20)..(1 << 20) + 70,
        1 => (1_u64 << 40)..(1 << 40) + 3,
        1 => BLOCKS_MAX - 3..BLOCKS_MAX,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..6).prop_map(|content| Step::Store { content }),
        2 => (0_u8..6, 0_u64..4).prop_map(|(content, age)| Step::Patch { content, age }),
        1 => Just(Step::Again),
        2 => Just(Step::Zero),
        1 => prop_oneof![0_u64..80, 1000_u64..10_000, Just(u64::MAX)].prop_map(|len| Step::Clear { len }),
    ]
}

#[derive(Clone, Debug)]
struct Point {
    steps: BTreeMap<u64, Step>,
    truncate: Option<u64>,
}

fn point() -> impl Strategy<Value = Point> {
    let steps = prop::collection::btree_map(block(), step(), 0..40);
    (steps, prop::option::weighted(0.1, block())).prop_map(|(steps, truncate)| Point { steps, truncate })
}

fn hash(content: u8) -> ContentHash {
    ContentHash([content; 16])
}

fn reference(point: u64, pack: u8, slot: u32, index: u64) -> Reference {
    let session = SessionId(u128::from(point).to_be_bytes());
    let pack = PackPlace { lineage: None, session, name: PackName([pack; 16]) };
    let index = u32::try_from(index % 64).unwrap();
    Reference { at: StorageId { pack, slot, index }, birth: PointNumber(point) }
}

/// Applies a point to the map and to the model.
fn write(
    history: &mut History,
    base: Root,
    model: &mut Model,
    number: u64,
    point: &Point,
) -> Result<Root, MapError> {
    let block_size = history.block_size;
    let written = history.write(base, PointNumber(number), |writer, sink| {
        let mut free_from = 0;
        let truncate = point.truncate.unwrap_or(BLOCKS_MAX);
        for (&block, step) in point.steps.range(..truncate) {
            if block < free_from {
                continue;
            }
            let at = BlockIndex(block);
            let entry = match step {
                Step::Store { content } => {
                    Some(Entry::Full { at: reference(number, 1, 7, block), hash: hash(*content) })
                }
                Step::Patch { content, age } => Some(Entry::Patched {
                    base: reference(number.saturating_sub(*age).max(1), 2, 0, block),
                    patch: reference(number, 3, 1, block),
                    pages: PageMask::from_pages(block_size, [usize::from(*content), 0]).unwrap(),
                    hash: hash(*content),
                }),
                Step::Again => model.get(&block).cloned(),
                Step::Zero => None,
                Step::Clear { len } => {
                    let run = BlockRun { start: at, len: *len };
                    writer.clear(sink, run)?;
                    free_from = run.end().0;
                    model.retain(|&b, _| b < block || b >= free_from);
                    continue;
                }
            };
            writer.set(sink, at, entry.clone())?;
            match entry {
                Some(entry) => model.insert(block, entry),
                None => model.remove(&block),
            };
        }
        if let Some(from) = point.truncate.map(|from| from.max(free_from)).filter(|&from| from < BLOCKS_MAX) {
            writer.truncate_from(sink, BlockIndex(from))?;
            model.retain(|&b, _| b < from);
        }
        Ok(())
    })?;
    Ok(written.root)
}

fn check_equal(history: &History, root: Root, model: &Model) -> Result<(), TestCaseError> {
    let reader = history.reader(root);
    let read: Vec<_> = reader.entries(BlockIndex(0)).collect::<Result<_, _>>().unwrap();
    let expected: Vec<_> = model.iter().map(|(&b, e)| (BlockIndex(b), e.clone())).collect();
    prop_assert_eq!(&read, &expected);
    prop_assert_eq!(root.map_or(0, |root| root.blocks), model.len() as u64);
    for probe in model.keys().flat_map(|&b| [b, b + 1, b.saturating_sub(1), b + 4096]) {
        let entry = reader.entry(BlockIndex(probe)).unwrap();
        prop_assert_eq!(entry.as_ref(), model.get(&probe));
        let first = reader.entries(BlockIndex(probe)).next().transpose().unwrap();
        prop_assert_eq!(first.map(|(b, _)| b.0), model.range(probe..).next().map(|(&b, _)| b));
    }
    Ok(())
}

fn check_diff(history: &History, a: (Root, &Model), b: (Root, &Model)) -> Result<(), TestCaseError> {
    let mut expected = BTreeMap::new();
    for &block in a.1.keys().chain(b.1.keys()) {
        let (before, after) = (a.1.get(&block).cloned(), b.1.get(&block).cloned());
        if before.as_ref().map(Entry::hash) != after.as_ref().map(Entry::hash) {
            expected.insert(block, (before, after));
        }
    }
    let walk = diff(&history.reader(a.0), &history.reader(b.0)).unwrap();
    let found: Vec<_> =
        walk.clone().map(|d| d.map(|d| (d.block.0, (d.before, d.after)))).collect::<Result<_, _>>().unwrap();
    let runs: Vec<(BlockRun, Change)> = walk.runs().collect::<Result<_, _>>().unwrap();
    let of_runs: Vec<_> = runs.iter().flat_map(|(run, change)| run.iter().map(|b| (b.0, *change))).collect();
    let changes: Vec<_> = expected
        .iter()
        .map(|(&b, sides)| match sides {
            (None, _) => (b, Change::Appeared),
            (_, None) => (b, Change::Vanished),
            _ => (b, Change::Replaced),
        })
        .collect();
    prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    prop_assert_eq!(of_runs, changes);
    for pair in runs.windows(2) {
        prop_assert!(pair[0].1 != pair[1].1 || pair[0].0.end() < pair[1].0.start);
    }
    Ok(())
}

/// Every reference, newer than `since`, that a walk comes by, and the nodes in order.
fn walk(history: &History, root: Root, since: u64) -> (Vec<Reference>, Vec<Child>, Model) {
    let (mut references, mut nodes, mut blocks) = (Vec::new(), Vec::new(), Model::new());
    let result: Result<(), MapError> = history.reader(root).walk_new(PointNumber(since), |visit| {
        match visit {
            Visit::Node { node, base } => {
                nodes.push(*node);
                references.extend([Some(node.at), base.copied()].into_iter().flatten());
            }
            Visit::Block { block, entry } => {
                blocks.insert(block.0, entry.clone());
                references.extend(entry.references());
            }
            Visit::Unreadable { error, .. } => return Err(error),
        }
        Ok(())
    });
    result.unwrap();
    references.retain(|reference| reference.birth > PointNumber(since));
    (references, nodes, blocks)
}

fn shape(nodes: &[Child]) -> Vec<(u8, u64, ContentHash, u64)> {
    nodes.iter().map(|node| (node.level, node.index, node.hash, node.blocks)).collect()
}

fn config() -> ProptestConfig {
    let seeds = FileFailurePersistence::WithSource("proptest-regressions");
    ProptestConfig { failure_persistence: Some(Box::new(seeds)), ..ProptestConfig::with_cases(256) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_point_stays_what_it_was(
        points in prop::collection::vec(point(), 1..7), nodes_per_pack in 1_usize..12
    ) {
        let mut history = History::new(BlockSize::default(), nodes_per_pack);
        let (mut root, mut model) = (None, Model::new());
        let mut states = vec![(root, model.clone())];
        for (point, number) in points.iter().zip(1..) {
            root = write(&mut history, root, &mut model, number, point).unwrap();
            check_equal(&history, root, &model)?;
            states.push((root, model.clone()));
        }
        for (root, model) in &states {
            check_equal(&history, *root, model)?;
            let (all, nodes, blocks) = walk(&history, *root, 0);
            prop_assert_eq!(&blocks, model);
            for since in 1..=states.len() as u64 {
                let newer: Vec<_> = all.iter().copied().filter(|r| r.birth.0 > since).collect();
                let (found, visited, blocks) = walk(&history, *root, since);
                prop_assert_eq!(found, newer);
                let newer = model.iter().filter(|(_, entry)| entry.newest_birth().0 > since);
                prop_assert!(blocks.iter().eq(newer));
                prop_assert!(visited.iter().all(|node| node.newest_birth.0 > since));
            }

            // Written at once, with other references, it is the same tree.
            let mut fresh = History::new(BlockSize::default(), 5);
            let again = fresh.write(None, PointNumber(1), |writer, sink| {
                model.iter().try_for_each(|(&block, entry)| {
                    let entry = Entry::Full { at: reference(1, 9, 9, block), hash: entry.hash() };
                    writer.set(sink, BlockIndex(block), Some(entry))
                })
            }).unwrap();
            prop_assert_eq!(again.root.map(|r| r.hash), root.map(|r| r.hash));
            prop_assert_eq!(shape(&walk(&fresh, again.root, 0).1), shape(&nodes));
        }
        for a in &states {
            for b in &states {
                check_diff(&history, (a.0, &a.1), (b.0, &b.1))?;
            }
        }
    }

    #[test]
    fn saying_again_what_is_there_writes_nothing(point in point()) {
        let mut history = History::new(BlockSize::default(), 4);
        let mut model = Model::new();
        let root = write(&mut history, None, &mut model, 1, &point).unwrap();
        let again = history.write(root, PointNumber(2), |writer, sink| {
            for (&block, entry) in &model {
                writer.set(sink, BlockIndex(block), Some(entry.clone()))?;
            }
            Ok(())
        }).unwrap();
        prop_assert_eq!(again.node_count, 0);
        prop_assert_eq!(again.root, root);
    }
}

fn dense(history: &mut History, blocks: u64) -> Root {
    let written = history.write(None, PointNumber(1), |writer, sink| {
        (0..blocks).try_for_each(|block| {
            let entry = Entry::Full { at: reference(1, 1, 0, block), hash: hash(1) };
            writer.set(sink, BlockIndex(block), Some(entry))
        })
    });
    written.unwrap().root
}

fn reads(history: &History) -> usize {
    history.nodes.reads.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn clearing_reads_the_two_edges_and_nothing_between() {
    let mut history = History::new(BlockSize::default(), 1000);
    let root = dense(&mut history, 300_000);
    let before = reads(&history);
    let run = BlockRun::between(BlockIndex(70), BlockIndex(299_990));
    let cleared = history.write(root, PointNumber(2), |writer, sink| writer.clear(sink, run)).unwrap();
    assert_eq!(cleared.root.unwrap().blocks, 80);
    assert!(reads(&history) - before <= 8, "{}", reads(&history) - before);

    let gone = history.write(root, PointNumber(2), |w, s| w.truncate_from(s, BlockIndex(0))).unwrap();
    assert_eq!((gone.root, gone.node_count), (None, 0));
}

#[test]
fn comparing_reads_what_differs() {
    let mut history = History::new(BlockSize::default(), 1000);
    let root = dense(&mut history, 300_000);
    let entry = Entry::Full { at: reference(2, 1, 0, 0), hash: hash(2) };
    let changed =
        history.write(root, PointNumber(2), |w, s| w.set(s, BlockIndex(150_000), Some(entry))).unwrap();
    let before = reads(&history);
    let found: Vec<_> = diff(&history.reader(root), &history.reader(changed.root)).unwrap().collect();
    assert_eq!(found.len(), 1);
    // Four levels on each side, and the bases of deltas.
    assert!(reads(&history) - before <= 12, "{}", reads(&history) - before);
}

#[test]
fn changes_that_do_not_ascend_or_lie_past_the_end_are_refused() {
    let mut history = History::new(BlockSize::default(), 4);
    history
        .write(None, PointNumber(1), |writer, sink| {
            writer.set(sink, BlockIndex(5), None)?;
            let again = writer.set(sink, BlockIndex(5), None);
            assert!(matches!(again, Err(MapError::Order { next: BlockIndex(6), .. })), "{again:?}");
            let past = writer.set(sink, BlockIndex(BLOCKS_MAX), None);
            assert!(matches!(past, Err(MapError::OutOfRange(_))), "{past:?}");
            writer.clear(sink, BlockRun { start: BlockIndex(6), len: 10 })?;
            assert!(writer.set(sink, BlockIndex(15), None).is_err());
            writer.set(sink, BlockIndex(16), None)?;
            let mask = PageMask::from_pages(BlockSize::MIN, [0]).unwrap();
            let patch = reference(1, 1, 1, 1);
            let entry = Entry::Patched { base: patch, patch, pages: mask, hash: hash(1) };
            let wrong = writer.set(sink, BlockIndex(17), Some(entry));
            assert!(matches!(wrong, Err(MapError::Entry { .. })), "{wrong:?}");
            let mut at = reference(0, 0, 0, 0);
            at.birth = PointNumber(1);
            let nameless = writer.set(sink, BlockIndex(18), Some(Entry::Full { at, hash: hash(1) }));
            assert!(matches!(nameless, Err(MapError::Entry { .. })), "{nameless:?}");
            Ok(())
        })
        .unwrap();
}

#[test]
fn maps_of_two_block_sizes_are_not_compared() {
    let (a, b) = (History::new(BlockSize::MIN, 1), History::new(BlockSize::MAX, 1));
    assert!(matches!(diff(&a.reader(None), &b.reader(None)), Err(MapError::BlockSizes(..))));
}

#[test]
fn writers_that_take_turns_share_a_sink() {
    let (block_size, nodes) = (BlockSize::default(), MemoryNodes::default());
    let mut sink = MemorySink::new(SessionId([9; 16]), 5);
    let empty = MapReader::new(&nodes, &TestHasher, block_size, None);
    let mut writers = [MapWriter::new(empty, PointNumber(1)), MapWriter::new(empty, PointNumber(1))];
    let entry = |block, disk: u8| Entry::Full { at: reference(1, disk, 0, block), hash: hash(disk) };
    for block in (0..20_000).step_by(11) {
        for (writer, disk) in writers.iter_mut().zip(1..) {
            writer.set(&mut sink, BlockIndex(block), Some(entry(block, disk))).unwrap();
        }
    }
    let pending = writers.map(|writer| writer.finish(&mut sink).unwrap());
    assert!(matches!(pending[1].resolve(&sink), Err(MapError::NotSealed(_))));
    sink.seal();
    let mut sealed = MemoryNodes::default();
    sink.drain_into(&mut sealed);
    for (pending, disk) in pending.iter().zip(1..) {
        let root = pending.resolve(&sink).unwrap();
        let read = MapReader::new(&sealed, &TestHasher, block_size, root).entries(BlockIndex(0));
        let expected = (0..20_000).step_by(11).map(|block| (BlockIndex(block), entry(block, disk)));
        assert!(read.map(Result::unwrap).eq(expected));
    }
}
