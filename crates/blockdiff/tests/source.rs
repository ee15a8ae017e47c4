//! Every source reports what changed, by model and by the programs whose words it takes.
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use tempfile::TempDir;
use vmkeep_blockdiff::ExtentListError as E;
use vmkeep_blockdiff::{
    ChangeMethod, ChangeSource, ChangeSourceError, DirtyBitmap, DirtyBitmapError, ExtentList,
    ExtentListError, changed_runs, conformance, unchanged_runs,
};
use vmkeep_disk::{RawFile, read_bitmap};
use vmkeep_model::{BlockRun, BlockSize, ByteLen, ByteOffset, Extent, ExtentSet};

fn extent((start, len): (u64, u64)) -> Extent {
    Extent::new(ByteOffset(start), ByteLen(len))
}

fn marks(disk_len: u64) -> impl Strategy<Value = Vec<Extent>> {
    let mark = (0..disk_len, prop_oneof![0_u64..10, 0_u64..100_000]);
    prop::collection::vec(mark.prop_map(move |(at, len)| extent((at, len.min(disk_len - at)))), 0..20)
}

fn bitmap_of(disk_len: u64, log2: u8, marks: &[Extent]) -> DirtyBitmap {
    let mut bitmap = DirtyBitmap::new(ByteLen(disk_len), ByteLen(1 << log2)).unwrap();
    for mark in marks {
        bitmap.mark(*mark);
    }
    bitmap
}

fn granules(marks: &[Extent], log2: u8) -> BTreeSet<u64> {
    let granules = |e: &Extent| e.start().0 >> log2..e.end().0.div_ceil(1 << log2);
    marks.iter().filter(|mark| !mark.is_empty()).flat_map(granules).collect()
}

fn granules_of(bitmap: &DirtyBitmap, log2: u8) -> BTreeSet<u64> {
    granules(&bitmap.extents().collect::<Vec<_>>(), log2)
}

