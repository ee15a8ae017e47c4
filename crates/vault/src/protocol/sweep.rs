//! The sweep of one lineage, from its sessions to its worn packs.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_envelope::PackName;
use vmkeep_model::{DomainId, LineageId, SessionId};

use super::leftover::Leftovers;
use super::reap::{Reap, Reaped};
use super::repack::{Repack, Tidy};
use super::retire::Retire;
use super::settle::{Settle, Settled};
use super::{FindHead, Head, Record, Reply, Request, Rules, Step, Trouble, good, mark_name, wait};
use crate::format::{HeadBody, PackBody};
use crate::layout::ObjectName;

/// What awaits a sweep in one lineage, as three listings of the store show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Waiting {
    pub(crate) sessions: Vec<SessionId>,
    /// Numbers with their last mark.
    pub(crate) marks: BTreeMap<u64, u32>,
    /// Parts of plans, by sweep.
    pub(crate) plans: BTreeMap<SessionId, Vec<u32>>,
    pub(crate) worn: Vec<PackBody>,
    pub(crate) repacks: Vec<SessionId>,
}

impl Waiting {
    /// Adds a name that was listed, when it is one of those.
    pub(crate) fn add(&mut self, name: &ObjectName) {
        match name {
            ObjectName::Session(session) => self.sessions.push(*session),
            ObjectName::Forget(_, number) => {
                self.marks.entry(number.0).or_insert(1);
            }
            ObjectName::Mark(_, number, g) => {
                let last = self.marks.entry(number.0).or_insert(*g);
                *last = (*last).max(*g);
            }
            ObjectName::Plan(_, sweep, part) => self.plans.entry(*sweep).or_default().push(*part),
            ObjectName::Worn(_, session, PackName(name)) => self.worn.push((session.0, *name)),
            ObjectName::Repack(_, sweep) => self.repacks.push(*sweep),
            _ => {}
        }
    }
}

/// Finds what awaits a sweep: three listings, and the records of open sessions, whose names do not say their lineage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Survey {
    found: BTreeMap<LineageId, Waiting>,
    listed: usize,
    /// The last is next.
    sessions: Vec<SessionId>,
    stages: Vec<ObjectName>,
}

impl Survey {
    /// Sessions last: one that wanted a number which was taken, forgotten and listed has its record by then, and so is
    /// settled before the number is retired.
    const PREFIXES: [&str; 3] = ["forgets", "sweep", "sessions"];

    /// What awaits, by lineage, and files that killed processes left half-written.
    pub(crate) fn step(&mut self, reply: Reply) -> Step<(BTreeMap<LineageId, Waiting>, Vec<ObjectName>)> {
        match reply {
            Reply::Names(names) => {
                self.listed += 1;
                for name in names {
                    match &name {
                        ObjectName::Session(session) => self.sessions.push(*session),
                        ObjectName::Stage(..) => self.stages.push(name),
                        ObjectName::Forget(lineage, _)
                        | ObjectName::Mark(lineage, ..)
                        | ObjectName::Plan(lineage, ..)
                        | ObjectName::Worn(lineage, ..)
                        | ObjectName::Repack(lineage, _) => {
                            self.found.entry(*lineage).or_default().add(&name);
                        }
                        _ => {}
                    }
                }
            }
            Reply::Begin => {}
            reply => {
                if let (Some(session), Reply::Found(Record::Session(body))) = (self.sessions.pop(), reply) {
                    self.found.entry(LineageId(body.lineage)).or_default().sessions.push(session);
                }
            }
        }
        if let Some(prefix) = Self::PREFIXES.get(self.listed) {
            return Step::Ask(Request::List((*prefix).to_owned()));
        }
        match self.sessions.last() {
            Some(session) => Step::Ask(Request::Read(ObjectName::Session(*session))),
            None => Step::Done((std::mem::take(&mut self.found), std::mem::take(&mut self.stages))),
        }
    }
}

/// What a sweep of a lineage is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SweepInput {
    pub(crate) lineage: LineageId,
    /// Fresh for each sweep: also the session id of the packs that it writes.
    pub(crate) sweep: [u8; 16],
    pub(crate) at: i64,
    /// Sessions and sweeps that began before count as abandoned.
    pub(crate) void_before: i64,
    /// Whether worn packs are repacked, and how many at most.
    pub(crate) repack: usize,
    /// The domain and epoch of the data key that what is thinned is sealed with; `None` when nothing is.
    pub(crate) seals_with: Option<(DomainId, u32)>,
    pub(crate) rules: Rules,
}

