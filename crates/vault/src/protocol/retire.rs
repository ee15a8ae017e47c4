//! Retiring taken numbers: what they free is found, written down, decided by one create, and removed.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_model::{LineageId, PointNumber, SessionId};

use super::carry::CarryOut;
use super::{
    CreateOnce, Created, Examine, Examined, Head, Job, Record, Reply, Request, Retirement, Rules, Step,
    Trouble, good, wait,
};
use crate::format::{PLAN_PARTS_MAX, PlanBody, RetiredBody};
use crate::layout::ObjectName;

/// Most numbers that one retirement takes: bounds the work that is lost when another sweep is first.
const BATCH: usize = 256;

/// Most packs that one part of a plan names, so that its record stays below its bound.
const PART_PACKS: usize = 100_000;

/// Retires what was taken, batch by batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Retire {
    lineage: LineageId,
    sweep: [u8; 16],
    rules: Rules,
    pub(crate) head: Head,
    taken: BTreeSet<u64>,
    /// Void numbers below may go: the sessions that wanted them were listed.
    voids_below: u64,
    marks: BTreeMap<u64, u32>,
    /// What stands at numbers that were looked at.
    known: BTreeMap<u64, Kind>,
    plan: Vec<PlanBody>,
    retired: Retired,
    state: State,
}

/// What was retired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Retired {
    /// Points and void numbers, ascending.
    pub(crate) numbers: Vec<u64>,
    /// Points that have to stay because a map that is needed cannot be read.
    pub(crate) blocked: Vec<u64>,
    /// Another sweep was first: look again.
    pub(crate) again: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Point,
    /// Void, and whether the session that it ended was settled, when that is known.
    Void(SessionId, Option<bool>),
    Closed,
    Unreadable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Plan,
    Look(u64),
    LookSession(u64),
    Examine(Examine),
    /// Creates the parts of the plan, the first one last.
    Write(usize, Option<CreateOnce>),
    Retire(CreateOnce),
    Overtaken(Retirement),
    CarryOut(CarryOut),
    Discard,
}

/// What has to be known before a batch can be planned.
enum Need {
    Number(u64),
    Session(u64, SessionId),
}

