//! Settling a session that ended without tidying up, and ending one that was abandoned.

use vmkeep_model::{LineageId, PointNumber, SessionId};

use super::{Head, Record, Reply, Request, Retirement, Rules, Step, TakeNumber, Taken, Trouble, good, wait};
use crate::format::{SessionBody, VoidBody};
use crate::layout::ObjectName;

/// Longest chain of sessions that went on from one another.
const CHAIN_MAX: usize = 64;

/// Settles one session: removes what it left, when it can no longer commit.
///
/// What is removed is never what a point uses: a session whose target is taken by anything but its own point has
/// nothing in any point, and what an ended session's heir uses is the heir's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Settle {
    lineage: LineageId,
    session: SessionId,
    /// Sessions that began before are ended; `i64::MIN` ends none.
    void_before: i64,
    at: i64,
    top: u64,
    k: u64,
    rules: Rules,
    body: Option<SessionBody>,
    /// The session itself and those whose packs it has, itself first.
    chain: Vec<SessionId>,
    committed: bool,
    state: State,
}

/// How a session stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Settled {
    /// It is gone, with all it left.
    Gone {
        /// It was ended by this: the number it wanted is void now.
        voided: Option<u64>,
    },
    /// It may still commit.
    Open,
    /// A successor has its packs, or what became of it cannot be read.
    Left,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Read,
    Target,
    /// Whether the target was retired; with what was found there.
    Retired(Retirement, Option<Record>),
    Void(TakeNumber),
    /// Whether the heir is still there.
    Heir(SessionId),
    /// Looks whether the last of the chain inherited from this one.
    Adopted(SessionId),
    AdoptedTarget(SessionBody),
    /// Whether that one's target was retired: then what was found there does not count.
    AdoptedRetired(Retirement, SessionBody),
    Unused,
    RemoveUnused,
    /// Lists what the last of the chain left.
    List,
    Remove,
    RemoveRecord,
}

impl Settle {
    pub(crate) fn new(
        lineage: LineageId,
        session: SessionId,
        (void_before, at): (i64, i64),
        head: &Head,
        rules: Rules,
    ) -> Self {
        Self {
            lineage,
            session,
            void_before,
            at,
            top: head.top,
            k: head.k(),
            rules,
            body: None,
            chain: vec![session],
            committed: false,
            state: State::Read,
        }
    }

