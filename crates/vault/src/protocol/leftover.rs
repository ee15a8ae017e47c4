//! Plans that other sweeps left: carried out when their numbers are retired, decided when they can be, else thrown away.

use std::collections::BTreeMap;

use vmkeep_model::{LineageId, SessionId};

use super::carry::CarryOut;
use super::retire::retire;
use super::{
    CreateOnce, Created, Head, Record, Reply, Request, Retirement, Rules, Step, Trouble, good, wait,
};
use crate::format::{PlanBody, RetiredBody};
use crate::layout::ObjectName;

/// Looks after the plans that other sweeps left in a lineage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leftovers {
    lineage: LineageId,
    rules: Rules,
    pub(crate) head: Head,
    marks: BTreeMap<u64, u32>,
    /// Sweep and the parts that are there. The last is next.
    plans: Vec<(SessionId, Vec<u32>)>,
    read: Vec<PlanBody>,
    carried: Vec<u64>,
    state: LeftState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum LeftState {
    Next,
    Read(usize),
    Retired(Retirement),
    Retire(CreateOnce, RetiredBody),
    CarryOut(CarryOut),
    Discard,
}

impl Leftovers {
    pub(crate) fn new(
        lineage: LineageId,
        head: Head,
        plans: Vec<(SessionId, Vec<u32>)>,
        marks: BTreeMap<u64, u32>,
        rules: Rules,
    ) -> Self {
        let (read, carried) = (Vec::new(), Vec::new());
        Self { lineage, rules, head, marks, plans, read, carried, state: LeftState::Next }
    }

    /// The numbers of the plans that were carried out.
    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Vec<u64>, Trouble>> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                LeftState::Next => {
                    self.read.clear();
                    if self.plans.is_empty() {
                        return Step::Done(Ok(std::mem::take(&mut self.carried)));
                    }
                    LeftState::Read(0)
                }
                LeftState::Read(at) => {
                    let at = *at;
                    let Some((sweep, parts)) = self.plans.last() else {
                        self.state = LeftState::Next;
                        continue;
                    };
                    match reply {
                        Reply::Begin => match parts.get(at) {
                            Some(&part) => {
                                return Step::Ask(Request::Read(ObjectName::Plan(
                                    self.lineage,
                                    *sweep,
                                    part,
                                )));
                            }
                            // Its k may be taken since this sweep looked.
                            None if !self.read.is_empty() => {
                                let retired = self.head.retired.clone();
                                LeftState::Retired(Retirement::after(self.lineage, self.head.k(), retired))
                            }
                            None => {
                                self.plans.pop();
                                LeftState::Next
                            }
                        },
                        Reply::Found(Record::Plan(part)) if part.lineage == self.lineage.0 => {
                            self.read.push(part);
                            LeftState::Read(at + 1)
                        }
                        // Carried out since the listing, or damaged: what can be read of it is looked at.
                        _ => LeftState::Read(at + 1),
                    }
                }
                LeftState::Retired(probe) => {
                    self.head.retired = good!(wait!(probe, reply));
                    self.decide()
                }
                LeftState::Retire(create, record) => match good!(wait!(create, reply)) {
                    Created::Ours => {
                        self.head.retired = Some(record.clone());
                        self.decide()
                    }
                    Created::Other(_) => {
                        let retired = self.head.retired.clone();
                        LeftState::Retired(Retirement::after(self.lineage, self.head.k(), retired))
                    }
                },
                LeftState::CarryOut(carry) => {
                    good!(wait!(carry, reply));
                    self.carried
                        .extend(self.read.first().map(|part| part.numbers.clone()).unwrap_or_default());
                    self.plans.pop();
                    LeftState::Next
                }
                LeftState::Discard => match reply {
                    Reply::Begin => {
                        let name = |part: &PlanBody| {
                            ObjectName::Plan(self.lineage, SessionId(part.sweep), part.part)
                        };
                        return Step::Ask(Request::Delete(self.read.iter().map(name).collect()));
                    }
                    _ => {
                        self.plans.pop();
                        LeftState::Next
                    }
                },
            };
        }
    }

    fn decide(&mut self) -> LeftState {
        let Some(part) = self.read.first() else { return LeftState::Next };
        if part.numbers.iter().all(|&number| self.head.is_retired(number)) {
            let marks = |number| self.marks.get(&number).copied().unwrap_or(0);
            return LeftState::CarryOut(CarryOut::new(&self.read, marks, self.rules));
        }
        if part.k <= self.head.k() {
            return LeftState::Discard;
        }
        let whole = usize::try_from(part.parts).is_ok_and(|parts| parts == self.read.len());
        if whole && part.k == self.head.k() + 1 {
            let record = retire(self.head.retired.as_ref(), &part.numbers, part.newest);
            let name = ObjectName::Retired(self.lineage, record.k);
            let create = CreateOnce::new(name, Record::Retired(record.clone()), self.rules);
            return LeftState::Retire(create, record);
        }
        // Its owner is writing it, or died doing so: the next retirement of anybody settles it.
        self.plans.pop();
        LeftState::Next
    }
}
