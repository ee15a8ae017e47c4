use std::collections::BTreeMap;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;

const SIZE: BlockSize = BlockSize::MIN;
const PAGES: usize = 4;

fn hasher(secret: u8) -> PageHasher {
    PageHasher::new(Zeroizing::new([secret; 192]))
}

fn open(path: &Path, blocks: u64, limit: u64, run: u32) -> FingerprintFile {
    let disk = ByteLen(blocks * SIZE.bytes_u64());
    FingerprintFile::open(path, SIZE, disk, ByteLen(limit), hasher(1), run).unwrap()
}

fn content(seed: u8) -> ContentHash {
    ContentHash([seed; 16])
}

fn pages(seed: u8) -> [u64; PAGES] {
    [u64::from(seed); PAGES]
}

fn get(file: &FingerprintFile, block: u64, was: u8) -> Option<Vec<u64>> {
    let mut pages = Vec::new();
    file.get(BlockIndex(block), content(was), &mut pages).then_some(pages)
}

fn put(file: &FingerprintFile, block: u64, seed: u8) {
    file.put(BlockIndex(block), content(seed), &pages(seed));
}

/// What may happen to the file between two runs.
#[derive(Clone, Debug)]
enum Fate {
    Nothing,
    Gone,
    CutShort(u64),
    Garbage(u64, Vec<u8>),
    /// Replaced by the file as it was after an earlier run.
    Older(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Nothing),
        1 => Just(Fate::Gone),
        1 => (0_u64..3000).prop_map(Fate::CutShort),
        2 => (0_u64..3000, prop::collection::vec(any::<u8>(), 1..100)).prop_map(|(at, bytes)| Fate::Garbage(at, bytes)),
        1 => (0_usize..8).prop_map(Fate::Older),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever becomes of the file, it gives the fingerprints of the content that is asked for or none.
    #[test]
    fn what_is_given_is_right_whatever_happens_to_the_file(
        runs in prop::collection::vec((prop::collection::vec((0_u64..60, any::<u8>()), 0..30), fate()), 1..6),
        limit in prop_oneof![Just(u64::MAX), Just(2000_u64), Just(100)]
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prints");
        let mut kept = Vec::new();
        for (run, (puts, fate)) in (1..).zip(runs) {
            let file = open(&path, 60, limit, run);
            let mut now = BTreeMap::new();
            for (block, seed) in puts {
                put(&file, block, seed);
                now.insert(block, seed);
            }
            for block in 0..60 {
                for seed in [0, 1, 77, now.get(&block).copied().unwrap_or(200)] {
                    let found = get(&file, block, seed);
                    prop_assert!(found.is_none() || found == Some(pages(seed).to_vec()));
                }
            }
            if limit == u64::MAX {
                for (&block, &seed) in &now {
                    prop_assert!(get(&file, block, seed).is_some(), "there is room for every block");
                }
            }
            prop_assert!(file.take_error().is_none());
            prop_assert!(std::fs::metadata(&path).unwrap().len() <= limit.max(HEADER_LEN));
            kept.push(std::fs::read(&path).unwrap());
            let bytes = match fate {
                Fate::Nothing => None,
                Fate::Gone => { std::fs::remove_file(&path).unwrap(); None }
                Fate::CutShort(len) => {
                    let mut bytes = kept[kept.len() - 1].clone();
                    bytes.truncate(usize::try_from(len).unwrap());
                    Some(bytes)
                }
                Fate::Garbage(at, garbage) => {
                    let mut bytes = kept[kept.len() - 1].clone();
                    let at = usize::try_from(at).unwrap().min(bytes.len());
                    let end = (at + garbage.len()).min(bytes.len());
                    bytes[at..end].copy_from_slice(&garbage[..end - at]);
                    Some(bytes)
                }
                Fate::Older(run) => kept.get(run).cloned(),
            };
            if let Some(bytes) = bytes {
                std::fs::write(&path, bytes).unwrap();
            }
        }
    }
}

#[test]
fn an_entry_lasts_from_run_to_run_and_only_for_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prints");
    let first = open(&path, 10, u64::MAX, 1);
    assert!(first.is_new() && first.wants_all());
    put(&first, 3, 30);
    drop(first);
    let second = open(&path, 10, u64::MAX, 2);
    assert!(!second.is_new());
    assert_eq!(get(&second, 3, 30), Some(pages(30).to_vec()));
    assert_eq!((get(&second, 3, 31), get(&second, 4, 30)), (None, None));
    put(&second, 3, 31);
    assert_eq!((get(&second, 3, 30), get(&second, 3, 31)), (None, Some(pages(31).to_vec())));
    // The disk grew: what was known stays known.
    assert_eq!(get(&open(&path, 1000, u64::MAX, 3), 3, 31), Some(pages(31).to_vec()));
    second.forget();
    assert_eq!(get(&second, 3, 31), None);
    assert!(open(&path, 10, u64::MAX, 4).is_new());
}

#[test]
fn a_file_of_another_secret_or_block_size_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prints");
    put(&open(&path, 10, u64::MAX, 1), 3, 30);
    let disk = ByteLen(10 * SIZE.bytes_u64());
    let other = FingerprintFile::open(&path, SIZE, disk, ByteLen(u64::MAX), hasher(2), 2).unwrap();
    assert!(other.is_new());
    put(&other, 3, 30);
    let larger = BlockSize::default();
    assert!(FingerprintFile::open(&path, larger, disk, ByteLen(u64::MAX), hasher(2), 3).unwrap().is_new());
}

#[test]
fn with_little_room_what_changed_last_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prints");
    // One set of eight.
    let limit = HEADER_LEN + WAYS * (entry_len(PAGES) + 4);
    let block = |run: u8, n| run * 10 + n;
    for run in 1..=5 {
        let file = open(&path, 1 << 20, limit, u32::from(run));
        (0..4).for_each(|n| put(&file, u64::from(block(run, n)), block(run, n)));
    }
    let file = open(&path, 1 << 20, limit, 6);
    let known =
        |run: u8| (0..4).filter(|n| get(&file, u64::from(block(run, *n)), block(run, *n)).is_some()).count();
    assert_eq!((1..=5).map(known).collect::<Vec<_>>(), [0, 0, 0, 4, 4]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), limit);
}

#[test]
fn no_room_at_all_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prints");
    let file = open(&path, 1 << 20, 0, 1);
    put(&file, 1, 1);
    assert_eq!(get(&file, 1, 1), None);
    assert!(file.take_error().is_none());
}

#[test]
fn a_block_of_the_default_size_takes_less_than_a_quarter_of_a_percent() {
    let (size, disk) = (BlockSize::default(), ByteLen(1 << 40));
    let need = HEADER_LEN + size.count_for(disk) * entry_len(size.pages());
    assert!(need <= default_limit(disk).0);
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let disk = ByteLen(SIZE.bytes_u64());
    let opened = FingerprintFile::open(folder.path(), SIZE, disk, ByteLen(u64::MAX), hasher(1), 1);
    let error = opened.unwrap_err();
    assert!(error.to_string().contains(&folder.path().display().to_string()));
}
