//! Which rules of the calendar match which points, and until when.
//!
//! Of the scheduled points of a local day the last stands for the day. It carries a rule's tag when its day is tagged, or, late,
//! when no point stands between the last tagged day and it. A tag holds from the point's own time on, for the rule's span, in
//! local time. Adding a point can take a tag from an earlier point of the same day; removing one never takes any.

use vmkeep_model::Timestamp;

use crate::calendar::{DayPick, Month, MonthSet, Span, WeekdaySet};
use crate::civil::{Day, month_after, month_before};
use crate::plan::{Reason, RuleName};
use crate::policy::CalendarRules;
use crate::zone::{LocalTime, Zone};

/// Months to look back for a tagged day: from one 29 February to the one before over a year without is 96.
const MONTHS_BACK: u32 = 100;

/// The latest tagged day up to a day, asked for in any order, quick in ascending order.
#[derive(Clone, Debug)]
pub(crate) enum Slots {
    Daily,
    Weekly(WeekdaySet),
    Monthly(MonthSlots),
}

#[derive(Clone, Debug)]
pub(crate) struct MonthSlots {
    on: DayPick,
    months: MonthSet,
    /// The month looked at last: year, month, first day, tagged days as bits, the latest tagged day before it.
    seen: Option<(Day, Day, u32, Option<Day>)>,
}

impl MonthSlots {
    fn new(on: DayPick, months: MonthSet) -> Self {
        Self { on, months, seen: None }
    }

    fn mask(&self, year: i32, month: u8) -> u32 {
        let named = Month::ALL.get(usize::from(month - 1)).is_some_and(|m| self.months.contains(*m));
        if named { self.on.mask(year, month) } else { 0 }
    }

    fn latest(&mut self, day: Day) -> Option<Day> {
        let (first, mask, before) = match self.seen {
            Some((first, next, mask, before)) if (first..next).contains(&day) => (first, mask, before),
            _ => self.look(day),
        };
        // Bits up to and with this day.
        let upto = mask & (u32::MAX >> (31 - (day.0 - first.0).clamp(0, 31)));
        let bit = upto.checked_ilog2().and_then(|bit| i32::try_from(bit).ok());
        bit.map(|bit| Day(first.0 + bit)).or(before)
    }

    fn look(&mut self, day: Day) -> (Day, u32, Option<Day>) {
        let date = day.date();
        let first = Day::of(date.year, date.month, 1);
        let (next_year, next_month) = month_after(date.year, date.month);
        let (mut year, mut month) = (date.year, date.month);
        let mut before = None;
        for _ in 0..MONTHS_BACK {
            (year, month) = month_before(year, month);
            if let Some(bit) = self.mask(year, month).checked_ilog2() {
                before = Some(Day(Day::of(year, month, 1).0 + i32::try_from(bit).unwrap_or(0)));
                break;
            }
        }
        let mask = self.mask(date.year, date.month);
        self.seen = Some((first, Day::of(next_year, next_month, 1), mask, before));
        (first, mask, before)
    }
}

impl Slots {
    /// The latest tagged day that is not after `day`.
    pub(crate) fn latest(&mut self, day: Day) -> Option<Day> {
        match self {
            Self::Daily => Some(day),
            Self::Weekly(days) => {
                let back = (0..7).find(|back| {
                    let weekday = Day(day.0 - back).weekday();
                    crate::calendar::Weekday::ALL.get(usize::from(weekday)).is_some_and(|w| days.contains(*w))
                });
                back.map(|back| Day(day.0 - back))
            }
            Self::Monthly(months) => months.latest(day),
        }
    }
}

struct Rule<'z> {
    name: RuleName,
    slots: Slots,
    keep: Span,
    ends: LocalTime<'z>,
}

/// Tags the points of one VM, given in ascending order of time.
pub(crate) struct Tagger<'z> {
    rules: Vec<Rule<'z>>,
    every: Option<Span>,
    every_ends: LocalTime<'z>,
    late: bool,
    since: Option<Day>,
    previous: Option<Day>,
}

/// What even a point that no rule tags is kept for.
const LEAST: Span = Span { count: 1, unit: crate::calendar::SpanUnit::Days };

impl<'z> Tagger<'z> {
    pub(crate) fn new(rules: &CalendarRules, zone: &'z Zone, since: Option<Day>) -> Self {
        let rule = |name, slots, keep| Rule { name, slots, keep, ends: LocalTime::new(zone) };
        let daily = rules.daily.map(|keep| rule(RuleName::Daily, Slots::Daily, keep));
        let weekly = rules.weekly.map(|r| rule(RuleName::Weekly, Slots::Weekly(r.days), r.keep));
        let monthly = rules
            .monthly
            .map(|r| rule(RuleName::Monthly, Slots::Monthly(MonthSlots::new(r.on, MonthSet::all())), r.keep));
        let yearly = rules
            .yearly
            .map(|r| rule(RuleName::Yearly, Slots::Monthly(MonthSlots::new(r.on, r.months)), r.keep));
        Self {
            rules: [daily, weekly, monthly, yearly].into_iter().flatten().collect(),
            every: rules.every,
            every_ends: LocalTime::new(zone),
            late: rules.late,
            since,
            previous: None,
        }
    }

    /// Adds the reasons of the next scheduled point; `stands` when it is the last of its day.
    pub(crate) fn tag(&mut self, local_ms: i64, stands: bool, reasons: &mut Vec<Reason>) {
        let day = Day::of_local(local_ms);
        let before = reasons.len();
        if stands {
            for rule in &mut self.rules {
                let Some(slot) = rule.slots.latest(day) else { continue };
                let free = self.previous.is_none_or(|previous| previous < slot);
                let known = self.since.is_none_or(|since| slot >= since);
                let late = slot != day;
                if late && !(self.late && free && known) {
                    continue;
                }
                let until = rule.ends.instant(rule.keep.after(local_ms));
                reasons.push(Reason::Tag { rule: rule.name, slot, late, until });
            }
            self.previous = Some(day);
        }
        if self.every.is_some() || reasons.len() == before {
            let span = self.every.unwrap_or(LEAST);
            let until: Timestamp = self.every_ends.instant(span.after(local_ms));
            reasons.push(Reason::Tag { rule: RuleName::Every, slot: day, late: false, until });
        }
    }
}
