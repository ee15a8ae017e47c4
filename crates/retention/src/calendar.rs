//! Days of the week, weeks and days of the month, months: the sets that rules are written in.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::civil::{Day, days_in_month};

/// A word or number that does not name what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{value:?} is not {expected}")]
pub struct CalendarError {
    /// What was written, at most its first 32 characters.
    pub value: String,
    /// What it should be.
    pub expected: &'static str,
}

impl CalendarError {
    pub(crate) fn new(value: &str, expected: &'static str) -> Self {
        Self { value: value.chars().take(32).collect(), expected }
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $set:ident, $bits:ty, $(#[$set_doc:meta])*, $($(#[$value_doc:meta])* $value:ident)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$value),*];

            /// Its English name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => stringify!($value),)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = CalendarError;

            /// The English name or its first three letters, in any capitals.
            fn from_str(text: &str) -> Result<Self, CalendarError> {
                let is = |one: &&Self| {
                    let name = one.name();
                    text.eq_ignore_ascii_case(name) || text.eq_ignore_ascii_case(&name[..3])
                };
                Self::ALL.iter().find(is).copied().ok_or_else(|| CalendarError::new(text, $expected))
            }
        }

        $(#[$set_doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $set($bits);

        impl $set {
            /// All.
            pub fn all() -> Self {
                $name::ALL.iter().copied().collect()
            }

            /// Whether this one is among them.
            pub fn contains(self, one: $name) -> bool {
                self.0 & (1 << one as $bits) != 0
            }

            /// Whether there is none.
            pub fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// How many.
            pub fn len(self) -> u32 {
                self.0.count_ones()
            }

            /// Whether each of them is in `other`.
            pub fn is_subset(self, other: Self) -> bool {
                self.0 & !other.0 == 0
            }

            /// Each, in order.
            pub fn iter(self) -> impl Iterator<Item = $name> {
                $name::ALL.iter().copied().filter(move |one| self.contains(*one))
            }
        }

        impl FromIterator<$name> for $set {
            fn from_iter<I: IntoIterator<Item = $name>>(all: I) -> Self {
                Self(all.into_iter().fold(0, |bits, one| bits | 1 << one as $bits))
            }
        }

        impl fmt::Display for $set {
            /// The names, with commas between.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let names: Vec<_> = self.iter().map($name::name).collect();
                f.write_str(&names.join(", "))
            }
        }

        impl fmt::Debug for $set {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{{{self}}}")
            }
        }
    };
}

names! {
    /// A day of the week.
    Weekday, "a day of the week, such as Monday or mon", WeekdaySet, u8,
    /// Some days of the week.
    ,
    /// The first, as ISO 8601 counts.
    Monday
    /// The second.
    Tuesday
    /// The third.
    Wednesday
    /// The fourth.
    Thursday
    /// The fifth.
    Friday
    /// The sixth.
    Saturday
    /// The seventh.
    Sunday
}

names! {
    /// A month.
    Month, "a month, such as January or jan", MonthSet, u16,
    /// Some months of the year.
    ,
    /// Of 31 days.
    January
    /// Of 28 days, or 29.
    February
    /// Of 31 days.
    March
    /// Of 30 days.
    April
    /// Of 31 days.
    May
    /// Of 30 days.
    June
    /// Of 31 days.
    July
    /// Of 31 days.
    August
    /// Of 30 days.
    September
    /// Of 31 days.
    October
    /// Of 30 days.
    November
    /// Of 31 days.
    December
}

names! {
    /// Which of the days of one name in a month: the second Tuesday, the last Friday.
    WeekOfMonth, "a week of the month: First, Second, Third, Fourth or Last", WeekSet, u8,
    /// Some weeks of the month.
    ,
    /// Days 1 to 7.
    First
    /// Days 8 to 14.
    Second
    /// Days 15 to 21.
    Third
    /// Days 22 to 28.
    Fourth
    /// The last seven days.
    Last
}

/// Which days of a month a monthly or yearly rule tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DayPick {
    /// By number. A month that lacks the day has no such day: its last day is asked for by `last`.
    Days(MonthDays),
    /// By week and day of the week.
    Weekdays {
        /// Of which weeks.
        weeks: WeekSet,
        /// Which days.
        days: WeekdaySet,
    },
}

/// Days of a month by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MonthDays {
    bits: u32,
    last: bool,
}

