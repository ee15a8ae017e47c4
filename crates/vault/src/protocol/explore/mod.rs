//! Every interleaving of processes that share a vault, through the shipped machines.
//!
//! States are explored, not paths: what the store holds and where each process is. A process may stop for ever after any
//! call (it is then not chosen again) and go on at any later time; the answer to any call that changes something may be
//! lost, whether or not it had its effect, up to a number of losses per run. In every state: no object that a kept point
//! needs is gone, no committed point has changed, a writer that may still commit has its base, a pinned reader has its
//! point, and every process that is run alone from there ends.

mod actor;
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
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    world: World,
    processes: Vec<Process>,
    /// How many more answers may be lost.
    losses: u8,
}

impl State {
    fn new(world: World, actors: Vec<Actor>, losses: u8) -> Self {
        let mut state = Self { world, processes: Vec::new(), losses };
        for mut actor in actors {
            let asks = actor.step(Reply::Begin, &mut state.world);
            state.processes.push(Process { actor, asks });
        }
        state
    }

    /// Lets a process take one step; `effect` and `lost` say how its call fares.
    fn step(&self, who: usize, effect: bool, lost: bool) -> Self {
        let mut next = self.clone();
        let Some(request) = next.processes[who].asks.take() else { return next };
        let mut reply = next.world.ask(&request, effect);
        if lost {
            reply = Reply::Uncertain;
            next.losses -= 1;
        }
        next.processes[who].asks = next.processes[who].actor.step(reply, &mut next.world);
        next
    }

    fn successors(&self, out: &mut Vec<(usize, bool, bool, Self)>) {
        for (who, process) in self.processes.iter().enumerate() {
            let Some(request) = &process.asks else { continue };
            out.push((who, true, false, self.step(who, true, false)));
            let changes =
                matches!(request, Request::Create(..) | Request::Delete(_) | Request::Overwrite(..));
            if changes && self.losses > 0 {
                out.push((who, true, true, self.step(who, true, true)));
                out.push((who, false, true, self.step(who, false, true)));
            }
        }
    }

    /// Everything that must hold in every state.
    fn check(&self) -> Result<(), String> {
        for (&number, session) in &self.world.committed {
            if self.world.is_taken(number) {
                continue;
            }
            self.has_point(number).map_err(|e| format!("kept point {number}: {e}"))?;
            match self.world.objects.get(&ObjectName::Point(L, PointNumber(number))) {
                Some(Value::Record(Record::Point(point))) if point.session == *session => {}
                other => return Err(format!("committed point {number} became {other:?}")),
            }
        }
        for process in &self.processes {
            match &process.actor {
                Actor::Writer(writer) => {
                    if let Writing::Committed(number) = writer.state {
                        let own = writer.session.as_ref().map(|body| body.session);
                        if self.world.committed.get(&number) != own.as_ref() {
                            return Err(format!(
                                "writer {} was told of point {number}, which is not its own",
                                writer.who
                            ));
                        }
                    }
                    if let Some(body) = writer.may_commit() {
                        let target = ObjectName::Point(L, PointNumber(body.target));
                        let free =
                            !self.world.objects.contains_key(&target) && !self.world.is_retired(body.target);
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
        }
        Ok(())
    }

    fn has_point(&self, number: u64) -> Result<(), String> {
        let refs = self.world.point(number).ok_or_else(|| "its record is gone".to_owned())?;
        refs.iter().try_for_each(|at| self.has(at))
    }

    fn has(&self, at: &Ref) -> Result<(), String> {
        self.world.resolves(at).then_some(()).ok_or_else(|| format!("{at:?}, which is gone"))
    }

    /// Runs one process alone until it ends.
    fn alone(mut self, who: usize) -> Result<Self, String> {
        for _ in 0..400 {
            if self.processes[who].asks.is_none() {
                return Ok(self);
            }
            self = self.step(who, true, false);
            self.check()?;
        }
        Err(format!("process {who} does not end when it runs alone"))
    }

    /// Everything ended: a fresh sweep or two leave what points refer to, and nothing else.
    fn swept(mut self, repack: bool) -> Result<(), String> {
        for who in [7, 8, 9] {
            let actor = Actor::sweeper(who, repack, Rules::default());
            let mut process = Process { actor, asks: None };
            process.asks = process.actor.step(Reply::Begin, &mut self.world);
            self.processes = vec![process];
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
        for (name, value) in &self.world.objects {
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

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
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
        let print = fingerprint(&state);
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
            let request = state.processes[who].asks.as_ref();
            let call = request.map_or_else(String::new, |request| call_of(who, request, effect, lost));
            stack.push((next, Some(Rc::new(Trail { call, before: trail.clone() }))));
        }
    }
    Ok(seen.len())
}

fn all(start: State, repack: bool) {
    let time = std::time::Instant::now();
    let states = explore(start, repack).unwrap_or_else(|e| panic!("{e}"));
    println!("{states} states in {:?}", time.elapsed());
}

fn world() -> World {
    World::with_two_points().forget(1).forget(2)
}

#[test]
fn a_writer_and_a_sweeper() {
    let rules = Rules::default();
    all(State::new(world(), vec![Actor::writer(1, None, rules), Actor::sweeper(4, true, rules)], 2), true);
}

#[test]
fn two_writers() {
    let rules = Rules::default();
    all(State::new(world(), vec![Actor::writer(1, None, rules), Actor::writer(2, None, rules)], 1), false);
}

#[test]
fn two_sweepers() {
    let rules = Rules::default();
    all(State::new(world(), vec![Actor::sweeper(4, true, rules), Actor::sweeper(5, true, rules)], 0), true);
}

#[test]
fn a_successor_that_adopts() {
    let rules = Rules::default();
    let actors = vec![
        Actor::writer(1, None, rules),
        Actor::writer(2, Some(1), rules),
        Actor::sweeper(4, false, rules),
    ];
    all(State::new(world(), actors, 0), false);
}

#[test]
fn a_reader_an_undelete_and_a_sweeper() {
    let rules = Rules::default();
    let actors = vec![
        Actor::reader(1, rules),
        Actor::marker(1, Change::Undelete, rules),
        Actor::sweeper(4, false, rules),
    ];
    all(State::new(world(), actors, 1), false);
}

#[test]
#[ignore]
fn measure() {
    let rules = Rules::default();
    let one = || World::with_two_points().forget(1);
    let w = |n| Actor::writer(n, None, rules);
    let s = |n| Actor::sweeper(n, false, rules);
    println!("w s s");
    all(State::new(one(), vec![w(1), s(4), s(5)], 0), false);
    println!("w w s");
    all(State::new(one(), vec![w(1), w(2), s(4)], 0), false);
    println!("w s s r");
    all(State::new(one(), vec![w(1), Actor::reader(1, rules), s(4), s(5)], 0), false);
}
