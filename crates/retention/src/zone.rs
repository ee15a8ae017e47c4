//! Time zones by either of their names, and local time in them.

mod windows;

use std::fmt;
use std::sync::LazyLock;

use icu_time::zone::iana::IanaParserExtended;
use icu_time::zone::windows::WindowsParser;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use thiserror::Error;
use vmkeep_model::Timestamp;

use crate::civil::Day;

/// Most bytes of a zone's name.
const NAME_BYTES_MAX: usize = 64;

/// The same tables on every machine: what the system has is not looked at, so that a plan is the same everywhere.
static TABLES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// A time zone, with the name it was given by and the IANA name that stands for.
///
/// Takes IANA names (`Europe/Berlin`) and the names of Windows that Azure's policies hold (`Pacific Standard Time`),
/// without regard to case. Windows names mean what CLDR says of them.
///
/// ```
/// # use vmkeep_retention::Zone;
/// let zone = Zone::named("pacific standard time")?;
/// assert_eq!(zone.iana(), "America/Los_Angeles");
/// assert_eq!(Zone::named("europe/berlin")?.iana(), "Europe/Berlin");
/// assert!(Zone::named("Atlantis Standard Time").is_err());
/// # Ok::<(), vmkeep_retention::UnknownZone>(())
/// ```
#[derive(Clone, Debug)]
pub struct Zone {
    given: String,
    iana: String,
    rules: TimeZone,
}

/// No time zone has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "no time zone is called {name:?}; write an IANA name such as Europe/Berlin or a Windows name such as Pacific Standard Time"
)]
pub struct UnknownZone {
    /// The name, at most its first 64 bytes.
    pub name: String,
}

impl Zone {
    /// The zone of this name.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        let unknown = || UnknownZone { name: name.chars().take(NAME_BYTES_MAX).collect() };
        if name.len() > NAME_BYTES_MAX || name.is_empty() {
            return Err(unknown());
        }
        if let Some(rules) = TABLES.get(name).ok().filter(|rules| !rules.is_unknown()) {
            let iana = rules.iana_name().unwrap_or(name).to_owned();
            return Ok(Self { given: name.to_owned(), iana, rules });
        }
        let iana = windows_to_iana(name).ok_or_else(unknown)?;
        let rules = TABLES.get(&iana).map_err(|_| unknown())?;
        Ok(Self { given: name.to_owned(), iana, rules })
    }

    /// Whether it was asked for by a name of Windows, as Azure's policies want it.
    pub fn has_windows_name(&self) -> bool {
        self.iana == "UTC" || !self.given.eq_ignore_ascii_case(&self.iana) && TABLES.get(&self.given).is_err()
    }

    /// Its name in Windows, as Azure's policies want it: the one it was asked for by, or the one that stands for just this zone.
    /// Of several zones with one name of Windows, that is the one that the name leads to; the others have none.
    ///
    /// ```
    /// # use vmkeep_retention::Zone;
    /// assert_eq!(Zone::named("Europe/Berlin")?.windows_name().as_deref(), Some("W. Europe Standard Time"));
    /// assert_eq!(Zone::named("Europe/Vaduz")?.windows_name(), None);
    /// # Ok::<(), vmkeep_retention::UnknownZone>(())
    /// ```
    pub fn windows_name(&self) -> Option<String> {
        if self.iana == "UTC" {
            return Some("UTC".to_owned());
        }
        if self.has_windows_name() {
            return Some(self.given.clone());
        }
        windows::name_of(&self.iana).map(str::to_owned)
    }

    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self { given: "UTC".to_owned(), iana: "UTC".to_owned(), rules: TimeZone::UTC }
    }

    /// The name it was asked for by.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// Its IANA name.
    pub fn iana(&self) -> &str {
        &self.iana
    }

    /// The civil day of an instant here.
    pub fn day_of(&self, at: Timestamp) -> Day {
        Day::of_local(LocalTime::new(self).local(at))
    }

    /// An instant as a person here reads it: date, time to the minute, offset.
    pub fn show(&self, at: Timestamp) -> String {
        match jiff::Timestamp::from_millisecond(at.0) {
            Ok(instant) => instant.to_zoned(self.rules.clone()).strftime("%Y-%m-%d %H:%M %:z").to_string(),
            Err(_) => at.to_string(),
        }
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::utc()
    }
}

