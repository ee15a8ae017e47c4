//! The events of one instant, put together so that their order is of no matter.

use std::collections::BTreeMap;

use vmkeep_model::Timestamp;

use crate::book::Terms;
use crate::error::EventProblem;
use crate::event::{Agent, Event, EventKind, Tier};
use crate::meter::{DAY_MS, SILENCE_MAX_MS, SOFT_MAX};
use crate::size::{MicroUnits, SizeRule, instance_size};

/// What the events of one instant add up to. Adding is commutative, so their order within the instant is of no matter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instant {
    pub(crate) events: Option<(u64, u64)>,
    pub(crate) last_kind: &'static str,
    pub(crate) protection: i32,
    /// Whether protection was configured in it, even if it was stopped again.
    pub(crate) configured: bool,
    pub(crate) backup: Option<(u64, MicroUnits)>,
    pub(crate) bytes: [i128; 3],
    pub(crate) soft: BTreeMap<(Timestamp, Timestamp), [i128; 3]>,
    pub(crate) early_byte_ms: u128,
}

impl Instant {
    /// Adds an event to its instant.
    pub(crate) fn collect(
        &mut self,
        event: &Event,
        terms: &Terms,
        rule: SizeRule,
    ) -> Result<(), EventProblem> {
        let minimum = i64::from(terms.archive_days_min) * DAY_MS;
        let number = event.number;
        let instant = &mut *self;
        instant.events = Some(instant.events.map_or((number, number), |(first, _)| (first, number)));
        instant.last_kind = event.kind.name();
        let mut leave = |tier: Tier, bytes: u64, since: Timestamp| {
            let stayed = event.at.0.saturating_sub(since.0).max(0);
            if tier == Tier::Archive && stayed < minimum {
                let missing = u128::from((minimum - stayed).unsigned_abs());
                let sum = instant.early_byte_ms.checked_add(u128::from(bytes) * missing);
                instant.early_byte_ms = sum.ok_or(EventProblem::TooLarge)?;
            }
            Ok::<_, EventProblem>(())
        };
        match &event.kind {
            EventKind::Protected => {
                instant.protection = instant.protection.saturating_add(1);
                instant.configured = true;
            }
            EventKind::Stopped => instant.protection = instant.protection.saturating_sub(1),
            EventKind::Backup { disks, agent } => {
                let size = instance_size(disks, rule)?;
                let full = terms.bands.units(size);
                let units = match agent {
                    Agent::Used => full,
                    Agent::Agentless => {
                        let part = u128::from(full.0) * u128::from(terms.agentless.0) / 1_000_000;
                        MicroUnits(u64::try_from(part).unwrap_or(u64::MAX))
                    }
                };
                let before = instant.backup.unwrap_or_default();
                instant.backup = Some((size.max(before.0), units.max(before.1)));
            }
            EventKind::Stored { tier, bytes } => add(&mut instant.bytes, *tier, *bytes, 1)?,
            EventKind::Removed { tier, bytes, since } => {
                leave(*tier, *bytes, *since)?;
                add(&mut instant.bytes, *tier, *bytes, -1)?;
            }
            EventKind::Moved { from, bytes, since, to, bytes_there } => {
                leave(*from, *bytes, *since)?;
                add(&mut instant.bytes, *from, *bytes, -1)?;
                add(&mut instant.bytes, *to, *bytes_there, 1)?;
            }
            EventKind::SoftDeleted { tier, bytes, purge_at } => {
                let days = purge_at.0.checked_sub(event.at.0);
                if !days.is_some_and(|ms| (0..=SILENCE_MAX_MS).contains(&ms)) {
                    return Err(EventProblem::Purge);
                }
                add(&mut instant.bytes, *tier, *bytes, -1)?;
                add(instant.soft.entry((event.at, *purge_at)).or_default(), *tier, *bytes, 1)?;
            }
            EventKind::Undeleted { tier, bytes, deleted_at, purge_at } => {
                add(&mut instant.bytes, *tier, *bytes, 1)?;
                add(instant.soft.entry((*deleted_at, *purge_at)).or_default(), *tier, *bytes, -1)?;
            }
            EventKind::Purged { tier, bytes, since, deleted_at, purge_at } => {
                leave(*tier, *bytes, *since)?;
                add(instant.soft.entry((*deleted_at, *purge_at)).or_default(), *tier, *bytes, -1)?;
            }
            EventKind::Restored { .. } => {}
        }
        if self.soft.len() > SOFT_MAX { Err(EventProblem::TooManySoft) } else { Ok(()) }
    }
}

fn add(sums: &mut [i128; 3], tier: Tier, bytes: u64, sign: i128) -> Result<(), EventProblem> {
    let sum = &mut sums[tier.index()];
    *sum = sum.checked_add(sign * i128::from(bytes)).ok_or(EventProblem::TooLarge)?;
    Ok(())
}