impl MonthDays {
    /// These days, 1 to 31, and the last one if so; `None` when a number is none of a day.
    pub fn new(days: impl IntoIterator<Item = u8>, last: bool) -> Option<Self> {
        let mut bits = 0;
        for day in days {
            bits |= if (1..=31).contains(&day) { 1u32 << (day - 1) } else { return None };
        }
        Some(Self { bits, last })
    }

    /// The numbers, ascending.
    pub fn days(self) -> impl Iterator<Item = u8> {
        (1..=31u8).filter(move |day| self.bits & 1 << (day - 1) != 0)
    }

    /// Whether the last day is among them, whatever its number.
    pub fn last(self) -> bool {
        self.last
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.bits == 0 && !self.last
    }
}

impl DayPick {
    /// Whether it can never tag a day.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Days(days) => days.is_empty(),
            Self::Weekdays { weeks, days } => weeks.is_empty() || days.is_empty(),
        }
    }

    /// Whether every day it tags is tagged by `other` too.
    pub fn is_subset(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Days(a), Self::Days(b)) => a.bits & !b.bits == 0 && (b.last || !a.last),
            (Self::Weekdays { weeks: w, days: d }, Self::Weekdays { weeks, days }) => {
                w.is_subset(*weeks) && d.is_subset(*days)
            }
            _ => false,
        }
    }

    /// The most days it tags in one month.
    pub fn count(&self) -> u32 {
        match self {
            Self::Days(days) => days.bits.count_ones() + u32::from(days.last),
            Self::Weekdays { weeks, days } => weeks.len() * days.len(),
        }
    }

    /// The tagged days of a month: bit 0 is the first.
    pub(crate) fn mask(self, year: i32, month: u8) -> u32 {
        let length = days_in_month(year, month);
        match self {
            Self::Days(days) => {
                let exist = u32::MAX >> (32 - u32::from(length));
                (days.bits & exist) | if days.last { 1 << (length - 1) } else { 0 }
            }
            Self::Weekdays { weeks, days } => {
                let first = Day::of(year, month, 1).weekday();
                let tagged = (0..length).filter(|&index| {
                    let weekday = Weekday::ALL[usize::from((first + index) % 7)];
                    let week = WeekOfMonth::ALL[usize::from((index / 7).min(4))];
                    let last = index + 7 >= length && weeks.contains(WeekOfMonth::Last);
                    days.contains(weekday) && (last || (index < 28 && weeks.contains(week)))
                });
                tagged.fold(0, |mask, index| mask | 1 << index)
            }
        }
    }
}

impl fmt::Display for DayPick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days(days) => {
                let last = days.last.then(|| "the last day".to_owned());
                let names: Vec<String> = days.days().map(|d| format!("day {d}")).chain(last).collect();
                f.write_str(&names.join(", "))
            }
            Self::Weekdays { weeks, days } => write!(f, "{weeks}: {days}"),
        }
    }
}

/// A time of day, to the minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// `None` when there is no such time; the last is 23:59.
    pub fn new(hour: u8, minute: u8) -> Option<Self> {
        (hour < 24 && minute < 60).then(|| Self(u16::from(hour) * 60 + u16::from(minute)))
    }

    /// Minutes since midnight.
    pub fn minutes(self) -> u16 {
        self.0
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl FromStr for TimeOfDay {
    type Err = CalendarError;

    /// `HH:MM`.
    fn from_str(text: &str) -> Result<Self, CalendarError> {
        let error = || CalendarError::new(text, "a time of day, such as 22:30");
        let number = |digits: &str| {
            let plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u8>().ok()).flatten()
        };
        let (hour, minute) = text.split_once(':').ok_or_else(error)?;
        number(hour).zip(number(minute)).and_then(|(h, m)| Self::new(h, m)).ok_or_else(error)
    }
}

/// How long something is kept, in one unit of the calendar.
///
/// ```
/// # use vmkeep_retention::{Span, SpanUnit};
/// let span: Span = "12 weeks".parse()?;
/// assert_eq!(span, Span { count: 12, unit: SpanUnit::Weeks });
/// assert_eq!("12w".parse::<Span>()?, span);
/// # Ok::<(), vmkeep_retention::CalendarError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// So many.
    pub count: u32,
    /// Of these.
    pub unit: SpanUnit,
}

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpanUnit {
    /// From one time of day to the same on the next, however many hours that is.
    Days,
    /// Seven days.
    Weeks,
    /// To the same day of the month, or its last where it lacks that day.
    Months,
    /// Twelve months.
    Years,
}

