//! What is known of a run: worlds and processes under numbers, and what comes of each process in each world.
//!
//! A step changes the world and the process that takes it, and depends on nothing else: it is taken once by the shipped
//! machine, and then known. So a state is a few numbers, however many there are.

use std::collections::HashMap;
use std::rc::Rc;

use super::touch::{Names, Touch};
use super::{Process, State, World, call_of, changes, printed};

/// A process in a world.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// What comes of its next step: the world and the process; the second and third when its answer is lost, with and
    /// without effect. None when it has ended.
    pub(super) next: Vec<(u32, u32)>,
    /// The same whenever it is done.
    pub(super) stable: bool,
    pub(super) touch: Touch,
    /// What is wrong with it.
    pub(super) wrong: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    worlds: Vec<KnownWorld>,
    world_numbers: HashMap<u64, u32>,
    processes: Vec<KnownProcess>,
    process_numbers: HashMap<u64, u32>,
    pairs: HashMap<(u32, u32), u32>,
    all: Vec<Pair>,
    pub(super) names: Names,
}

#[derive(Debug)]
struct KnownWorld {
    world: World,
    there: u128,
    wrong: Option<String>,
    swept: bool,
}

#[derive(Debug)]
struct KnownProcess {
    process: (Rc<Process>, u64),
    /// Everything it was seen to touch from here on.
    future: Touch,
    after: Vec<u32>,
    before: Vec<u32>,
}

impl Known {
    pub(super) fn world(&mut self, world: World) -> u32 {
        let print = world.print();
        if let Some(number) = self.world_numbers.get(&print) {
            return *number;
        }
        let number = u32::try_from(self.worlds.len()).unwrap();
        let there = self.names.present(&world);
        let wrong = world.check().err();
        self.worlds.push(KnownWorld { world, there, wrong, swept: false });
        self.world_numbers.insert(print, number);
        number
    }

    pub(super) fn process(&mut self, process: (Rc<Process>, u64)) -> u32 {
        let processes = &mut self.processes;
        *self.process_numbers.entry(process.1).or_insert_with(|| {
            let (after, before) = (Vec::new(), Vec::new());
            processes.push(KnownProcess { process, future: Touch::default(), after, before });
            u32::try_from(processes.len() - 1).unwrap()
        })
    }

    /// The number of what comes of a process in a world.
    pub(super) fn pair(&mut self, world: u32, process: u32) -> u32 {
        if let Some(number) = self.pairs.get(&(world, process)) {
            return *number;
        }
        let pair = self.try_out(world, process);
        for &(_, next) in &pair.next {
            let after = &mut self.processes[process as usize].after;
            if !after.contains(&next) {
                after.push(next);
                self.processes[next as usize].before.push(process);
            }
        }
        let later = pair.next.iter().map(|(_, next)| self.processes[*next as usize].future);
        let future = later.fold(pair.touch, Touch::with);
        self.foresee(process, future);
        let number = u32::try_from(self.all.len()).unwrap();
        self.all.push(pair);
        self.pairs.insert((world, process), number);
        number
    }

    pub(super) fn known_pair(&self, world: u32, process: u32) -> Option<u32> {
        self.pairs.get(&(world, process)).copied()
    }

    pub(super) fn get(&self, pair: u32) -> &Pair {
        &self.all[pair as usize]
    }

    fn try_out(&mut self, world: u32, process: u32) -> Pair {
        let known = &self.worlds[world as usize];
        let from = known.world.clone();
        let before = self.processes[process as usize].process.clone();
        let wrong = known.wrong.clone().or_else(|| from.check_for(&before.0.actor).err());
        let mut pair = Pair { next: Vec::new(), stable: false, touch: Touch::default(), wrong };
        let Some(request) = before.0.asks.clone() else { return pair };
        pair.stable = from.is_stable(&request);
        let fates: &[_] = if before.0.losses > 0 && changes(&request) {
            &[(true, false), (true, true), (false, true)]
        } else {
            &[(true, false)]
        };
        for &(effect, lost) in fates {
            let state = State { world: from.clone(), processes: vec![before.clone()], losses: 0 };
            state.world.objects.note();
            let mut next = state.step(0, effect, lost);
            let after = next.processes.remove(0);
            let (was, is) = ((&*before.0, &from), (&*after.0, &next.world));
            pair.touch = pair.touch.with(Touch::of(&mut self.names, &request, was, is));
            pair.next.push((self.world(next.world), self.process(after)));
        }
        pair
    }

    /// Notes what a process may touch, and so those that may become it.
    fn foresee(&mut self, process: u32, touch: Touch) {
        let mut stack = vec![(process, touch)];
        while let Some((process, touch)) = stack.pop() {
            let known = &mut self.processes[process as usize];
            let future = known.future.with(touch);
            if future != known.future {
                known.future = future;
                stack.extend(known.before.iter().map(|before| (*before, future)));
            }
        }
    }

    /// Whether the next step of `one` may not change places with some step that `other` may yet take.
    pub(super) fn minds(&self, world: u32, one: &Pair, other: u32) -> bool {
        let there = self.worlds[world as usize].there;
        self.names.minds(&one.touch, &self.processes[other as usize].future, there)
    }

    /// Ends the run here: what fresh sweeps leave must be right. Once per world.
    pub(super) fn sweep(&mut self, world: u32, repack: bool) -> Result<(), String> {
        let known = &mut self.worlds[world as usize];
        if std::mem::replace(&mut known.swept, true) {
            return Ok(());
        }
        State { world: known.world.clone(), processes: Vec::new(), losses: 0 }.swept(repack)
    }

    /// Whether every process ends after so many steps, whatever it is answered: none can become again what it was.
    pub(super) fn ends(&self) -> bool {
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

    /// The call that the `fate`th step of a process is.
    pub(super) fn call(&self, who: usize, process: u32, fate: usize) -> String {
        let asks = self.processes[process as usize].process.0.asks.as_ref();
        asks.map_or_else(String::new, |asks| call_of(who, asks, fate < 2, fate > 0))
    }

    pub(super) fn objects(&self, world: u32) -> Vec<String> {
        self.worlds[world as usize].world.objects.keys().map(|name| super::short(&name.to_string())).collect()
    }

    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.worlds.len(), self.processes.len(), self.all.len())
    }
}

impl State {
    /// The same with `losses` answers to requests of one process that may be lost.
    pub(super) fn with_losses(mut self, who: usize, losses: u8) -> Self {
        let process = Process { losses, ..(*self.processes[who].0).clone() };
        self.processes[who] = printed(process);
        self
    }
}
