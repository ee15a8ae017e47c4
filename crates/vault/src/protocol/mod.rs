//! The order in which things are made and removed, as state machines without I/O.
//!
//! Everything that decides who owns what (beginning a session, committing it, marking a point, pinning it, sweeping) is a
//! machine here: it is stepped with the reply to its last [`Request`] and says the next one. The vault drives the
//! machines against a store ([`crate::drive`]); the test `explore` drives the same machines through every
//! interleaving there is. No machine reads a clock, draws a random number or waits for another.
//!
//! What the store must do is little: create-if-absent, read, list, delete. Answers may be lost: then a create is settled by
//! reading back ([`CreateOnce`]).

// A machine is in one state at a time, few machines are alive at once, and one reads best as one list of its states.
#![allow(clippy::large_enum_variant, clippy::too_many_lines, clippy::match_same_arms)]

mod begin;
mod carry;
mod commit;
mod create;
#[cfg(test)]
mod explore;
mod head;
mod leftover;
mod mark;
mod reap;
mod repack;
mod retire;
mod settle;
mod sweep;
mod take;

use vmkeep_model::{LineageId, PointNumber, SessionId};

use crate::format::{
    ClosedBody, DeadPackBody, HeadBody, InheritedBody, MarkBody, MovedBody, PackBody, PinBody, PlanBody,
    RepackBody, RetiredBody, SessionBody, VoidBody, WornBody,
};
use crate::layout::ObjectName;

pub(crate) use begin::{Begin, Begun};
pub(crate) use commit::{Commit, CommitOutcome};
pub(crate) use create::{CreateOnce, Created};
pub(crate) use head::{FindHead, Head, Retirement};
pub(crate) use mark::{Change, MarkOutcome, NewestMark, PinOutcome, PinPoint, SetMark};
pub(crate) use repack::Repack;
pub(crate) use retire::ranges_of;
pub(crate) use sweep::{LineageSweep, Survey, SweepInput, Waiting};
pub(crate) use take::{TakeNumber, Taken};

/// Something stored, as far as the protocol looks at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Record {
    Point(PointStub),
    Void(VoidBody),
    Inherited(InheritedBody),
    Closed(ClosedBody),
    Head(HeadBody),
    Retired(RetiredBody),
    Session(SessionBody),
    Mark(MarkBody),
    Pin(PinBody),
    Plan(PlanBody),
    Moved(MovedBody),
    Worn(WornBody),
    Repack(RepackBody),
}

/// A committed point: whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PointStub {
    pub(crate) session: [u8; 16],
    pub(crate) base: u64,
}

/// What a machine asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    /// The record under a name: `Found`, `Missing` or `Unreadable`.
    Read(ObjectName),
    /// Whether something is under a name: `There`.
    Exists(ObjectName),
    /// The names under a prefix: `Names`.
    List(String),
    /// Create-if-absent: `Done`, `Taken` or `Uncertain`.
    Create(ObjectName, Record),
    /// What is under a name that a create found taken or left uncertain: `Same` when it is, byte for byte, what was to
    /// be created; else as `Read`.
    ReadBack(ObjectName, Record),
    /// Replaces a hint: `Done` or `Uncertain`.
    Overwrite(ObjectName, Record),
    /// Removes what is there, in this order, each durable before the next group: `Done` or `Uncertain`.
    Delete(Vec<ObjectName>),
    /// What collecting points would free: `Examined`, or `Blocked` when a map cannot be read.
    Examine(Examine),
    /// Packs of the sessions that the point does not use, so that nothing ever will: `Objects`.
    Unused {
        /// The point that was committed.
        number: PointNumber,
        /// The sessions whose packs it inherited.
        sessions: Vec<SessionId>,
    },
    /// Copies the live slots of worn packs into new ones, stored: `Built`.
    Build(Build),
    /// The birth packs of the slots that lie in a pack: `Births`, none when it cannot be read; or `Missing`.
    Births(PackBody),
}

