//! Taking forgotten points: doomed first, then looked at for pins, then taken.

use std::collections::BTreeSet;

use vmkeep_model::LineageId;

use super::{
    CreateOnce, Created, Head, NewestMark, Record, Reply, Request, Rules, Step, Trouble, good, mark_name,
    wait,
};
use crate::format::{DOOMED, FORGOTTEN, HELD, MarkBody, TAKEN};
use crate::layout::ObjectName;

/// Takes every forgotten point that may be taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reap {
    lineage: LineageId,
    sweep: [u8; 16],
    at: i64,
    rules: Rules,
    /// Still to be looked at: number, and a mark of it that is there. The next one is the last.
    left: Vec<(u64, u32)>,
    /// Number and the mark that dooms it. The next one is the last.
    doomed: Vec<(u64, u32)>,
    pinned: BTreeSet<u64>,
    pinned_before: BTreeSet<u64>,
    reaped: Reaped,
    state: State,
}

/// What was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reaped {
    /// Ascending.
    pub(crate) taken: Vec<u64>,
    /// Forgotten, and kept by a pin.
    pub(crate) pinned: Vec<u64>,
    /// Forgotten, and kept by a hold.
    pub(crate) held: Vec<u64>,
    /// The last mark that was seen or made of each number.
    pub(crate) marks: Vec<(u64, u32)>,
    /// Pins on numbers that are retired: nobody's.
    pub(crate) stray_pins: Vec<ObjectName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Who is pinned already need not be doomed: that would leave two marks with every sweep.
    First,
    Next,
    Look(NewestMark),
    Doom(u64, u32, CreateOnce),
    Pins,
    Decide,
    Take(u64, u32, bool, CreateOnce),
}

impl Reap {
    /// `marked` is every number with a mark of it that is there, of numbers that may be collected and are not retired.
    pub(crate) fn new(
        lineage: LineageId,
        (sweep, at): ([u8; 16], i64),
        marked: Vec<(u64, u32)>,
        rules: Rules,
    ) -> Self {
        let mut left = marked;
        left.sort_unstable_by(|a, b| b.cmp(a));
        Self {
            lineage,
            sweep,
            at,
            rules,
            left,
            doomed: Vec::new(),
            pinned: BTreeSet::new(),
            pinned_before: BTreeSet::new(),
            reaped: Reaped::default(),
            state: State::First,
        }
    }

    fn mark(&self, number: u64, g: u32, state: u8) -> CreateOnce {
        let (lineage, at, by) = (self.lineage.0, self.at, self.sweep);
        let mark = MarkBody { lineage, number, g, state, at, by, nonce: [0; 16] };
        CreateOnce::new(mark_name(self.lineage, number, g), Record::Mark(mark), self.rules)
    }

    pub(crate) fn step(&mut self, head: &Head, reply: Reply) -> Step<Result<Reaped, Trouble>> {
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                State::First => match reply {
                    Reply::Begin if !self.left.is_empty() && self.rules.honour_pins => {
                        return Step::Ask(Request::List(format!("pins/{}", self.lineage)));
                    }
                    Reply::Names(names) => {
                        let pins = names.into_iter().filter_map(|name| match name {
                            ObjectName::Pin(_, number, _) => Some(number.0),
                            _ => None,
                        });
                        self.pinned_before = pins.collect();
                        State::Next
                    }
                    _ => State::Next,
                },
                State::Next => match self.left.last() {
                    Some(&(number, g)) => State::Look(NewestMark::from(self.lineage, number, g)),
                    None if self.doomed.is_empty() => return Step::Done(Ok(self.done())),
                    None => State::Pins,
                },
                State::Look(look) => {
                    let outcome = wait!(look, reply);
                    let Some((number, _)) = self.left.pop() else { return Step::Done(Ok(self.done())) };
                    match outcome {
                        Ok((g, state)) => {
                            self.reaped.marks.push((number, g));
                            self.judge(number, g, state)
                        }
                        // A mark that does not open takes nothing away from the point.
                        Err(_) => State::Next,
                    }
                }
                State::Doom(number, g, create) => {
                    let (number, g) = (*number, *g);
                    match good!(wait!(create, reply)) {
                        Created::Ours => {
                            self.reaped.marks.push((number, g));
                            self.doomed.push((number, g));
                        }
                        Created::Other(_) => self.left.push((number, g)),
                    }
                    State::Next
                }
                State::Pins => match reply {
                    Reply::Names(names) => {
                        for name in names {
                            if let ObjectName::Pin(_, number, _) = &name {
                                if head.is_retired(number.0) {
                                    self.reaped.stray_pins.push(name);
                                } else if self.rules.honour_pins {
                                    self.pinned.insert(number.0);
                                }
                            }
                        }
                        State::Decide
                    }
                    _ => return Step::Ask(Request::List(format!("pins/{}", self.lineage))),
                },
                State::Decide => match self.doomed.last() {
                    None => return Step::Done(Ok(self.done())),
                    Some(&(number, g)) => {
                        let pinned = self.pinned.contains(&number);
                        let state = if pinned { FORGOTTEN } else { FORGOTTEN | DOOMED | TAKEN };
                        State::Take(number, g + 1, pinned, self.mark(number, g + 1, state))
                    }
                },
                State::Take(number, g, pinned, create) => {
                    let (number, g, pinned) = (*number, *g, *pinned);
                    let outcome = good!(wait!(create, reply));
                    self.doomed.pop();
                    match outcome {
                        Created::Ours => {
                            self.reaped.marks.push((number, g));
                            if pinned { &mut self.reaped.pinned } else { &mut self.reaped.taken }
                                .push(number);
                        }
                        // Somebody else decided: another sweep took it, or it was undeleted, held or spared.
                        Created::Other(Some(Record::Mark(mark))) if mark.state & TAKEN != 0 => {
                            self.reaped.marks.push((number, g));
                            self.reaped.taken.push(number);
                        }
                        Created::Other(_) => {}
                    }
                    State::Decide
                }
            };
        }
    }

    fn judge(&mut self, number: u64, g: u32, state: u8) -> State {
        if state & TAKEN != 0 {
            self.reaped.taken.push(number);
        } else if state & HELD != 0 && state & FORGOTTEN != 0 {
            self.reaped.held.push(number);
        } else if state & DOOMED != 0 {
            self.doomed.push((number, g));
        } else if state & FORGOTTEN != 0 && self.pinned_before.contains(&number) {
            self.reaped.pinned.push(number);
        } else if state & FORGOTTEN != 0 {
            let create = self.mark(number, g + 1, FORGOTTEN | DOOMED);
            return State::Doom(number, g + 1, create);
        }
        State::Next
    }

    fn done(&mut self) -> Reaped {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.taken.sort_unstable();
        reaped
    }
}
