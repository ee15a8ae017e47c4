//! How a VM's line of points stands, in a few requests whatever it holds: no pack is read or listed, and of the points
//! the newest, the one before it, and those that a search by halves for an older one looks at.

use std::sync::Arc;

use vmkeep_model::{PointNumber, RecoveryPoint, Timestamp, VmName};

use crate::error::VaultError;
use crate::format::RetiredBody;
use crate::journal::{self, JournalEntry, Suspect};
use crate::layout::{ObjectName, highest_taken};
use crate::lineage::{AtNumber, Lineage};
use crate::point::OpenPoint;
use crate::vault::{Inner, Vault};

/// Most numbers that are looked at below the newest for a point that counts.
const STEPS_MAX: usize = 64;
/// The same at each step of the search for an older point.
const SEARCH_STEPS_MAX: usize = 8;
/// Most entries of the VM's journal that are read, the newest first.
const JOURNAL_MAX: u64 = 64;
/// Entries that are older than the newest point by more than this are not looked at: clocks of hosts differ.
const JOURNAL_MARGIN_MS: i64 = 24 * 3_600_000;

/// How a VM's line of points stands.
#[derive(Clone, Debug)]
pub struct Glance {
    /// Whether protection was closed: no backup goes into this line any more.
    pub closed: bool,
    /// The newest point that is not forgotten and opens.
    pub newest: Option<RecoveryPoint>,
    /// The one before it.
    pub before: Option<RecoveryPoint>,
    /// The newest point that is older than the newest by the window asked for, or else the oldest; forgotten or not.
    pub earlier: Option<RecoveryPoint>,
    /// Numbers that were given out and not removed yet. One that was forgotten counts until a sweep removes it, and so does that of
    /// a backup that was ended.
    pub points: u64,
    /// Newer than `newest`, or it itself: points that are there and do not open.
    pub unreadable: Vec<PointNumber>,
    /// What change tracking was found to have missed while the newest point was made or since, the latest first; as far as the last 64
    /// entries of the VM's journal say. [`Vault::suspects`] reads all of it.
    pub suspects: Vec<Suspect>,
    /// Epochs of the VM's keys that were destroyed on purpose.
    pub destroyed_epochs: usize,
    /// Whether the search for a point ended before it had seen every number.
    pub cut_short: bool,
}

impl Vault {
    /// How the line of points of `vm` stands, and how it stood `window_ms` before its newest point.
    ///
    /// Requests do not grow with the data, and with the number of points only as its logarithm.
    ///
    /// # Errors
    /// [`VaultError::NoSuchVm`]; and when what the line begins with cannot be read. A point that does not open is told of in
    /// [`Glance::unreadable`].
    pub fn glance(&self, vm: &VmName, window_ms: i64) -> Result<Glance, VaultError> {
        let vault = &self.inner;
        let lineage = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let head = lineage.head(vault)?;
        let line = Line { vault, lineage: &lineage, retired: head.retired.as_ref() };
        let mut glance = Glance {
            closed: head.closed,
            newest: None,
            before: None,
            earlier: None,
            points: line.numbers(head.top).saturating_sub(u64::from(head.closed)),
            unreadable: Vec::new(),
            suspects: Vec::new(),
            destroyed_epochs: lineage.domain.destroyed().len(),
            cut_short: false,
        };
        line.find_newest(head.top, &mut glance)?;
        if let Some(newest) = &glance.newest {
            glance.earlier = line.older(newest, window_ms)?;
            glance.suspects = line.suspects(newest)?;
        }
        Ok(glance)
    }
}

/// A line of points and the numbers that are on it no more.
struct Line<'a> {
    vault: &'a Arc<Inner>,
    lineage: &'a Lineage,
    retired: Option<&'a RetiredBody>,
}

