//! Exploring what is too large to be explored state by state: of steps that may change places, one order.
//!
//! In each state some processes go on and the others wait, so that nothing is missed: those that go on are chosen such that
//! no other ever touches what their next steps mind, whatever it comes to before they took them. Take any run from here to
//! its end. Some of those that were chosen take a step in it, as they have not ended; the first such step may change places
//! with every step before it, so it may as well be the first of all, and the run comes to the same. So each run has one
//! among those explored that differs from it by steps that changed places and by nothing else: each process sees the same
//! and does the same, and the end is the same. What is wrong is found by a step that looks at it ([`Touch::of`]), so it is
//! found in both; a process that stops for ever is one that takes no more steps in a run's first part, and what is wrong
//! there is wrong in the whole run too.
//!
//! What a process may ever touch is not told beforehand: it is learnt, from nothing, by what it is seen to do in any run
//! from where it stands. Where something was relied on that turns out not to be so, all is explored again with what is
//! known by then, until nothing is. That is enough: take the shortest run in which a process touches what it was relied on
//! not to touch. Up to there steps may change places as said, so the process comes to the same place in a run that was
//! explored, and would have been seen.
//!
//! All this is said of runs that end. That all do is seen by the processes: none becomes again what it was
//! ([`Explored::finite`]). So nobody waits for ever, nor goes round in circles, alone or with others.
//!
//! [`Touch::of`]: super::touch::Touch::of

use std::collections::{BTreeSet, HashSet};

use super::State;
use super::known::{BuildSame, Known, mixed};

/// Most processes of a run.
const MOST: usize = 5;
const NOBODY: u32 = u32::MAX;

/// A state: the numbers of its world, of its processes, and of what comes of each in that world.
#[derive(Clone, Copy, Debug)]
struct Node {
    world: u32,
    who: [u32; MOST],
    pairs: [u32; MOST],
}

impl Node {
    /// 64 bits that tell states apart: of n states two have the same with a probability of n²/2⁶⁵, for ten million 1 in
    /// 370,000. Processes that are alike may change places.
    fn print(&self) -> u64 {
        let who = self.who.iter().fold(0_u64, |sum, who| sum.wrapping_add(mixed(u64::from(*who) + 1)));
        mixed(who ^ mixed(u64::from(self.world) << 32))
    }

    /// Where there is a process.
    fn places(&self) -> impl Iterator<Item = usize> {
        let who = self.who;
        (0..MOST).filter(move |at| who[*at] != NOBODY)
    }
}

/// The places of which there is a bit in `those`.
fn each(those: u8) -> impl Iterator<Item = usize> {
    (0..MOST).filter(move |at| those & 1 << at != 0)
}

/// The least set of processes with `chosen` in it whose next steps mind nobody outside.
fn closed(mut chosen: u8, minds: [u8; MOST]) -> u8 {
    loop {
        let with = each(chosen).fold(chosen, |all, at| all | minds[at]);
        if with == chosen {
            return chosen;
        }
        chosen = with;
    }
}

/// How far an exploration was.
#[derive(Debug, Default)]
pub(super) struct Explored {
    /// States with more ways to go on than one, or none.
    pub(super) states: usize,
    pub(super) steps: usize,
    /// Where everybody has ended, as prints that are the same in every exploration.
    pub(super) ends: BTreeSet<u64>,
    /// No process becomes again what it was, so that every run ends. Where one does (a head is looked for once more when
    /// it was retired meanwhile) runs may end all the same, but that is not seen here.
    pub(super) finite: bool,
}

/// A step of the process at a place, and which of its fates.
type Taken = (usize, usize);

struct Search {
    known: Known,
    start: Node,
    /// Whether of steps that may change places one order is enough.
    reduce: bool,
    repack: bool,
    seen: HashSet<u64, BuildSame>,
    /// With the step that led there, and after how many states that were remembered.
    stack: Vec<(Node, Taken, usize)>,
    /// The states that were remembered on the way to where it is.
    path: Vec<(Node, Taken)>,
    explored: Explored,
}

/// Explores every state, or with `reduce` of steps that may change places one order; or tells the way to one that is
/// wrong.
pub(super) fn explore_whole(start: &State, reduce: bool, repack: bool) -> Result<Explored, String> {
    assert_eq!(start.losses, 0, "each process has its own losses here");
    let mut known = Known::default();
    let world = known.world(start.world.clone());
    let (mut who, mut pairs) = ([NOBODY; MOST], [NOBODY; MOST]);
    for (at, process) in start.processes.iter().enumerate() {
        who[at] = known.process(process.clone());
        pairs[at] = known.pair(world, who[at]);
    }
    let start = Node { world, who, pairs };
    let (seen, explored) = (HashSet::default(), Explored::default());
    let mut search =
        Search { known, start, reduce, repack, seen, stack: Vec::new(), path: Vec::new(), explored };
    loop {
        search.pass()?;
        if !search.known.misled {
            break;
        }
    }
    search.explored.finite = search.known.all_end();
    Ok(search.explored)
}

