//! What was checked when: remembered in a journal of its own, whose newest entry says all of it.

use std::collections::BTreeSet;

use vmkeep_model::{Permit, Principal, Timestamp, op};

use super::ring::{Ring, Turn};
use crate::error::VaultError;
use crate::format::{FormatError, decode_exact, encode};
use crate::journal::{self, JournalEntry};
use crate::layout::{ObjectName, highest_taken};
use crate::vault::{Inner, Vault};

/// What the id of the stream is made with.
const STREAM_LABEL: &str = "vmkeep v1 verify stream";

/// How many damaged objects are remembered by name.
pub const NAMED_MAX: usize = 8;
/// Longest name that is remembered, in bytes. No object of a vault has a longer one.
const NAME_MAX: usize = 255;

/// How deep packs are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackDepth {
    /// The footer, and the authentication tag of every slot. Nothing is unpacked.
    Sealed,
    /// Every slot unpacked as well, and each block held against the hash that the footer has of it.
    Blocks,
}

/// What was checked in one go, or in several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The least depth of all that was checked.
    pub depth: PackDepth,
    /// When the first check began, by the clock of the host.
    pub began: Timestamp,
    /// When the last was over.
    pub ended: Timestamp,
    /// Objects that were read: packs, and second copies of packs. In a full verification everything that is not garbage.
    pub objects: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Objects that were found damaged.
    pub damaged: u64,
    /// Some of them by name, [`NAMED_MAX`] at most.
    pub named: Vec<String>,
}

/// How far a vault is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    pub(crate) ring: Option<Ring>,
    /// The last run, rolling or full.
    pub last: Checked,
    /// What the rolling runs of the round that is under way have checked so far; `None` between rounds.
    pub round: Option<Checked>,
    /// The last round that is over, which checked everything: rolling runs, or one full verification.
    pub whole: Option<Checked>,
}

type CheckedBody = (u8, i64, i64, u64, u64, u64, Vec<String>);
type CoverageBody = (Option<(u32, u32, u32)>, CheckedBody, Option<CheckedBody>, Option<CheckedBody>);

impl PackDepth {
    fn number(self) -> u8 {
        match self {
            Self::Sealed => 1,
            Self::Blocks => 2,
        }
    }
}

impl Checked {
    /// Nothing yet.
    pub fn nothing(depth: PackDepth, began: Timestamp) -> Self {
        Self { depth, began, ended: began, objects: 0, bytes: 0, damaged: 0, named: Vec::new() }
    }

    /// Remembers that an object is damaged.
    pub fn add_damaged(&mut self, object: &str) {
        self.damaged = self.damaged.saturating_add(1);
        self.name(object);
    }

    fn name(&mut self, object: &str) {
        let is_new = !self.named.iter().any(|named| named == object);
        if self.named.len() < NAMED_MAX && object.len() <= NAME_MAX && is_new {
            self.named.push(object.to_owned());
        }
    }

    /// Adds what was checked later.
    fn add(&mut self, later: &Self) {
        self.depth = self.depth.min(later.depth);
        self.ended = later.ended;
        self.objects = self.objects.saturating_add(later.objects);
        self.bytes = self.bytes.saturating_add(later.bytes);
        self.add_damage(later);
    }

    fn add_damage(&mut self, other: &Self) {
        self.damaged = self.damaged.saturating_add(other.damaged);
        other.named.iter().for_each(|object| self.name(object));
    }

    fn to_body(&self) -> CheckedBody {
        let Self { depth, began, ended, objects, bytes, damaged, named } = self;
        (depth.number(), began.0, ended.0, *objects, *bytes, *damaged, named.clone())
    }

    fn of_body(body: CheckedBody) -> Result<Self, FormatError> {
        let (depth, began, ended, objects, bytes, damaged, named) = body;
        let depth = match depth {
            1 => PackDepth::Sealed,
            2 => PackDepth::Blocks,
            other => return Err(wrong(&format!("there is no depth {other}"))),
        };
        if named.len() > NAMED_MAX || named.len() as u64 > damaged || named.iter().any(|n| n.len() > NAME_MAX)
        {
            return Err(wrong("more names, or longer ones, than it can have"));
        }
        Ok(Self { depth, began: Timestamp(began), ended: Timestamp(ended), objects, bytes, damaged, named })
    }
}

impl Coverage {
    /// Verified until: every pack that was written before this time, and that anything needs, was checked after it. `None`
    /// as long as no round is over.
    pub fn until(&self) -> Option<Timestamp> {
        self.whole.as_ref().map(|whole| whole.began)
    }

    /// Within how many rolling runs from now on, at most, every pack that is there now is checked. `None` when there was no
    /// rolling run yet.
    pub fn period(&self) -> Option<u32> {
        self.ring.map(Ring::period)
    }

    /// How many parts the round under way has, and how many of them were taken. `None` when there was no rolling run yet.
    pub fn progress(&self) -> Option<(u32, u32)> {
        self.ring.map(Ring::parts).map(|(parts, taken, _)| (parts, taken))
    }