impl PartialEq for Zone {
    /// The same rules; by which name they were asked for does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.iana == other.iana
    }
}

impl Eq for Zone {}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

fn windows_to_iana(name: &str) -> Option<String> {
    let parser = WindowsParser::new();
    let found = spellings(name).into_iter().find_map(|spelling| parser.parse(&spelling, None))?;
    IanaParserExtended::new()
        .iter()
        .find(|known| known.time_zone == found)
        .map(|known| known.canonical.to_owned())
}

/// The name in the capitals that the table may have it in: words of places, with the abbreviations all in capitals.
fn spellings(name: &str) -> [String; 3] {
    const CAPITALS: [&str; 9] = ["UTC", "SA", "SE", "GTB", "FLE", "GMT", "US", "AUS", "E"];
    let titled = |word: &str| {
        let mut capital = true;
        let letter = |c: char| {
            let out = if capital { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            capital = !c.is_ascii_alphanumeric();
            out
        };
        word.chars().map(letter).collect::<String>()
    };
    let with = |abbreviated: bool| {
        let words = name.split_whitespace().map(|word| {
            let upper = word.to_ascii_uppercase();
            let is_one = CAPITALS.contains(&upper.as_str()) || upper.starts_with("UTC");
            if is_one && abbreviated { upper } else { titled(word) }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    [name.to_owned(), with(true), with(false)]
}

/// Local time in a zone, quick for instants that lie close together: it remembers the stretch between two changes of offset
/// that it looked at last.
#[derive(Debug)]
pub(crate) struct LocalTime<'z> {
    rules: &'z TimeZone,
    /// In milliseconds: from here...
    from: i64,
    /// ... to before here...
    until: i64,
    /// ... local time is this much ahead of UTC.
    offset: i64,
}

/// How far from a change of offset a local time must be that surely exists once: more than any change ever was.
const MARGIN_MS: i64 = 2 * 86_400_000;

/// What became of a local time that does not exist once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edge {
    /// It exists once.
    None,
    /// It does not exist: the clock is set forward over it. The same distance after the gap is taken.
    Gap,
    /// It exists twice: the clock is set back over it. The first is taken.
    Fold,
}

impl<'z> LocalTime<'z> {
    pub(crate) fn new(zone: &'z Zone) -> Self {
        Self { rules: &zone.rules, from: 0, until: 0, offset: 0 }
    }

    /// The local time of an instant, in milliseconds since 1970-01-01T00:00 local. Instants that no calendar reaches are
    /// taken as in UTC.
    pub(crate) fn local(&mut self, at: Timestamp) -> i64 {
        if !(self.from..self.until).contains(&at.0) {
            self.seek(at.0);
        }
        at.0.saturating_add(self.offset)
    }

    fn seek(&mut self, at: i64) {
        let Ok(instant) = jiff::Timestamp::from_millisecond(at) else {
            (self.from, self.until, self.offset) = (0, 0, 0);
            return;
        };
        // One millisecond on, so that a change at this very instant is before it.
        let changed = self.rules.preceding(after_millisecond(instant)).next();
        self.from = changed.map_or(i64::MIN / 4, |t| t.timestamp().as_millisecond());
        let after =
            self.rules.following(instant).next().map_or(i64::MAX / 4, |t| t.timestamp().as_millisecond());
        self.offset = i64::from(self.rules.to_offset(instant).seconds()) * 1000;
        self.until = after;
    }

    /// The instant of a local time.
    pub(crate) fn instant(&mut self, local_ms: i64) -> Timestamp {
        let guess = local_ms.saturating_sub(self.offset);
        if guess >= self.from.saturating_add(MARGIN_MS) && guess < self.until.saturating_sub(MARGIN_MS) {
            return Timestamp(guess);
        }
        let (at, _) = self.instant_and_edge(local_ms);
        self.seek(at.0);
        at
    }

    /// The instant of a local time, and what became of it at a change of the clock.
    pub(crate) fn instant_and_edge(&self, local_ms: i64) -> (Timestamp, Edge) {
        let civil = jiff::Timestamp::from_millisecond(local_ms).map(|t| TimeZone::UTC.to_datetime(t));
        let Ok(civil) = civil else { return (Timestamp(local_ms), Edge::None) };
        resolve(self.rules, civil).unwrap_or((Timestamp(local_ms), Edge::None))
    }
}

fn after_millisecond(instant: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(instant.as_millisecond().saturating_add(1)).unwrap_or(instant)
}

fn resolve(rules: &TimeZone, civil: DateTime) -> Option<(Timestamp, Edge)> {
    let ambiguous = rules.to_ambiguous_timestamp(civil);
    let edge = match ambiguous.offset() {
        jiff::tz::AmbiguousOffset::Unambiguous { .. } => Edge::None,
        jiff::tz::AmbiguousOffset::Gap { .. } => Edge::Gap,
        jiff::tz::AmbiguousOffset::Fold { .. } => Edge::Fold,
    };
    // As RFC 5545, section 3.3.5, wants it: forward over a gap, the first of two.
    ambiguous.compatible().ok().map(|at| (Timestamp(at.as_millisecond()), edge))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_names_of_every_shape_in_any_capitals() {
        for (name, iana) in [
            ("Pacific Standard Time", "America/Los_Angeles"),
            ("UTC", "UTC"),
            ("GMT Standard Time", "Europe/London"),
            ("W. Europe Standard Time", "Europe/Berlin"),
            ("AUS Eastern Standard Time", "Australia/Sydney"),
            ("Aus Central W. Standard Time", "Australia/Eucla"),
            ("SE Asia Standard Time", "Asia/Bangkok"),
            ("E. South America Standard Time", "America/Sao_Paulo"),
            ("Central Standard Time (Mexico)", "America/Mexico_City"),
            ("India Standard Time", "Asia/Kolkata"),
            ("Turks And Caicos Standard Time", "America/Grand_Turk"),
            ("Nepal Standard Time", "Asia/Kathmandu"),
            ("UTC-11", "Pacific/Pago_Pago"),
        ] {
            for spelled in [name.to_owned(), name.to_lowercase(), name.to_uppercase()] {
                match Zone::named(&spelled) {
                    Ok(zone) if name == "UTC-11" => assert!(!zone.iana().is_empty()),
                    Ok(zone) => assert_eq!(zone.iana(), iana, "{spelled}"),
                    Err(e) => panic!("{e}"),
                }
            }
        }
        for bad in ["", "Standard Time", "../etc/passwd", &"x".repeat(100_000)] {
            assert!(Zone::named(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_what_the_tables_say(
            steps in prop::collection::vec((0i64..4_000_000_000_000, -40_000_000i64..40_000_000), 1..40),
            name in prop::sample::select(crate::testing::ZONES.as_slice()),
        ) {
            let zone = Zone::named(name).unwrap();
            let mut time = LocalTime::new(&zone);
            for (at, near) in steps {
                for at in [at, (at + near).max(0)] {
                    let instant = jiff::Timestamp::from_millisecond(at).unwrap();
                    let expected = at + i64::from(zone.rules.to_offset(instant).seconds()) * 1000;
                    prop_assert_eq!(time.local(Timestamp(at)), expected);
                    let fresh = LocalTime::new(&zone).instant_and_edge(expected).0;
                    prop_assert_eq!(time.instant(expected), fresh);
                }
            }
        }
    }
}
