//! Committing a session: one create decides, and the rest tidies up.

use vmkeep_model::{LineageId, PointNumber, SessionId};

use super::{
    CreateOnce, Created, PointStub, Record, Reply, Request, Retirement, Rules, Step, Trouble, good, wait,
};
use crate::format::{HeadBody, RetiredBody, SessionBody};
use crate::layout::ObjectName;

/// Makes a point visible.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Commit {
    session: SessionBody,
    retired: Option<RetiredBody>,
    /// Pack objects of this session, or inherited by it, that the point does not use.
    unused: Vec<ObjectName>,
    /// The sessions inherited, the first of the chain first.
    inherited: Vec<SessionId>,
    rules: Rules,
    state: State,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum CommitOutcome {
    /// It is visible, for ever.
    Committed,
    /// The target was taken: by what, when that can be told.
    Lost(Option<Record>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Create(CreateOnce),
    Retired(Retirement),
    /// The target is another's: what was stored is nobody's.
    Lost(Option<Record>),
    RemovePacks(Option<Record>),
    RemoveRecord(Option<Record>),
    /// The target was retired long ago: what was created there counts for nobody.
    TakeBack,
    Hint,
    Unused,
    Ended,
}

impl Commit {
    pub(crate) fn new(
        session: SessionBody,
        retired: Option<RetiredBody>,
        unused: Vec<ObjectName>,
        inherited: Vec<SessionId>,
        rules: Rules,
    ) -> Self {
        let stub = PointStub { session: session.session, base: session.base };
        let name = ObjectName::Point(LineageId(session.lineage), PointNumber(session.target));
        let create = CreateOnce::new(name, Record::Point(stub), rules);
        Self { session, retired, unused, inherited, rules, state: State::Create(create) }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<CommitOutcome, Trouble>> {
        let lineage = LineageId(self.session.lineage);
        let target = ObjectName::Point(lineage, PointNumber(self.session.target));
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                State::Create(create) => match good!(wait!(create, reply)) {
                    Created::Other(other) => {
                        // What was stored is nobody's, unless it is an heir's, or that of a clone of this host, which has the
                        // same session, or that cannot be told.
                        let own = self.session.session;
                        let may_be_used = match &other {
                            Some(Record::Inherited(ended)) => ended.session == own,
                            Some(Record::Point(point)) => point.session == own,
                            other => other.is_none(),
                        };
                        if may_be_used {
                            return Step::Done(Ok(CommitOutcome::Lost(other)));
                        }
                        State::Lost(other)
                    }
                    Created::Ours if !self.rules.reread_retired => State::Hint,
                    Created::Ours => {
                        let k = self.retired.as_ref().map_or(0, |retired| retired.k);
                        State::Retired(Retirement::after(lineage, k, self.retired.take()))
                    }
                },
                State::Retired(probe) => {
                    self.retired = good!(wait!(probe, reply));
                    match &self.retired {
                        Some(retired) if retired.holds(self.session.target) => State::TakeBack,
                        _ => State::Hint,
                    }
                }
                State::Lost(other) => match reply {
                    Reply::Names(names) => {
                        self.state = State::RemovePacks(other.take());
                        return Step::Ask(Request::Delete(names));
                    }
                    Reply::Begin => {
                        let own = SessionId(self.session.session);
                        return Step::Ask(Request::List(format!("packs/{lineage}/{own}")));
                    }
                    _ => return Step::Done(Ok(CommitOutcome::Lost(other.take()))),
                },
                State::RemovePacks(other) => match reply {
                    // The record last: while it is there, what is left can be found, as what it inherited is.
                    Reply::Done if self.session.adopted.is_none() => {
                        self.state = State::RemoveRecord(other.take());
                        let own = ObjectName::Session(SessionId(self.session.session));
                        return Step::Ask(Request::Delete(vec![own]));
                    }
                    _ => return Step::Done(Ok(CommitOutcome::Lost(other.take()))),
                },
                State::RemoveRecord(other) => return Step::Done(Ok(CommitOutcome::Lost(other.take()))),
                State::TakeBack => match reply {
                    Reply::Begin => return Step::Ask(Request::Delete(vec![target])),
                    _ => return Step::Done(Ok(CommitOutcome::Lost(None))),
                },
                // The point counts. What follows saves later requests and space; when it fails, others do without.
                State::Hint => match reply {
                    Reply::Begin => {
                        let retired = self.retired.as_ref().map_or(0, |retired| retired.k);
                        let hint = HeadBody { newest: self.session.target, retired };
                        return Step::Ask(Request::Overwrite(ObjectName::Head(lineage), Record::Head(hint)));
                    }
                    _ => State::Unused,
                },
                State::Unused => match reply {
                    Reply::Begin if !self.unused.is_empty() => {
                        return Step::Ask(Request::Delete(self.unused.clone()));
                    }
                    // What is left is for a sweep, which needs the records to find it.
                    Reply::Uncertain => return Step::Done(Ok(CommitOutcome::Committed)),
                    _ => State::Ended,
                },
                State::Ended => match reply {
                    Reply::Begin => {
                        let own = SessionId(self.session.session);
                        let ended = self.inherited.iter().copied().chain([own]);
                        return Step::Ask(Request::Delete(ended.map(ObjectName::Session).collect()));
                    }
                    _ => return Step::Done(Ok(CommitOutcome::Committed)),
                },
            };
        }
    }
}
