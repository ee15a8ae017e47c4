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
    /// Steps after which a round's hosts begin nothing new, from and to.
    pub(crate) steps: (u64, u64),
    pub(crate) rounds: u64,
    /// In a hundred, as what follows: runs that begin with an empty vault, and rounds that a power cut ends.
    pub(crate) from_nothing: u64,
    pub(crate) power_cut: u64,
    /// Rounds in which a writer stands still in the middle of a session, for long.
    pub(crate) stall: u64,
    /// The most hosts that pause in a round, one after another or at once.
    pub(crate) pauses: u64,
    /// Rounds whose hosts choose new points.
    pub(crate) likes_new: u64,
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
        readers: (0, 1),
        markers: (1, 2),
        steps: (200, 1200),
        rounds: 2,
        from_nothing: 10,
        power_cut: 40,
        stall: 40,
        pauses: 6,
        likes_new: 30,
        odds: Odds { fail: 10, lose_answer: 10, repeat: 40, late: 10, stop: 15, resume: 12 },
        impatient: true,
        broken: None,
    };

    /// Much is forgotten, and several sweeps are at it.
    pub(crate) const RIVAL_SWEEPS: Self = Self {
        writers: (1, 2),
        sweepers: (3, 4),
        readers: (0, 2),
        markers: (2, 3),
        steps: (600, 1800),
        power_cut: 20,
        pauses: 12,
        odds: Odds { fail: 4, lose_answer: 4, repeat: 40, late: 6, stop: 20, resume: 12 },
        ..Self::ALL
    };

    /// Writers that are stopped while everything else goes on: what they wanted is ended and retired before they commit.
    pub(crate) const STALLED_WRITERS: Self = Self {
        writers: (3, 3),
        sweepers: (2, 2),
        readers: (0, 0),
        markers: (2, 2),
        steps: (700, 1000),
        rounds: 1,
        from_nothing: 0,
        power_cut: 0,
        stall: 100,
        pauses: 0,
        likes_new: 100,
        odds: Odds { fail: 0, lose_answer: 0, repeat: 0, late: 0, stop: 0, resume: 0 },
        ..Self::ALL
    };

    /// Readers of points that are forgotten and swept.
    pub(crate) const CHASED_READERS: Self = Self {
        writers: (1, 1),
        sweepers: (2, 3),
        readers: (3, 3),
        markers: (2, 2),
        steps: (300, 600),
        rounds: 1,
        from_nothing: 0,
        power_cut: 0,
        odds: Odds { fail: 0, lose_answer: 0, repeat: 0, late: 0, stop: 40, resume: 20 },
        ..Self::ALL
    };

    /// What the run of a seed is like.
    pub(crate) fn of(seed: u64) -> &'static Self {
        if seed % 4 == 3 { &Self::RIVAL_SWEEPS } else { &Self::ALL }
    }

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

    /// The hosts of a round that begins at step `now`.
    pub(crate) fn hosts(&self, dice: &mut Dice, seed: u64, now: u64) -> Vec<Host> {
        let mut hosts: Vec<Host> = Vec::new();
        let likes_new = dice.percent(self.likes_new);
        let until = now + dice.between(self.steps.0, self.steps.1);
        let mut add = |name: &str, vms: &[&str], work: Vec<(u32, Operation)>, dice: &mut Dice| {
            let seed = seed * 20 + hosts.len() as u64;
            hosts.push(Host {
                name: name.to_owned(),
                index: hosts.len(),
                vms: vms.iter().map(|&vm| vm.to_owned()).collect(),
                work,
                until,
                packing: Self::packing(dice),
                broken: self.broken,
                // To a sweeper every session is an old one.
                later: if name == "sweeper" { 1_000_000 } else { 0 },
                likes_new,
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
            // Nothing is ever committed where all sweepers end all sessions all the time.
            let impatient = if self.impatient { [0, 2, 12][dice.index(3)] } else { 0 };
            let work = vec![
                (8, sweep(None, u64::MAX)),
                (2, sweep(None, 0)),
                (2, sweep(None, 2000)),
                (impatient, sweep(Some(0), u64::MAX)),
                (impatient.min(1), Operation::Void),
                (25, Operation::Idle),
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
