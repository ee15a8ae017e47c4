//! Which packs a rolling check takes next, so that a number of runs that is known beforehand takes all of them.
//!
//! Names of packs are hashes. Their first eight bytes put every pack on a ring of 2^64 places, evenly, whatever disk it holds. A
//! round goes once over the ring. It is cut into as many equal parts as it is to take runs, and a run takes the next part: every
//! pack whose place lies in it, of those that are there then. So nothing needs to be remembered of any pack.
//!
//! What is stated is a period in runs: a pack that is there when it is stated is checked within so many runs, even if the round
//! after this one is cut otherwise. That is why the cut of the next round is fixed when this one begins, and a budget that
//! changes meanwhile can make runs larger and never smaller than what was promised.

use std::num::NonZeroU32;

use vmkeep_envelope::PackName;

/// Most runs that a round is cut into.
pub const ROUND_RUNS_MAX: u32 = 1_000_000;

/// Places on the ring.
const PLACES: u128 = 1 << 64;

/// How far the rounds have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    /// Parts that this round is cut into.
    parts: NonZeroU32,
    /// Parts of them that were taken: fewer than all.
    taken: u32,
    /// Parts that the next round is cut into. Of no meaning before the first part of this round is taken.
    next: NonZeroU32,
}

/// The part of the ring that a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arc {
    start: u128,
    end: u128,
}

/// A run: what it takes, and how far the rounds have come once it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// The packs that it takes.
    pub(super) arc: Arc,
    /// What is to be remembered when all of them were checked.
    pub(super) after: Ring,
    /// Whether a round begins with it.
    pub(super) begins: bool,
    /// Whether the round is over with it.
    pub(super) ends: bool,
}

impl Ring {
    /// At the start of a first round, of as many runs.
    pub(crate) fn new(runs: u32) -> Self {
        let parts = bounded(runs);
        Self { parts, taken: 0, next: parts }
    }

    /// As it was remembered. `None` for numbers that no ring has.
    pub(crate) fn of_parts(parts: u32, taken: u32, next: u32) -> Option<Self> {
        let is_count = |runs: &u32| (1..=ROUND_RUNS_MAX).contains(runs);
        if ![parts, next].iter().all(is_count) || taken >= parts {
            return None;
        }
        Some(Self { parts: bounded(parts), taken, next: bounded(next) })
    }

    /// Parts of this round, those that were taken, and parts of the next round.
    pub(crate) fn parts(self) -> (u32, u32, u32) {
        (self.parts.get(), self.taken, self.next.get())
    }

    /// The next run, when the budget alone would have a round take `runs` of them.
    pub(super) fn turn(self, runs: u32) -> Turn {
        let (runs, parts, taken) = (bounded(runs), self.parts.get(), self.taken);
        let begins = taken == 0;
        let next = if begins { runs } else { self.next };
        // Whole parts, so that no run is lost to a rest at the end of the round.
        let end = taken.saturating_add((parts / runs).max(1)).min(parts);
        let ends = end == parts;
        let after =
            if ends { Self { parts: next, taken: 0, next } } else { Self { taken: end, next, ..self } };
        Turn { arc: Arc { start: self.place(taken), end: self.place(end) }, after, begins, ends }
    }

    /// Everything was checked otherwise: a new round begins, which takes no more runs than were promised.
    #[must_use]
    pub(crate) fn restarted(self) -> Self {
        Self::new(self.period())
    }

    /// In how many runs, at most, every pack that is there now is checked.
    pub(crate) fn period(self) -> u32 {
        if self.taken == 0 { self.parts.get() } else { self.parts.max(self.next).get() }
    }

    /// Where the part of that number begins.
    fn place(self, part: u32) -> u128 {
        PLACES * u128::from(part) / u128::from(self.parts.get())
    }
}

impl Arc {
    /// Whether a pack of that name is taken.
    pub(super) fn holds(&self, name: &PackName) -> bool {
        (self.start..self.end).contains(&u128::from(place_of(name)))
    }

    /// How many places it has.
    #[cfg(test)]
    fn share(&self) -> u128 {
        self.end - self.start
    }
}