/// What a sweep of a lineage did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SweepReport {
    /// Sessions that were ended because they were abandoned, with the number each wanted.
    pub(crate) voided: Vec<(SessionId, u64)>,
    /// Sessions that may still commit.
    pub(crate) open: u64,
    /// Forgotten points that stay: the newest, and those with a pin or a hold.
    pub(crate) newest: Vec<u64>,
    pub(crate) pinned: Vec<u64>,
    pub(crate) held: Vec<u64>,
    /// Points and void numbers that were retired, and those that had to stay for damage.
    pub(crate) retired: Vec<u64>,
    pub(crate) blocked: Vec<u64>,
    pub(crate) repacked: Vec<PackBody>,
    /// The newest point cannot be read, so that nothing can be collected.
    pub(crate) unreadable: Option<u64>,
    /// Another sweep was at it too: look again.
    pub(crate) again: bool,
}

/// Sweeps one lineage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LineageSweep {
    input: SweepInput,
    waiting: Waiting,
    head: Head,
    marks: BTreeMap<u64, u32>,
    stray_pins: Vec<ObjectName>,
    report: SweepReport,
    /// What another sweep left may be worn.
    tidied: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Head(FindHead),
    NextSession,
    Settle(SessionId, Settle),
    Leftovers(Leftovers),
    Strays,
    Reap(Reap),
    Retire(Retire),
    Pins,
    Hint,
    NextRepack,
    ReadRepack(SessionId),
    Tidy(Tidy),
    Over,
    Worn,
    Clear(u8),
    Cleared(u8),
    Repack(Repack),
}

