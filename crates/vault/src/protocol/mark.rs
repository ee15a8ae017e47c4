//! Marks of a point, each a create of the next one; and pins.

use vmkeep_model::{LineageId, PointNumber};

use super::{
    CreateOnce, Created, Record, Reply, Request, Retirement, Rules, Step, Trouble, good, mark_name, wait,
};
use crate::format::{DOOMED, FORGOTTEN, HELD, MarkBody, PinBody, TAKEN};
use crate::layout::ObjectName;

/// Finds the newest mark of a point, upwards from one that is known to be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NewestMark {
    lineage: LineageId,
    number: u64,
    g: u32,
    newest: Option<MarkBody>,
}

impl NewestMark {
    /// From mark `g` on; 1 when none is known.
    pub(crate) fn from(lineage: LineageId, number: u64, g: u32) -> Self {
        Self { lineage, number, g, newest: None }
    }

    /// The number of the newest mark and the state it says; 0 and 0 when there is none.
    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<(u32, u8), Trouble>> {
        match reply {
            Reply::Begin => {}
            Reply::Found(Record::Mark(found)) => {
                self.newest = Some(found);
                self.g += 1;
            }
            Reply::Missing => {
                let newest = self.newest.take().map_or((0, 0), |mark| (mark.g, mark.state));
                return Step::Done(Ok(newest));
            }
            _ => return Step::Done(Err(Trouble::Unreadable(self.name()))),
        }
        Step::Ask(Request::Read(self.name()))
    }

    fn name(&self) -> ObjectName {
        mark_name(self.lineage, self.number, self.g)
    }
}

/// What is to become of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Forget,
    Undelete,
    Hold,
    Release,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum MarkOutcome {
    /// The mark stands.
    Set,
    /// The point was in that state already.
    Was,
    /// A sweep has taken the point.
    Taken,
    /// The point is retired.
    Retired,
}

impl Change {
    /// The state after this change; `None` when it is that already.
    fn of(self, state: u8) -> Option<u8> {
        let after = match self {
            Self::Forget => state | FORGOTTEN,
            Self::Undelete => state & HELD,
            Self::Hold => (state | HELD) & !DOOMED,
            Self::Release => state & !HELD,
        };
        (after != state).then_some(after)
    }
}

/// Changes the state of a point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetMark {
    /// Lineage, number, time, who and nonce of the mark; its state and g are found.
    mark: MarkBody,
    change: Change,
    k: u64,
    rules: Rules,
    state: SetState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SetState {
    Look(NewestMark),
    Set(CreateOnce),
    Check(MarkOutcome, Retirement),
}

impl SetMark {
    /// `k` is a retirement record that is known, 0 when none is.
    pub(crate) fn new(mark: MarkBody, change: Change, k: u64, rules: Rules) -> Self {
        let look = NewestMark::from(LineageId(mark.lineage), mark.number, 1);
        Self { mark, change, k, rules, state: SetState::Look(look) }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<MarkOutcome, Trouble>> {
        let lineage = LineageId(self.mark.lineage);
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                SetState::Look(look) => {
                    let (g, state) = good!(wait!(look, reply));
                    if state & TAKEN != 0 {
                        return Step::Done(Ok(MarkOutcome::Taken));
                    }
                    match self.change.of(state) {
                        Some(state) => {
                            let mark = MarkBody { g: g + 1, state, ..self.mark.clone() };
                            let name = mark_name(lineage, mark.number, mark.g);
                            SetState::Set(CreateOnce::new(name, Record::Mark(mark), self.rules))
                        }
                        // Marks go when their number is retired: then it was in no state at all.
                        None => SetState::Check(MarkOutcome::Was, Retirement::after(lineage, self.k, None)),
                    }
                }
                SetState::Set(create) => match good!(wait!(create, reply)) {
                    Created::Ours => {
                        SetState::Check(MarkOutcome::Set, Retirement::after(lineage, self.k, None))
                    }
                    Created::Other(_) => SetState::Look(NewestMark::from(lineage, self.mark.number, 1)),
                },
                SetState::Check(outcome, probe) => {
                    let outcome = *outcome;
                    let retired = good!(wait!(probe, reply));
                    let gone = retired.is_some_and(|retired| retired.holds(self.mark.number));
                    return Step::Done(Ok(if gone { MarkOutcome::Retired } else { outcome }));
                }
            };
        }
    }
}

/// Pins a point: from then on no sweep takes it until the pin is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PinPoint {
    pin: PinBody,
    k: u64,
    rules: Rules,
    state: PinState,
}

/// Whether the pin holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PinOutcome {
    Pinned,
    /// A sweep was first: the pin is removed again.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PinState {
    Pin(CreateOnce),
    Look(NewestMark),
    Spare(CreateOnce),
    Check(Retirement),
    Remove,
}

impl PinPoint {
    pub(crate) fn new(pin: PinBody, k: u64, rules: Rules) -> Self {
        let create = CreateOnce::new(Self::name(&pin), Record::Pin(pin.clone()), rules);
        Self { pin, k, rules, state: PinState::Pin(create) }
    }

    fn name(pin: &PinBody) -> ObjectName {
        ObjectName::Pin(LineageId(pin.lineage), PointNumber(pin.number), pin.id)
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<PinOutcome, Trouble>> {
        let (lineage, number) = (LineageId(self.pin.lineage), self.pin.number);
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                PinState::Pin(create) => {
                    good!(wait!(create, reply));
                    // Only now: a sweep that dooms the point after this sees the pin.
                    PinState::Look(NewestMark::from(lineage, number, 1))
                }
                PinState::Look(look) => {
                    let (g, state) = good!(wait!(look, reply));
                    if state & TAKEN != 0 {
                        PinState::Remove
                    } else if state & DOOMED != 0 {
                        let mark = MarkBody {
                            lineage: self.pin.lineage,
                            number,
                            g: g + 1,
                            state: state & !DOOMED,
                            at: self.pin.at,
                            by: [0; 16],
                            nonce: self.pin.id,
                        };
                        let name = mark_name(lineage, number, mark.g);
                        PinState::Spare(CreateOnce::new(name, Record::Mark(mark), self.rules))
                    } else {
                        PinState::Check(Retirement::after(lineage, self.k, None))
                    }
                }
                // Won or lost, the newest mark says how it stands.
                PinState::Spare(create) => {
                    good!(wait!(create, reply));
                    PinState::Look(NewestMark::from(lineage, number, 1))
                }
                PinState::Check(probe) => {
                    let retired = good!(wait!(probe, reply));
                    if !retired.is_some_and(|retired| retired.holds(number)) {
                        return Step::Done(Ok(PinOutcome::Pinned));
                    }
                    PinState::Remove
                }
                PinState::Remove if reply == Reply::Begin => {
                    return Step::Ask(Request::Delete(vec![Self::name(&self.pin)]));
                }
                PinState::Remove => return Step::Done(Ok(PinOutcome::Gone)),
            };
        }
    }
}
