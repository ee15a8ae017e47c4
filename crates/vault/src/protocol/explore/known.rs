//! What is known of a run: worlds and processes under numbers, and what comes of each process in each world.
//!
//! A step changes the world and the process that takes it, and depends on nothing else: it is taken once by the shipped
//! machine, and then known. So a state is a few numbers, however many there are.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use super::touch::{Names, Touch};
use super::{Process, State, World, call_of, changes};

/// Spreads the bits of a number: what is told apart by it stays so.
pub(super) fn mixed(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// Hashes single numbers that are mixed well already.
#[derive(Debug, Default)]
pub(super) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

pub(super) type BuildSame = BuildHasherDefault<Same>;

/// A process in a world.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    first: u32,
    fates: u8,
    /// Its next step comes to the same whenever it is taken.
    pub(super) stable: bool,
    pub(super) wrong: bool,
    touch: u32,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    worlds: Vec<KnownWorld>,
    /// The names that are there, by world.
    there: Vec<u128>,
    world_numbers: HashMap<u64, u32>,
    processes: Vec<KnownProcess>,
    /// Everything a process was seen to touch from where it is until it ends.
    futures: Vec<Touch>,
    /// What it was relied on not to touch.
    relied: Vec<Touch>,
    process_numbers: HashMap<u64, u32>,
    /// By world and process, mixed: 64 bits are mixed into as many, so none are the same.
    pairs: HashMap<u64, u32, BuildSame>,
    all: Vec<Pair>,
    /// What comes of pairs: worlds and processes.
    next: Vec<(u32, u32)>,
    touches: Vec<Touch>,
    touch_numbers: HashMap<Touch, u32>,
    names: Names,
    /// Something was relied on that is not so.
    pub(super) misled: bool,
}

#[derive(Debug)]
struct KnownWorld {
    world: World,
    wrong: Option<String>,
    swept: bool,
}

#[derive(Debug)]
struct KnownProcess {
    process: (Rc<Process>, u64),
    after: Vec<u32>,
    before: Vec<u32>,
}

impl Known {
    /// The number of a world; worlds and processes are told apart by prints of 64 bits, of which there are few.
    pub(super) fn world(&mut self, world: World) -> u32 {
        let print = world.print();
        if let Some(number) = self.world_numbers.get(&print) {
            return *number;
        }
        let number = u32::try_from(self.worlds.len()).unwrap();
        self.there.push(self.names.present(&world));
        let wrong = world.check().err();
        self.worlds.push(KnownWorld { world, wrong, swept: false });
        self.world_numbers.insert(print, number);
        number
    }

    pub(super) fn process(&mut self, process: (Rc<Process>, u64)) -> u32 {
        if let Some(number) = self.process_numbers.get(&process.1) {
            return *number;
        }
        let number = u32::try_from(self.processes.len()).unwrap();
        self.process_numbers.insert(process.1, number);
        self.processes.push(KnownProcess { process, after: Vec::new(), before: Vec::new() });
        self.futures.push(Touch::default());
        self.relied.push(Touch::default());
        number
    }

    /// The number of what comes of a process in a world.
    pub(super) fn pair(&mut self, world: u32, process: u32) -> u32 {
        let key = mixed(u64::from(world) << 32 | u64::from(process));
        if let Some(number) = self.pairs.get(&key) {
            return *number;
        }
        let pair = self.try_out(world, process);
        let number = u32::try_from(self.all.len()).unwrap();
        self.all.push(pair);
        self.pairs.insert(key, number);
        number
    }

    pub(super) fn get(&self, pair: u32) -> Pair {
        self.all[pair as usize]
    }

    /// What comes of its next step: the world and the process; the second and third when its answer is lost, with and
    /// without effect. Nothing when it has ended.
    pub(super) fn next(&self, pair: u32) -> &[(u32, u32)] {
        let pair = self.get(pair);
        &self.next[pair.first as usize..][..usize::from(pair.fates)]
    }

    fn try_out(&mut self, world: u32, process: u32) -> Pair {
        let known = &self.worlds[world as usize];
        let from = known.world.clone();
        let before = self.processes[process as usize].process.clone();
        let wrong = known.wrong.is_some() || from.check_for(&before.0.actor).is_err();
        let (mut next, mut touch) = (Vec::new(), Touch::default());
        let mut stable = false;
        if let Some(request) = &before.0.asks {
            stable = from.is_stable(request);
            let fates: &[_] = if before.0.losses > 0 && changes(request) {
                &[(true, false), (true, true), (false, true)]
            } else {
                &[(true, false)]
            };
            for &(effect, lost) in fates {
                let state = State { world: from.clone(), processes: vec![before.clone()], losses: 0 };
                state.world.objects.note();
                let mut to = state.step(0, effect, lost);
                let after = to.processes.remove(0);
                let count = self.names.count();
                let (was, is) = ((&*before.0, &from), (&*after.0, &to.world));
                touch = touch.with(Touch::of(&mut self.names, request, was, is));
                if self.names.count() != count {
                    self.widen();
                }
                next.push((self.world(to.world), self.process(after)));
            }
        }
        let touch = self.names.widened(touch);
        self.foresee(process, touch, &next);
        let touches = &mut self.touches;
        let touch = *self.touch_numbers.entry(touch).or_insert_with(|| {
            touches.push(touch);
            u32::try_from(touches.len() - 1).unwrap()
        });
        let first = u32::try_from(self.next.len()).unwrap();
        self.next.extend(&next);
        Pair { first, fates: u8::try_from(next.len()).unwrap(), stable, wrong, touch }
    }