proptest! {
    #[test]
    fn a_bitmap_is_the_set_of_granules_that_were_touched(
        (disk_len, marks) in (1_u64..3_000_000).prop_flat_map(|len| (Just(len), marks(len))), log2 in 9_u8..=31
    ) {
        let bitmap = bitmap_of(disk_len, log2, &marks);
        prop_assert_eq!(granules_of(&bitmap, log2), granules(&marks, log2));
        prop_assert_eq!(bitmap.changed_bytes().0, bitmap.extents().map(|e| e.len().0).sum::<u64>());
        prop_assert_eq!(bitmap.is_empty(), marks.iter().all(|m| m.is_empty()));
        conformance::check(&bitmap, &marks, ByteLen(disk_len));
    }

    /// Granule 2^32 is where 32 bits end.
    #[test]
    fn a_bitmap_conforms_where_32_bits_end(at in 0_u64..50_000, len in 1_u64..50_000) {
        let disk_len = (512 << 32) + 60_000;
        let marks = [extent(((512 << 32) - 25_000 + at, len.min(35_000))), extent((3, 1))];
        conformance::check(&bitmap_of(disk_len, 9, &marks), &marks, ByteLen(disk_len));
    }

    #[test]
    fn merging_covers_both(
        (disk_len, some, more) in (1_u64..3_000_000).prop_flat_map(|len| (Just(len), marks(len), marks(len))),
        log2 in 9_u8..=20, other in 9_u8..=20
    ) {
        let mut merged = bitmap_of(disk_len, log2, &some);
        let added = bitmap_of(disk_len, other, &more);
        merged.merge(&added).unwrap();
        conformance::check(&merged, &[&some[..], &more[..]].concat(), ByteLen(disk_len));
        // Nothing beyond: each is rounded to its own granularity first.
        let rounded: Vec<Extent> = added.extents().collect();
        prop_assert_eq!(granules_of(&merged, log2), granules(&[some, rounded].concat(), log2));
    }

    #[test]
    fn a_disk_that_grew_keeps_its_marks_and_is_changed_where_it_grew(
        (disk_len, marks) in (1_u64..300_000).prop_flat_map(|len| (Just(len), marks(len))),
        more in 0_u64..300_000, log2 in 9_u8..=20
    ) {
        let grown = bitmap_of(disk_len, log2, &marks).grown_to(ByteLen(disk_len + more)).unwrap();
        let truth = [&marks[..], &[extent((disk_len, more))]].concat();
        conformance::check(&grown, &truth, ByteLen(disk_len + more));
    }

    #[test]
    fn a_plain_list_is_the_union_of_its_entries(
        (disk_len, marks) in (1_u64..3_000_000).prop_flat_map(|len| (Just(len), marks(len)))
    ) {
        let mut marks = marks;
        marks.sort();
        let entries: Vec<String> = marks
            .iter()
            .map(|e| format!("{{\"offset\": {}, \"length\": {}}}", e.start(), e.len()))
            .collect();
        let json = format!("[{}]", entries.join(","));
        let list = ExtentList::from_json(json.as_bytes(), ByteLen(disk_len)).unwrap();
        prop_assert_eq!(list.extents(), &marks.iter().copied().collect::<ExtentSet>());
        conformance::check(&list, &marks, ByteLen(disk_len));
        prop_assert_eq!(ExtentList::read_json(json.as_bytes(), ByteLen(disk_len)).unwrap(), list);
    }

    #[test]
    fn runs_of_blocks_are_the_blocks_that_are_touched_and_the_others(
        (disk_len, marks) in (1_u64..3_000_000).prop_flat_map(|len| (Just(len), marks(len))), log2 in 9_u8..=20
    ) {
        let (size, len) = (BlockSize::MIN, ByteLen(disk_len));
        let source = bitmap_of(disk_len, log2, &marks);
        let touched: BTreeSet<u64> =
            source.extents().flat_map(|e| size.blocks_touching(e).iter().map(|b| b.0).collect::<Vec<_>>()).collect();
        let changed: Vec<BlockRun> = changed_runs(&source, size, len).map(Result::unwrap).collect();
        let unchanged: Vec<BlockRun> = unchanged_runs(&source, size, len).map(Result::unwrap).collect();
        let blocks = |runs: &[BlockRun]| runs.iter().flat_map(|run| run.iter().map(|b| b.0)).collect::<Vec<_>>();
        prop_assert_eq!(blocks(&changed), touched.iter().copied().collect::<Vec<_>>());
        let others: Vec<u64> = (0..size.count_for(len)).filter(|block| !touched.contains(block)).collect();
        prop_assert_eq!(blocks(&unchanged), others);
        for runs in [changed, unchanged] {
            prop_assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start));
        }
    }

    #[test]
    fn no_text_is_fatal(text in "[\\[\\]{}:, 0-9\"a-z.-]{0,80}") {
        let _ = ExtentList::from_json(text.as_bytes(), ByteLen(1 << 20));
    }
}

#[test]
fn a_bitmap_about_another_disk_is_refused() {
    let small = bitmap_of(1 << 20, 12, &[]);
    let mut large = bitmap_of(1 << 30, 12, &[]);
    assert!(matches!(large.merge(&small), Err(DirtyBitmapError::WrongSize { .. })));
    assert!(matches!(large.grown_to(ByteLen(1)), Err(DirtyBitmapError::WrongSize { .. })));
    assert!(matches!(small.check_disk(ByteLen(1)), Err(DirtyBitmapError::WrongSize { .. })));
    for granularity in [0, 1, 256, 513, 4 << 30] {
        let refused = DirtyBitmap::new(ByteLen(1), ByteLen(granularity));
        assert!(matches!(refused, Err(DirtyBitmapError::Granularity(_))), "{granularity}");
    }
    let refused = DirtyBitmap::new(ByteLen(u64::MAX), ByteLen(512));
    assert!(matches!(refused, Err(DirtyBitmapError::TooFine { .. })));
    // The longest disk there can be, at a granularity that fits.
    let mut longest = DirtyBitmap::new(ByteLen(u64::MAX), ByteLen(2 << 30)).unwrap();
    longest.mark(extent((u64::MAX - 1, 1)));
    assert_eq!(longest.changed_bytes(), ByteLen((2 << 30) - 1));
    conformance::check(&longest, &[extent((u64::MAX - 1, 1))], ByteLen(u64::MAX));
}

