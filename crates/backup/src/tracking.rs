//! Whether change tracking is to be believed: what it must be about, and a look at what it calls unchanged.

use vmkeep_blockdiff::{
    AuditPlan, AuditSettings, BlockHasher, ChangeSource, ChangeSourceError, ScanBuffer, Segment, scan,
    unchanged_runs,
};
use vmkeep_disk::BlockRead;
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteLen, CancelToken, DiskName, PointNumber, Tracking};
use vmkeep_vault::{BaseDisk, Session};

use crate::base::Known;
use crate::limited::unread;
use crate::plan::Changes;
use crate::{Audit, BackupError, Rounds};

/// Most blocks read at a time.
const RUN_MAX: u64 = 16;

/// An audit that found a change where there was to be none.
pub(crate) struct Missed {
    pub(crate) block: BlockIndex,
}

/// Whether `changes` can be about a disk of `size` bytes since the point before; `before` is the number of that and
/// the size that the disk had there. Else why not, when there is a reason to tell.
pub(crate) fn judge(
    changes: Option<Changes<'_>>,
    before: Option<(PointNumber, ByteLen)>,
    size: ByteLen,
) -> Result<&dyn ChangeSource, Option<String>> {
    let (by, since) = match changes {
        None => return Err(None),
        Some(Changes::Lost(why)) => return Err(before.map(|_| why.to_owned())),
        Some(Changes::Known { by, since }) => (by, since),
    };
    // A first backup reads everything, whatever is known.
    let Some((newest, size_then)) = before else { return Err(None) };
    match since {
        Some(since) if since != newest => {
            Err(Some(format!("changes are known since point {since}, and the point before is {newest}")))
        }
        _ if size_then != size => {
            Err(Some(format!("the disk had {size_then} bytes at the point before and has {size} now")))
        }
        _ => Ok(by),
    }
}

/// What an audit looks at.
pub(crate) struct Auditor<'a> {
    pub(crate) session: &'a Session,
    pub(crate) name: &'a DiskName,
    pub(crate) disk: &'a dyn BlockRead,
    pub(crate) block_size: BlockSize,
    pub(crate) hasher: &'a dyn BlockHasher,
    pub(crate) cancel: &'a CancelToken,
}

/// Why an audit came to no good end.
pub(crate) enum AuditEnd {
    Missed(Missed),
    Unknown(ChangeSourceError),
    Failed(BackupError),
}

impl From<BackupError> for AuditEnd {
    fn from(error: BackupError) -> Self {
        Self::Failed(error)
    }
}

impl Auditor<'_> {
    /// Reads a sample, and the next part of the disk, of what `by` calls unchanged; what the point then rests on.
    pub(crate) fn audit(
        &self,
        by: &dyn ChangeSource,
        base: &BaseDisk<'_>,
        audit: &Audit,
    ) -> Result<(Tracking, ByteLen), AuditEnd> {
        let blocks = self.block_size.count_for(self.disk.len());
        let windows = match audit.rounds {
            Rounds::Off => None,
            Rounds::Runs(runs) => Some(runs),
            Rounds::Bytes(bytes) => {
                Some(AuditSettings::windows_for(blocks, bytes.0 / self.block_size.bytes_u64()))
            }
        };
        let settings = AuditSettings { rate: audit.rate, windows, ..AuditSettings::default() };
        let mut tracking = self.before(by, windows.map_or(0, Into::into))?;
        let mut unchanged = 0;
        for run in unchanged_runs(by, self.block_size, self.disk.len()) {
            unchanged += run.map_err(AuditEnd::Unknown)?.len;
        }
        let seed = blake3_of(self.session, self.name);
        let plan = AuditPlan::new(seed, u64::from(tracking.windows_done), unchanged, &settings);
        let mut failed = None;
        let runs = unchanged_runs(by, self.block_size, self.disk.len());
        let sound = runs.map_while(|run| run.map_err(|e| failed = Some(e)).ok());
        let mut bytes = 0;
        let (mut known, mut buffer, mut run) =
            (Known::new(Some(base)), ScanBuffer::default(), BlockRun::default());
        for block in plan.blocks(sound) {
            tracking.audited += 1;
            if run.end() == block && run.len > 0 && run.len < RUN_MAX {
                run.len += 1;
                continue;
            }
            bytes += self.look(run, &mut known, &mut buffer)?;
            run = BlockRun { start: block, len: 1 };
        }
        bytes += self.look(run, &mut known, &mut buffer)?;
        if let Some(error) = failed {
            return Err(AuditEnd::Unknown(error));
        }
        if tracking.windows > 0 {
            tracking.windows_done += 1;
            if tracking.windows_done >= tracking.windows {
                // Every block was read since, and was what the points say: what a point before says stands.
                tracking.whole_at = tracking.whole_at.max(tracking.round_from);
                (tracking.windows_done, tracking.round_from) = (0, self.session.target());
            }
        }
        Ok((tracking, ByteLen(bytes)))
    }

    /// What the point before rested on, as far as it goes on.
    fn before(&self, by: &dyn ChangeSource, windows: u32) -> Result<Tracking, AuditEnd> {
        let newest = self.session.base().unwrap_or(PointNumber(0));
        let before = self.session.base_tracking(self.name).map_err(BackupError::Store)?;
        let (whole_at, before) = before.unwrap_or((newest, None));
        // A round goes on when it is still the same division of the disk.
        let (windows_done, round_from) = match before {
            Some(before) if before.windows == windows => (before.windows_done, before.round_from),
            _ => (0, newest),
        };
        let (method, granularity) = (by.method(), by.granularity());
        Ok(Tracking { method, granularity, audited: 0, whole_at, windows_done, windows, round_from })
    }

    /// Reads a run and compares it with what it was; the bytes it read.
    fn look(&self, run: BlockRun, known: &mut Known<'_>, buffer: &mut ScanBuffer) -> Result<u64, AuditEnd> {
        use vmkeep_blockdiff::Before as _;

        self.cancel.check().map_err(BackupError::from)?;
        let mut segment = Segment { run, block_size: self.block_size, ..Segment::default() };
        while let Some(was) = known.next_in(run.start, run.end()).map_err(BackupError::Store)? {
            segment.before.push(was);
        }
        let scanned = scan(self.disk, &segment, self.hasher, buffer).map_err(unread(self.name))?;
        let changed = scanned.data.first().map(|chunk| chunk.block);
        match changed.or_else(|| scanned.zeroed.first().map(|run| run.start)) {
            Some(block) => Err(AuditEnd::Missed(Missed { block })),
            None => Ok(scanned.bytes_read),
        }
    }
}

/// A seed that nobody knows beforehand, and another for each disk.
fn blake3_of(session: &Session, disk: &DiskName) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&session.id().0);
    for (at, byte) in disk.as_str().bytes().enumerate() {
        seed[16 + at % 16] = seed[16 + at % 16].rotate_left(3) ^ byte;
    }
    seed
}
