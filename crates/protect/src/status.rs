//! Whether a VM is well protected, judged from what is known of it: pure, no I/O and no clock.
//!
//! A verdict is the worst of its reasons. As time passes and nothing else changes it only gets worse.

use std::fmt;

use vmkeep_model::{ConsistencyLevel, PointNumber, Timestamp};
use vmkeep_retention::{Schedule, State, Zone, runs};
use vmkeep_vault::Coverage;

/// A point that is younger than a run of the schedule by no more than this is that run's: clocks of hosts differ.
pub const SKEW_MS: i64 = 5 * 60_000;

/// Most missed runs that are counted.
pub const MISSED_MAX: u32 = 1000;

/// How well it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Nothing is wrong.
    #[default]
    Ok,
    /// It can be restored, and somebody should look.
    Warning,
    /// It cannot be restored, or not all of what is there.
    Critical,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// What the age of a point is held against.
#[derive(Clone, Debug)]
pub enum Expected<'a> {
    /// A run of this schedule that has passed by more than `grace_ms`, milliseconds, without a point.
    Schedule {
        /// When backups are due.
        schedule: &'a Schedule,
        /// In which zone.
        zone: &'a Zone,
        /// For how long a run may be without its point: it starts late, and takes its time.
        grace_ms: i64,
        /// Since when the VM is under it.
        since: Timestamp,
    },
    /// An age in milliseconds.
    MaxAge(i64),
    /// Nothing: it is not judged.
    Nothing,
}

/// What is known of the newest point that is good for a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPoint {
    /// Which.
    pub number: PointNumber,
    /// When its backup began.
    pub created: Timestamp,
    /// What its data is worth.
    pub consistency: ConsistencyLevel,
    /// What that of the point before it is worth, where there is one.
    pub before: Option<ConsistencyLevel>,
}

/// Points that may hold old data of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectPoints {
    /// Which disk.
    pub disk: String,
    /// The first of them.
    pub from: PointNumber,
    /// The last of them.
    pub to: PointNumber,
}

/// What verification has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// All that is older was verified; `None` while no round of checks is over.
    pub until: Option<Timestamp>,
    /// Objects that it found damaged and that were not mended since.
    pub damaged: u64,
}

impl Verified {
    /// What the checks of a vault have left.
    pub fn of(coverage: &Coverage) -> Self {
        let checks = [coverage.whole.as_ref(), coverage.round.as_ref(), Some(&coverage.last)];
        let damaged = checks.into_iter().flatten().map(|checked| checked.damaged).max().unwrap_or(0);
        Self { until: coverage.until(), damaged }
    }
}

/// What is known of a VM.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Where its protection stands.
    pub state: State,
    /// Whether its line of points was closed.
    pub closed: bool,
    /// What its age is held against.
    pub expected: Expected<'a>,
    /// Its newest good point.
    pub last: Option<LastPoint>,
    /// Points newer than that one, which do not open.
    pub unreadable: Vec<PointNumber>,
    /// What change tracking has missed lately.
    pub suspects: Vec<SuspectPoints>,
}

/// Why a verdict is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A run of the schedule has passed without a point.
    Overdue {
        /// The first such run.
        since: Timestamp,
        /// How long ago that is, in milliseconds.
        late_ms: i64,
        /// How many runs have passed without one by now, up to [`MISSED_MAX`].
        missed: u32,
    },
    /// The newest point is older than it may be.
    TooOld {
        /// Its age in milliseconds.
        age_ms: i64,
        /// The age that it may have.
        max_ms: i64,
    },
    /// There is none yet, and its time has not passed.
    NoPointYet {
        /// Since when there should be one.
        since: Timestamp,
    },
    /// There is none to restore.
    NoPoint,
    /// Nobody backs the VM up, and there is no point either.
    NothingKept,
    /// The newest point was made later than it is now: a clock was set back, or two differ. Its age is not known.
    FromTheFuture {
        /// By how much, in milliseconds.
        ahead_ms: i64,
    },
    /// The newest point is of less worth than the one before.
    Weaker {
        /// What it is.
        is: ConsistencyLevel,
        /// What that was.
        was: ConsistencyLevel,
    },
    /// Points may hold old data of a disk, because change tracking had missed a change.
    Suspect(SuspectPoints),
    /// A point that is newer than the newest good one does not open.
    Unreadable(PointNumber),
    /// What the VM's line of points begins with does not open.
    Unknown {
        /// Why.
        why: String,
    },
    /// Verification has found damage.
    Damaged {
        /// So many objects.
        damaged: u64,
    },
    /// No backups are made.
    NotBackedUp(State),
    /// Protection was closed.
    Closed,
    /// Neither a schedule nor an age says how old a point may be.
    NotJudged,
}

