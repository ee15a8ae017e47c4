//! `keep` rules as restic, borg and Proxmox users know them.
//!
//! Each rule cuts time into periods (hours, days, ISO weeks, months, years; `last` has one per point) and keeps the newest point
//! of each of the newest so many periods that have one. Periods are of local time in the policy's zone. What the three do
//! differently is in [`KeepMode`].
//!
//! Only points that a schedule made, or that were imported, take part: a point made on demand has its own expiry.

use std::fmt;
use std::str::FromStr;

use crate::calendar::CalendarError;
use crate::civil::{DAY_MS, Day, add_months};

/// Whose rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeepMode {
    /// Every rule looks at all points, whatever other rules keep. While a rule has kept fewer than it may, the oldest point is
    /// kept too. `within` counts back from the newest point that is not in the future.
    /// restic.readthedocs.io, "Removing snapshots according to a policy".
    #[default]
    Restic,
    /// Rules are applied in order (within, last, hourly .. yearly), and a point that an earlier rule keeps does not count for a
    /// later one. A rule that has kept fewer than it may keeps the oldest point too. `last` takes one point a second, `within`
    /// counts back from now. borgbackup.readthedocs.io, "borg prune".
    Borg,
    /// Rules are applied in order, and a period in which an earlier rule keeps a point is not counted again; a point that a rule
    /// passed over in its period is out for the later ones. Held points take no part. No `within`, no tags.
    /// pbs.proxmox.com/docs, "Prune simulator" and "Pruning".
    Proxmox,
}

impl fmt::Display for KeepMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Proxmox => "proxmox",
        })
    }
}

impl FromStr for KeepMode {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Self, CalendarError> {
        let found = [Self::Restic, Self::Borg, Self::Proxmox].into_iter().find(|m| m.to_string() == text);
        found.ok_or_else(|| CalendarError::new(text, "a mode: restic, borg or proxmox"))
    }
}

/// What a rule cuts time into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// Each point for itself.
    Last,
    /// Hours.
    Hourly,
    /// Days.
    Daily,
    /// Weeks from Monday on.
    Weekly,
    /// Months.
    Monthly,
    /// Years.
    Yearly,
}

impl Bucket {
    /// All, in the order in which rules are applied.
    pub const ALL: [Self; 6] =
        [Self::Last, Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// The name of its rule by time.
    pub fn within_name(self) -> &'static str {
        match self {
            Self::Last => "within",
            Self::Hourly => "within-hourly",
            Self::Daily => "within-daily",
            Self::Weekly => "within-weekly",
            Self::Monthly => "within-monthly",
            Self::Yearly => "within-yearly",
        }
    }

    /// The period of a local time. For [`Bucket::Last`] the caller knows better.
    pub(crate) fn period(self, local_ms: i64) -> i64 {
        let day = Day::of_local(local_ms);
        match self {
            Self::Last => local_ms.div_euclid(1000),
            Self::Hourly => local_ms.div_euclid(3_600_000),
            Self::Daily => i64::from(day.0),
            Self::Weekly => i64::from(day.monday().0),
            Self::Monthly => i64::from(day.date().year) * 12 + i64::from(day.date().month),
            Self::Yearly => i64::from(day.date().year),
        }
    }
}

/// Of how many periods a rule keeps a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Count {
    /// The rule is not there.
    #[default]
    Off,
    /// At most so many; none of zero.
    Most(u32),
    /// All.
    All,
}

impl Count {
    pub(crate) fn limit(self) -> u64 {
        match self {
            Self::Off => 0,
            Self::Most(n) => u64::from(n),
            Self::All => u64::MAX,
        }
    }
}

/// A stretch of time as restic writes it: years, months, days and hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Within {
    /// Years.
    pub years: u16,
    /// Months.
    pub months: u16,
    /// Days.
    pub days: u16,
    /// Hours.
    pub hours: u16,
}

impl Within {
    /// A local time this much earlier.
    pub(crate) fn before(self, local_ms: i64) -> i64 {
        let months = -(i32::from(self.years) * 12 + i32::from(self.months));
        add_months(local_ms, months) - i64::from(self.days) * DAY_MS - i64::from(self.hours) * 3_600_000
    }

    /// Days it has at most.
    pub(crate) fn day_bound(self) -> u64 {
        u64::from(self.years) * 366
            + u64::from(self.months) * 31
            + u64::from(self.days)
            + u64::from(self.hours / 24)
            + 1
    }

    /// Whether it reaches as far back as `other` in each of its parts.
    pub fn is_at_least(self, other: Self) -> bool {
        self.years >= other.years
            && self.months >= other.months
            && self.days >= other.days
            && self.hours >= other.hours
    }
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        parts.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, unit)| write!(f, "{n}{unit}"))
    }
}

impl FromStr for Within {
    type Err = CalendarError;

    /// `2y5m7d3h`, parts left out at will, each once.
    fn from_str(text: &str) -> Result<Self, CalendarError> {
        let error = || CalendarError::new(text, "a time such as 2y5m7d3h");
        let (mut out, mut rest, mut seen) = (Self::default(), text, String::new());
        while !rest.is_empty() {
            let at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let number = rest[..at].parse::<u16>().map_err(|_| error())?;
            let unit = rest[at..].chars().next().ok_or_else(error)?;
            if seen.contains(unit) {
                return Err(error());
            }
            seen.push(unit);
            *match unit {
                'y' => &mut out.years,
                'm' => &mut out.months,
                'd' => &mut out.days,
                'h' => &mut out.hours,
                _ => return Err(error()),
            } = number;
            rest = &rest[at + 1..];
        }
        if out == Self::default() { Err(error()) } else { Ok(out) }
    }
}

/// `keep` rules.
///
/// ```
/// # use vmkeep_retention::keep::{Bucket, Count, KeepRules};
/// let rules = KeepRules::default().with(Bucket::Last, Count::Most(3)).with(Bucket::Daily, Count::Most(7));
/// assert_eq!(rules.count(Bucket::Daily), Count::Most(7));
/// assert_eq!(rules.count(Bucket::Yearly), Count::Off);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepRules {
    /// Whose semantics.
    pub mode: KeepMode,
    counts: [Count; 6],
    within: [Option<Within>; 6],
    /// Lists of tags: a point that has every tag of one list is kept.
    pub tags: Vec<Vec<String>>,
}

impl KeepRules {
    /// No rules yet, of this mode.
    pub fn of(mode: KeepMode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// The rule of these periods.
    pub fn count(&self, bucket: Bucket) -> Count {
        self.counts[bucket as usize]
    }

    /// The rule that keeps a point of each period of the time just past; of [`Bucket::Last`], every point of that time.
    pub fn within(&self, bucket: Bucket) -> Option<Within> {
        self.within[bucket as usize]
    }

    /// With this rule.
    #[must_use]
    pub fn with(mut self, bucket: Bucket, count: Count) -> Self {
        self.counts[bucket as usize] = count;
        self
    }

    /// With this rule by time.
    #[must_use]
    pub fn with_within(mut self, bucket: Bucket, within: Within) -> Self {
        self.within[bucket as usize] = Some(within);
        self
    }
}
