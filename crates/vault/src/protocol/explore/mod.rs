//! Every interleaving of processes that share a vault, through the shipped machines.
//!
//! States are explored, not paths: what the store holds and where each process is. A process may stop for ever after any
//! call (it is then not chosen again) and go on at any later time; the answer to any call that changes something may be
//! lost, whether or not it had its effect, up to a number of losses per run. In every state: no object that a kept point
//! needs is gone, no committed point has changed, a writer that may still commit has its base, a pinned reader has its
//! point, and every process that is run alone from there ends.
//!
//! [`explore`] goes from state to state and takes every step that can be taken in each. For many processes at once that is
//! too much: [`whole`] knows what comes of each step after it was taken once ([`known`]), and of steps that may change
//! places ([`touch`]) takes one order. That both find the same is tested ([`everyone`]).

mod actor;
mod everyone;
mod known;
mod runs;
mod touch;
mod whole;
mod world;

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use vmkeep_model::PointNumber;

use self::actor::{Actor, Marking, Reading, Writing, pack_value};
use self::world::{L, Ref, Value, World, id, pack_name};
use super::{Change, MarkOutcome, PointStub, Record, Reply, Request, Rules};
use crate::format::{FORGOTTEN, HeadBody, MarkBody};
use crate::layout::ObjectName;

/// A process and what it waits for the answer of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    actor: Actor,
    asks: Option<Request>,
    /// How many answers to its own requests may be lost, beside those that may be lost to anybody.
    losses: u8,
}

#[derive(Clone, Debug)]
struct State {
    world: World,
    /// Each with its fingerprint.
    processes: Vec<(Rc<Process>, u64)>,
    /// How many more answers may be lost.
    losses: u8,
}

fn printed(process: Process) -> (Rc<Process>, u64) {
    let mut hasher = DefaultHasher::new();
    process.hash(&mut hasher);
    (Rc::new(process), hasher.finish())
}

/// Whether it matters that the answer is lost.
fn changes(request: &Request) -> bool {
    matches!(request, Request::Create(..) | Request::Delete(_) | Request::Overwrite(..))
}

impl State {
    fn new(world: World, actors: Vec<Actor>, losses: u8) -> Self {
        let mut state = Self { world, processes: Vec::new(), losses };
        for mut actor in actors {
            let asks = actor.step(Reply::Begin, &mut state.world);
            state.processes.push(printed(Process { actor, asks, losses: 0 }));
        }
        state
    }

    fn asks(&self, who: usize) -> Option<&Request> {
        self.processes[who].0.asks.as_ref()
    }

    /// Lets a process take one step; `effect` and `lost` say how its call fares.
    fn step(&self, who: usize, effect: bool, lost: bool) -> Self {
        let mut next = self.clone();
        let mut process = (*self.processes[who].0).clone();
        let Some(request) = process.asks.take() else { return next };
        let mut reply = next.world.ask(&request, effect);
        if lost {
            reply = Reply::Uncertain;
            match process.losses.checked_sub(1) {
                Some(left) => process.losses = left,
                None => next.losses -= 1,
            }
        }
        process.asks = process.actor.step(reply, &mut next.world);
        next.processes[who] = printed(process);
        next
    }

    fn successors(&self, out: &mut Vec<(usize, bool, bool, Self)>) {
        // What is the same whenever it is done is done first.
        let stable = |who: &usize| self.asks(*who).is_some_and(|request| self.world.is_stable(request));
        if let Some(who) = (0..self.processes.len()).find(stable) {
            out.push((who, true, false, self.step(who, true, false)));
            return;
        }
        for who in 0..self.processes.len() {
            let Some(request) = self.asks(who) else { continue };
            out.push((who, true, false, self.step(who, true, false)));
            if changes(request) && (self.losses > 0 || self.processes[who].0.losses > 0) {
                out.push((who, true, true, self.step(who, true, true)));
                out.push((who, false, true, self.step(who, false, true)));
            }
        }
    }

