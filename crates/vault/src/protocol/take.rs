//! Taking a number of a lineage for good, with anything but a point.

use vmkeep_model::{LineageId, PointNumber};

use super::{CreateOnce, Created, Record, Reply, Request, Retirement, Rules, Step, Trouble, good, wait};
use crate::layout::ObjectName;

/// Takes a number that was free when it was looked at.
///
/// A create that comes late may find the number free again: used, retired and removed meanwhile. Then it has taken
/// nothing. The retirement record was written before anything was removed, so reading it after the create tells; what was
/// created is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TakeNumber {
    lineage: LineageId,
    number: u64,
    /// Retirement records up to this one are known to be there.
    k: u64,
    rules: Rules,
    state: State,
}

/// Whose the number is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Taken {
    /// It is taken by this.
    Ours,
    /// It was taken by something else.
    Other(Option<Record>),
    /// It was used and retired.
    Retired,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Create(CreateOnce),
    Retired(Retirement),
    TakeBack,
}

impl TakeNumber {
    pub(crate) fn new(lineage: LineageId, number: u64, record: Record, k: u64, rules: Rules) -> Self {
        let create = CreateOnce::new(ObjectName::Point(lineage, PointNumber(number)), record, rules);
        Self { lineage, number, k, rules, state: State::Create(create) }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Taken, Trouble>> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                State::Create(create) => match good!(wait!(create, reply)) {
                    Created::Ours if !self.rules.reread_retired => return Step::Done(Ok(Taken::Ours)),
                    Created::Ours => State::Retired(Retirement::after(self.lineage, self.k, None)),
                    Created::Other(other) => return Step::Done(Ok(Taken::Other(other))),
                },
                State::Retired(probe) => match good!(wait!(probe, reply)) {
                    Some(retired) if retired.holds(self.number) => State::TakeBack,
                    _ => return Step::Done(Ok(Taken::Ours)),
                },
                State::TakeBack => match reply {
                    Reply::Begin => {
                        let name = ObjectName::Point(self.lineage, PointNumber(self.number));
                        return Step::Ask(Request::Delete(vec![name]));
                    }
                    // What is left of it does not count, whether it went or not.
                    _ => return Step::Done(Ok(Taken::Retired)),
                },
            };
        }
    }
}
