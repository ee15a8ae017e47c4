//! Civil dates as day numbers, without a time zone: the arithmetic that plans are made of.

use std::fmt;

/// Milliseconds of a civil day.
pub(crate) const DAY_MS: i64 = 86_400_000;

/// A civil date as the number of days since 1970-01-01, negative before it.
///
/// ```
/// # use vmkeep_retention::Day;
/// assert_eq!(Day(0).to_string(), "1970-01-01");
/// assert_eq!(Day::of(2024, 2, 29).to_string(), "2024-02-29");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i32);

/// Year, month (1..=12) and day of the month (1..=31).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Date {
    pub(crate) year: i32,
    pub(crate) month: u8,
    pub(crate) day: u8,
}

/// How many days the month has; 1..=12.
pub(crate) fn days_in_month(year: i32, month: u8) -> u8 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The month after.
pub(crate) fn month_after(year: i32, month: u8) -> (i32, u8) {
    if month == 12 { (year + 1, 1) } else { (year, month + 1) }
}

/// The month before.
pub(crate) fn month_before(year: i32, month: u8) -> (i32, u8) {
    if month == 1 { (year - 1, 12) } else { (year, month - 1) }
}

fn narrow<T: TryFrom<i64> + Default>(value: i64) -> T {
    T::try_from(value).unwrap_or_default()
}

impl Day {
    /// The day with this date. A month or day that does not exist counts on from the one before.
    pub fn of(year: i32, month: u8, day: u8) -> Self {
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
        let (y, m, d) = (i64::from(year) - i64::from(month <= 2), i64::from(month), i64::from(day));
        let era = y.div_euclid(400);
        let year_of_era = y.rem_euclid(400);
        let day_of_year = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Self(narrow(era * 146_097 + day_of_era - 719_468))
    }

    /// The day of a local time in milliseconds since 1970-01-01T00:00 local.
    pub(crate) fn of_local(local_ms: i64) -> Self {
        Self(narrow(local_ms.div_euclid(DAY_MS)))
    }

    /// Its start as a local time in milliseconds.
    pub(crate) fn start(self) -> i64 {
        i64::from(self.0) * DAY_MS
    }

    pub(crate) fn date(self) -> Date {
        let shifted = i64::from(self.0) + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Date {
            year: narrow(year_of_era + era * 400 + i64::from(month <= 2)),
            month: narrow(month),
            day: narrow(day_of_year - (153 * shifted_month + 2) / 5 + 1),
        }
    }

    /// The day of the week: 0 is Monday, 6 is Sunday.
    pub(crate) fn weekday(self) -> u8 {
        narrow((i64::from(self.0) + 3).rem_euclid(7))
    }

    /// The Monday of its week, as ISO 8601 counts weeks.
    pub(crate) fn monday(self) -> Self {
        Self(self.0 - i32::from(self.weekday()))
    }
}

impl fmt::Display for Day {
    /// As ISO 8601 writes dates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Date { year, month, day } = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// A local time `months` later (or earlier, when negative) at the same time of day; a day that the month lacks is its last.
pub(crate) fn add_months(local_ms: i64, months: i32) -> i64 {
    let day = Day::of_local(local_ms);
    let date = day.date();
    let counted = i64::from(date.year) * 12 + i64::from(date.month) - 1 + i64::from(months);
    let (year, month) = (narrow(counted.div_euclid(12)), narrow::<u8>(counted.rem_euclid(12)) + 1);
    let there = Day::of(year, month, date.day.min(days_in_month(year, month)));
    there.start() + (local_ms - day.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_agree_with_a_library_over_four_centuries() {
        let mut date = jiff::civil::date(1899, 12, 31);
        let first = Day::of(1899, 12, 31).0;
        for number in first..first + 146_500 {
            let day = Day(number);
            let Date { year, month, day: of_month } = day.date();
            assert_eq!((i32::from(date.year()), date.month()), (year, i8::try_from(month).unwrap()));
            assert_eq!(date.day(), i8::try_from(of_month).unwrap());
            assert_eq!(Day::of(year, month, of_month), day);
            assert_eq!(i8::try_from(day.weekday()).unwrap(), date.weekday().to_monday_zero_offset());
            assert_eq!(i8::try_from(days_in_month(year, month)).unwrap(), date.days_in_month());
            date = date.tomorrow().unwrap();
        }
    }

    #[test]
    fn months_end_where_the_month_ends() {
        let at = |y, m, d| Day::of(y, m, d).start() + 5;
        assert_eq!(add_months(at(2023, 1, 31), 1), at(2023, 2, 28));
        assert_eq!(add_months(at(2024, 1, 31), 1), at(2024, 2, 29));
        assert_eq!(add_months(at(2024, 2, 29), 12), at(2025, 2, 28));
        assert_eq!(add_months(at(2024, 3, 31), -1), at(2024, 2, 29));
        assert_eq!(add_months(at(2024, 1, 15), -13), at(2022, 12, 15));
    }
}