/// 32 TiB in pages, all changed and every other changed: memory and time go with runs and set bits.
#[test]
fn a_bitmap_of_32_tib_is_small() {
    let len = ByteLen(32 << 40);
    let mut all = DirtyBitmap::new(len, ByteLen(4096)).unwrap();
    all.mark(Extent::new(ByteOffset(0), len));
    assert!(all.encode().len() < 4 << 20, "{}", all.encode().len());
    assert_eq!(all.changed_bytes(), len);
    assert!(all.extents().count() <= 2);
    let mut scattered = DirtyBitmap::new(len, ByteLen(4096)).unwrap();
    for page in (0..1_000_000_u64).map(|n| n * 8589) {
        scattered.mark(extent((page * 4096, 1)));
    }
    assert!(scattered.encode().len() < 8 << 20, "{}", scattered.encode().len());
    assert_eq!(scattered.extents().count(), 1_000_000);
}

/// Fails from a position on.
#[derive(Debug)]
struct FailsFrom(u64);

impl ChangeSource for FailsFrom {
    fn next_changed(&self, from: ByteOffset) -> Result<Option<Extent>, ChangeSourceError> {
        if from.0 < self.0 {
            return Ok(Some(Extent::new(from, ByteLen(1))));
        }
        Err(ChangeSourceError { method: self.method(), source: "the line is dead".into() })
    }
    fn granularity(&self) -> ByteLen {
        ByteLen(1)
    }
    fn method(&self) -> ChangeMethod {
        ChangeMethod::BlockStatus
    }
}

#[test]
fn a_source_that_fails_ends_the_runs_with_its_error() {
    for from in [0, 1, 40_000] {
        let (source, len) = (FailsFrom(from), ByteLen(1 << 20));
        let changed: Vec<_> = changed_runs(&source, BlockSize::MIN, len).collect();
        assert!(
            matches!(&changed[..], [Err(e)] if e.to_string() == "cannot tell what changed by block status")
        );
        assert_eq!(
            unchanged_runs(&source, BlockSize::MIN, len).map(|run| run.is_err()).collect::<Vec<_>>(),
            [true]
        );
    }
}