    fn target(&self) -> ObjectName {
        let target = self.body.as_ref().map_or(0, |body| body.target);
        ObjectName::Point(self.lineage, PointNumber(target))
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Settled, Trouble>> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            let fresh = reply == Reply::Begin;
            let done = |settled| Step::Done(Ok(settled));
            self.state = match &mut self.state {
                State::Read if fresh => return Step::Ask(Request::Read(ObjectName::Session(self.session))),
                State::Read => match reply {
                    Reply::Found(Record::Session(body)) if body.lineage == self.lineage.0 => {
                        self.body = Some(body);
                        State::Target
                    }
                    Reply::Missing => return done(Settled::Gone { voided: None }),
                    _ => return done(Settled::Left),
                },
                State::Target if fresh => return Step::Ask(Request::Read(self.target())),
                State::Target => match reply {
                    Reply::Missing => State::Retired(Retirement::after(self.lineage, self.k, None), None),
                    Reply::Found(record) => {
                        State::Retired(Retirement::after(self.lineage, self.k, None), Some(record))
                    }
                    _ => return done(Settled::Left),
                },
                State::Retired(probe, found) => {
                    let retired = good!(wait!(probe, reply));
                    let found = found.take();
                    let Some(body) = &self.body else { return done(Settled::Left) };
                    if retired.is_some_and(|retired| retired.holds(body.target)) {
                        // It committed and was settled then, or it began too late and stored nothing. What lies at a number
                        // that was retired came too late, and says nothing.
                        State::RemoveRecord
                    } else if let Some(record) = found {
                        self.ended(&record)
                    } else if !self.rules.void && body.opened < self.void_before {
                        // What comes of believing in time-outs.
                        self.adopted()
                    } else if body.opened < self.void_before && body.target == self.top + 1 {
                        let void = VoidBody {
                            lineage: body.lineage,
                            number: body.target,
                            session: body.session,
                            at: self.at,
                        };
                        let record = Record::Void(void);
                        State::Void(TakeNumber::new(self.lineage, body.target, record, self.k, self.rules))
                    } else {
                        return done(Settled::Open);
                    }
                }
                State::Void(take) => match good!(wait!(take, reply)) {
                    Taken::Ours => self.adopted(),
                    Taken::Other(Some(record)) => {
                        State::Retired(Retirement::after(self.lineage, self.k, None), Some(record))
                    }
                    Taken::Other(None) => return done(Settled::Left),
                    Taken::Retired => {
                        // It had committed, and was settled then.
                        self.committed = true;
                        State::RemoveRecord
                    }
                },
                State::Heir(heir) => match reply {
                    Reply::Begin => return Step::Ask(Request::Exists(ObjectName::Session(*heir))),
                    Reply::There(false) => State::RemoveRecord,
                    _ => return done(Settled::Left),
                },
                State::Adopted(session) => match reply {
                    Reply::Begin => return Step::Ask(Request::Read(ObjectName::Session(*session))),
                    Reply::Found(Record::Session(body)) if body.lineage == self.lineage.0 => {
                        State::AdoptedTarget(body)
                    }
                    Reply::Missing => self.chain_known(),
                    _ => return done(Settled::Left),
                },
                State::AdoptedTarget(body) => match reply {
                    Reply::Begin => {
                        let name = ObjectName::Point(self.lineage, PointNumber(body.target));
                        return Step::Ask(Request::Read(name));
                    }
                    Reply::Found(Record::Inherited(ended))
                        if ended.session == body.session
                            && self.chain.last().is_some_and(|heir| heir.0 == ended.heir)
                            && self.chain.len() < CHAIN_MAX =>
                    {
                        let probe = Retirement::after(self.lineage, self.k, None);
                        State::AdoptedRetired(probe, body.clone())
                    }
                    Reply::Unreadable => return done(Settled::Left),
                    _ => self.chain_known(),
                },
                State::AdoptedRetired(probe, body) => {
                    let retired = good!(wait!(probe, reply));
                    if retired.is_some_and(|retired| retired.holds(body.target)) {
                        self.chain_known()
                    } else {
                        self.chain.push(SessionId(body.session));
                        match body.adopted {
                            Some(adopted) => State::Adopted(SessionId(adopted)),
                            None => self.chain_known(),
                        }
                    }
                }
                State::Unused => match reply {
                    Reply::Begin => {
                        let number = PointNumber(self.body.as_ref().map_or(0, |body| body.target));
                        return Step::Ask(Request::Unused { number, sessions: self.chain.clone() });
                    }
                    Reply::Objects(unused) if unused.is_empty() => State::RemoveRecord,
                    Reply::Objects(unused) => {
                        self.state = State::RemoveUnused;
                        return Step::Ask(Request::Delete(unused));
                    }
                    _ => return done(Settled::Left),
                },
                State::RemoveUnused => match reply {
                    Reply::Done => State::RemoveRecord,
                    _ => return done(Settled::Left),
                },
                // The oldest of the chain first: while its record is there, what it left can be found.
                State::List => match reply {
                    Reply::Begin => {
                        let session = self.chain.last().copied().unwrap_or(self.session);
                        return Step::Ask(Request::List(format!("packs/{}/{session}", self.lineage)));
                    }
                    Reply::Names(names) if names.is_empty() => State::RemoveRecord,
                    Reply::Names(names) => {
                        self.state = State::Remove;
                        return Step::Ask(Request::Delete(names));
                    }
                    _ => return done(Settled::Left),
                },
                State::Remove => match reply {
                    Reply::Done => State::RemoveRecord,
                    _ => return done(Settled::Left),
                },
                State::RemoveRecord => match reply {
                    Reply::Begin if self.committed => {
                        let names = self.chain.iter().rev().copied().map(ObjectName::Session);
                        return Step::Ask(Request::Delete(names.collect()));
                    }
                    Reply::Begin => {
                        let session = self.chain.last().copied().unwrap_or(self.session);
                        return Step::Ask(Request::Delete(vec![ObjectName::Session(session)]));
                    }
                    Reply::Done if self.committed || self.chain.len() == 1 => {
                        let voided = self.voided_here();
                        return done(Settled::Gone { voided });
                    }
                    Reply::Done => {
                        self.chain.pop();
                        State::List
                    }
                    _ => return done(Settled::Left),
                },
            };
        }
    }

    /// What stands at the target says how the session ended.
    fn ended(&mut self, record: &Record) -> State {
        match record {
            Record::Point(point) if point.session == self.session.0 => {
                self.committed = true;
                self.adopted()
            }
            Record::Inherited(ended) if ended.session == self.session.0 => State::Heir(SessionId(ended.heir)),
            _ => self.adopted(),
        }
    }

    fn adopted(&self) -> State {
        match self.body.as_ref().and_then(|body| body.adopted) {
            Some(adopted) => State::Adopted(SessionId(adopted)),
            None => self.chain_known(),
        }
    }

    fn chain_known(&self) -> State {
        if self.committed { State::Unused } else { State::List }
    }

    fn voided_here(&self) -> Option<u64> {
        self.body.as_ref().map(|body| body.target).filter(|&target| !self.committed && target > self.top)
    }
}