impl Search {
    /// Explores everything from the start.
    fn pass(&mut self) -> Result<(), String> {
        self.known.rely_on_nothing();
        self.seen.clear();
        self.stack.clear();
        self.path.clear();
        self.explored = Explored::default();
        self.arrive(self.start, (0, 0))?;
        while let Some((node, taken, depth)) = self.stack.pop() {
            self.path.truncate(depth);
            self.path.push((node, taken));
            for at in each(self.choose(&node)) {
                for fate in 0..self.known.next(node.pairs[at]).len() {
                    let next = self.after(&node, (at, fate));
                    self.arrive(next, (at, fate))?;
                }
            }
        }
        self.explored.states = self.seen.len();
        Ok(())
    }

    fn after(&mut self, node: &Node, (at, fate): Taken) -> Node {
        let (world, process) = self.known.next(node.pairs[at])[fate];
        let mut next = *node;
        next.who[at] = process;
        if world == node.world {
            next.pairs[at] = self.known.pair(world, process);
        } else {
            next.world = world;
            for place in node.places() {
                next.pairs[place] = self.known.pair(world, next.who[place]);
            }
        }
        next
    }

    /// Goes on from a state that `taken` led to as long as there is but one way, and remembers the state where there are
    /// more, or none.
    fn arrive(&mut self, mut node: Node, taken: Taken) -> Result<(), String> {
        loop {
            self.explored.steps += 1;
            if let Err(wrong) = self.check(&node) {
                return Err(self.told(&node, taken, &wrong));
            }
            let chosen = self.choose(&node);
            if let Some(next) = self.only(&node, chosen) {
                node = next;
                continue;
            }
            if self.seen.insert(node.print()) {
                if chosen == 0 {
                    self.end(&node);
                }
                self.stack.push((node, taken, self.path.len()));
            }
            return Ok(());
        }
    }

    /// The state after the only step that needs to be taken.
    fn only(&mut self, node: &Node, chosen: u8) -> Option<Node> {
        let at = chosen.trailing_zeros() as usize;
        let only = self.reduce && chosen.is_power_of_two() && self.known.next(node.pairs[at]).len() == 1;
        only.then(|| self.after(node, (at, 0)))
    }

    fn check(&mut self, node: &Node) -> Result<(), String> {
        let mut ended = true;
        for at in node.places() {
            if self.known.get(node.pairs[at]).wrong {
                self.known.check(node.world, node.who[at])?;
            }
            ended &= self.known.next(node.pairs[at]).is_empty();
        }
        // As if everybody had stopped for ever: in some worlds of all, and in each where all have ended.
        if ended || node.world.is_multiple_of(64) {
            self.known.sweep(node.world, self.repack)
        } else {
            Ok(())
        }
    }

    fn end(&mut self, node: &Node) {
        let prints = node.places().map(|at| self.known.print(node.world, node.who[at]));
        self.explored.ends.insert(prints.fold(0, u64::wrapping_add));
    }

    /// The processes that go on: some that have not ended, and with each all that may ever touch what its next step minds.
    fn choose(&mut self, node: &Node) -> u8 {
        let asks = |at: &usize| !self.known.next(node.pairs[*at]).is_empty();
        let going = node.places().filter(asks).fold(0, |all, at| all | 1 << at);
        if let Some(at) = each(going).find(|at| self.known.get(node.pairs[*at]).stable) {
            return 1 << at;
        }
        if !self.reduce {
            return going;
        }
        let mut minds = [0_u8; MOST];
        let mut chosen = going;
        for one in each(going) {
            let minded = self.known.minds(node.world, node.pairs[one]);
            let touches = |other: &usize| self.known.may_touch(node.who[*other], &minded);
            minds[one] = each(going & !(1 << one)).filter(touches).fold(0, |all, other| all | 1 << other);
            if minds[one] == 0 {
                chosen = 1 << one;
                break;
            }
        }
        if chosen == going {
            let sets = each(going).map(|one| closed(1 << one, minds));
            chosen = sets.min_by_key(|set| set.count_ones()).unwrap_or(going);
        }
        for one in each(chosen) {
            let minded = self.known.minds(node.world, node.pairs[one]);
            for other in each(going & !chosen) {
                self.known.rely(node.who[other], &minded);
            }
        }
        chosen
    }

    /// Tells what is wrong in a state that `last` led to, and all calls on the way there.
    fn told(&mut self, node: &Node, last: Taken, wrong: &str) -> String {
        let path = std::mem::take(&mut self.path);
        let mut at = self.start;
        let mut calls = Vec::new();
        for (place, (to, taken)) in path.iter().chain([&(*node, last)]).enumerate() {
            let mut taken = (place > 0).then_some(*taken);
            while at.print() != to.print() || taken.is_some() {
                let chosen = self.choose(&at);
                let step = taken.take().unwrap_or((chosen.trailing_zeros() as usize, 0));
                if chosen == 0 || calls.len() > 1000 {
                    break;
                }
                calls.push(self.known.call(step.0, at.who[step.0], step.1));
                at = self.after(&at, step);
            }
        }
        let objects = self.known.objects(node.world);
        let seen = self.seen.len();
        format!("{wrong}\nafter {seen} states by\n  {}\nwith {objects:#?}", calls.join("\n  "))
    }
}