#[test]
fn each_refusal_names_its_entry() {
    let refused = |json: &str| ExtentList::from_json(json.as_bytes(), ByteLen(1000)).unwrap_err();
    let ok = |json: &str| ExtentList::from_json(json.as_bytes(), ByteLen(1000)).unwrap();
    let first = r#"{"offset": 10, "length": 10}"#;
    let huge = u64::MAX;
    assert!(matches!(
        refused(&format!(r#"[{first}, {{"offset": 2, "length": {huge}}}]"#)),
        E::Overflow { entry: 1, .. }
    ));
    assert!(matches!(refused(r#"[{"offset": 999, "length": 2}]"#), E::PastEnd { entry: 0, .. }));
    assert!(matches!(
        refused(&format!(r#"[{first}, {{"offset": 9, "length": 1}}]"#)),
        E::NotAscending { entry: 1, .. }
    ));
    assert!(matches!(
        refused(r#"[{"size": 3, "percent": 1.0, "type": 0, "description": "data"}]"#),
        E::UnknownForm { entry: 0 }
    ));
    assert!(matches!(
        refused(r#"[{"offset": 0, "length": 1000, "type": 0}]"#),
        E::UnknownType { entry: 0, kind: 0 }
    ));
    assert!(matches!(
        refused(r#"[{"offset": 0, "length": 1000, "type": 0, "description": "dirty"}]"#),
        E::UnknownType { .. }
    ));
    assert!(matches!(
        refused(&format!(r#"[{first}, {{"start": 20, "length": 1}}]"#)),
        E::MixedForms { entry: 1 }
    ));
    assert!(matches!(refused(r#"[{"start": 512, "length": 488}]"#), E::Gap { entry: 0, .. }));
    assert!(matches!(
        refused(r#"[{"start": 0, "length": 10}, {"start": 11, "length": 10}]"#),
        E::Gap { entry: 1, .. }
    ));
    assert!(matches!(refused(r#"[{"start": 0, "length": 10}]"#), E::WrongSize { .. }));
    assert!(matches!(refused(r#"[{"start": 0, "length": 1025}]"#), E::PastEnd { entry: 0, .. }));
    for broken in [
        "",
        "{}",
        "[",
        "[1]",
        r#"[{"offset": 0"#,
        r#"[{"offset": -1, "length": 1}]"#,
        r#"[{"offset": 1e3, "length": 1}]"#,
    ] {
        assert!(matches!(refused(broken), E::Json(_)), "{broken}");
    }
    let past_64_bits = r#"[{"offset": 99999999999999999999, "length": 1}]"#;
    assert!(matches!(refused(past_64_bits), E::Json(_)));
    assert!(matches!(refused(&format!("[{first}] more")), E::Json(_)));
    assert!(matches!(refused("[{}]"), E::UnknownForm { entry: 0 }));
    assert_eq!(ok("[]").extents().as_slice(), []);
    assert_eq!(ok(r#"[{"start": 0, "length": 1024, "depth": 0}]"#).extents().as_slice(), [extent((0, 1000))]);
    assert_eq!(ok("[]").method(), ChangeMethod::ExtentList);
}

/// Whether a program is here. When it is not, the test has nothing to do, unless `VMKEEP_REQUIRE_TOOLS` is set.
fn is_here(program: &str, package: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !here {
        let message = format!("{program} is not installed (Debian: {package})");
        assert!(std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{message}");
        eprintln!("{message}; skipped");
    }
    here
}

fn run(folder: &Path, words: &str) -> Vec<u8> {
    run_words(folder, &words.split_whitespace().collect::<Vec<_>>())
}

fn run_words(folder: &Path, words: &[&str]) -> Vec<u8> {
    let out = Command::new(words[0]).args(&words[1..]).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

const BASE_WRITES: [(u64, u64); 2] = [(0, 1 << 20), (3 << 20, 70_000)];
const CHANGES: [(u64, u64); 3] = [(300_000, 5120), (2 << 20, 131_072), (6 << 20, 66_000)];

/// `base.qcow2` and `top.qcow2` over it, in which [`CHANGES`] were written; the last of them as zeros, and one stretch
/// of the base was discarded.
fn folder_with_overlay() -> (TempDir, Vec<Extent>) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let sectors = |(start, len): (u64, u64)| (start / 512 * 512, u64::next_multiple_of(len, 512));
    run(at, "qemu-img create -q -f qcow2 base.qcow2 8M");
    for (start, len) in BASE_WRITES.map(sectors) {
        run_words(at, &["qemu-io", "-c", &format!("write {start} {len}"), "base.qcow2"]);
    }
    run(at, "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    run(at, "qemu-img bitmap --add -g 4096 top.qcow2 b");
    let mut truth = Vec::new();
    for (n, (start, len)) in CHANGES.map(sectors).into_iter().enumerate() {
        let zeros = if n == 2 { "-z " } else { "" };
        run_words(at, &["qemu-io", "-c", &format!("write {zeros}{start} {len}"), "top.qcow2"]);
        truth.push(extent((start, len)));
    }
    run_words(at, &["qemu-io", "-c", "discard 512k 128k", "top.qcow2"]);
    truth.push(extent((512 << 10, 128 << 10)));
    truth.sort();
    (folder, truth)
}

/// Rounded to the clusters of the images.
fn clusters(extents: &[Extent]) -> BTreeSet<u64> {
    granules(extents, 16)
}

#[test]
fn what_qemu_img_map_prints_of_an_overlay_is_what_was_written_to_it() {
    if !is_here("qemu-img", "qemu-utils") || !is_here("qemu-io", "qemu-utils") {
        return;
    }
    let (folder, truth) = folder_with_overlay();
    let at = folder.path();
    let len = ByteLen(8 << 20);
    let list = ExtentList::from_json(&run(at, "qemu-img map --output=json top.qcow2"), len).unwrap();
    conformance::check(&list, &truth, len);
    assert_eq!(clusters(list.extents().as_slice()), clusters(&truth), "and nothing more");
    assert_eq!(list.extents().byte_count().0, clusters(&truth).len() as u64 * 65_536);

    // One more image on top: the base lies two images down, or one.
    run(at, "qemu-img create -q -f qcow2 -b top.qcow2 -F qcow2 more.qcow2");
    run_words(at, &["qemu-io", "-c", "write 7M 4k", "more.qcow2"]);
    let json = run(at, "qemu-img map --output=json more.qcow2");
    let newest = extent((7 << 20, 4096));
    let list = ExtentList::from_json(&json, len).unwrap();
    assert_eq!(clusters(list.extents().as_slice()), clusters(&[newest]));
    let list = ExtentList::from_json_above(&json, len, NonZeroU32::new(2).unwrap()).unwrap();
    assert_eq!(clusters(list.extents().as_slice()), clusters(&[&truth[..], &[newest]].concat()));

    // An image without a backing image: all of it.
    let list = ExtentList::from_json(&run(at, "qemu-img map --output=json base.qcow2"), len).unwrap();
    assert_eq!(list.extents().as_slice(), [extent((0, 8 << 20))]);
    // A disk that is not of whole sectors.
    std::fs::write(at.join("raw"), vec![7; 1000]).unwrap();
    let list =
        ExtentList::from_json(&run(at, "qemu-img map -f raw --output=json raw"), ByteLen(1000)).unwrap();
    assert_eq!(list.extents().as_slice(), [extent((0, 1000))]);
    // Part of a listing is not one.
    let part = run(at, "qemu-img map --output=json --start-offset=65536 top.qcow2");
    assert!(matches!(ExtentList::from_json(&part, len), Err(ExtentListError::Gap { entry: 0, .. })));
    let part = run(at, "qemu-img map --output=json --max-length=65536 top.qcow2");
    assert!(matches!(ExtentList::from_json(&part, len), Err(ExtentListError::WrongSize { .. })));
    // An overlay that grew: the part behind the end of its base counts as changed.
    run(at, "qemu-img bitmap --remove top.qcow2 b");
    run(at, "qemu-img resize -q top.qcow2 9M");
    let grown = run(at, "qemu-img map --output=json top.qcow2");
    let list = ExtentList::from_json(&grown, ByteLen(9 << 20)).unwrap();
    assert!(
        list.extents().contains(ByteOffset(8 << 20)) && list.extents().contains(ByteOffset((9 << 20) - 1))
    );
    assert!(matches!(ExtentList::from_json(&grown, len), Err(ExtentListError::PastEnd { .. })));
}

#[test]
fn a_bitmap_that_qemu_recorded_is_a_source() {
    if !is_here("qemu-img", "qemu-utils") || !is_here("qemu-io", "qemu-utils") {
        return;
    }
    let (folder, truth) = folder_with_overlay();
    let image = RawFile::open(folder.path().join("top.qcow2")).unwrap();
    let recorded = DirtyBitmap::try_from(&read_bitmap(&image, "b").unwrap()).unwrap();
    conformance::check(&recorded, &truth, ByteLen(8 << 20));
    assert_eq!(granules_of(&recorded, 12), granules(&truth, 12));
    assert_eq!(recorded.granularity(), ByteLen(4096));
}

#[test]
fn what_nbdinfo_prints_is_what_was_written() {
    if !is_here("qemu-nbd", "qemu-utils")
        || !is_here("qemu-io", "qemu-utils")
        || !is_here("nbdinfo", "libnbd-bin")
    {
        return;
    }
    let (folder, truth) = folder_with_overlay();
    let at = folder.path();
    let len = ByteLen(8 << 20);
    run(at, "qemu-img bitmap --disable top.qcow2 b"); // a bitmap that records is not exported read-only
    let map = |context: &str| {
        run(at, &format!("nbdinfo --map={context} --json -- [ qemu-nbd -r -f qcow2 -A -B b top.qcow2 ]"))
    };
    let list = ExtentList::from_json(&map("qemu:dirty-bitmap:b"), len).unwrap();
    conformance::check(&list, &truth, len);
    assert_eq!(granules(list.extents().as_slice(), 12), granules(&truth, 12));
    let list = ExtentList::from_json(&map("qemu:allocation-depth"), len).unwrap();
    conformance::check(&list, &truth, len);
    assert_eq!(clusters(list.extents().as_slice()), clusters(&truth));
    let list = ExtentList::from_json(&map("base:allocation"), len).unwrap();
    assert_eq!(list.extents().as_slice(), [extent((0, len.0))]);
    let totals = run(at, "nbdinfo --map --totals --json -- [ qemu-nbd -r -f qcow2 top.qcow2 ]");
    assert!(matches!(ExtentList::from_json(&totals, len), Err(ExtentListError::UnknownForm { entry: 0 })));
}