impl Reason {
    /// How bad it is.
    pub fn level(&self) -> Level {
        match self {
            Self::NotBackedUp(_) | Self::Closed | Self::NotJudged => Level::Ok,
            Self::Overdue { .. }
            | Self::TooOld { .. }
            | Self::NoPointYet { .. }
            | Self::NothingKept
            | Self::FromTheFuture { .. }
            | Self::Weaker { .. }
            | Self::Suspect(_) => Level::Warning,
            Self::NoPoint | Self::Unreadable(_) | Self::Unknown { .. } | Self::Damaged { .. } => {
                Level::Critical
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overdue { since, late_ms, missed } => {
                write!(f, "overdue by {} since the run of {since}", Span(*late_ms))?;
                if *missed > 1 { write!(f, "; {missed} runs have passed without a point") } else { Ok(()) }
            }
            Self::TooOld { age_ms, max_ms } => {
                write!(f, "its newest point is {} old, more than {}", Span(*age_ms), Span(*max_ms))
            }
            Self::NoPointYet { since } => write!(f, "no point yet; one is due since {since}"),
            Self::NoPoint => f.write_str("no point to restore"),
            Self::NothingKept => f.write_str("no backups are made, and no point is kept"),
            Self::FromTheFuture { ahead_ms } => {
                write!(f, "its newest point is {} ahead of the clock: its age is not known", Span(*ahead_ms))
            }
            Self::Weaker { is, was } => {
                write!(f, "its newest point is {is}-consistent, the one before was {was}-consistent")
            }
            Self::Suspect(SuspectPoints { disk, from, to }) => {
                write!(f, "points {from} to {to} may hold old data of disk {disk}")
            }
            Self::Unreadable(number) => write!(f, "point {number} does not open"),
            Self::Unknown { why } => write!(f, "its points cannot be told: {why}"),
            Self::Damaged { damaged } => write!(f, "verification found {damaged} damaged objects"),
            Self::NotBackedUp(State::SoftDeleted { until, .. }) => {
                write!(f, "deleted; its points can be had back until {until}")
            }
            Self::NotBackedUp(state) => write!(f, "no backups are made: {}", state.kind()),
            Self::Closed => f.write_str("its protection was closed"),
            Self::NotJudged => {
                f.write_str("its age is not judged: it is under no schedule and no greatest age was given")
            }
        }
    }
}

/// Milliseconds in the longest unit of which it is at least one, rounded down.
struct Span(i64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
        let (name, unit) = units.into_iter().find(|(_, unit)| self.0 >= *unit).unwrap_or(("s", 1000));
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// How well a VM is protected, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The worst of the reasons.
    pub level: Level,
    /// The reasons, the worst first.
    pub reasons: Vec<Reason>,
    /// The age of the newest good point in milliseconds; `None` where there is none or it is from the future.
    pub age_ms: Option<i64>,
}

impl Verdict {
    /// The verdict that these reasons come to.
    pub fn of(mut reasons: Vec<Reason>, age_ms: Option<i64>) -> Self {
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.level()));
        Self { level: reasons.first().map_or(Level::Ok, Reason::level), reasons, age_ms }
    }
}

