//! Processes that share a vault: each drives shipped machines, one request at a time.

use std::hash::{Hash, Hasher};

use vmkeep_model::{PointNumber, SessionId};

use super::world::{L, Ref, Value, World, id, pack_name};
use crate::format::{MarkBody, PinBody, RetiredBody, SessionBody};
use crate::layout::ObjectName;
use crate::protocol::{
    Begin, Begun, Change, Commit, CommitOutcome, LineageSweep, MarkOutcome, PinOutcome, PinPoint, Record,
    Reply, Request, Rules, SetMark, Step, Survey, SweepInput, Waiting,
};

/// When everything began: before any sweep's limit, so that each session counts as abandoned at once.
const OPENED: i64 = 50;
const NOW: i64 = 100;

/// Replies since a machine began, to begin it again under a name. A machine is what its replies made of it, so they do
/// not tell states apart.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Vec<Reply>);

impl PartialEq for History {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for History {}

impl Hash for History {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// What a process is doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Actor {
    Writer(Writer),
    Sweeper(Sweeper),
    Reader(Reader),
    Marker(Marker),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Writer {
    /// 0 before it has left a trace.
    pub(super) who: u8,
    history: History,
    rules: Rules,
    /// The session to go on from, when it is there.
    adopts: Option<u8>,
    attempts: u8,
    pub(super) session: Option<SessionBody>,
    pub(super) refs: Vec<Ref>,
    adopted: Option<SessionBody>,
    pub(super) state: Writing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Writing {
    LookAdopted,
    Begin(Begin),
    Pack(Option<RetiredBody>),
    Commit(Commit),
    Committed(u64),
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sweeper {
    /// 0 before it has left a trace.
    who: u8,
    history: History,
    waiting: Waiting,
    rules: Rules,
    repack: bool,
    rounds: u8,
    /// How many `moved` records it tried to make: as a reader's marks.
    tries: u8,
    pub(super) state: Sweeping,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sweeping {
    Survey(Survey),
    Sweep(Box<LineageSweep>),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reader {
    pub(super) number: u64,
    rules: Rules,
    /// How many marks it tried to make: it looks again after each, and would be as it was before.
    tries: u8,
    pub(super) state: Reading,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reading {
    Pin(PinPoint),
    /// It reads; nothing may vanish.
    Pinned,
    Done,
}

/// Undeletes, holds or forgets a point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Marker {
    pub(super) number: u64,
    pub(super) change: Change,
    /// As a reader's.
    tries: u8,
    pub(super) state: Marking,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Marking {
    Set(SetMark),
    Done(MarkOutcome),
    Failed,
}

fn session(who: u8, attempt: u8) -> SessionBody {
    let session = id(who * 10 + attempt);
    let (base, target) = (0, 0);
    SessionBody { session, lineage: L.0, domain: id(9), base, target, opened: OPENED, adopted: None }
}

impl Actor {
    pub(super) fn writer(adopts: Option<u8>, attempts: u8, rules: Rules) -> Self {
        let state = match adopts {
            Some(_) => Writing::LookAdopted,
            None => Writing::Begin(Begin::new(session(0, 0), None, rules)),
        };
        let (who, history, session, refs) = (0, History::default(), None, Vec::new());
        Self::Writer(Writer { who, history, rules, adopts, attempts, session, refs, adopted: None, state })
    }

    pub(super) fn sweeper(repack: bool, rounds: u8, rules: Rules) -> Self {
        let (who, history, waiting) = (0, History::default(), Waiting::default());
        let state = Sweeping::Survey(Survey::default());
        Self::Sweeper(Sweeper { who, history, waiting, rules, repack, rounds, tries: 0, state })
    }

    pub(super) fn reader(number: u64, rules: Rules) -> Self {
        let pin = PinBody { lineage: L.0, number, id: id(77), at: OPENED, why: String::new() };
        Self::Reader(Reader { number, rules, tries: 0, state: Reading::Pin(PinPoint::new(pin, 0, rules)) })
    }

    pub(super) fn marker(number: u64, change: Change, rules: Rules) -> Self {
        let (lineage, at, by) = (L.0, OPENED, [0; 16]);
        let mark = MarkBody { lineage, number, g: 0, state: 0, at, by, nonce: id(88) };
        Self::Marker(Marker {
            number,
            change,
            tries: 0,
            state: Marking::Set(SetMark::new(mark, change, 0, rules)),
        })
    }

    /// Takes the reply to the last request and says the next one; `None` when it has ended.
    pub(super) fn step(&mut self, reply: Reply, world: &mut World) -> Option<Request> {
        match self {
            Self::Writer(writer) => writer.step(reply, world),
            Self::Sweeper(sweeper) => sweeper.step(reply, world),
            Self::Reader(reader) => reader.step(reply),
            Self::Marker(marker) => marker.step(reply),
        }
    }
}

impl Writer {
    fn begin(&mut self, adopted: Option<SessionBody>) {
        let body = session(self.who, 2 - self.attempts);
        self.history.0.clear();
        self.adopted.clone_from(&adopted);
        self.state = Writing::Begin(Begin::new(body, adopted, self.rules));
    }

    /// Gets a name now that it is about to leave a trace, and asks the same under it.
    fn name(&mut self, world: &mut World) -> Option<Request> {
        world.named[0] += 1;
        self.who = world.named[0];
        let mut begin = Begin::new(session(self.who, 2 - self.attempts), self.adopted.clone(), self.rules);
        let steps: Vec<_> = self.history.0.drain(..).map(|reply| begin.step(reply)).collect();
        self.state = Writing::Begin(begin);
        match steps.into_iter().last() {
            Some(Step::Ask(request)) => Some(request),
            _ => None,
        }
    }

    /// Ended: what nobody asks for any more tells no states apart.
    fn forget(&mut self, world: &mut World) {
        self.refs.clear();
        self.adopted = None;
        if self.state == Writing::Failed {
            self.who = 0;
            if let Some(body) = self.session.take() {
                world.forget_map(body.session);
            }
        }
    }

    fn again(&mut self) {
        match self.attempts.checked_sub(1) {
            Some(left) if left > 0 => {
                self.attempts = left;
                self.begin(None);
            }
            _ => self.state = Writing::Failed,
        }
    }

    fn step(&mut self, reply: Reply, world: &mut World) -> Option<Request> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            match &mut self.state {
                Writing::LookAdopted => match reply {
                    Reply::Found(Record::Session(body)) => self.begin(Some(body)),
                    Reply::Begin => {
                        let adopted = SessionId(session(self.adopts?, 0).session);
                        return Some(Request::Read(ObjectName::Session(adopted)));
                    }
                    _ => self.begin(None),
                },
                Writing::Begin(begin) => match begin.step({
                    if self.who == 0 {
                        self.history.0.push(reply.clone());
                    }
                    reply
                }) {
                    Step::Ask(Request::Create(..)) if self.who == 0 => return self.name(world),
                    Step::Ask(request) => return Some(request),
                    Step::Done(Ok(Begun::Open(body, head))) => {
                        self.plan(&body, world);
                        self.session = Some(body);
                        self.state = Writing::Pack(head.retired);
                    }
                    Step::Done(Ok(Begun::Again | Begun::NotAdoptable)) => self.again(),
                    Step::Done(Ok(Begun::Closed) | Err(_)) => self.state = Writing::Failed,
                },
                Writing::Pack(retired) => {
                    let body = self.session.clone()?;
                    let own = (body.session, body.session);
                    match reply {
                        Reply::Begin => {
                            // A pack is created like anything else; what is in it nobody else asks for.
                            world.maps.insert(body.session, self.refs.iter().copied().collect());
                            return Some(Request::Create(pack_name(own), pack_record(&body)));
                        }
                        // Sent again until it is there: "taken" is its own first attempt.
                        Reply::Uncertain => {
                            return Some(Request::Create(pack_name(own), pack_record(&body)));
                        }
                        _ => {
                            let retired = retired.clone();
                            let inherited: Vec<_> = body.adopted.iter().map(|id| SessionId(*id)).collect();
                            let (unused, rules) = (Vec::new(), self.rules);
                            let commit = Commit::new(body, retired, unused, inherited, rules);
                            self.state = Writing::Commit(commit);
                        }
                    }
                }
                Writing::Commit(commit) => match commit.step(reply) {
                    Step::Ask(request) => return Some(request),
                    Step::Done(Ok(CommitOutcome::Committed)) => {
                        self.state = Writing::Committed(self.session.as_ref()?.target);
                    }
                    Step::Done(_) => self.state = Writing::Failed,
                },
                Writing::Committed(_) | Writing::Failed => {
                    self.forget(world);
                    return None;
                }
            }
        }
    }

    /// What the new point will hold: what the base has but for its newest, what is inherited, and a pack of its own.
    fn plan(&mut self, body: &SessionBody, world: &World) {
        let base = world.point(body.base).into_iter().flatten().copied();
        self.refs = base.filter(|at| at.birth < body.base).collect();
        if let Some(adopted) = body.adopted {
            let pack = (adopted, adopted);
            // Only what is there when it looks: its packs' footers.
            if world.objects.contains_key(&pack_name(pack)) {
                self.refs.push(Ref { pack, slot: 0, birth: body.target });
            }
        }
        self.refs.push(Ref { pack: (body.session, body.session), slot: 0, birth: body.target });
    }

    /// The session with which it may still commit.
    pub(super) fn may_commit(&self) -> Option<&SessionBody> {
        match self.state {
            Writing::Pack(_) | Writing::Commit(_) => self.session.as_ref(),
            _ => None,
        }
    }
}

/// Stands for a pack until the world makes one of it.
pub(super) fn pack_record(body: &SessionBody) -> Record {
    Record::Session(body.clone())
}

pub(super) fn pack_value(body: &SessionBody) -> Value {
    Value::Pack(vec![((body.session, body.session), 0)], body.target)
}

impl Sweeper {
    /// Gets a name now that it is about to leave a trace, and asks the same under it.
    fn name(&mut self, world: &mut World) -> Option<Request> {
        world.named[1] += 1;
        self.who = 10 + world.named[1];
        let mut sweep = LineageSweep::new(self.input(), std::mem::take(&mut self.waiting));
        let steps: Vec<_> = self.history.0.drain(..).map(|reply| sweep.step(reply)).collect();
        self.state = Sweeping::Sweep(Box::new(sweep));
        match steps.into_iter().last() {
            Some(Step::Ask(request)) => Some(request),
            _ => None,
        }
    }

    fn step(&mut self, reply: Reply, world: &mut World) -> Option<Request> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            match &mut self.state {
                Sweeping::Survey(survey) => match survey.step(reply) {
                    Step::Ask(request) => return Some(request),
                    Step::Done((mut found, _)) => {
                        let waiting: Option<Waiting> = found.remove(&L);
                        self.state = match waiting {
                            Some(waiting) => {
                                if self.who == 0 {
                                    self.waiting.clone_from(&waiting);
                                }
                                Sweeping::Sweep(Box::new(LineageSweep::new(self.input(), waiting)))
                            }
                            None => Sweeping::Done,
                        };
                    }
                },
                Sweeping::Sweep(sweep) => match sweep.step({
                    if self.who == 0 {
                        self.history.0.push(reply.clone());
                    }
                    reply
                }) {
                    Step::Ask(Request::Create(..)) if self.who == 0 => return self.name(world),
                    Step::Ask(request) => {
                        let moved = matches!(request, Request::Create(ObjectName::Moved(..), _));
                        self.tries += u8::from(moved);
                        return Some(request);
                    }
                    Step::Done(done) => {
                        self.history.0.clear();
                        self.rounds -= 1;
                        let again = done.is_ok_and(|report| report.again) && self.rounds > 0;
                        self.state = if again { Sweeping::Survey(Survey::default()) } else { Sweeping::Done };
                    }
                },
                Sweeping::Done => {
                    // What nobody asks for any more tells no states apart.
                    (self.who, self.rounds, self.tries, self.waiting) = (0, 0, 0, Waiting::default());
                    return None;
                }
            }
        }
    }

    fn input(&self) -> SweepInput {
        SweepInput {
            lineage: L,
            sweep: id(self.who * 4 + self.rounds),
            at: OPENED,
            void_before: NOW,
            repack: if self.repack { 8 } else { 0 },
            seals_with: None,
            rules: self.rules,
        }
    }
}

impl Reader {
    fn step(&mut self, reply: Reply) -> Option<Request> {
        match &mut self.state {
            Reading::Pin(pin) => match pin.step(reply) {
                Step::Ask(request) => {
                    self.tries += u8::from(matches!(request, Request::Create(..)));
                    Some(request)
                }
                Step::Done(Ok(PinOutcome::Pinned)) => {
                    self.state = Reading::Pinned;
                    let pin = ObjectName::Pin(L, PointNumber(self.number), id(77));
                    Some(Request::Delete(vec![pin]))
                }
                Step::Done(_) => {
                    self.state = Reading::Done;
                    None
                }
            },
            Reading::Pinned => {
                self.state = Reading::Done;
                None
            }
            Reading::Done => None,
        }
    }
}

impl Marker {
    fn step(&mut self, reply: Reply) -> Option<Request> {
        let Marking::Set(set) = &mut self.state else { return None };
        match set.step(reply) {
            Step::Ask(request) => {
                self.tries += u8::from(matches!(request, Request::Create(..)));
                Some(request)
            }
            Step::Done(Ok(outcome)) => {
                self.state = Marking::Done(outcome);
                None
            }
            Step::Done(Err(_)) => {
                self.state = Marking::Failed;
                None
            }
        }
    }
}
