//! A create whose outcome is known.

use super::{Record, Reply, Request, Rules, Step, Trouble};
use crate::layout::ObjectName;

/// How often a create is tried when its answer is lost or the store contradicts itself.
const TRIES: u8 = 5;

/// Creates a record unless something is there, and finds out what is there in the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CreateOnce {
    name: ObjectName,
    record: Record,
    rules: Rules,
    tries: u8,
    /// The store said that something is there.
    taken: bool,
}

/// How a create went.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Created {
    Ours,
    /// Something else was there: what, when it opens.
    Other(Option<Record>),
}

impl CreateOnce {
    pub(crate) fn new(name: ObjectName, record: Record, rules: Rules) -> Self {
        Self { name, record, rules, tries: TRIES, taken: false }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Created, Trouble>> {
        match reply {
            Reply::Begin => self.create(),
            Reply::Done => Step::Done(Ok(Created::Ours)),
            Reply::Taken | Reply::Uncertain => {
                self.taken = reply == Reply::Taken;
                if !self.rules.read_back {
                    // What comes of believing the second answer: the first attempt may have lost.
                    return if self.taken { Step::Done(Ok(Created::Ours)) } else { self.create() };
                }
                Step::Ask(Request::ReadBack(self.name.clone(), self.record.clone()))
            }
            Reply::Same if self.taken => Step::Done(Ok(Created::Ours)),
            // It is there; whether it is durable only the store can say, and a failure does not. Or it is not there:
            // the create had no effect, or what was in its way has gone.
            Reply::Same | Reply::Missing => self.create(),
            Reply::Found(other) => Step::Done(Ok(Created::Other(Some(other)))),
            _ => Step::Done(Ok(Created::Other(None))),
        }
    }

    fn create(&mut self) -> Step<Result<Created, Trouble>> {
        let Some(left) = self.tries.checked_sub(1) else {
            return Step::Done(Err(Trouble::GaveUp(self.name.clone())));
        };
        self.tries = left;
        Step::Ask(Request::Create(self.name.clone(), self.record.clone()))
    }
}