    /// Whether neither the last round nor the one under way met damage. What was mended since counts as damaged until it is
    /// looked at again: by the next round, or by a full verification.
    pub fn is_clean(&self) -> bool {
        [&self.whole, &self.round]
            .into_iter()
            .flatten()
            .chain([&self.last])
            .all(|checked| checked.damaged == 0)
    }

    /// Damaged objects by name: of the last round, the one under way and the last run. Not all of them when there are many.
    pub fn named(&self) -> BTreeSet<&str> {
        let checked = [&self.whole, &self.round].into_iter().flatten().chain([&self.last]);
        checked.flat_map(|checked| &checked.named).map(String::as_str).collect()
    }

    /// What is to be remembered after a rolling run.
    pub(super) fn after_run(before: Option<&Self>, turn: &Turn, run: Checked) -> Self {
        let so_far = before.and_then(|before| before.round.clone()).filter(|_| !turn.begins);
        let round = match so_far {
            Some(mut sum) => {
                sum.add(&run);
                sum
            }
            None => run.clone(),
        };
        let (round, whole) = if turn.ends {
            (None, Some(round))
        } else {
            (Some(round), before.and_then(|before| before.whole.clone()))
        };
        Self { ring: Some(turn.after), last: run, round, whole }
    }

    /// What is to be remembered after a run beside which another one was remembered: what that one says, and what was found.
    fn after_run_beside(mut other: Self, run: Checked) -> Self {
        if let Some(sum) = other.round.as_mut().or(other.whole.as_mut()) {
            sum.add_damage(&run);
        }
        Self { last: run, ..other }
    }

    /// What is to be remembered after a full verification.
    fn after_whole(before: Option<Self>, run: Checked) -> Self {
        match before {
            // A round that began later is over already.
            Some(before) if before.until() > Some(run.began) => Self::after_run_beside(before, run),
            before => {
                let ring = before.and_then(|before| before.ring).map(Ring::restarted);
                Self { ring, last: run.clone(), round: None, whole: Some(run) }
            }
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let body = |checked: &Option<Checked>| checked.as_ref().map(Checked::to_body);
        let body: CoverageBody =
            (self.ring.map(Ring::parts), self.last.to_body(), body(&self.round), body(&self.whole));
        encode(&body)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (ring, last, round, whole): CoverageBody = decode_exact(bytes)?;
        let ring = match ring {
            None => None,
            Some((parts, taken, next)) => {
                Some(Ring::of_parts(parts, taken, next).ok_or_else(|| wrong("parts that no round has"))?)
            }
        };
        let is_under_way = ring.is_some_and(|ring| ring.parts().1 > 0);
        if round.is_some() != is_under_way || (ring.is_none() && whole.is_none()) {
            return Err(wrong("a round that is not where its parts say"));
        }
        let checked = |body: Option<CheckedBody>| body.map(Checked::of_body).transpose();
        Ok(Self { ring, last: Checked::of_body(last)?, round: checked(round)?, whole: checked(whole)? })
    }
}

impl Inner {
    /// The stream of the journal that says what was checked.
    pub(crate) fn verify_stream(&self) -> [u8; 16] {
        self.record.subkey(STREAM_LABEL).hash16(&[&self.id.0])
    }

    /// The newest entry of that stream: its number, and what it says unless a later version wrote it.
    pub(super) fn newest_coverage(&self) -> Result<(u64, Option<Coverage>), VaultError> {
        let stream = self.verify_stream();
        let number = highest_taken(0, |n| self.objects.exists(&ObjectName::Journal(stream, n)))?;
        if number == 0 {
            return Ok((0, None));
        }
        let entry = journal::entry(self, stream, number, None)?.map(|(record, _)| record.entry);
        Ok((
            number,
            match entry {
                Some(JournalEntry::Verified(coverage)) => Some(*coverage),
                _ => None,
            },
        ))
    }

    /// Remembers a rolling run that began after entry `number`.
    pub(super) fn remember_run(
        &self,
        by: &Principal,
        (number, before): (u64, Option<&Coverage>),
        turn: &Turn,
        run: Checked,
    ) -> Result<Coverage, VaultError> {
        let coverage = match self.readable_coverage()? {
            (newest, Some(other)) if newest != number => Coverage::after_run_beside(other, run),
            _ => Coverage::after_run(before, turn, run),
        };
        self.remember(by, coverage)
    }

    fn remember(&self, by: &Principal, coverage: Coverage) -> Result<Coverage, VaultError> {
        let entry = JournalEntry::Verified(Box::new(coverage.clone()));
        journal::append(self, self.verify_stream(), by, &entry)?;
        Ok(coverage)
    }

