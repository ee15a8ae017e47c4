//! How many hosts there are, what they do, and how often things go wrong: drawn per seed.

use vmkeep::vault::Rule;
use vmkeep_testkit::Odds;

use super::dice::Dice;
use super::host::{Host, Operation};
use super::ledger::Mark;
use super::walk::Packing;

/// The VMs: two writers are at the first.
pub(crate) const VMS: [&str; 2] = ["a", "b"];

/// What a kind of run is like.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    pub(crate) writers: (u64, u64),
    pub(crate) sweepers: (u64, u64),
    pub(crate) readers: (u64, u64),
    pub(crate) markers: (u64, u64),
    pub(crate) operations: u64,
    pub(crate) rounds: u64,
    /// In a hundred: runs that begin with an empty vault, and rounds that a power cut ends.
    pub(crate) from_nothing: u64,
    pub(crate) power_cut: u64,
    /// The most that the odds of each thing going wrong are, in a thousand.
    pub(crate) odds: Odds,
    /// Whether sweepers end sessions that run.
    pub(crate) impatient: bool,
    pub(crate) broken: Option<Rule>,
}

impl Mix {
    /// Everything beside everything.
    pub(crate) const ALL: Self = Self {
        writers: (2, 3),
        sweepers: (1, 2),
        readers: (1, 1),
        markers: (1, 2),
        operations: 4,
        rounds: 2,
        from_nothing: 10,
        power_cut: 40,
        odds: Odds { fail: 10, lose_answer: 10, repeat: 40, late: 10, stop: 30, resume: 60 },
        impatient: true,
        broken: None,
    };

    /// Packs of a few slots, so that a point has several and they become worn one by one.
    pub(crate) fn packing(dice: &mut Dice) -> Packing {
        Packing { pack_bytes: [600, 1500, 4000][dice.index(3)], frame_blocks: 1 + dice.index(4) }
    }

    /// Each of the odds is 0 in half of all runs.
    pub(crate) fn odds(&self, dice: &mut Dice) -> Odds {
        let mut draw = |most: u32| {
            let drawn = u32::try_from(dice.between(0, u64::from(most))).unwrap();
            if dice.percent(50) { 0 } else { drawn }
        };
        Odds {
            fail: draw(self.odds.fail),
            lose_answer: draw(self.odds.lose_answer),
            repeat: draw(self.odds.repeat),
            late: draw(self.odds.late),
            stop: draw(self.odds.stop),
            resume: self.odds.resume,
        }
    }

    pub(crate) fn hosts(&self, dice: &mut Dice, seed: u64) -> Vec<Host> {
        let mut hosts: Vec<Host> = Vec::new();
        let mut add = |name: &str, vms: &[&str], work: Vec<(u32, Operation)>, dice: &mut Dice| {
            let seed = seed * 20 + hosts.len() as u64;
            hosts.push(Host {
                name: name.to_owned(),
                vms: vms.iter().map(|&vm| vm.to_owned()).collect(),
                work,
                // A mark is quickly made.
                operations: dice.between(1, self.operations) * if name == "marker" { 2 } else { 1 },
                packing: Self::packing(dice),
                broken: self.broken,
                seed,
            });
        };
        for writer in 0..dice.between(self.writers.0, self.writers.1) {
            let vms = if writer < 2 { &VMS[..1] } else { &VMS[1..] };
            let work = vec![(10, Operation::BackUp), (3, Operation::Resume), (1, Operation::Reopen)];
            add("writer", vms, work, dice);
        }
        for _ in 0..dice.between(self.sweepers.0, self.sweepers.1) {
            let sweep = |abandoned_after_ms, max_repack| Operation::Sweep { abandoned_after_ms, max_repack };
            let impatience = if self.impatient { Some(0) } else { None };
            let work = vec![
                (6, sweep(impatience, u64::MAX)),
                (4, sweep(None, u64::MAX)),
                (2, sweep(None, 0)),
                (1, sweep(impatience, 2000)),
                (u32::from(self.impatient), Operation::Void),
                (1, Operation::Reopen),
            ];
            add("sweeper", &VMS, work, dice);
        }
        for _ in 0..dice.between(self.readers.0, self.readers.1) {
            let work = vec![
                (6, Operation::Read { pinned: true }),
                (3, Operation::Read { pinned: false }),
                (1, Operation::Reopen),
            ];
            add("reader", &VMS, work, dice);
        }
        for _ in 0..dice.between(self.markers.0, self.markers.1) {
            let work = vec![
                (12, Operation::Mark(Mark::Forget)),
                (3, Operation::Mark(Mark::Undelete)),
                (2, Operation::Mark(Mark::Hold)),
                (3, Operation::Mark(Mark::Release)),
                (1, Operation::BreakPin),
            ];
            add("marker", &VMS, work, dice);
        }
        hosts
    }
}