/// The place of a pack on the ring.
fn place_of(name: &PackName) -> u64 {
    let (first, _) = name.0.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*first)
}

/// How many runs a round takes when each is to read `budget` of `total` bytes.
pub(super) fn runs_of_bytes(total: u64, budget: u64) -> u32 {
    u32::try_from(total.div_ceil(budget.max(1))).unwrap_or(u32::MAX).clamp(1, ROUND_RUNS_MAX)
}

/// How many runs a round takes when each is to read so many thousandths of a per cent of everything.
pub(super) fn runs_of_share(millipercent: u32) -> u32 {
    100_000_u32.div_ceil(millipercent.max(1)).clamp(1, ROUND_RUNS_MAX)
}

fn bounded(runs: u32) -> NonZeroU32 {
    NonZeroU32::new(runs.min(ROUND_RUNS_MAX)).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What happens between runs, and in them.
    #[derive(Clone, Debug)]
    enum Step {
        /// A pack comes.
        Add(u64),
        /// One of those that are there goes: swept.
        Sweep(usize),
        /// What is in one lies in another from now on.
        Repack(usize, u64),
        /// A run with a budget of bytes, or of a share.
        Bytes(u64),
        Share(u32),
        /// A run that fails: nothing is remembered of it.
        Fail(u64),
        /// Everything is checked at once.
        Whole,
    }

    fn place() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), 0..3_u64, (u64::MAX - 3)..=u64::MAX, (0..64_u32).prop_map(|bit| 1 << bit)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => place().prop_map(Step::Add),
            1 => any::<usize>().prop_map(Step::Sweep),
            1 => (any::<usize>(), place()).prop_map(|(which, to)| Step::Repack(which, to)),
            6 => (1..40_u64).prop_map(Step::Bytes),
            3 => (2_000..=100_000_u32).prop_map(Step::Share),
            1 => (1..40_u64).prop_map(Step::Fail),
            1 => Just(Step::Whole),
        ]
    }

    fn name(place: u64) -> PackName {
        let mut name = [7; 16];
        name[..8].copy_from_slice(&place.to_be_bytes());
        PackName(name)
    }

    /// Every pack, and the run by which it must have been checked, by all that was stated while it was there.
    type Packs = BTreeMap<u64, u64>;

    /// A pack by its number among all, if there is any.
    fn nth(packs: &Packs, n: usize) -> Option<u64> {
        packs.keys().nth(n.checked_rem(packs.len())?).copied()
    }

    fn run(ring: Option<Ring>, packs: &mut Packs, runs: u32, now: u64) -> Ring {
        let turn = ring.unwrap_or_else(|| Ring::new(runs)).turn(runs);
        let due = now + u64::from(turn.after.period());
        for (place, by) in packs.iter_mut() {
            if turn.arc.holds(&name(*place)) {
                *by = due;
            } else {
                assert!(*by > now, "pack {place:x} was due at run {by}, and this is run {now}: {turn:?}");
                *by = (*by).min(due);
            }
        }
        turn.after
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// The guarantee: whatever is added, swept and repacked, however the budget changes, and whichever runs fail, a pack
        /// is checked within the period that was stated at any time at which it was there.
        #[test]
        fn every_pack_is_checked_within_every_period_that_was_stated(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let (mut ring, mut packs, mut now) = (None::<Ring>, Packs::new(), 0_u64);
            for step in steps {
                let period = ring.map_or(u64::from(ROUND_RUNS_MAX), |ring| u64::from(ring.period()));
                match step {
                    Step::Add(place) => drop(packs.entry(place).or_insert(now + period)),
                    Step::Sweep(n) => {
                        if let Some(place) = nth(&packs, n) {
                            packs.remove(&place);
                        }
                    }
                    Step::Repack(n, to) => {
                        if let Some(place) = nth(&packs, n) {
                            packs.remove(&place);
                            packs.entry(to).or_insert(now + period);
                        }
                    }
                    Step::Bytes(budget) => {
                        now += 1;
                        let runs = runs_of_bytes(packs.len() as u64, budget);
                        ring = Some(run(ring, &mut packs, runs, now));
                    }
                    Step::Share(millipercent) => {
                        now += 1;
                        ring = Some(run(ring, &mut packs, runs_of_share(millipercent), now));
                    }
                    // What is thrown away is what would be remembered.
                    Step::Fail(budget) => {
                        let runs = runs_of_bytes(packs.len() as u64, budget);
                        ring.unwrap_or_else(|| Ring::new(runs)).turn(runs);
                    }
                    Step::Whole => {
                        ring = ring.map(Ring::restarted);
                        let due = now + ring.map_or(u64::from(ROUND_RUNS_MAX), |ring| u64::from(ring.period()));
                        for by in packs.values_mut() {
                            *by = due;
                        }
                    }
                }
                // As it is remembered.
                ring = ring.map(|ring| {
                    let (parts, taken, next) = ring.parts();
                    Ring::of_parts(parts, taken, next).expect("a ring that came about")
                });
            }
        }

        /// A round takes every place once, in order, in parts that differ by one place at most.
        #[test]
        fn a_round_goes_over_the_ring_once(parts in 1..5000_u32, budgets in prop::collection::vec(1..5000_u32, 1..9)) {
            let (mut ring, mut at, mut runs) = (Ring::new(parts), 0, 0);
            for budget in budgets.iter().cycle() {
                let turn = ring.turn(*budget);
                prop_assert_eq!(turn.arc.start, at);
                prop_assert_eq!(turn.begins, at == 0);
                // No more than the budget, unless it was promised.
                let most = (PLACES / u128::from(*budget)).max(PLACES / u128::from(parts));
                prop_assert!(turn.arc.share() <= most + 1);
                (at, ring, runs) = (turn.arc.end, turn.after, runs + 1);
                prop_assert!(runs <= parts);
                if turn.ends {
                    break;
                }
            }
            prop_assert_eq!(at, PLACES);
            prop_assert_eq!(ring.parts().0, budgets[0]);
        }
    }

    #[test]
    fn a_budget_makes_so_many_runs() {
        assert_eq!([100, 101, 99, 1, 0].map(|total| runs_of_bytes(total, 10)), [10, 11, 10, 1, 1]);
        assert_eq!((runs_of_bytes(u64::MAX, 1), runs_of_bytes(5, 0)), (ROUND_RUNS_MAX, 5));
        let shares = [100_000, 50_000, 33_333, 5_000, 1, 0].map(runs_of_share);
        assert_eq!(shares, [1, 2, 4, 20, 100_000, 100_000]);
    }

    #[test]
    fn a_steady_budget_states_one_period_and_keeps_it() {
        let mut ring = Ring::new(20);
        for _ in 0..60 {
            assert_eq!(ring.period(), 20);
            ring = ring.turn(20).after;
        }
    }

    #[test]
    fn a_larger_budget_is_used_at_once_and_a_smaller_one_when_what_was_promised_is_over() {
        let half = Ring::new(100).turn(2);
        assert_eq!((half.arc.share(), half.after.parts()), (PLACES / 2, (100, 50, 2)));
        let mut ring = Ring::new(2).turn(2).after;
        let mut shares = Vec::new();
        for _ in 0..4 {
            let turn = ring.turn(8);
            shares.push(PLACES / turn.arc.share());
            ring = turn.after;
        }
        assert_eq!(shares, [2, 2, 2, 8]);
    }

    #[test]
    fn numbers_that_no_ring_has_are_refused() {
        for (parts, taken, next) in
            [(0, 0, 1), (1, 0, 0), (3, 3, 3), (2, 0, ROUND_RUNS_MAX + 1), (u32::MAX, 0, 1)]
        {
            assert_eq!(Ring::of_parts(parts, taken, next), None);
        }
        assert_eq!(Ring::of_parts(3, 2, 1).map(Ring::parts), Some((3, 2, 1)));
        assert_eq!((Ring::new(0), Ring::new(u32::MAX).parts().0), (Ring::new(1), ROUND_RUNS_MAX));
    }
}