impl SpanUnit {
    /// Its name, in the plural.
    pub fn name(self) -> &'static str {
        match self {
            Self::Days => "days",
            Self::Weeks => "weeks",
            Self::Months => "months",
            Self::Years => "years",
        }
    }
}

/// Most units of a span: a hundred centuries of days, and what keeps the arithmetic of dates within bounds.
const SPAN_DAYS_MAX: u32 = 36_525;

impl Span {
    /// So many days.
    pub fn days(count: u32) -> Self {
        Self { count, unit: SpanUnit::Days }
    }

    /// So many weeks.
    pub fn weeks(count: u32) -> Self {
        Self { count, unit: SpanUnit::Weeks }
    }

    /// So many months.
    pub fn months(count: u32) -> Self {
        Self { count, unit: SpanUnit::Months }
    }

    /// So many years.
    pub fn years(count: u32) -> Self {
        Self { count, unit: SpanUnit::Years }
    }

    /// Days that it has at least, and at most, from wherever it is counted.
    pub fn day_bounds(self) -> (u64, u64) {
        let count = u64::from(self.count);
        let months = |n: u64| {
            // The mean month has 30.436875 days; no run of months is off it by six.
            let mean = n * 30_436_875 / 1_000_000;
            if n == 0 { (0, 0) } else { (mean.saturating_sub(6), mean + 6) }
        };
        match self.unit {
            SpanUnit::Days => (count, count),
            SpanUnit::Weeks => (count * 7, count * 7),
            SpanUnit::Months => months(count),
            SpanUnit::Years => months(count * 12),
        }
    }

    /// Whether it ends no sooner than `other` from whatever day both are counted. Where that cannot be said of spans in
    /// different units, `false`.
    pub fn is_at_least(self, other: Self) -> bool {
        match (self.in_months(), other.in_months(), self.in_days(), other.in_days()) {
            (Some(a), Some(b), ..) | (.., Some(a), Some(b)) => a >= b,
            _ => self.day_bounds().0 >= other.day_bounds().1,
        }
    }

    fn in_months(self) -> Option<u64> {
        match self.unit {
            SpanUnit::Months => Some(u64::from(self.count)),
            SpanUnit::Years => Some(u64::from(self.count) * 12),
            _ => None,
        }
    }

    fn in_days(self) -> Option<u64> {
        match self.unit {
            SpanUnit::Days => Some(u64::from(self.count)),
            SpanUnit::Weeks => Some(u64::from(self.count) * 7),
            _ => None,
        }
    }

    /// A local time this much later; what is over a hundred years is taken as a hundred.
    pub(crate) fn after(self, local_ms: i64) -> i64 {
        let days = |n: u32| local_ms + i64::from(n.min(SPAN_DAYS_MAX)) * crate::civil::DAY_MS;
        let months = |n: u32| crate::civil::add_months(local_ms, i32::try_from(n.min(1200)).unwrap_or(1200));
        match self.unit {
            SpanUnit::Days => days(self.count),
            SpanUnit::Weeks => days(self.count.saturating_mul(7)),
            SpanUnit::Months => months(self.count),
            SpanUnit::Years => months(self.count.saturating_mul(12)),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.unit.name();
        let name = if self.count == 1 { &name[..name.len() - 1] } else { name };
        write!(f, "{} {name}", self.count)
    }
}

impl FromStr for Span {
    type Err = CalendarError;

    /// A number and a unit: `30 days`, `30d`, `12 weeks`, `60 months`, `60mo`, `10y`.
    fn from_str(text: &str) -> Result<Self, CalendarError> {
        let error = || CalendarError::new(text, "a time such as 30 days, 12 weeks, 60 months or 10 years");
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let count = text[..at].parse().map_err(|_| error())?;
        let unit = match text[at..].trim().to_ascii_lowercase().as_str() {
            "d" | "day" | "days" => SpanUnit::Days,
            "w" | "week" | "weeks" => SpanUnit::Weeks,
            "m" | "mo" | "month" | "months" => SpanUnit::Months,
            "y" | "year" | "years" => SpanUnit::Years,
            _ => return Err(error()),
        };
        Ok(Self { count, unit })
    }
}