impl LineageSweep {
    pub(crate) fn new(input: SweepInput, mut waiting: Waiting) -> Self {
        waiting.sessions.sort_unstable_by(|a, b| b.cmp(a));
        let state = State::Head(FindHead::new(input.lineage));
        let marks = waiting.marks.clone();
        Self {
            input,
            waiting,
            head: Head::default(),
            marks,
            stray_pins: Vec::new(),
            report: SweepReport::default(),
            tidied: false,
            state,
        }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<SweepReport, Trouble>> {
        let SweepInput { lineage, sweep, at, void_before, rules, repack, seals_with } = self.input;
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                State::Head(find) => {
                    self.head = good!(wait!(find, reply));
                    State::NextSession
                }
                // A number is retired only after the sessions that wanted it are settled: they come first.
                State::NextSession => match self.waiting.sessions.pop() {
                    Some(session) => {
                        let settle = Settle::new(lineage, session, (void_before, at), &self.head, rules);
                        State::Settle(session, settle)
                    }
                    None => {
                        let plans = std::mem::take(&mut self.waiting.plans).into_iter().rev().collect();
                        let (head, marks) = (self.head.clone(), self.marks.clone());
                        State::Leftovers(Leftovers::new(lineage, head, plans, marks, rules))
                    }
                },
                State::Settle(session, settle) => {
                    let session = *session;
                    match good!(wait!(settle, reply)) {
                        Settled::Gone { voided: Some(number) } => {
                            self.head.top = self.head.top.max(number);
                            self.report.voided.push((session, number));
                        }
                        Settled::Gone { voided: None } | Settled::Left => {}
                        Settled::Open => self.report.open += 1,
                    }
                    State::NextSession
                }
                State::Leftovers(leftovers) => {
                    self.report.retired.extend(good!(wait!(leftovers, reply)));
                    self.head.retired.clone_from(&leftovers.head.retired);
                    State::Strays
                }
                // Marks whose number is retired mark nothing.
                State::Strays => match reply {
                    Reply::Begin => {
                        let strays = self.marks.iter().filter(|&(&number, _)| self.head.is_retired(number));
                        let names: Vec<_> = strays
                            .flat_map(|(&number, &last)| {
                                (1..=last).map(move |g| mark_name(lineage, number, g))
                            })
                            .collect();
                        if names.is_empty() {
                            self.reap()
                        } else {
                            return Step::Ask(Request::Delete(names));
                        }
                    }
                    _ => self.reap(),
                },
                State::Reap(reap) => {
                    let reaped = match reap.step(&self.head, reply) {
                        Step::Ask(request) => return Step::Ask(request),
                        Step::Done(done) => good!(done),
                    };
                    self.taken(reaped)
                }
                State::Retire(retire) => {
                    let mut retired = good!(wait!(retire, reply));
                    self.head.retired.clone_from(&retire.head.retired);
                    self.report.retired.append(&mut retired.numbers);
                    self.report.blocked.append(&mut retired.blocked);
                    self.report.again |= retired.again;
                    State::Pins
                }
                State::Pins => match reply {
                    Reply::Begin if !self.stray_pins.is_empty() => {
                        return Step::Ask(Request::Delete(std::mem::take(&mut self.stray_pins)));
                    }
                    _ if self.report.retired.is_empty() => State::NextRepack,
                    _ => State::Hint,
                },
                State::Hint => match reply {
                    Reply::Begin => {
                        let hint = HeadBody { newest: self.head.limit(), retired: self.head.k() };
                        return Step::Ask(Request::Overwrite(ObjectName::Head(lineage), Record::Head(hint)));
                    }
                    _ => State::NextRepack,
                },
                State::NextRepack => match self.waiting.repacks.pop() {
                    Some(dead) => State::ReadRepack(dead),
                    None => State::Over,
                },
                State::ReadRepack(dead) => match reply {
                    Reply::Begin => return Step::Ask(Request::Read(ObjectName::Repack(lineage, *dead))),
                    Reply::Found(Record::Repack(record)) if record.at < void_before => {
                        State::Tidy(Tidy::new(lineage, *dead, rules))
                    }
                    _ => State::NextRepack,
                },
                State::Tidy(tidy) => {
                    good!(wait!(tidy, reply));
                    self.tidied = true;
                    State::NextRepack
                }
                State::Over => {
                    // Nothing of it counts any more and nothing can come: what is left goes by its prefix.
                    if self.is_over() { State::Clear(0) } else { State::Worn }
                }
                State::Clear(step) => match (reply, Self::CLEARED.get(usize::from(*step))) {
                    (Reply::Begin, Some(prefix)) => {
                        return Step::Ask(Request::List(format!("{prefix}/{lineage}")));
                    }
                    (Reply::Names(names), _) if names.is_empty() => State::Clear(*step + 1),
                    (Reply::Names(names), _) => {
                        self.state = State::Cleared(*step);
                        return Step::Ask(Request::Delete(names));
                    }
                    _ => return self.done(),
                },
                State::Cleared(step) => match reply {
                    Reply::Done => State::Clear(*step + 1),
                    _ => return self.done(),
                },
                State::Worn if repack == 0 => return self.done(),
                State::Worn => match reply {
                    Reply::Names(names) => {
                        let mut worn = Waiting::default();
                        for name in &names {
                            worn.add(name);
                        }
                        worn.worn.truncate(repack);
                        let head = self.head.clone();
                        State::Repack(Repack::new(lineage, (sweep, at), head, seals_with, worn.worn, rules))
                    }
                    // Only what this sweep, or one before, found worn.
                    Reply::Begin
                        if self.report.retired.is_empty() && self.waiting.worn.is_empty() && !self.tidied =>
                    {
                        return self.done();
                    }
                    Reply::Begin => return Step::Ask(Request::List(format!("sweep/{lineage}/worn"))),
                    _ => return self.done(),
                },
                State::Repack(repack) => {
                    self.report.repacked = good!(wait!(repack, reply));
                    return self.done();
                }
            };
        }
    }

    /// Where what is left of a lineage lies that is over; its retirement records, its end and its journal stay.
    const CLEARED: [&str; 5] = ["packs", "moved", "pins", "forgets", "sweep"];

    /// Whether the lineage is closed, every number below its end is retired, and no session is left.
    fn is_over(&self) -> bool {
        let Some(closed) = self.head.closed else { return false };
        !self.report.retired.is_empty()
            && self.report.open == 0
            && self.report.blocked.is_empty()
            && (1..closed).all(|number| self.head.is_retired(number))
    }

    fn reap(&mut self) -> State {
        let limit = if self.input.rules.keep_newest { self.head.limit() } else { u64::MAX };
        if self.head.unreadable.is_some() && !self.marks.is_empty() {
            // Which point is the newest cannot be told.
            self.report.unreadable = self.head.unreadable;
        }
        let marks = self.marks.iter().map(|(&number, &g)| (number, g));
        let standing = marks.filter(|&(number, _)| !self.head.is_retired(number));
        let (marked, newest): (Vec<_>, Vec<_>) = standing.partition(|&(number, _)| number < limit);
        self.report.newest = newest.into_iter().map(|(number, _)| number).collect();
        let at = (self.input.sweep, self.input.at);
        State::Reap(Reap::new(self.input.lineage, at, marked, self.input.rules))
    }

    fn taken(&mut self, reaped: Reaped) -> State {
        for (number, g) in reaped.marks {
            let last = self.marks.entry(number).or_insert(g);
            *last = (*last).max(g);
        }
        self.report.pinned = reaped.pinned;
        self.report.held = reaped.held;
        self.stray_pins = reaped.stray_pins;
        let taken: BTreeSet<u64> = reaped.taken.into_iter().collect();
        let SweepInput { lineage, sweep, rules, .. } = self.input;
        State::Retire(Retire::new(lineage, sweep, self.head.clone(), taken, self.marks.clone(), rules))
    }

    fn done(&mut self) -> Step<Result<SweepReport, Trouble>> {
        Step::Done(Ok(std::mem::take(&mut self.report)))
    }
}
