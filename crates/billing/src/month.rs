//! The months and days of a bill, in its time zone.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use thiserror::Error;
use vmkeep_model::Timestamp;

/// Why a text or a number is not a month, a day or a zone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CalendarError {
    /// Not written `2026-02`, or outside the years 1970 to 9000.
    #[error("{0:?} is not a month such as 2026-02")]
    Month(String),
    /// Neither a date nor an instant.
    #[error("{0:?} is neither a date such as 2026-02-01 nor an instant such as 2026-02-01T00:00:00Z")]
    Instant(String),
    /// A zone that the time zone database lacks.
    #[error("{0:?} is no time zone of the IANA database such as Europe/Berlin")]
    Zone(String),
    /// An instant outside the years 1970 to 9000.
    #[error("the instant {0} lies outside the years 1970 to 9000")]
    Range(Timestamp),
}

/// The time zone whose midnights begin the days and months of a bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillZone(TimeZone);

impl BillZone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// The zone of this IANA name, from the tables compiled in.
    pub fn named(name: &str) -> Result<Self, CalendarError> {
        let found = TimeZone::get(name).map_err(|_| CalendarError::Zone(name.chars().take(60).collect()))?;
        Ok(Self(found))
    }

    /// Its IANA name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    fn date_of(&self, at: Timestamp) -> Result<Date, CalendarError> {
        let instant = jiff::Timestamp::from_millisecond(at.0).map_err(|_| CalendarError::Range(at))?;
        let date = self.0.to_datetime(instant).date();
        if (1970..=9000).contains(&date.year()) { Ok(date) } else { Err(CalendarError::Range(at)) }
    }

    /// First instant of `date`: midnight, or the end of the gap where a zone skips it.
    fn start_of(&self, date: Date) -> Result<Timestamp, CalendarError> {
        let start = date.to_zoned(self.0.clone());
        let start = start.map_err(|_| CalendarError::Instant(date.to_string()))?;
        Ok(Timestamp(start.timestamp().as_millisecond()))
    }

    /// A date (its first instant in this zone) or an instant of RFC 3339.
    pub(crate) fn instant(&self, text: &str) -> Result<Timestamp, CalendarError> {
        let wrong = || CalendarError::Instant(text.to_owned());
        let at = match text.parse::<jiff::Timestamp>() {
            Ok(instant) => Timestamp(instant.as_millisecond()),
            Err(_) => self.start_of(text.parse().map_err(|_| wrong())?)?,
        };
        self.date_of(at).map_err(|_| wrong())?;
        Ok(at)
    }

    /// The month that holds `at`.
    pub fn month_of(&self, at: Timestamp) -> Result<Month, CalendarError> {
        let date = self.date_of(at)?;
        Ok(Month { year: date.year(), month: date.month() })
    }

    /// The days of `month`, with their lengths.
    pub fn span(&self, month: Month) -> Result<MonthSpan, CalendarError> {
        let first = month.first_day()?;
        let mut days = Vec::with_capacity(32);
        for day in 1..=first.days_in_month() {
            let date = Date::new(month.year, month.month, day)
                .map_err(|_| CalendarError::Month(month.to_string()))?;
            days.push(self.start_of(date)?);
        }
        days.push(self.start_of(month.next().first_day()?)?);
        days.dedup(); // a zone that changed sides of the date line skipped a day
        Ok(MonthSpan { month, days })
    }
}

/// A calendar month, from 1970 to 9000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    year: i16,
    month: i8,
}

impl Month {
    /// The month `month` (1 to 12) of `year` (1970 to 9000).
    pub fn new(year: i16, month: i8) -> Result<Self, CalendarError> {
        let new = Self { year, month };
        if (1970..=9000).contains(&year) && (1..=12).contains(&month) {
            Ok(new)
        } else {
            Err(CalendarError::Month(new.to_string()))
        }
    }

    /// The month after it.
    #[must_use]
    pub fn next(self) -> Self {
        if self.month == 12 {
            Self { year: self.year + 1, month: 1 }
        } else {
            Self { month: self.month + 1, ..self }
        }
    }

