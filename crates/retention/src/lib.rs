//! Which recovery points of a VM are kept, for how long, and why.
//!
//! x
mod anomaly;
mod apply;
mod calendar;
mod civil;
mod confirm;
mod counting;
mod diff;
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
pub use diff::{PointChange, PolicyDiff, diff_of_policies, weakenings};
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