/// What is asked about points that are to be collected together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Examine {
    /// Ascending.
    pub(crate) jobs: Vec<Job>,
    /// Numbers that do not count once it is done: those of the jobs and void ones. Ascending.
    pub(crate) numbers: Vec<u64>,
    /// What does not count already.
    pub(crate) retired: Option<RetiredBody>,
}

/// One point to collect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Job {
    pub(crate) number: u64,
    /// The point after it, kept or collected as well; `None` in a closed lineage.
    pub(crate) next: Option<u64>,
    /// The kept point below: what was born up to it is not touched; 0 when there is none.
    pub(crate) since: u64,
}

/// What is asked about packs that are to be repacked together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Build {
    /// Whose packs the new ones are.
    pub(crate) sweep: [u8; 16],
    pub(crate) packs: Vec<PackBody>,
    /// Per birth pack of a slot in them, the newest record of where its slots lie, as read before.
    pub(crate) moved: Vec<(PackBody, u64, Option<MovedBody>)>,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    /// Nothing was asked yet.
    Begin,
    Done,
    Taken,
    /// It failed, or its answer was lost: it may have happened.
    Uncertain,
    Same,
    Found(Record),
    Missing,
    /// Something is there that does not open.
    Unreadable,
    There(bool),
    Names(Vec<ObjectName>),
    Objects(Vec<ObjectName>),
    Examined(Examined),
    /// Points whose maps cannot be read: they have to stay.
    Blocked(Vec<u64>),
    Built(Built),
    Births(Vec<PackBody>),
}

/// What collecting points frees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Examined {
    pub(crate) dead: Vec<DeadPackBody>,
    pub(crate) worn: Vec<(PackBody, u64)>,
    /// Birth packs of which nothing is left, wherever it lay.
    pub(crate) settled: Vec<PackBody>,
}

/// New packs that are stored, and what is to be said about them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Built {
    pub(crate) made: Vec<PackBody>,
    /// To be created, one per birth pack.
    pub(crate) moved: Vec<MovedBody>,
    /// Packs that are not needed any more once that is said, each with the birth packs of its live slots.
    pub(crate) sources: Vec<(DeadPackBody, Vec<PackBody>)>,
}

/// What a machine does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<T> {
    Ask(Request),
    Done(T),
}

/// Why a machine ends without having done what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trouble {
    /// A write failed again and again, or its answer was lost each time.
    GaveUp(ObjectName),
    /// A record that is needed does not open.
    Unreadable(ObjectName),
}

/// Rules of the protocol that a test can switch off, one at a time, to see what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools)] // each is switched off alone
pub(crate) struct Rules {
    /// A create whose answer is lost or "taken" is settled by reading back.
    pub(crate) read_back: bool,
    /// A writer reads the retirement record after its create.
    pub(crate) reread_retired: bool,
    /// The newest committed point is never collected.
    pub(crate) keep_newest: bool,
    /// A session is ended by a void record before its packs are removed.
    pub(crate) void: bool,
    /// A sweep looks for pins after it has doomed a point.
    pub(crate) honour_pins: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { read_back: true, reread_retired: true, keep_newest: true, void: true, honour_pins: true }
    }
}

/// Steps `$machine` with `$reply`: asks on, or gives what it ended with.
macro_rules! wait {
    ($machine:expr, $reply:expr) => {
        match $machine.step($reply) {
            $crate::protocol::Step::Ask(request) => return $crate::protocol::Step::Ask(request),
            $crate::protocol::Step::Done(done) => done,
        }
    };
}
pub(super) use wait;

/// Ends the machine with the trouble in `$result`, or gives what is good.
macro_rules! good {
    ($result:expr) => {
        match $result {
            Ok(good) => good,
            Err(trouble) => return $crate::protocol::Step::Done(Err(trouble)),
        }
    };
}
pub(super) use good;

/// The name of a point's mark.
pub(crate) fn mark_name(lineage: LineageId, number: u64, g: u32) -> ObjectName {
    match g {
        1 => ObjectName::Forget(lineage, PointNumber(number)),
        g => ObjectName::Mark(lineage, PointNumber(number), g),
    }
}
