//! Exploring what is too large to be explored state by state: of steps that may change places, one order.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use super::State;
use super::known::Known;

/// Most processes of a run.
const MOST: usize = 6;
const NOBODY: u32 = u32::MAX;

/// A state by the numbers of its world and its processes. Those are in order: processes that are alike may change places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    world: u32,
    who: [u32; MOST],
}

impl Node {
    fn new(world: u32, processes: &[u32]) -> Self {
        let mut who = [NOBODY; MOST];
        who[..processes.len()].copy_from_slice(processes);
        who.sort_unstable();
        Self { world, who }
    }

    fn after(&self, at: usize, (world, process): (u32, u32)) -> Self {
        let mut who = self.who;
        who[at] = process;
        who.sort_unstable();
        Self { world, who }
    }

    /// 64 bits that tell states apart: of a hundred million states, two share theirs with a probability of 1 in 3,700.
    fn print(&self) -> u64 {
        let mix = |sum: u64, word: u64| {
            let mut word = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            word ^= word >> 32;
            word = word.wrapping_mul(0xd6e8_feb8_6659_fd93);
            word ^ (word >> 29)
        };
        let who = self.who.chunks(2).map(|two| u64::from(two[0]) << 32 | u64::from(two[1]));
        who.fold(mix(1, u64::from(self.world)), mix)
    }
}

/// Prints are as random as a hash.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only prints are hashed");
    }

    fn write_u64(&mut self, print: u64) {
        self.0 = print;
    }
}

/// How far an exploration was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) ends: usize,
}

struct Search {
    known: Known,
    seen: HashSet<u64, BuildHasherDefault<Same>>,
    /// With how many steps led there.
    stack: Vec<(Node, usize)>,
    path: Vec<Node>,
    /// Where not every process was let go on, and those that were.
    waited: Vec<(Node, u8)>,
    ends: usize,
    reduce: bool,
    repack: bool,
}

/// Explores every state, or with `reduce` of steps that may change places only one order.
pub(super) fn explore_whole(start: &State, reduce: bool, repack: bool) -> Result<Explored, String> {
    assert_eq!(start.losses, 0, "each process has its own losses here");
    let mut known = Known::default();
    let world = known.world(start.world.clone());
    let processes: Vec<u32> = start.processes.iter().map(|process| known.process(process.clone())).collect();
    let start = Node::new(world, &processes);
    let mut search = Search {
        known,
        seen: HashSet::default(),
        stack: vec![(start, 0)],
        path: Vec::new(),
        waited: Vec::new(),
        ends: 0,
        reduce,
        repack,
    };
    search.run()?;
    let time = std::time::Instant::now();
    let mut rounds = 0;
    loop {
        rounds += 1;
        search.reconsider();
        if search.stack.is_empty() {
            break;
        }
        search.run()?;
    }
    let (worlds, processes, pairs) = search.known.sizes();
    println!("{worlds} worlds, {processes} processes, {pairs} pairs, {} waited, {rounds} rounds {:?}", search.waited.len(), time.elapsed());
    assert!(search.known.ends(), "a process can become again what it was");
    Ok(Explored { states: search.seen.len(), ends: search.ends })
}

impl Search {
    fn run(&mut self) -> Result<(), String> {
        while let Some((node, depth)) = self.stack.pop() {
            if !self.seen.insert(node.print()) {
                continue;
            }
            self.path.truncate(depth);
            self.path.push(node);
            let pairs = self.pairs(&node);
            for &pair in &pairs {
                if pair != NOBODY && let Some(wrong) = &self.known.get(pair).wrong {
                    return Err(self.told(wrong));
                }
            }
            let going = self.going(&pairs);
            if going == 0 {
                self.ends += 1;
            }
            if going == 0 || node.world % 64 == 0 {
                self.known.sweep(node.world, self.repack).map_err(|e| self.told(&e))?;
            }
            let chosen = if self.reduce { self.choose(&node, &pairs, going) } else { self.stable(&pairs).unwrap_or(going) };
            if chosen != going && self.reduce {
                self.waited.push((node, chosen));
            }
            self.push(&node, &pairs, chosen, depth);
        }
        Ok(())
    }