impl Retire {
    pub(crate) fn new(
        lineage: LineageId,
        sweep: [u8; 16],
        head: Head,
        taken: impl IntoIterator<Item = u64>,
        marks: BTreeMap<u64, u32>,
        rules: Rules,
    ) -> Self {
        let taken: BTreeSet<u64> = taken.into_iter().filter(|&number| !head.is_retired(number)).collect();
        let voids_below = head.closed.unwrap_or_else(|| taken.last().copied().unwrap_or(0));
        let mut known = BTreeMap::new();
        known.extend(head.newest.as_ref().map(|(number, _)| (*number, Kind::Point)));
        known.extend(head.closed.map(|number| (number, Kind::Closed)));
        Self {
            lineage,
            sweep,
            rules,
            head,
            taken,
            voids_below,
            marks,
            known,
            plan: Vec::new(),
            retired: Retired::default(),
            state: State::Plan,
        }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Retired, Trouble>> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            let done = |this: &mut Self| Step::Done(Ok(std::mem::take(&mut this.retired)));
            self.state = match &mut self.state {
                State::Plan => match self.batch() {
                    Err(Need::Number(number)) => {
                        self.state = State::Look(number);
                        let name = ObjectName::Point(self.lineage, PointNumber(number));
                        return Step::Ask(Request::Read(name));
                    }
                    Err(Need::Session(number, session)) => {
                        self.state = State::LookSession(number);
                        return Step::Ask(Request::Exists(ObjectName::Session(session)));
                    }
                    Ok(batch) if batch.jobs.is_empty() => return done(self),
                    Ok(batch) => State::Examine(batch),
                },
                State::Look(number) => {
                    let kind = match reply {
                        Reply::Found(Record::Point(_)) => Kind::Point,
                        Reply::Found(Record::Void(void)) => Kind::Void(SessionId(void.session), None),
                        Reply::Found(Record::Inherited(ended)) => Kind::Void(SessionId(ended.session), None),
                        Reply::Found(Record::Closed(_)) => Kind::Closed,
                        _ => Kind::Unreadable,
                    };
                    self.known.insert(*number, kind);
                    State::Plan
                }
                State::LookSession(number) => {
                    if let Some(Kind::Void(_, settled)) = self.known.get_mut(number) {
                        *settled = Some(reply == Reply::There(false));
                    }
                    State::Plan
                }
                State::Examine(batch) => match reply {
                    Reply::Begin => return Step::Ask(Request::Examine(batch.clone())),
                    Reply::Examined(examined) => {
                        let numbers = std::mem::take(&mut batch.numbers);
                        self.plan = self.parts(numbers, examined);
                        State::Write(self.plan.len(), None)
                    }
                    Reply::Blocked(numbers) => {
                        let before = self.taken.len();
                        self.taken.retain(|number| !numbers.contains(number));
                        self.retired.blocked.extend(numbers);
                        // Nothing of the batch was named: then none of it can be judged now.
                        if self.taken.len() == before {
                            return done(self);
                        }
                        State::Plan
                    }
                    _ => return done(self),
                },
                State::Write(left, Some(create)) => {
                    let left = *left;
                    good!(wait!(create, reply));
                    State::Write(left, None)
                }
                State::Write(0, None) => {
                    let record = self.retirement();
                    let name = ObjectName::Retired(self.lineage, record.k);
                    State::Retire(CreateOnce::new(name, Record::Retired(record), self.rules))
                }
                State::Write(left, None) => {
                    let part = self.plan[*left - 1].clone();
                    let name = ObjectName::Plan(self.lineage, SessionId(part.sweep), part.part);
                    State::Write(*left - 1, Some(CreateOnce::new(name, Record::Plan(part), self.rules)))
                }
                State::Retire(create) => match good!(wait!(create, reply)) {
                    Created::Ours => {
                        self.head.retired = Some(self.retirement());
                        self.carry_out()
                    }
                    Created::Other(_) => {
                        let retired = self.head.retired.clone();
                        State::Overtaken(Retirement::after(self.lineage, self.head.k(), retired))
                    }
                },
                State::Overtaken(probe) => {
                    self.head.retired = good!(wait!(probe, reply));
                    self.retired.again = true;
                    let numbers = self.plan.first().map(|part| part.numbers.clone()).unwrap_or_default();
                    if numbers.iter().all(|&number| self.head.is_retired(number)) {
                        self.carry_out()
                    } else {
                        State::Discard
                    }
                }
                State::CarryOut(carry) => {
                    good!(wait!(carry, reply));
                    let numbers = self.plan.first().map(|part| part.numbers.clone()).unwrap_or_default();
                    for number in numbers {
                        self.taken.remove(&number);
                        self.retired.numbers.push(number);
                    }
                    if self.retired.again {
                        return done(self);
                    }
                    State::Plan
                }
                State::Discard => match reply {
                    Reply::Begin => {
                        let name = |part: &PlanBody| {
                            ObjectName::Plan(self.lineage, SessionId(part.sweep), part.part)
                        };
                        return Step::Ask(Request::Delete(self.plan.iter().map(name).collect()));
                    }
                    _ => return done(self),
                },
            };
        }
    }

    fn carry_out(&self) -> State {
        let marks = |number| self.marks.get(&number).copied().unwrap_or(0);
        State::CarryOut(CarryOut::new(&self.plan, marks, self.rules))
    }

    /// The next batch: each point with its neighbours, and the void numbers beside them.
    fn batch(&mut self) -> Result<Examine, Need> {
        loop {
            let batch: BTreeSet<u64> = self.taken.iter().copied().take(BATCH).collect();
            let (mut jobs, mut numbers) = (Vec::new(), batch.clone());
            let (mut since, mut blocked) = (0, None);
            let mut above = 0;
            for &number in &batch {
                // Beside the one before there is no need to look down again.
                if jobs.is_empty() || above != number {
                    since = self.below(number, &mut numbers)?;
                }
                let Some(next) = self.above(number, &batch, &mut numbers)? else {
                    blocked = Some(number);
                    break;
                };
                above = next;
                jobs.push(Job { number, next: (next > 0).then_some(next), since });
            }
            match blocked {
                None => {
                    let (numbers, retired) = (numbers.into_iter().collect(), self.head.retired.clone());
                    return Ok(Examine { jobs, numbers, retired });
                }
                Some(number) => {
                    self.taken.remove(&number);
                    self.retired.blocked.push(number);
                }
            }
        }
    }

    /// The point below that counts, or 0. Void numbers on the way are retired with it.
    fn below(&self, number: u64, numbers: &mut BTreeSet<u64>) -> Result<u64, Need> {
        let mut at = number;
        loop {
            at = self.not_retired_below(at);
            if at == 0 || !self.is_void(at, numbers)? {
                return Ok(at);
            }
        }
    }

    /// The point above that counts or is of the batch; 0 when there is none, `None` when that cannot be told.
    fn above(
        &self,
        number: u64,
        batch: &BTreeSet<u64>,
        numbers: &mut BTreeSet<u64>,
    ) -> Result<Option<u64>, Need> {
        let mut at = number;
        loop {
            at = self.not_retired_above(at);
            if at > self.head.top {
                return Ok(Some(0));
            }
            if batch.contains(&at) {
                return Ok(Some(at));
            }
            if self.is_void(at, numbers)? {
                continue;
            }
            return Ok(match self.known.get(&at) {
                Some(Kind::Point) => Some(at),
                Some(Kind::Closed) => Some(0),
                _ => None,
            });
        }
    }

    /// Whether `at` is void; when its session is settled it goes as well.
    fn is_void(&self, at: u64, numbers: &mut BTreeSet<u64>) -> Result<bool, Need> {
        match self.known.get(&at) {
            None => Err(Need::Number(at)),
            Some(Kind::Void(session, None)) if at < self.voids_below => Err(Need::Session(at, *session)),
            Some(Kind::Void(_, settled)) => {
                if *settled == Some(true) {
                    numbers.insert(at);
                }
                Ok(true)
            }
            Some(_) => Ok(false),
        }
    }

    fn not_retired_below(&self, number: u64) -> u64 {
        let mut at = number - 1;
        for &(first, last) in self.head.retired.iter().flat_map(|retired| retired.ranges.iter().rev()) {
            if (first..=last).contains(&at) {
                at = first - 1;
            }
        }
        at
    }

    fn not_retired_above(&self, number: u64) -> u64 {
        let mut at = number + 1;
        for &(first, last) in self.head.retired.iter().flat_map(|retired| &retired.ranges) {
            if (first..=last).contains(&at) {
                at = last + 1;
            }
        }
        at
    }

    fn parts(&self, numbers: Vec<u64>, examined: Examined) -> Vec<PlanBody> {
        let Examined { dead, worn, settled } = examined;
        let parts =
            [dead.len(), worn.len(), settled.len()].map(|len| len.div_ceil(PART_PACKS)).into_iter().max();
        let parts = u32::try_from(parts.unwrap_or(0).max(1)).unwrap_or(u32::MAX).min(PLAN_PARTS_MAX);
        let newest = self.head.limit().max(numbers.last().map_or(0, |last| last + 1));
        let (mut dead, mut worn, mut settled) = (dead.into_iter(), worn.into_iter(), settled.into_iter());
        let part = |part| PlanBody {
            lineage: self.lineage.0,
            sweep: self.sweep,
            part,
            parts,
            k: self.head.k() + 1,
            numbers: numbers.clone(),
            newest,
            dead: dead.by_ref().take(PART_PACKS).collect(),
            worn: worn.by_ref().take(PART_PACKS).collect(),
            settled: settled.by_ref().take(PART_PACKS).collect(),
        };
        (0..parts).map(part).collect()
    }

    /// The retirement record that the plan needs.
    fn retirement(&self) -> RetiredBody {
        let part = self.plan.first();
        let numbers = part.map(|part| part.numbers.as_slice()).unwrap_or_default();
        retire(self.head.retired.as_ref(), numbers, part.map_or(0, |part| part.newest))
    }
}

/// The record after `before` that retires `numbers` as well.
pub(super) fn retire(before: Option<&RetiredBody>, numbers: &[u64], newest: u64) -> RetiredBody {
    let known = before.iter().flat_map(|before| before.ranges.iter().copied());
    let ranges = joined(known.chain(ranges_of(numbers)).collect());
    let k = before.map_or(0, |before| before.k) + 1;
    RetiredBody { k, ranges, newest: newest.max(before.map_or(0, |before| before.newest)) }
}

/// First and last of each run of `numbers`.
pub(crate) fn ranges_of(numbers: &[u64]) -> Vec<(u64, u64)> {
    joined(numbers.iter().map(|&number| (number, number)).collect())
}

fn joined(mut all: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    all.sort_unstable();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (first, last) in all {
        match ranges.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => ranges.push((first, last)),
        }
    }
    ranges
}
