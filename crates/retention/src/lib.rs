//! Which recovery points of a VM are kept, for how long, and why.
//!
//! Pure: points, policies and times come in as values, plans with their reasons come out. No I/O, and no clock: now is an
//! argument everywhere.
//!
//! | Question | Answer |
//! |---|---|
//! | What does a policy say, and does it hold? | [`PolicySpec`] from TOML, [`azure::AzurePolicy`] from Azure's JSON; [`Policy::new`] against [`Limits`] |
//! | When do backups run? | [`runs`], [`due`]; [`spread`] for many VMs |
//! | Which points go, and why? | [`plan`], [`Plan::explain`]; [`Plan::confirm_against`] before anything is removed |
//! | What would an edit do? | [`diff_of_policies`], [`weakenings`], [`kind_of_edit`] |
//! | What may happen to a VM's protection? | [`State::step`], [`Immutability`], [`SoftDelete`] |
//! | What cannot be undone? | [`Irreversible`], its meaning and its [`Confirmation`] |
//! | Where do copies lie? | [`expired_snapshots`], [`vault_bound`], [`archive_moves`] |
//!
//! What never happens, whatever the policy: the newest point goes (unless [`PlanSettings::to_zero`] says so); a held or immutable
//! point goes, or one made on demand before its own expiry; anything goes while the points' times do not fit ([`Anomaly`]) or
//! while protection is stopped.
//!
//! Points are kept by the calendar of the policy's time zone, with its changes of the clock: thirty days after 02:30 is at
//! 02:30, however many hours that is.
//!
//! ```
//! use vmkeep_model::{PointNumber, Timestamp};
//! use vmkeep_retention::{Limits, PlanSettings, Point, Policy, PolicySpec, plan_with};
//!
//! let spec = PolicySpec::from_toml(r#"
//!     zone = "Europe/Berlin"
//!     schedule.daily = { at = "02:30" }
//!     retention = { daily = "7 days", weekly = { days = ["Sunday"], keep = "4 weeks" } }
//! "#)?;
//! let policy = Policy::new(spec, &Limits::default())?;
//!
//! // Twenty days from Thursday 2026-01-01, 01:30 UTC, on.
//! let day = |n: u64| Timestamp(1_767_231_000_000 + n as i64 * 86_400_000);
//! let points: Vec<Point> = (0..20).map(|n| Point::scheduled(PointNumber(n + 1), day(n))).collect();
//! // Protection began with the first of them: the Sunday before was not missed.
//! let settings = PlanSettings { since: Some(day(0)), ..PlanSettings::default() };
//! let plan = plan_with(&points, &policy, day(19), &settings)?;
//!
//! let expired: Vec<u64> = plan.expired().map(|verdict| verdict.number.0).collect();
//! assert_eq!(expired, [1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 13]);
//! let sunday = &plan.verdicts()[3];
//! assert_eq!(plan.explain(sunday)[0], "weekly rule: kept for 4 weeks, until 2026-02-01 02:30 +01:00");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod anomaly;
mod apply;
mod calendar;
mod civil;
mod confirm;
mod counting;
mod diff;
#[doc(hidden)]
pub mod fuzzing;
mod immutability;
mod lifecycle;
mod plan;
mod point;
mod policy;
mod schedule;
mod spread;
mod tagging;
#[cfg(test)]
mod testing;
mod tier;
mod zone;

pub use anomaly::Anomaly;
pub use apply::{ApplyError, Removal, Spared};
pub use calendar::{
    CalendarError, DayPick, Month, MonthDays, MonthSet, Span, SpanUnit, TimeOfDay, WeekOfMonth, WeekSet,
    Weekday, WeekdaySet,
};
pub use civil::Day;
pub use confirm::{Confirmation, Irreversible, NotConfirmed};
pub use diff::{PointChange, PolicyDiff, diff_of_policies, kind_of_edit, weakenings};
pub use immutability::{Blocked, Change, Immutability, ProtectionChangeError, SOFT_DELETE_DAYS, SoftDelete};
pub use lifecycle::{Context, Effect, Event, LifecycleError, State, StateKind, Step};
pub use plan::{
    Decision, ExpiredRun, Expiry, Plan, PlanError, PlanSettings, Reason, RuleName, TIME_MAX, Verdict, plan,
    plan_with,
};
pub use point::{ON_DEMAND_DAYS, Point, PointKind};
pub use policy::{
    Archiving, CalendarRules, Limits, MonthlyRule, Policy, PolicyError, PolicyKind, PolicySpec, Retention,
    Schedule, TextError, Vaulting, Violation, WeeklyRule, YearlyRule, azure, keep,
};
pub use schedule::{CatchUp, Due, Run, Runs, due, runs};
pub use spread::{Spread, SpreadVm, SpreadWarning, SpreadWindow, spread};
pub use tier::{
    ArchiveMove, NotEligible, PointBytes, REHYDRATED_DAYS, Rehydration, RehydrationPriority, Tier,
    TierPrices, archive_eligibility, archive_moves, early_deletion_charge, expired_snapshots, vault_bound,
};
pub use zone::{Edge, UnknownZone, Zone};