    /// What tells it from other states. Processes of a kind that left no trace may change places.
    fn print(&self) -> u64 {
        let processes = self.processes.iter().fold(0_u64, |sum, (_, print)| sum.wrapping_add(*print));
        let mut hasher = DefaultHasher::new();
        (self.world.print(), processes, self.losses).hash(&mut hasher);
        hasher.finish()
    }

    /// Everything that must hold in every state.
    fn check(&self) -> Result<(), String> {
        self.world.check()?;
        self.processes.iter().try_for_each(|(process, _)| self.world.check_for(&process.actor))
    }

    /// Runs one process alone until it ends.
    fn alone(mut self, who: usize) -> Result<Self, String> {
        for _ in 0..400 {
            if self.asks(who).is_none() {
                return Ok(self);
            }
            self = self.step(who, true, false);
            self.check()?;
        }
        Err(format!("process {who} does not end when it runs alone"))
    }

    /// Everything ended: a fresh sweep or two leave what points refer to, and nothing else.
    fn swept(mut self, repack: bool) -> Result<(), String> {
        self.world.fixed = None;
        for _ in 0..3 {
            let actor = Actor::sweeper(repack, 3, Rules::default());
            let mut process = Process { actor, asks: None, losses: 0 };
            process.asks = process.actor.step(Reply::Begin, &mut self.world);
            self.processes = vec![printed(process)];
            self = self.alone(0)?;
        }
        let numbers = self.world.committed.keys().filter(|n| !self.world.is_retired(**n));
        let refs: BTreeSet<Ref> = numbers.filter_map(|n| self.world.point(*n)).flatten().copied().collect();
        let open: BTreeSet<_> = self
            .world
            .objects
            .keys()
            .filter_map(|n| if let ObjectName::Session(s) = n { Some(*s) } else { None })
            .collect();
        for (name, value) in self.world.objects.iter() {
            if let (ObjectName::Pack(_, session, pack), Value::Pack(slots, _)) = (name, value) {
                let own = (session.0, pack.0);
                let needed = slots.iter().any(|(born, slot)| {
                    refs.iter().any(|at| (at.pack, at.slot) == (*born, *slot))
                        && (*born == own || !self.world.objects.contains_key(&pack_name(*born)))
                });
                if !needed && !open.contains(session) && !self.world.late.contains(&own) {
                    return Err(format!("{} is left after the last sweep", short(&name.to_string())));
                }
            }
            if matches!(name, ObjectName::Plan(..) | ObjectName::Repack(..) | ObjectName::Worn(..)) && repack
            {
                return Err(format!("{} is left after the last sweep", short(&name.to_string())));
            }
        }
        Ok(())
    }
}

impl World {
    /// Everything that must hold of points that count.
    fn check(&self) -> Result<(), String> {
        for (&number, session) in &self.committed {
            if self.is_taken(number) {
                continue;
            }
            self.has_point(number).map_err(|e| format!("kept point {number}: {e}"))?;
            match self.objects.get(&ObjectName::Point(L, PointNumber(number))) {
                Some(Value::Record(Record::Point(point))) if point.session == *session => {}
                other => return Err(format!("committed point {number} became {other:?}")),
            }
        }
        Ok(())
    }

