//! Policies: when backups are made and how long their points are kept, as values that were checked.

pub mod azure;
mod check;
pub mod keep;
mod limits;
mod text;

use std::ops::Deref;

pub use self::check::{PolicyError, Violation};
pub use self::limits::Limits;
pub use self::text::TextError;

use crate::calendar::{DayPick, MonthSet, Span, TimeOfDay, WeekdaySet};
use crate::zone::Zone;
use keep::KeepRules;

/// What a policy says; not checked yet. [`Policy::new`] checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    /// Where days begin and clocks are set forward and back.
    pub zone: Zone,
    /// When backups are made.
    pub schedule: Schedule,
    /// How long points are kept.
    pub retention: Retention,
    /// Which points reach the vault.
    pub vaulting: Vaulting,
    /// For how many days the snapshot of a point is kept beside the vault; `None` where snapshots are nobody's business.
    pub snapshot_days: Option<u32>,
    /// When points move to the archive.
    pub archive: Archiving,
    /// Which of Azure's two kinds it is; the limits differ.
    pub kind: PolicyKind,
}

/// Azure's two kinds of VM policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// V1: daily or weekly, snapshots for up to 5 days.
    Standard,
    /// V2: hourly too, snapshots for up to 30 days.
    #[default]
    Enhanced,
}

/// When backups are made, in local time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// Only when somebody asks.
    OnDemandOnly,
    /// Several times a day.
    Hourly {
        /// The first time of a day.
        start: TimeOfDay,
        /// Hours between two.
        every: u32,
        /// Hours after `start` within which a backup may start, this end left out.
        window: u32,
    },
    /// Once a day.
    Daily {
        /// When.
        at: TimeOfDay,
    },
    /// Once on some days of the week.
    Weekly {
        /// Which.
        days: WeekdaySet,
        /// When.
        at: TimeOfDay,
    },
}

impl Schedule {
    /// The most runs that start on one local day. An hourly window that reaches into the next day adds those of the day before.
    pub fn runs_per_day_max(&self) -> u32 {
        match self {
            Self::OnDemandOnly => 0,
            Self::Hourly { every, window, .. } => window.div_ceil((*every).max(1)),
            Self::Daily { .. } | Self::Weekly { .. } => 1,
        }
    }
}

/// How long points are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Days, weeks, months and years: each rule tags points, and a tagged point is kept for the rule's time.
    Calendar(CalendarRules),
    /// So many of the newest per period, as restic, borg and Proxmox count.
    Keep(KeepRules),
}

/// Grandfather, father and son.
///
/// Of the scheduled points of a local day the last one stands for the day: it carries the day's tags. A point that carries none
/// is kept for `every`, and for a day at least.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalendarRules {
    /// Every scheduled point, also those that do not stand for their day.
    pub every: Option<Span>,
    /// The point of each day.
    pub daily: Option<Span>,
    /// The points of some days of the week.
    pub weekly: Option<WeeklyRule>,
    /// The points of some days of each month.
    pub monthly: Option<MonthlyRule>,
    /// The points of some days of some months.
    pub yearly: Option<YearlyRule>,
    /// Whether, when the backup of a tagged day failed, the next one carries its tag, provided that it comes before the next
    /// tagged day of the same rule.
    pub late: bool,
}

/// Tags days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeeklyRule {
    /// Which days.
    pub days: WeekdaySet,
    /// For how long.
    pub keep: Span,
}

/// Tags days of every month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonthlyRule {
    /// Which days.
    pub on: DayPick,
    /// For how long.
    pub keep: Span,
}

/// Tags days of some months.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct YearlyRule {
    /// Of which months.
    pub months: MonthSet,
    /// Which days.
    pub on: DayPick,
    /// For how long.
    pub keep: Span,
}

/// Which points reach the vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Vaulting {
    /// Each.
    #[default]
    EveryPoint,
    /// The last of a day, and when that one failed the first of the next day: what Azure does with hourly policies.
    LastOfDay,
}

/// When points move to the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Archiving {
    /// Never.
    #[default]
    Never,
    /// When that costs less.
    Recommended,
    /// At this age.
    After(Span),
}

/// A policy that was checked against limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy(PolicySpec);

impl Policy {
    /// Checks `spec` and says everything that is wrong with it.
    pub fn new(spec: PolicySpec, limits: &Limits) -> Result<Self, PolicyError> {
        let violations = check::violations(&spec, limits);
        if violations.is_empty() { Ok(Self(spec)) } else { Err(PolicyError { violations }) }
    }

    /// What it says, to change and check again.
    pub fn into_spec(self) -> PolicySpec {
        self.0
    }
}

impl Deref for Policy {
    type Target = PolicySpec;

    fn deref(&self) -> &PolicySpec {
        &self.0
    }
}