    /// As [`newest_coverage`](Self::newest_coverage), where damage is as good as nothing: an audit tells of it.
    fn readable_coverage(&self) -> Result<(u64, Option<Coverage>), VaultError> {
        match self.newest_coverage() {
            Err(e) if e.is_of_one_object() => Ok((0, None)),
            newest => newest,
        }
    }
}

impl Vault {
    /// How far the vault is verified, as the last run has left it; `None` when none was remembered. A few requests, however
    /// many runs there were.
    ///
    /// # Errors
    /// When the entry is damaged, or the store fails.
    pub fn verified(&self) -> Result<Option<Coverage>, VaultError> {
        Ok(self.inner.newest_coverage()?.1)
    }

    /// Remembers a full verification: everything that was written before `checked.began` has been looked at.
    ///
    /// It is for whoever did look at everything to call. The round that was under way is over with it.
    ///
    /// # Errors
    /// When the permit is not for the whole vault, or the store fails.
    pub fn note_verified(
        &self,
        permit: &Permit<op::Verify>,
        checked: Checked,
    ) -> Result<Coverage, VaultError> {
        permit.check_vault()?;
        let before = self.inner.readable_coverage()?.1;
        self.inner.remember(permit.who(), Coverage::after_whole(before, checked))
    }
}

fn wrong(what: &str) -> FormatError {
    FormatError(format!("what was verified: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(began: i64, damaged: &[&str]) -> Checked {
        let mut checked = Checked::nothing(PackDepth::Blocks, Timestamp(began));
        (checked.ended, checked.objects, checked.bytes) = (Timestamp(began + 5), 3, 300);
        for object in damaged {
            checked.add_damaged(object);
        }
        checked
    }

    /// A round of three runs.
    #[test]
    fn what_was_written_before_a_round_began_is_verified_when_it_is_over() {
        let (mut ring, mut told) = (Ring::new(3), None::<Coverage>);
        let mut until = Vec::new();
        for n in 0..7 {
            let turn = ring.turn(3);
            let now = Coverage::after_run(told.as_ref(), &turn, checked(n * 100, &[]));
            assert_eq!(Coverage::decode(&now.encode().unwrap()).unwrap(), now);
            until.push(now.until().map(|at| at.0));
            (ring, told) = (turn.after, Some(now));
        }
        assert_eq!(until, [None, None, Some(0), Some(0), Some(0), Some(300), Some(300)]);
        let told = told.unwrap();
        assert_eq!(
            told.whole.as_ref().map(|whole| (whole.ended.0, whole.objects, whole.bytes)),
            Some((505, 9, 900))
        );
        assert_eq!((told.period(), told.progress(), told.is_clean()), (Some(3), Some((3, 1)), true));
        // Everything at once, and the round begins anew.
        let full = Coverage::after_whole(Some(told.clone()), checked(650, &[]));
        assert_eq!((full.until(), full.progress()), (Some(Timestamp(650)), Some((3, 0))));
        // One that began before the last round did says nothing new.
        let late = Coverage::after_whole(Some(told.clone()), checked(250, &["x"]));
        assert_eq!((late.until(), late.progress(), late.is_clean()), (told.until(), told.progress(), false));
    }

    #[test]
    fn damage_is_told_until_a_round_goes_by_without_it() {
        let (mut ring, mut told, mut clean) = (Ring::new(2), None::<Coverage>, Vec::new());
        for n in 0..6 {
            let (turn, damage) = (ring.turn(2), if n == 1 { &["packs/x"][..] } else { &[] });
            let now = Coverage::after_run(told.as_ref(), &turn, checked(n, damage));
            clean.push(now.is_clean());
            assert_eq!(now.named().is_empty(), now.is_clean());
            (ring, told) = (turn.after, Some(now));
        }
        assert_eq!(clean, [true, false, false, true, true, true]);
        // What another run found meanwhile is not forgotten.
        let beside = Coverage::after_run_beside(told.unwrap(), checked(9, &["packs/y"]));
        assert_eq!((beside.is_clean(), beside.named().len(), beside.whole.unwrap().damaged), (false, 1, 1));
    }

    #[test]
    fn names_are_few_and_short() {
        let mut many = checked(0, &[]);
        (0..100).for_each(|n| many.add_damaged(&format!("packs/{n}")));
        many.add_damaged(&"x".repeat(300));
        assert_eq!((many.damaged, many.named.len()), (101, NAMED_MAX));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let turn = Ring::new(2).turn(2);
        let good = Coverage::after_run(None, &turn, checked(0, &["packs/x"]));
        let refused = |change: &dyn Fn(&mut Coverage)| {
            let mut bad = good.clone();
            change(&mut bad);
            Coverage::decode(&bad.encode().unwrap()).is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|bad| bad.round = None));
        assert!(refused(&|bad| bad.ring = None));
        assert!(refused(&|bad| bad.ring = Some(Ring::new(2))));
        assert!(refused(&|bad| (bad.ring, bad.round) = (None, None)));
        assert!(refused(&|bad| bad.last.named = vec!["x".repeat(300)]));
        assert!(refused(&|bad| bad.last.damaged = 0));
        assert!(refused(&|bad| (bad.last.named, bad.last.damaged) = (vec![String::new(); 9], 9)));
        let bytes = good.encode().unwrap();
        assert!(Coverage::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
