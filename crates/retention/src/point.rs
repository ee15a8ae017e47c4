//! A recovery point, as far as retention looks at it.

use vmkeep_model::{ByteLen, ConsistencyLevel, PointNumber, Timestamp};

/// Days for which a point made on demand is kept when nobody says otherwise, as in Azure's portal.
pub const ON_DEMAND_DAYS: u32 = 30;

/// Who made a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PointKind {
    /// The schedule: rules tag it.
    Scheduled,
    /// Somebody who asked: it has its own expiry, and rules leave it alone.
    OnDemand,
    /// Another product or vault: tagged like a scheduled one, and kept until its own expiry where it has one.
    Imported,
}

/// What retention must know of a recovery point. Points of one VM at a time.
///
/// ```
/// # use vmkeep_retention::{Point, PointKind};
/// # use vmkeep_model::{PointNumber, Timestamp};
/// let point = Point::scheduled(PointNumber(7), Timestamp(1_700_000_000_000));
/// let mine = Point { kind: PointKind::OnDemand, expires: Some(Timestamp(1_702_592_000_000)), ..point };
/// assert!(mine.complete && !mine.held);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Which point of its VM; no two have the same.
    pub number: PointNumber,
    /// When it was made, by the clock of who stores it rather than of the guest.
    pub time: Timestamp,
    /// Who made it.
    pub kind: PointKind,
    /// Whether it can be restored: the backup did not fail.
    pub complete: bool,
    /// How consistent its data is.
    pub consistency: ConsistencyLevel,
    /// Until when it is kept whatever the rules say; what else a point on demand goes by. `None` there means for ever.
    pub expires: Option<Timestamp>,
    /// Whether somebody holds it: nothing removes it then.
    pub held: bool,
    /// Until when nothing removes it, not even its owner.
    pub immutable_until: Option<Timestamp>,
    /// The version of the policy under which it was made.
    pub policy_version: Option<u32>,
    /// Its tags, for rules that keep by tag.
    pub tags: Vec<String>,
    /// Bytes that only this point refers to: what is freed when it goes and all others stay.
    pub unique: Option<ByteLen>,
}

impl Point {
    /// A complete scheduled point of which nothing else is known.
    pub fn scheduled(number: PointNumber, time: Timestamp) -> Self {
        Self {
            number,
            time,
            kind: PointKind::Scheduled,
            complete: true,
            consistency: ConsistencyLevel::Crash,
            expires: None,
            held: false,
            immutable_until: None,
            policy_version: None,
            tags: Vec::new(),
            unique: None,
        }
    }

    /// Whether rules tag or count it.
    pub(crate) fn is_ruled(&self) -> bool {
        self.complete && self.kind != PointKind::OnDemand
    }
}
