//! Where a lineage stands: its newest point, found in a number of requests that does not grow with the points.

use vmkeep_model::{LineageId, PointNumber};

use super::{PointStub, Record, Reply, Request, Step, Trouble, good, wait};
use crate::format::RetiredBody;
use crate::layout::ObjectName;

/// Where a lineage stands, as far as a reader of it can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Head {
    /// Highest number that is taken or retired; 0 when there is none.
    pub(crate) top: u64,
    /// The newest committed point.
    pub(crate) newest: Option<(u64, PointStub)>,
    /// What stands highest and does not open or is missing: whether it is the newest point cannot be told.
    pub(crate) unreadable: Option<u64>,
    /// The number of the closed record.
    pub(crate) closed: Option<u64>,
    pub(crate) retired: Option<RetiredBody>,
}

impl Head {
    /// The newest retirement record's number.
    pub(crate) fn k(&self) -> u64 {
        self.retired.as_ref().map_or(0, |retired| retired.k)
    }

    pub(crate) fn is_retired(&self, number: u64) -> bool {
        self.retired.as_ref().is_some_and(|retired| retired.holds(number))
    }

    /// The number below which points may be collected: that of the newest point, or of the closed record.
    pub(crate) fn limit(&self) -> u64 {
        match (self.closed, &self.newest) {
            (Some(closed), _) => closed,
            (None, Some((newest, _))) => *newest,
            (None, None) => 0,
        }
    }
}

/// Finds the newest retirement record, upwards from one that is known. They are numbered without gaps and never
/// removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Retirement {
    lineage: LineageId,
    k: u64,
    newest: Option<RetiredBody>,
}

impl Retirement {
    /// Everything from record `k` on; that one is read again when its content is not in `newest`.
    pub(crate) fn after(lineage: LineageId, k: u64, newest: Option<RetiredBody>) -> Self {
        let k = if newest.is_some() || k == 0 { k + 1 } else { k };
        Self { lineage, k, newest }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Option<RetiredBody>, Trouble>> {
        match reply {
            Reply::Begin => {}
            Reply::Found(Record::Retired(found)) => {
                self.newest = Some(found);
                self.k += 1;
            }
            // A hint may name a record that is not there, when it is damaged by design: begin from the first.
            Reply::Missing if self.newest.is_none() && self.k > 1 => self.k = 1,
            Reply::Missing => return Step::Done(Ok(self.newest.take())),
            _ => return Step::Done(Err(Trouble::Unreadable(self.name()))),
        }
        Step::Ask(Request::Read(self.name()))
    }

    fn name(&self) -> ObjectName {
        ObjectName::Retired(self.lineage, self.k)
    }
}

/// Finds where a lineage stands.
///
/// A record that does not open ends the search: what lies below it is not the newest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FindHead {
    lineage: LineageId,
    state: State,
    head: Head,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Hint,
    Retired {
        known: u64,
        probe: Retirement,
    },
    /// Everything up to `low` is taken; asks for `low + step`.
    Up {
        low: u64,
        step: u64,
    },
    /// `low` is taken, `high` is free.
    Between {
        low: u64,
        high: u64,
    },
    Down {
        number: u64,
    },
    /// Nothing is at `number`: was it retired while this looked?
    Gone {
        number: u64,
        probe: Retirement,
    },
}

impl FindHead {
    pub(crate) fn new(lineage: LineageId) -> Self {
        Self { lineage, state: State::Hint, head: Head::default() }
    }

    fn point(&self, number: u64) -> ObjectName {
        ObjectName::Point(self.lineage, PointNumber(number))
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Head, Trouble>> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match (&mut self.state, reply) {
                (State::Hint, Reply::Begin) => {
                    return Step::Ask(Request::Read(ObjectName::Head(self.lineage)));
                }
                // A hint that is missing or damaged only costs requests.
                (State::Hint, reply) => {
                    let (known, k) = match reply {
                        Reply::Found(Record::Head(hint)) => (hint.newest, hint.retired),
                        _ => (0, 0),
                    };
                    State::Retired { known, probe: Retirement::after(self.lineage, k, None) }
                }
                (State::Retired { known, probe }, reply) => {
                    let known = *known;
                    self.head.retired = good!(wait!(probe, reply));
                    let retired = self.head.retired.as_ref().map_or(0, |retired| retired.newest);
                    State::Up { low: known.max(retired), step: 1 }
                }
                (State::Up { low, step }, Reply::There(true)) => {
                    let low = low.saturating_add(*step);
                    State::Up { low, step: step.saturating_mul(2) }
                }
                (State::Up { low, step }, Reply::There(false)) => {
                    State::Between { low: *low, high: low.saturating_add(*step) }
                }
                (State::Up { low, step }, _) => {
                    let probe = low.saturating_add(*step);
                    return Step::Ask(Request::Exists(self.point(probe)));
                }
                (State::Between { low, high }, Reply::There(there)) => {
                    let middle = *low + (*high - *low) / 2;
                    if there {
                        State::Between { low: middle, high: *high }
                    } else {
                        State::Between { low: *low, high: middle }
                    }
                }
                (State::Between { low, high }, _) if *high - *low > 1 => {
                    let middle = *low + (*high - *low) / 2;
                    return Step::Ask(Request::Exists(self.point(middle)));
                }
                (State::Between { low, .. }, _) => {
                    self.head.top = *low;
                    State::Down { number: *low }
                }
                (State::Down { number }, Reply::Begin) => {
                    let mut at = *number;
                    while at > 0 && self.head.is_retired(at) {
                        at -= 1;
                    }
                    if at == 0 {
                        return Step::Done(Ok(std::mem::take(&mut self.head)));
                    }
                    let name = ObjectName::Point(self.lineage, PointNumber(at));
                    self.state = State::Down { number: at };
                    return Step::Ask(Request::Read(name));
                }
                (State::Down { number }, reply) => {
                    let number = *number;
                    match reply {
                        Reply::Found(Record::Point(point)) => {
                            self.head.newest = Some((number, point));
                            return Step::Done(Ok(std::mem::take(&mut self.head)));
                        }
                        Reply::Found(Record::Void(_) | Record::Inherited(_)) => {}
                        Reply::Found(Record::Closed(_)) => self.head.closed = Some(number),
                        Reply::Missing => {
                            let retired = self.head.retired.clone();
                            let probe = Retirement::after(self.lineage, self.head.k(), retired);
                            self.state = State::Gone { number, probe };
                            continue;
                        }
                        _ => {
                            self.head.unreadable = Some(number);
                            return Step::Done(Ok(std::mem::take(&mut self.head)));
                        }
                    }
                    State::Down { number: number - 1 }
                }
                (State::Gone { number, probe }, reply) => {
                    let number = *number;
                    let retired = good!(wait!(probe, reply));
                    if retired.as_ref().is_some_and(|retired| retired.holds(number)) {
                        self.head = Head::default();
                        State::Hint
                    } else {
                        self.head.unreadable = Some(number);
                        return Step::Done(Ok(std::mem::take(&mut self.head)));
                    }
                }
            };
        }
    }
}
