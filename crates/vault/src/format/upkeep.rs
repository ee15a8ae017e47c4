//! Records of what happens to points after they are made: marks, pins, and what a sweep leaves for the next one.

use serde::{Deserialize, Serialize};

use super::{Body, FormatError, RecordKind};

/// Longest reason of a pin, in bytes.
pub(crate) const PIN_REASON_MAX: usize = 256;

/// Most parts of a sweep's plan.
pub(crate) const PLAN_PARTS_MAX: u32 = 1 << 16;

/// Bits of [`MarkBody::state`].
pub(crate) const FORGOTTEN: u8 = 1;
pub(crate) const HELD: u8 = 2;
pub(crate) const DOOMED: u8 = 4;
pub(crate) const TAKEN: u8 = 8;

/// What a point is marked as from then on: the newest mark of a point says all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct MarkBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) number: u64,
    /// Which mark of the point: 1, 2 ...
    pub(crate) g: u32,
    pub(crate) state: u8,
    pub(crate) at: i64,
    /// Who set it: a sweep's id; zeros for anyone else. With `nonce` it makes two marks differ.
    pub(crate) by: [u8; 16],
    pub(crate) nonce: [u8; 16],
}

impl Body for MarkBody {
    const KIND: RecordKind = RecordKind::Mark;

    fn check(&self) -> Result<(), FormatError> {
        let state = self.state;
        let doomed_only_when_forgotten = state & DOOMED == 0 || state & (FORGOTTEN | HELD) == FORGOTTEN;
        let taken_only_when_doomed = state & TAKEN == 0 || state & DOOMED != 0;
        if state > (FORGOTTEN | HELD | DOOMED | TAKEN)
            || !doomed_only_when_forgotten
            || !taken_only_when_doomed
        {
            return Err(FormatError(format!("a mark of state {state}")));
        }
        if self.g == 0 || self.number == 0 {
            return Err(FormatError("marks and points are numbered from 1".to_owned()));
        }
        Ok(())
    }
}

/// A reader that needs a point until it takes the pin away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct PinBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) number: u64,
    pub(crate) id: [u8; 16],
    pub(crate) at: i64,
    pub(crate) why: String,
}

impl Body for PinBody {
    const KIND: RecordKind = RecordKind::Pin;

    fn check(&self) -> Result<(), FormatError> {
        if self.why.len() > PIN_REASON_MAX {
            return Err(FormatError(format!("a pin with a reason of {} bytes", self.why.len())));
        }
        Ok(())
    }
}

/// A pack, by session and name.
pub(crate) type PackBody = ([u8; 16], [u8; 16]);

/// A pack in which nothing is referenced any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct DeadPackBody {
    pub(crate) session: [u8; 16],
    pub(crate) name: [u8; 16],
    /// A metadata pack: it has a second copy.
    pub(crate) metadata: bool,
    /// Size of one copy.
    pub(crate) bytes: u64,
}

/// One part of what a sweep is about to remove. It counts only when every part is there and every one of `numbers`
/// is retired; until then nothing of it is removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct PlanBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) sweep: [u8; 16],
    pub(crate) part: u32,
    pub(crate) parts: u32,
    /// The retirement record that it needs: the one after the newest when it was made.
    pub(crate) k: u64,
    /// The numbers to retire, the same in every part.
    pub(crate) numbers: Vec<u64>,
    /// The newest number that counted when it was made.
    pub(crate) newest: u64,
    pub(crate) dead: Vec<DeadPackBody>,
    /// Packs that hold enough dead slots to be repacked, with the bytes of those.
    pub(crate) worn: Vec<(PackBody, u64)>,
    /// Packs whose `moved` records nobody needs any more.
    pub(crate) settled: Vec<PackBody>,
}

impl Body for PlanBody {
    const KIND: RecordKind = RecordKind::Plan;

    fn check(&self) -> Result<(), FormatError> {
        if self.part >= self.parts || self.parts > PLAN_PARTS_MAX {
            return Err(FormatError(format!("part {} of {} of a plan", self.part, self.parts)));
        }
        let ascending = self.numbers.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending
            || self.numbers.first() == Some(&0)
            || self.numbers.last() >= Some(&self.newest)
            || self.k == 0
        {
            return Err(FormatError(
                "the numbers of a plan are not ascending and below the newest".to_owned(),
            ));
        }
        Ok(())
    }
}

/// A void record that hands the session's packs to a successor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct InheritedBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) number: u64,
    /// The session that was ended.
    pub(crate) session: [u8; 16],
    /// The session whose the packs are from then on.
    pub(crate) heir: [u8; 16],
    pub(crate) at: i64,
}

impl Body for InheritedBody {
    const KIND: RecordKind = RecordKind::Inherited;

    fn check(&self) -> Result<(), FormatError> {
        if self.session == self.heir {
            return Err(FormatError("a session that inherits from itself".to_owned()));
        }
        Ok(())
    }
}

/// Where the slots of a pack lie since it was repacked. The record with the largest k counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct MovedBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) session: [u8; 16],
    pub(crate) name: [u8; 16],
    pub(crate) k: u64,
    /// By slot number of the birth pack, ascending. Slots that are not named were dead.
    pub(crate) slots: Vec<MovedSlotBody>,
}

/// Where one slot lies now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct MovedSlotBody {
    /// Its number in its birth pack.
    pub(crate) slot: u32,
    /// The pack it lies in.
    pub(crate) pack: PackBody,
    /// Its place among the slots of that pack.
    pub(crate) at: u32,
}

impl Body for MovedBody {
    const KIND: RecordKind = RecordKind::Moved;

    fn check(&self) -> Result<(), FormatError> {
        if self.k == 0 || !self.slots.windows(2).all(|pair| pair[0].slot < pair[1].slot) {
            return Err(FormatError("moved slots are not ascending".to_owned()));
        }
        Ok(())
    }
}

/// A pack that waits to be repacked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct WornBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) session: [u8; 16],
    pub(crate) name: [u8; 16],
    /// Bytes of its dead slots when it was found.
    pub(crate) dead: u64,
}

impl Body for WornBody {
    const KIND: RecordKind = RecordKind::Worn;
}

/// A sweep that is repacking: packs of its id that no `moved` record names are leftovers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct RepackBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) sweep: [u8; 16],
    pub(crate) at: i64,
}

impl Body for RepackBody {
    const KIND: RecordKind = RecordKind::Repack;
}
