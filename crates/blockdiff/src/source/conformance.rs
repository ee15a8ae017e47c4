//! The contract of [`ChangeSource`] as a test, for implementations elsewhere too.

use vmkeep_model::{ByteLen, ByteOffset, Extent, ExtentSet};

use super::ChangeSource;

/// Most extents that a source under test may return.
const EXTENTS_MAX: usize = 1 << 20;

/// Checks a source for a disk of `disk_len` bytes on which `truth` is what really changed.
///
/// ```
/// use vmkeep_blockdiff::{Everything, conformance};
/// use vmkeep_model::{ByteLen, ByteOffset, Extent};
///
/// let truth = [Extent::new(ByteOffset(4096), ByteLen(512))];
/// conformance::check(&Everything::new(ByteLen(1 << 20)), &truth, ByteLen(1 << 20));
/// ```
///
/// # Panics
/// When the source fails, breaks its contract or misses a byte of `truth`. Also when `truth` passes the end of the
/// disk.
pub fn check(source: &dyn ChangeSource, truth: &[Extent], disk_len: ByteLen) {
    let walk = walk(source, disk_len);
    let reported: ExtentSet = walk.iter().copied().collect();
    for changed in truth.iter().copied().filter(|extent| !extent.is_empty()) {
        assert!(changed.end().0 <= disk_len.0, "the truth {changed} passes the end of the disk");
        let covered = reported.iter().any(|extent| extent.intersection(changed) == changed);
        assert!(covered, "{changed} changed, and the source does not report all of it");
    }
    check_granularity(source, &reported, disk_len);
    for edge in
        walk.iter().chain(truth).flat_map(|extent| [extent.start().0, extent.end().0]).chain([0, disk_len.0])
    {
        for from in [edge.saturating_sub(1), edge, edge.saturating_add(1), edge / 2] {
            check_from(source, &reported, ByteOffset(from), disk_len);
        }
    }
    check_from(source, &reported, ByteOffset(u64::MAX), disk_len);
}

/// Everything that the source reports, from the start of the disk on.
fn walk(source: &dyn ChangeSource, disk_len: ByteLen) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut from = ByteOffset(0);
    while let Some(extent) = ask(source, from, disk_len) {
        extents.push(extent);
        assert!(extents.len() <= EXTENTS_MAX, "the source returns more than {EXTENTS_MAX} extents");
        from = extent.end();
    }
    extents
}

fn ask(source: &dyn ChangeSource, from: ByteOffset, disk_len: ByteLen) -> Option<Extent> {
    let extent =
        source.next_changed(from).unwrap_or_else(|e| panic!("the source fails from {from} on: {e}"))?;
    assert!(!extent.is_empty(), "an empty extent at {} makes no progress", extent.start());
    assert!(extent.start() >= from, "{extent} starts before {from}, where it was asked from");
    assert!(extent.end().0 <= disk_len.0, "{extent} passes the end of the disk ({disk_len} bytes)");
    Some(extent)
}

/// From anywhere, the first byte reported is the first of the whole walk from there on.
fn check_from(source: &dyn ChangeSource, reported: &ExtentSet, from: ByteOffset, disk_len: ByteLen) {
    let rest = |extent: Extent| Extent::between(extent.start().max(from), extent.end());
    let expected = reported.iter().map(rest).find(|extent| !extent.is_empty());
    let got = ask(source, from, disk_len);
    assert_eq!(
        got.map(Extent::start),
        expected.map(Extent::start),
        "asked from {from}, the source reports something else than in a walk from 0"
    );
    if let (Some(got), Some(expected)) = (got, expected) {
        assert!(
            got.end() <= expected.end(),
            "asked from {from}, the source reports more than in a walk from 0"
        );
    }
}

fn check_granularity(source: &dyn ChangeSource, reported: &ExtentSet, disk_len: ByteLen) {
    let granularity = source.granularity().0;
    assert!(granularity >= 1, "a granularity of 0");
    for extent in reported.iter() {
        let whole = |at: ByteOffset| at.0.is_multiple_of(granularity) || at.0 == disk_len.0;
        assert!(
            whole(extent.start()) && whole(extent.end()),
            "{extent} is not of whole granules of {granularity}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChangeMethod, ChangeSourceError};
    use super::*;

    /// Answers with a function.
    struct Answers<F>(F);

    impl<F> std::fmt::Debug for Answers<F> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Answers")
        }
    }

    impl<F: Fn(u64) -> Option<(u64, u64)> + Send + Sync> ChangeSource for Answers<F> {
        fn next_changed(&self, from: ByteOffset) -> Result<Option<Extent>, ChangeSourceError> {
            Ok(self.0(from.0).map(|(start, end)| Extent::between(ByteOffset(start), ByteOffset(end))))
        }
        fn granularity(&self) -> ByteLen {
            ByteLen(10)
        }
        fn method(&self) -> ChangeMethod {
            ChangeMethod::FullScan
        }
    }

    fn caught(answers: impl Fn(u64) -> Option<(u64, u64)> + Send + Sync) -> bool {
        let truth = [Extent::new(ByteOffset(25), ByteLen(10))];
        let source = Answers(answers);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&source, &truth, ByteLen(95))))
            .is_err()
    }

    #[test]
    fn each_way_to_break_the_contract_is_caught() {
        let right = |from: u64| (from < 40).then_some((from.max(20), 40));
        assert!(!caught(right));
        assert!(caught(|from| (from < 30).then_some((from.max(20), 30))), "a byte is missed");
        assert!(caught(|from| (from < 40).then_some((20, 40))), "starts before where it was asked");
        assert!(caught(|from| (from < 40)
            .then_some((from.max(20), 40))
            .or((from < 90).then_some((90, 100)))));
        assert!(caught(|from| (from < 41).then_some((from.max(20), 41))), "not of whole granules");
        assert!(caught(|from| (from <= 40).then_some((from.max(20), 40))), "an empty extent");
        assert!(caught(|from| if from == 0 { Some((20, 40)) } else { None }), "works from 0 only");
        assert!(caught(|from| (from < 40).then_some((from.max(20), if from > 20 { 50 } else { 40 }))));
    }
}
