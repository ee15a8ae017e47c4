//! Beginning a session: base, target, and whose packs it goes on from.

use vmkeep_model::{LineageId, PointNumber, SessionId};

use super::{
    CreateOnce, Created, FindHead, Head, Record, Reply, Request, Retirement, Rules, Step, TakeNumber, Taken,
    Trouble, good, wait,
};
use crate::format::{InheritedBody, SessionBody};
use crate::layout::ObjectName;

/// Begins a session.
///
/// Its own record comes first, then it looks whether its target is still free: so a session whose record was seen by
/// nobody when its target was retired has stored nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Begin {
    /// Base and target are found.
    session: SessionBody,
    adopted: Option<SessionBody>,
    rules: Rules,
    head: Head,
    state: State,
}

/// How a session begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Begun {
    /// It goes ahead; the body is what its record says.
    Open(SessionBody, Head),
    /// Its target was taken meanwhile: begin again under another id.
    Again,
    /// The lineage is closed.
    Closed,
    /// The session to go on from committed, or was ended by another.
    NotAdoptable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Head(FindHead),
    Open(CreateOnce),
    Inherit(TakeNumber),
    Free,
    Retired(Retirement),
    Remove(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Again,
    NotAdoptable,
}

impl Begin {
    pub(crate) fn new(session: SessionBody, adopted: Option<SessionBody>, rules: Rules) -> Self {
        let find = FindHead::new(LineageId(session.lineage));
        Self { session, adopted, rules, head: Head::default(), state: State::Head(find) }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Begun, Trouble>> {
        let lineage = LineageId(self.session.lineage);
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                State::Head(find) => {
                    self.head = good!(wait!(find, reply));
                    if self.head.closed.is_some() {
                        return Step::Done(Ok(Begun::Closed));
                    }
                    self.session.base = self.head.newest.as_ref().map_or(0, |(number, _)| *number);
                    self.session.target = self.head.top + 1;
                    if let Some(adopted) = &self.adopted {
                        if adopted.target != self.session.target {
                            return Step::Done(Ok(Begun::NotAdoptable));
                        }
                        // The number of the one adopted becomes its end.
                        self.session.target += 1;
                        self.session.adopted = Some(adopted.session);
                    }
                    let name = ObjectName::Session(SessionId(self.session.session));
                    State::Open(CreateOnce::new(name, Record::Session(self.session.clone()), self.rules))
                }
                State::Open(create) => match (good!(wait!(create, reply)), &self.adopted) {
                    (Created::Other(_), _) => return Step::Done(Ok(Begun::Again)),
                    (Created::Ours, None) => State::Free,
                    (Created::Ours, Some(adopted)) => {
                        let ended = InheritedBody {
                            lineage: adopted.lineage,
                            number: adopted.target,
                            session: adopted.session,
                            heir: self.session.session,
                            at: self.session.opened,
                        };
                        let (number, record) = (adopted.target, Record::Inherited(ended));
                        State::Inherit(TakeNumber::new(lineage, number, record, self.head.k(), self.rules))
                    }
                },
                State::Inherit(take) => match good!(wait!(take, reply)) {
                    Taken::Ours => State::Free,
                    Taken::Other(_) | Taken::Retired => State::Remove(Outcome::NotAdoptable),
                },
                State::Free => match reply {
                    Reply::There(false) => {
                        // Absent may also mean removed: then the retirement record says so by now.
                        let retired = self.head.retired.clone();
                        State::Retired(Retirement::after(lineage, self.head.k(), retired))
                    }
                    Reply::There(true) => State::Remove(Outcome::Again),
                    _ => {
                        let name = ObjectName::Point(lineage, PointNumber(self.session.target));
                        return Step::Ask(Request::Exists(name));
                    }
                },
                State::Retired(probe) => {
                    let retired = good!(wait!(probe, reply));
                    if retired.as_ref().is_some_and(|retired| retired.holds(self.session.target)) {
                        State::Remove(Outcome::Again)
                    } else {
                        self.head.retired = retired;
                        return Step::Done(Ok(Begun::Open(self.session.clone(), self.head.clone())));
                    }
                }
                State::Remove(outcome) => match (reply, outcome, &self.session.adopted) {
                    // What it inherited is swept with it: its record stays to say so.
                    (_, Outcome::Again, Some(_)) | (Reply::Done | Reply::Uncertain, Outcome::Again, None) => {
                        return Step::Done(Ok(Begun::Again));
                    }
                    (Reply::Done | Reply::Uncertain, Outcome::NotAdoptable, _) => {
                        return Step::Done(Ok(Begun::NotAdoptable));
                    }
                    _ => {
                        let name = ObjectName::Session(SessionId(self.session.session));
                        return Step::Ask(Request::Delete(vec![name]));
                    }
                },
            };
        }
    }
}
