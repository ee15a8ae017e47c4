//! Carrying out a plan whose numbers are retired: every fact in it is final, so anybody may, at any time, again.

use vmkeep_envelope::PackName;
use vmkeep_model::{LineageId, PointNumber, SessionId};

use super::{CreateOnce, Record, Reply, Request, Rules, Step, Trouble, good, mark_name, wait};
use crate::format::{DeadPackBody, PackBody, PlanBody, WornBody};
use crate::layout::ObjectName;

/// Removes what a plan names, and the plan last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CarryOut {
    lineage: LineageId,
    rules: Rules,
    /// The last is next.
    worn: Vec<(PackBody, u64)>,
    settled: Vec<PackBody>,
    /// Points, then packs, then marks.
    remove: [Vec<ObjectName>; 3],
    /// The plan's own objects.
    parts: Vec<ObjectName>,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Worn(Option<CreateOnce>),
    Remove(u8),
    Moved,
    RemoveMoved,
    Plan,
}

/// The objects of a pack.
pub(super) fn pack_objects(lineage: LineageId, pack: &DeadPackBody) -> impl Iterator<Item = ObjectName> {
    let (session, name) = (SessionId(pack.session), PackName(pack.name));
    let copy = pack.metadata.then_some(ObjectName::PackCopy(lineage, session, name));
    std::iter::once(ObjectName::Pack(lineage, session, name)).chain(copy)
}

impl CarryOut {
    /// `marks` gives the last mark of every retired number that has one.
    pub(crate) fn new(plan: &[PlanBody], marks: impl Fn(u64) -> u32, rules: Rules) -> Self {
        let lineage = LineageId(plan.first().map_or([0; 16], |part| part.lineage));
        let numbers: Vec<u64> = plan.first().map(|part| part.numbers.clone()).unwrap_or_default();
        let points = numbers.iter().map(|&n| ObjectName::Point(lineage, PointNumber(n))).collect();
        let dead = plan.iter().flat_map(|part| &part.dead);
        let packs = dead.flat_map(|pack| pack_objects(lineage, pack)).collect();
        let mark_names =
            numbers.iter().flat_map(|&n| (1..=marks(n)).map(move |g| mark_name(lineage, n, g))).collect();
        let name = |part: &PlanBody| ObjectName::Plan(lineage, SessionId(part.sweep), part.part);
        Self {
            lineage,
            rules,
            worn: plan.iter().flat_map(|part| part.worn.iter().copied()).collect(),
            settled: plan.iter().flat_map(|part| part.settled.iter().copied()).collect(),
            remove: [points, packs, mark_names],
            parts: plan.iter().map(name).collect(),
            state: State::Worn(None),
        }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<(), Trouble>> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match (&mut self.state, reply) {
                (State::Worn(Some(create)), reply) => {
                    good!(wait!(create, reply));
                    self.worn.pop();
                    State::Worn(None)
                }
                (State::Worn(None), _) => match self.worn.last() {
                    Some(&((session, name), dead)) => {
                        let worn = WornBody { lineage: self.lineage.0, session, name, dead };
                        let name = ObjectName::Worn(self.lineage, SessionId(session), PackName(name));
                        State::Worn(Some(CreateOnce::new(name, Record::Worn(worn), self.rules)))
                    }
                    None => State::Remove(0),
                },
                (State::Remove(step), Reply::Begin) => {
                    let step = *step;
                    match self.remove.get_mut(usize::from(step)) {
                        None => State::Moved,
                        Some(names) if names.is_empty() => State::Remove(step + 1),
                        Some(names) => return Step::Ask(Request::Delete(std::mem::take(names))),
                    }
                }
                (State::Remove(step), Reply::Done) => State::Remove(*step + 1),
                (State::Moved, Reply::Begin) => match self.settled.last() {
                    Some(&(_, name)) => {
                        return Step::Ask(Request::List(format!(
                            "moved/{}/{}",
                            self.lineage,
                            PackName(name)
                        )));
                    }
                    None => State::Plan,
                },
                (State::Moved, Reply::Names(names)) => {
                    self.settled.pop();
                    if names.is_empty() {
                        State::Moved
                    } else {
                        self.state = State::RemoveMoved;
                        return Step::Ask(Request::Delete(names));
                    }
                }
                (State::RemoveMoved, Reply::Done) => State::Moved,
                (State::Plan, Reply::Begin) => return Step::Ask(Request::Delete(self.parts.clone())),
                (State::Plan, Reply::Done) => return Step::Done(Ok(())),
                _ => {
                    let name = self.parts.first().cloned().unwrap_or(ObjectName::Vault);
                    return Step::Done(Err(Trouble::GaveUp(name)));
                }
            };
        }
    }
}
