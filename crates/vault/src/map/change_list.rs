//! The change list of a point: which runs of blocks became what, against the point before.
//!
//! It is kept for metering, replication and rebuild, so that they need not compare two maps. Nothing is deleted by it.

use thiserror::Error;
use vmkeep_model::{BlockIndex, BlockRun};

use super::error::Malformed;
use super::shape::BLOCKS_MAX;
use super::varint::{Reader, put_varint};

/// Length at which a change list goes on in another slot.
pub const CHANGE_LIST_LEN_MAX: usize = 1 << 20;

/// Longest encoded run: kind and two varints.
const RUN_LEN_MAX: usize = 1 + 10 + 10;

/// What became of a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It was stored.
    Data,
    /// It became all zero.
    Zero,
    /// It is no longer part of the disk, which shrank.
    Dropped,
}

impl ChangeKind {
    fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Zero => 1,
            Self::Dropped => 2,
        }
    }

    fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            0 => Ok(Self::Data),
            1 => Ok(Self::Zero),
            2 => Ok(Self::Dropped),
            _ => Err(Malformed { what: "kind of a change" }),
        }
    }
}

/// A run of blocks of which the same became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChangedRun {
    /// What became of it.
    pub kind: ChangeKind,
    /// Which blocks.
    pub run: BlockRun,
}

/// A changed run that begins before the end of the run before it, or ends past the last possible block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("changed blocks {}+{} do not come after block {}", run.start, run.len, end)]
pub struct ChangeOrderError {
    /// The run.
    pub run: BlockRun,
    /// End of the run before it.
    pub end: BlockIndex,
}

/// Makes change lists of runs in ascending order.
#[derive(Debug, Default)]
pub struct ChangeListBuilder {
    body: Vec<u8>,
    /// End of the last run in `body`.
    written: u64,
    /// The run that may still grow.
    last: Option<ChangedRun>,
}

impl ChangeListBuilder {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run; neighbours of one kind become one. Returns the body of a slot when one is full.
    pub fn push(&mut self, change: ChangedRun) -> Result<Option<Vec<u8>>, ChangeOrderError> {
        let ChangedRun { kind, run } = change;
        let end = self.last.map_or(BlockIndex(self.written), |last| last.run.end());
        if run.start < end || run.end().0 > BLOCKS_MAX {
            return Err(ChangeOrderError { run, end });
        }
        if run.is_empty() {
            return Ok(None);
        }
        match &mut self.last {
            Some(last) if last.kind == kind && end == run.start => {
                last.run.len += run.len;
                Ok(None)
            }
            last => {
                let done = last.replace(change);
                if let Some(done) = done {
                    self.write(done);
                }
                let full = self.body.len() + RUN_LEN_MAX > CHANGE_LIST_LEN_MAX;
                Ok(full.then(|| {
                    self.written = 0;
                    std::mem::take(&mut self.body)
                }))
            }
        }
    }

    /// The body of the last slot; `None` when nothing is left to store.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if let Some(last) = self.last.take() {
            self.write(last);
        }
        (!self.body.is_empty()).then_some(self.body)
    }

    fn write(&mut self, ChangedRun { kind, run }: ChangedRun) {
        self.body.push(kind.code());
        put_varint(&mut self.body, run.start.0 - self.written);
        put_varint(&mut self.body, run.len);
        self.written = run.end().0;
    }
}

/// Reads the runs of one slot of a change list, in ascending order. After an error it ends.
#[derive(Clone, Debug)]
pub struct ChangeListReader<'a> {
    reader: Reader<'a>,
    end: u64,
}

impl<'a> ChangeListReader<'a> {
    /// Reads the body of a slot.
    pub fn new(body: &'a [u8]) -> Self {
        Self { reader: Reader::new(body), end: 0 }
    }

    fn run(&mut self) -> Result<ChangedRun, Malformed> {
        let kind = ChangeKind::from_code(self.reader.u8("kind of a change")?)?;
        let gap = self.reader.varint("first block of a change")?;
        let len = self.reader.varint("number of blocks of a change")?;
        let start = self.end.checked_add(gap).ok_or(Malformed { what: "first block of a change" })?;
        self.end = match start.checked_add(len) {
            Some(end) if len > 0 && end <= BLOCKS_MAX => end,
            _ => return Err(Malformed { what: "number of blocks of a change" }),
        };
        Ok(ChangedRun { kind, run: BlockRun { start: BlockIndex(start), len } })
    }
}

impl Iterator for ChangeListReader<'_> {
    type Item = Result<ChangedRun, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let run = self.run();
        if run.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = ChangeKind> {
        prop_oneof![Just(ChangeKind::Data), Just(ChangeKind::Zero), Just(ChangeKind::Dropped)]
    }

    fn read(bodies: &[Vec<u8>]) -> Vec<ChangedRun> {
        bodies.iter().flat_map(|body| ChangeListReader::new(body)).collect::<Result<_, _>>().unwrap()
    }

    fn write(changes: &[ChangedRun]) -> Vec<Vec<u8>> {
        let mut builder = ChangeListBuilder::new();
        let mut bodies: Vec<_> = changes.iter().filter_map(|&change| builder.push(change).unwrap()).collect();
        bodies.extend(builder.finish());
        bodies
    }

    proptest! {
        #[test]
        fn a_list_reads_back_with_neighbours_of_one_kind_as_one(
            steps in prop::collection::vec((kind(), 0_u64..3, 0_u64..300), 0..40)
        ) {
            let (mut changes, mut blocks, mut end) = (Vec::new(), Vec::new(), 0);
            for (kind, gap, len) in steps {
                let run = BlockRun { start: BlockIndex(end + gap), len };
                changes.push(ChangedRun { kind, run });
                blocks.extend(run.iter().map(|block| (block, kind)));
                end += gap + len;
            }
            let list = read(&write(&changes));
            let of_list: Vec<_> = list.iter().flat_map(|c| c.run.iter().map(|b| (b, c.kind))).collect();
            prop_assert_eq!(of_list, blocks);
            for pair in list.windows(2) {
                prop_assert!(pair[0].kind != pair[1].kind || pair[0].run.end() < pair[1].run.start);
            }
        }

        #[test]
        fn any_bytes_are_runs_in_order_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut end = BlockIndex(0);
            for change in ChangeListReader::new(&bytes).map_while(Result::ok) {
                prop_assert!(change.run.start >= end && !change.run.is_empty());
                end = change.run.end();
            }
        }
    }

    #[test]
    fn a_long_list_goes_on_in_slots_that_each_begin_at_block_zero() {
        let changes: Vec<_> = (0..500_000)
            .map(|i| ChangedRun {
                kind: ChangeKind::Data,
                run: BlockRun { start: BlockIndex(i * 1000), len: 1 },
            })
            .collect();
        let bodies = write(&changes);
        assert!(bodies.len() > 1 && bodies.iter().all(|body| body.len() <= CHANGE_LIST_LEN_MAX));
        assert_eq!(read(&bodies), changes);
    }

    #[test]
    fn runs_that_do_not_ascend_are_refused() {
        let run = |start, len| ChangedRun {
            kind: ChangeKind::Zero,
            run: BlockRun { start: BlockIndex(start), len },
        };
        let mut builder = ChangeListBuilder::new();
        assert!(builder.push(run(5, 5)).is_ok());
        assert!(builder.push(run(9, 1)).is_err());
        assert!(builder.push(run(10, u64::MAX)).is_err());
        assert!(builder.push(run(10, 1)).is_ok());
    }
}