    fn pairs(&mut self, node: &Node) -> [u32; MOST] {
        node.who.map(|process| if process == NOBODY { NOBODY } else { self.known.pair(node.world, process) })
    }

    /// The processes that have not ended.
    fn going(&self, pairs: &[u32; MOST]) -> u8 {
        let going = |at: &usize| pairs[*at] != NOBODY && !self.known.get(pairs[*at]).next.is_empty();
        (0..MOST).filter(going).fold(0, |all, at| all | 1 << at)
    }

    fn push(&mut self, node: &Node, pairs: &[u32; MOST], chosen: u8, depth: usize) {
        for at in (0..MOST).filter(|at| chosen & 1 << at != 0) {
            for &next in &self.known.get(pairs[at]).next {
                self.stack.push((node.after(at, next), depth + 1));
            }
        }
    }

    /// A process whose next step is the same whenever it is taken.
    fn stable(&self, pairs: &[u32; MOST]) -> Option<u8> {
        let stable = |at: &usize| pairs[*at] != NOBODY && self.known.get(pairs[*at]).stable;
        (0..MOST).find(stable).map(|at| 1 << at)
    }

    fn choose(&self, node: &Node, pairs: &[u32; MOST], going: u8) -> u8 {
        let minds = self.minds(node, pairs, going);
        let mut best = going;
        for at in (0..MOST).filter(|at| going & 1 << at != 0) {
            let with = closed(1 << at, &minds);
            if with.count_ones() < best.count_ones() {
                best = with;
            }
        }
        best
    }

    /// Per process, those that its next step minds.
    fn minds(&self, node: &Node, pairs: &[u32; MOST], going: u8) -> [u8; MOST] {
        let mut minds = [0; MOST];
        for one in (0..MOST).filter(|at| going & 1 << at != 0) {
            let pair = self.known.get(pairs[one]);
            for other in (0..MOST).filter(|at| *at != one && going & 1 << at != 0) {
                if self.known.minds(node.world, pair, node.who[other]) {
                    minds[one] |= 1 << other;
                }
            }
        }
        minds
    }

    /// Where something has become known since that could not be foreseen, more processes go on.
    fn reconsider(&mut self) {
        let mut waited = std::mem::take(&mut self.waited);
        for (node, chosen) in &mut waited {
            let pairs = self.pairs(node);
            let minds = self.minds(node, &pairs, self.going(&pairs));
            let with = closed(*chosen, &minds);
            if with != *chosen {
                self.push(node, &pairs, with & !*chosen, 0);
                *chosen = with;
            }
        }
        waited.append(&mut self.waited);
        self.waited = waited;
    }

    fn told(&self, wrong: &str) -> String {
        let mut calls = Vec::new();
        for two in self.path.windows(2) {
            for at in 0..MOST {
                if two[0].who[at] == NOBODY { continue; }
                let Some(pair) = self.known.known_pair(two[0].world, two[0].who[at]) else { continue };
                let next = &self.known.get(pair).next;
                if let Some(fate) = next.iter().position(|next| two[0].after(at, *next) == two[1]) {
                    calls.push(self.known.call(at, two[0].who[at], fate));
                    break;
                }
            }
        }
        let objects = self.path.last().map(|node| self.known.objects(node.world));
        format!("{wrong}\nafter {} states by\n  {}\nwith {objects:#?}", self.seen.len(), calls.join("\n  "))
    }
}

/// The least set of processes with `chosen` in it whose next steps mind nobody outside.
fn closed(mut chosen: u8, minds: &[u8; MOST]) -> u8 {
    loop {
        let with = (0..MOST).filter(|at| chosen & 1 << at != 0).fold(chosen, |all, at| all | minds[at]);
        if with == chosen {
            return chosen;
        }
        chosen = with;
    }
}