    /// Everything that must hold for a process.
    fn check_for(&self, actor: &Actor) -> Result<(), String> {
        match actor {
            Actor::Writer(writer) => {
                if let Writing::Committed(number) = writer.state {
                    let own = writer.session.as_ref().map(|body| body.session);
                    if self.committed.get(&number) != own.as_ref() {
                        return Err(format!(
                            "writer {} was told of point {number}, which is not its own",
                            writer.who
                        ));
                    }
                }
                if let Some(body) = writer.may_commit() {
                    let target = ObjectName::Point(L, PointNumber(body.target));
                    let free = !self.objects.contains_key(&target) && !self.is_retired(body.target);
                    let inherited = writer.refs.iter().filter(|at| at.pack.0 != body.session);
                    for at in inherited.filter(|_| free) {
                        self.has(at).map_err(|e| format!("writer {} needs {e}", writer.who))?;
                    }
                }
            }
            Actor::Reader(reader) if reader.state == Reading::Pinned => {
                self.has_point(reader.number).map_err(|e| format!("pinned point: {e}"))?;
            }
            Actor::Marker(marker) => {
                let kept = matches!(marker.change, Change::Undelete | Change::Hold);
                if kept && matches!(marker.state, Marking::Done(MarkOutcome::Set | MarkOutcome::Was)) {
                    self.has_point(marker.number).map_err(|e| format!("point had back: {e}"))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn has_point(&self, number: u64) -> Result<(), String> {
        let refs = self.point(number).ok_or_else(|| "its record is gone".to_owned())?;
        refs.iter().try_for_each(|at| self.has(at))
    }

    fn has(&self, at: &Ref) -> Result<(), String> {
        self.resolves(at).then_some(()).ok_or_else(|| format!("{at:?}, which is gone"))
    }

    fn ask(&mut self, request: &Request, effect: bool) -> Reply {
        // A pack is created under a name of its own.
        if let Request::Create(name @ ObjectName::Pack(..), Record::Session(body)) = request {
            if self.objects.contains_key(name) {
                return Reply::Taken;
            }
            if effect {
                let target = ObjectName::Point(L, PointNumber(body.target));
                if self.objects.contains_key(&target) || self.is_retired(body.target) {
                    self.late.insert((body.session, body.session));
                }
                self.objects.insert(name.clone(), pack_value(body));
            }
            return Reply::Done;
        }
        self.answer(request, effect)
    }

    /// Points 1 and 2, made by sessions that are settled: 1 holds a pack that 2 has not, and one that 2 has.
    fn with_two_points() -> Self {
        let mut world = Self::default();
        let refs = |list: &[(u8, u32, u64)]| -> BTreeSet<Ref> {
            list.iter().map(|&(pack, slot, birth)| Ref { pack: (id(pack), id(pack)), slot, birth }).collect()
        };
        // Pack 1 has two slots: one dies with point 1.
        let points = [(1, refs(&[(1, 0, 1), (1, 1, 1), (2, 0, 1)])), (2, refs(&[(1, 1, 1), (3, 0, 2)]))];
        for (number, refs) in points {
            let session = id(100 + u8::try_from(number).unwrap());
            let stub = PointStub { session, base: number - 1 };
            world
                .objects
                .insert(ObjectName::Point(L, PointNumber(number)), Value::Record(Record::Point(stub)));
            world.maps.insert(session, refs);
            world.committed.insert(number, session);
        }
        for (pack, slots, birth) in [(1, 2, 1), (2, 1, 1), (3, 1, 2)] {
            let own = (id(pack), id(pack));
            world
                .objects
                .insert(pack_name(own), Value::Pack((0..slots).map(|slot| (own, slot)).collect(), birth));
        }
        let hint = HeadBody { newest: 2, retired: 0 };
        world.objects.insert(ObjectName::Head(L), Value::Record(Record::Head(hint)));
        world
    }

    fn forget(mut self, number: u64) -> Self {
        let (lineage, at) = (L.0, 1);
        let mark = MarkBody { lineage, number, g: 1, state: FORGOTTEN, at, by: [0; 16], nonce: [0; 16] };
        self.objects.insert(ObjectName::Forget(L, PointNumber(number)), Value::Record(Record::Mark(mark)));
        self
    }
}

/// The calls that led to a state, the last first.
struct Trail {
    call: String,
    before: Option<Rc<Trail>>,
}

/// Names with ids cut to their first byte: those of a test repeat it.
fn short(text: &str) -> String {
    let is_id = |part: &str| part.len() == 32 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts = text.split('/').map(|part| if is_id(part) { &part[..2] } else { part });
    parts.collect::<Vec<_>>().join("/")
}

fn call_of(who: usize, request: &Request, effect: bool, lost: bool) -> String {
    let what = match request {
        Request::Read(name) | Request::Exists(name) => format!("read {}", short(&name.to_string())),
        Request::ReadBack(name, _) => format!("read back {}", short(&name.to_string())),
        Request::List(prefix) => format!("list {}", short(prefix)),
        Request::Create(name, record) => match record {
            Record::Mark(mark) => format!("create {} state {}", short(&name.to_string()), mark.state),
            Record::Retired(retired) => format!("create {} {:?}", short(&name.to_string()), retired.ranges),
            _ => format!("create {}", short(&name.to_string())),
        },
        Request::Overwrite(name, _) => format!("overwrite {}", short(&name.to_string())),
        Request::Delete(names) => {
            let names: Vec<_> = names.iter().map(|name| short(&name.to_string())).collect();
            format!("delete {names:?}")
        }
        Request::Examine(examine) => format!("examine {:?} {:?}", examine.jobs, examine.numbers),
        Request::Unused { number, .. } => format!("unused of {number}"),
        Request::Build(build) => format!("build of {}", build.packs.len()),
        Request::Births(_) => "births".to_owned(),
    };
    let fate = if !lost {
        ""
    } else if effect {
        " (answer lost)"
    } else {
        " (failed)"
    };
    format!("{who}: {what}{fate}")
}

/// Explores every state that can be reached; gives how many there are, or the way to the first that is wrong.
fn explore(start: State, repack: bool) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let mut stack: Vec<(State, Option<Rc<Trail>>)> = vec![(start, None)];
    let mut successors = Vec::new();
    while let Some((state, trail)) = stack.pop() {
        let print = state.print();
        if !seen.insert(print) {
            continue;
        }
        let told = |e: String| {
            let mut calls = Vec::new();
            let mut at = trail.as_ref();
            while let Some(step) = at {
                calls.push(step.call.clone());
                at = step.before.as_ref();
            }
            calls.reverse();
            let objects: Vec<_> = state.world.objects.keys().map(|name| short(&name.to_string())).collect();
            format!("{e}\nafter {} states by\n  {}\nwith {objects:#?}", seen.len(), calls.join("\n  "))
        };
        state.check().map_err(told)?;
        // Running each alone from every state costs more than all the rest: from some.
        if print % 256 == 0 {
            for who in 0..state.processes.len() {
                state.clone().alone(who).map_err(told)?;
            }
        }
        state.successors(&mut successors);
        if successors.is_empty() || print % 512 == 0 {
            state.clone().swept(repack).map_err(told)?;
        }
        for (who, effect, lost, next) in successors.drain(..) {
            let request = state.asks(who);
            let call = request.map_or_else(String::new, |request| call_of(who, request, effect, lost));
            stack.push((next, Some(Rc::new(Trail { call, before: trail.clone() }))));
        }
    }
    Ok(seen.len())
}

/// Runs from the start to the end again and again, each time another way, as long as it takes to come by `states`
/// states that were not seen before: for what is too large to be explored whole.
fn wander(start: &State, mut random: u64, states: usize) -> Result<usize, String> {
    let mut seen = HashSet::new();
    let (mut runs, mut successors) = (0, Vec::new());
    while seen.len() < states {
        runs += 1;
        let (mut state, mut calls) = (start.clone(), Vec::new());
        loop {
            let told = |e: String| format!("{e}\nin run {runs} by\n  {}", calls.join("\n  "));
            if seen.insert(state.print()) {
                state.check().map_err(told)?;
            }
            state.successors(&mut successors);
            if successors.is_empty() {
                state.swept(false).map_err(told)?;
                break;
            }
            // A linear congruential generator is random enough to choose a way.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let which = usize::try_from(random >> 33).unwrap() % successors.len();
            let (who, effect, lost, next) = successors.swap_remove(which);
            successors.clear();
            calls.push(state.asks(who).map_or_else(String::new, |ask| call_of(who, ask, effect, lost)));
            state = next;
        }
    }
    Ok(runs)
}

impl State {
    /// The same with `losses` answers to requests of one process that may be lost.
    fn with_losses(mut self, who: usize, losses: u8) -> Self {
        let process = Process { losses, ..(*self.processes[who].0).clone() };
        self.processes[who] = printed(process);
        self
    }
}