/// Judges a VM.
///
/// ```
/// use vmkeep_model::{ConsistencyLevel, PointNumber, Timestamp};
/// use vmkeep_protect::retention::State;
/// use vmkeep_protect::status::{Expected, Facts, LastPoint, Level, judge};
///
/// let created = Timestamp(1_700_000_000_000);
/// let last = LastPoint { number: PointNumber(7), created, consistency: ConsistencyLevel::Crash, before: None };
/// let facts = Facts {
///     state: State::Unprotected,
///     closed: false,
///     expected: Expected::MaxAge(86_400_000),
///     last: Some(last),
///     unreadable: Vec::new(),
///     suspects: Vec::new(),
/// };
/// assert_eq!(judge(&facts, created).level, Level::Ok);
/// let two_days_later = Timestamp(created.0 + 2 * 86_400_000);
/// let verdict = judge(&facts, two_days_later);
/// assert_eq!(verdict.level, Level::Warning);
/// assert_eq!(verdict.reasons[0].to_string(), "its newest point is 2d old, more than 1d");
/// ```
pub fn judge(facts: &Facts<'_>, now: Timestamp) -> Verdict {
    let mut reasons: Vec<Reason> = facts.unreadable.iter().copied().map(Reason::Unreadable).collect();
    reasons.extend(facts.suspects.iter().cloned().map(Reason::Suspect));
    // Whoever closed it or stopped it knows that no backups come.
    let idle = match facts.state {
        _ if facts.closed => Some(Reason::Closed),
        State::Unprotected | State::Protected => None,
        state => Some(Reason::NotBackedUp(state)),
    };
    let Some(last) = facts.last else {
        reasons.extend(without_a_point(facts, idle, now));
        return Verdict::of(reasons, None);
    };
    if let Some(was) = last.before.filter(|was| last.consistency < *was) {
        reasons.push(Reason::Weaker { is: last.consistency, was });
    }
    let age_ms = now.0.saturating_sub(last.created.0);
    match idle {
        Some(idle) => reasons.push(idle),
        None => reasons.extend(too_old(&facts.expected, last.created, age_ms, now)),
    }
    if age_ms < -SKEW_MS {
        reasons.push(Reason::FromTheFuture { ahead_ms: age_ms.saturating_neg() });
        return Verdict::of(reasons, None);
    }
    Verdict::of(reasons, Some(age_ms.max(0)))
}

fn without_a_point(facts: &Facts<'_>, idle: Option<Reason>, now: Timestamp) -> Vec<Reason> {
    let is_gone = facts.closed || matches!(facts.state, State::SoftDeleted { .. } | State::Purged { .. });
    match (idle, &facts.expected) {
        (Some(idle), _) if is_gone => vec![idle],
        (Some(idle), _) => vec![Reason::NothingKept, idle],
        // The first backup waits for no time of the schedule.
        (None, Expected::Schedule { since, grace_ms, .. })
            if now.0.saturating_sub(since.0) <= *grace_ms && facts.unreadable.is_empty() =>
        {
            vec![Reason::NoPointYet { since: *since }]
        }
        (None, _) => vec![Reason::NoPoint],
    }
}

fn too_old(expected: &Expected<'_>, created: Timestamp, age_ms: i64, now: Timestamp) -> Option<Reason> {
    match *expected {
        Expected::Nothing => Some(Reason::NotJudged),
        Expected::MaxAge(max_ms) => (age_ms > max_ms).then_some(Reason::TooOld { age_ms, max_ms }),
        Expected::Schedule { schedule, zone, grace_ms, since } => {
            // What was due before the VM was under the schedule is not asked for.
            let from = created.0.saturating_add(SKEW_MS).max(since.0).saturating_add(1);
            let mut passed = runs(schedule, zone, Timestamp(from)).take_while(|run| run.at <= now);
            let since = passed.next()?.at;
            let late_ms = now.0.saturating_sub(since.0);
            let more = passed.take(usize::try_from(MISSED_MAX - 1).unwrap_or(0)).count();
            let missed = u32::try_from(more).unwrap_or(MISSED_MAX).saturating_add(1);
            (late_ms > grace_ms).then_some(Reason::Overdue { since, late_ms, missed })
        }
    }
}

/// Judges what is known of the vault as a whole. What was never verified is not held against it.
pub fn judge_vault(verified: Option<Verified>) -> Verdict {
    let damaged = verified.map(|verified| verified.damaged).filter(|damaged| *damaged > 0);
    Verdict::of(damaged.map(|damaged| Reason::Damaged { damaged }).into_iter().collect(), None)
}

#[cfg(test)]
mod tests;