impl Line<'_> {
    fn ranges(&self) -> &[(u64, u64)] {
        self.retired.map_or(&[], |retired| &retired.ranges)
    }

    /// How many numbers up to `top` are not retired.
    fn numbers(&self, top: u64) -> u64 {
        let gone = self.ranges().iter().filter(|&&(first, _)| first <= top);
        top - gone.map(|&(first, last)| last.min(top) - first + 1).sum::<u64>().min(top)
    }

    /// The highest number up to `number` that is not retired; 0 when there is none.
    fn at_most(&self, mut number: u64) -> u64 {
        for &(first, last) in self.ranges().iter().rev() {
            if (first..=last).contains(&number) {
                number = first - 1;
            }
        }
        number
    }

    /// The point at `number`, whatever its marks; `None` when something else is there.
    fn point(&self, number: u64) -> Result<Option<RecoveryPoint>, VaultError> {
        match self.lineage.at(self.vault, number)? {
            Some(AtNumber::Point(body)) => {
                OpenPoint::known(self.vault, self.lineage, body, false).map(|open| Some(open.point))
            }
            Some(AtNumber::Void(_) | AtNumber::Inherited(_) | AtNumber::Closed(_)) => Ok(None),
            // A sweep may have removed it since this began.
            None if self.lineage.retired(self.vault)?.is_some_and(|now| now.holds(number)) => Ok(None),
            None => Err(VaultError::Missing {
                object: ObjectName::Point(self.lineage.id, PointNumber(number)).to_string(),
            }),
        }
    }

    /// The newest two points from `top` down that open and are not forgotten.
    fn find_newest(&self, top: u64, glance: &mut Glance) -> Result<(), VaultError> {
        let mut number = self.at_most(top);
        for _ in 0..STEPS_MAX {
            if number == 0 {
                return Ok(());
            }
            let point = match self.point(number) {
                // A mark that does not open is no reason to pass over a point: verification tells of it.
                Ok(Some(point)) => match self.lineage.is_forgotten(self.vault, number) {
                    Ok(true) => None,
                    Err(e) if !e.is_of_one_object() => return Err(e),
                    Ok(false) | Err(_) => Some(point),
                },
                Ok(None) => None,
                Err(e) if e.is_of_one_object() => {
                    glance.unreadable.push(PointNumber(number));
                    None
                }
                Err(e) => return Err(e),
            };
            match (point, &glance.newest) {
                (Some(point), None) => glance.newest = Some(point),
                (Some(point), Some(_)) => {
                    glance.before = Some(point);
                    return Ok(());
                }
                (None, _) => {}
            }
            number = self.at_most(number - 1);
        }
        // That there may be none but the newest is no reason to say that something was left out.
        glance.cut_short = glance.newest.is_none();
        Ok(())
    }

    /// The newest point that is older than `newest` by `window_ms`, or else the oldest that is found. Points are taken to be in the
    /// order of their times: where a clock was set back, it is another of them.
    fn older(&self, newest: &RecoveryPoint, window_ms: i64) -> Result<Option<RecoveryPoint>, VaultError> {
        let until = Timestamp(newest.created.0.saturating_sub(window_ms));
        let (mut low, mut high) = (0, newest.id.number.0);
        let (mut found, mut oldest) = (None, None);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.at_or_below(middle, low)? {
                Some(point) if point.created <= until => (low, found) = (middle, Some(point)),
                Some(point) => {
                    high = point.id.number.0;
                    oldest = Some(point);
                }
                None => low = middle,
            }
        }
        Ok(found.or(oldest))
    }

    /// The newest point up to `number` and above `low`, when it is found in a few steps.
    fn at_or_below(&self, number: u64, low: u64) -> Result<Option<RecoveryPoint>, VaultError> {
        let mut number = self.at_most(number);
        for _ in 0..SEARCH_STEPS_MAX {
            if number <= low {
                break;
            }
            match self.point(number) {
                Ok(Some(point)) => return Ok(Some(point)),
                Err(e) if !e.is_of_one_object() => return Err(e),
                Ok(None) | Err(_) => number = self.at_most(number - 1),
            }
        }
        Ok(None)
    }

    /// What the end of the VM's journal says of changes that were missed. It is not checked from its beginning: `vmkeep_vault::Log` does that.
    fn suspects(&self, newest: &RecoveryPoint) -> Result<Vec<Suspect>, VaultError> {
        let (vault, stream) = (self.vault, self.lineage.id.0);
        let last = highest_taken(0, |n| vault.objects.exists(&ObjectName::Journal(stream, n)))?;
        let since = Timestamp(newest.created.0.saturating_sub(JOURNAL_MARGIN_MS));
        let mut suspects = Vec::new();
        for n in (1..=last).rev().take(usize::try_from(JOURNAL_MAX).unwrap_or(usize::MAX)) {
            let record = match journal::entry(vault, stream, n, None) {
                Ok(Some((record, _))) => record,
                Ok(None) => break,
                Err(e) if e.is_of_one_object() => continue,
                Err(e) => return Err(e),
            };
            if record.at < since {
                break;
            }
            let JournalEntry::Suspect { disk, from, to, found, block } = record.entry else { continue };
            if found < newest.id.number.0 && to < newest.id.number.0 {
                continue;
            }
            suspects.push(Suspect::of(disk, (from, to), found, block, record.at));
        }
        Ok(suspects)
    }
}