    fn first_day(self) -> Result<Date, CalendarError> {
        Date::new(self.year, self.month, 1).map_err(|_| CalendarError::Month(self.to_string()))
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Self, CalendarError> {
        let wrong = || CalendarError::Month(text.chars().take(20).collect());
        let (year, month) =
            text.split_once('-').filter(|(y, m)| y.len() == 4 && m.len() == 2).ok_or_else(wrong)?;
        let new = year.parse().ok().zip(month.parse().ok()).ok_or_else(wrong)?;
        Self::new(new.0, new.1).map_err(|_| wrong())
    }
}

/// A month laid over time: where each of its days begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonthSpan {
    month: Month,
    /// The first instant of each day, and the end of the last.
    days: Vec<Timestamp>,
}

impl MonthSpan {
    /// Which month.
    pub fn month(&self) -> Month {
        self.month
    }

    /// First instant.
    pub fn start(&self) -> Timestamp {
        self.days[0]
    }

    /// First instant after it.
    pub fn end(&self) -> Timestamp {
        self.days[self.days.len() - 1]
    }

    /// Length in milliseconds.
    pub fn millis(&self) -> u64 {
        self.end().0.abs_diff(self.start().0)
    }

    /// Number of its days.
    pub fn days(&self) -> usize {
        self.days.len() - 1
    }

    /// First instant of each day.
    pub fn day_starts(&self) -> &[Timestamp] {
        &self.days[..self.days.len() - 1]
    }

    /// End of the day that holds `at`, or of the month when `at` is not in it.
    pub(crate) fn day_end(&self, at: Timestamp) -> Timestamp {
        self.days.iter().copied().find(|start| *start > at).unwrap_or(self.end())
    }

    /// End of the hour that holds `at`; hours are counted from the start of the month.
    pub(crate) fn hour_end(&self, at: Timestamp) -> Timestamp {
        const HOUR: i64 = 3_600_000;
        let next = self.start().0 + ((at.0 - self.start().0).div_euclid(HOUR) + 1) * HOUR;
        Timestamp(next.min(self.end().0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn hours(zone: &str, month: &str) -> (usize, Vec<u64>) {
        let span = BillZone::named(zone).unwrap().span(month.parse().unwrap()).unwrap();
        let lengths: Vec<u64> = span.days.windows(2).map(|d| d[1].0.abs_diff(d[0].0)).collect();
        assert_eq!(lengths.iter().sum::<u64>(), span.millis());
        let odd = lengths.into_iter().filter(|l| *l != 24 * HOUR).map(|l| l / HOUR).collect();
        (span.days(), odd)
    }

    #[test]
    fn days_are_as_long_as_the_zone_makes_them() {
        assert_eq!(hours("UTC", "2026-02"), (28, vec![]));
        assert_eq!(hours("UTC", "2028-02"), (29, vec![]));
        assert_eq!(hours("Europe/Berlin", "2026-03"), (31, vec![23]));
        assert_eq!(hours("Europe/Berlin", "2026-10"), (31, vec![25]));
        // Samoa had no 30 December 2011.
        assert_eq!(hours("Pacific/Apia", "2011-12").0, 30);
    }

    #[test]
    fn months_follow_one_another_without_a_gap() {
        for zone in ["UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"] {
            let zone = BillZone::named(zone).unwrap();
            let mut month = Month::new(2023, 11).unwrap();
            for _ in 0..30 {
                let (this, next) = (zone.span(month).unwrap(), zone.span(month.next()).unwrap());
                assert_eq!(this.end(), next.start());
                assert_eq!(zone.month_of(this.start()), Ok(month));
                assert_eq!(zone.month_of(Timestamp(this.end().0 - 1)), Ok(month));
                month = month.next();
            }
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "2026", "2026-13", "2026-00", "26-01", "2026-1", "9999-01", "+026-01", "2026-01-01"]
        {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
        assert!(BillZone::named("Mars/Olympus").is_err());
        assert!(BillZone::UTC.instant("tomorrow").is_err());
        assert!(BillZone::UTC.month_of(Timestamp(i64::MAX)).is_err());
    }
}