    /// There is another name: what listings may show is more.
    fn widen(&mut self) {
        for touch in self.futures.iter_mut().chain(&mut self.touches) {
            let wide = self.names.widened(*touch);
            self.misled |= wide != *touch;
            *touch = wide;
        }
    }

    /// Notes what a process may touch and become, and so what those may touch that may become it.
    fn foresee(&mut self, process: u32, touch: Touch, next: &[(u32, u32)]) {
        for &(_, next) in next {
            let after = &mut self.processes[process as usize].after;
            if !after.contains(&next) {
                after.push(next);
                self.processes[next as usize].before.push(process);
            }
        }
        let later = next.iter().map(|(_, next)| self.futures[*next as usize]);
        let mut stack = vec![(process, later.fold(touch, Touch::with))];
        while let Some((process, touch)) = stack.pop() {
            let future = &mut self.futures[process as usize];
            let more = future.with(touch);
            if more != *future {
                *future = more;
                self.misled |= more.meets(&self.relied[process as usize]);
                stack.extend(self.processes[process as usize].before.iter().map(|before| (*before, more)));
            }
        }
    }

    /// What nobody may touch so that the pair's step may come first.
    pub(super) fn minds(&self, world: u32, pair: u32) -> Touch {
        self.touches[self.get(pair).touch as usize].minds(self.there[world as usize])
    }

    pub(super) fn may_touch(&self, process: u32, minded: &Touch) -> bool {
        minded.meets(&self.futures[process as usize])
    }

    pub(super) fn rely(&mut self, process: u32, minded: &Touch) {
        let relied = &mut self.relied[process as usize];
        *relied = relied.with(*minded);
    }

    /// Begins anew, with what is known.
    pub(super) fn rely_on_nothing(&mut self) {
        self.relied.fill(Touch::default());
        self.misled = false;
    }

    /// Ends the run here: what fresh sweeps leave must be right. Once per world.
    pub(super) fn sweep(&mut self, world: u32, repack: bool) -> Result<(), String> {
        let known = &mut self.worlds[world as usize];
        if std::mem::replace(&mut known.swept, true) {
            return Ok(());
        }
        State { world: known.world.clone(), processes: Vec::new(), losses: 0 }.swept(repack)
    }

    /// Whether every process ends after so many steps, whatever it is answered: none becomes again what it was.
    pub(super) fn all_end(&self) -> bool {
        let mut left: Vec<usize> = self.processes.iter().map(|known| known.after.len()).collect();
        let mut ended: Vec<usize> = (0..left.len()).filter(|at| left[*at] == 0).collect();
        let mut count = 0;
        while let Some(at) = ended.pop() {
            count += 1;
            for &before in &self.processes[at].before {
                left[before as usize] -= 1;
                if left[before as usize] == 0 {
                    ended.push(before as usize);
                }
            }
        }
        count == left.len()
    }

    /// Everything that must hold in a world, and for a process in it.
    pub(super) fn check(&self, world: u32, process: u32) -> Result<(), String> {
        let known = &self.worlds[world as usize];
        known.wrong.clone().map_or(Ok(()), Err)?;
        known.world.check_for(&self.processes[process as usize].process.0.actor)
    }

    /// The call that the `fate`th step of a process is.
    pub(super) fn call(&self, who: usize, process: u32, fate: usize) -> String {
        let asks = self.processes[process as usize].process.0.asks.as_ref();
        asks.map_or_else(String::new, |asks| call_of(who, asks, fate < 2, fate > 0))
    }

    /// The names in a world.
    pub(super) fn objects(&self, world: u32) -> Vec<String> {
        self.worlds[world as usize].world.objects.keys().map(|name| super::short(&name.to_string())).collect()
    }

    /// What tells a process in a world from others, in any exploration.
    pub(super) fn print(&self, world: u32, process: u32) -> u64 {
        let (world, process) = (&self.worlds[world as usize], &self.processes[process as usize]);
        mixed(world.world.print() ^ mixed(process.process.1))
    }
}
