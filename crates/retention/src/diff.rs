//! What an edit of a policy would do, before it is done.

use vmkeep_model::{ByteLen, PointNumber, Timestamp};

use crate::calendar::Span;
use crate::immutability::Change;
use crate::plan::{Decision, Expiry, Plan, PlanError, PlanSettings, Reason, plan_with};
use crate::point::Point;
use crate::policy::keep::{Bucket, KeepMode, KeepRules};
use crate::policy::{CalendarRules, Policy, Retention};

/// A point on which two policies differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointChange {
    /// Which point.
    pub number: PointNumber,
    /// When it was made.
    pub time: Timestamp,
    /// What governs it under the old policy, in words.
    pub before: String,
    /// What governs it under the new policy, in words.
    pub after: String,
    /// When it goes under the old policy.
    pub expires_before: Expiry,
    /// When it goes under the new policy.
    pub expires_after: Expiry,
}

/// What changes when one policy takes the place of another, all in ascending order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDiff {
    /// Points that stay under the old policy and go under the new.
    pub lost: Vec<PointChange>,
    /// Points that go under the old policy and stay under the new.
    pub saved: Vec<PointChange>,
    /// Points that stay under both, and go sooner under the new.
    pub sooner: Vec<PointChange>,
    /// Points that stay under both, and go later under the new.
    pub later: Vec<PointChange>,
    /// Points of which nothing changes but perhaps the reason.
    pub unchanged: usize,
    /// Bytes that the lost points alone refer to; `None` without sizes.
    pub lost_bytes_at_least: Option<ByteLen>,
    /// Where the new policy may keep some point for less time than the old one, also points that are not there yet. Empty when
    /// it weakens nothing.
    pub weakenings: Vec<String>,
    /// The plan under the new policy.
    pub plan: Plan,
}

/// Plans `points` under both policies and tells the difference.
pub fn diff_of_policies(
    points: &[Point],
    old: &Policy,
    new: &Policy,
    now: Timestamp,
    settings: &PlanSettings,
) -> Result<PolicyDiff, PlanError> {
    // Points that the old policy made are not held against the schedule of the new one.
    let after_settings = PlanSettings { policy_version: Some(u32::MAX), ..settings.clone() };
    let before = plan_with(points, old, now, settings)?;
    let after = plan_with(points, new, now, &after_settings)?;
    let (mut lost, mut saved, mut sooner, mut later) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut unchanged = 0;
    let mut freed = Some(ByteLen(0));
    for (was, now_is) in before.verdicts().iter().zip(after.verdicts()) {
        let changes = match (was.decision, now_is.decision) {
            (Decision::Keep, Decision::Expire) => {
                freed = freed.and_then(|sum| Some(ByteLen(sum.0.saturating_add(now_is.unique?.0))));
                &mut lost
            }
            (Decision::Expire, Decision::Keep) => &mut saved,
            (Decision::Keep, Decision::Keep) if now_is.expires < was.expires => &mut sooner,
            (Decision::Keep, Decision::Keep) if now_is.expires > was.expires => &mut later,
            _ => {
                unchanged += 1;
                continue;
            }
        };
        let words = |plan: &Plan, reason: Option<&Reason>| {
            reason.map_or_else(String::new, |r| r.words(&plan.policy, now))
        };
        changes.push(PointChange {
            number: was.number,
            time: was.time,
            before: words(&before, before.governing(was)),
            after: words(&after, after.governing(now_is)),
            expires_before: was.expires,
            expires_after: now_is.expires,
        });
    }
    let weakenings = weakenings(old, new);
    Ok(PolicyDiff {
        lost,
        saved,
        sooner,
        later,
        unchanged,
        lost_bytes_at_least: freed,
        weakenings,
        plan: after,
    })
}

/// Where `new` may keep some point for less time than `old`, whatever the points are; empty when it cannot.
///
/// This is what immutability refuses ([`Change::ReduceRetention`](crate::Change::ReduceRetention)). A change of schedule alone
/// weakens nothing. What cannot be compared, such as rules of the calendar with `keep` rules, counts as weaker.
pub fn weakenings(old: &Policy, new: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    if old.zone != new.zone {
        found.push(format!(
            "the time zone changes from {} to {}: days begin at other times",
            old.zone, new.zone
        ));
    }
    match (&old.retention, &new.retention) {
        (Retention::Calendar(old), Retention::Calendar(new)) => calendar(old, new, &mut found),
        (Retention::Keep(old), Retention::Keep(new)) => keep(old, new, &mut found),
        _ => found.push("rules of the calendar and keep rules cannot be compared".to_owned()),
    }
    found
}

/// What kind of change putting `new` in the place of `old` is: what immutability allows ([`Immutability::allows`]) and a second
/// person approves ([`Change::needs_approval`]) goes by it. `suspended` says whether protection of a VM under the policy is
/// stopped.
///
/// [`Immutability::allows`]: crate::Immutability::allows
///
/// ```
/// # use vmkeep_retention::{Change, Immutability, Limits, Policy, PolicySpec, kind_of_edit};
/// # let policy = |days: u32| {
/// #     let text = format!("schedule.daily = {{ at = \"02:00\" }}\nretention = {{ daily = \"{days} days\" }}");
/// #     Policy::new(PolicySpec::from_toml(&text).unwrap(), &Limits::default()).unwrap()
/// # };
/// let (thirty, thirty_five, forty) = (policy(30), policy(35), policy(40));
/// let locked = Immutability::Locked;
/// assert!(locked.allows(kind_of_edit(&thirty_five, &forty, false)).is_ok());
/// assert!(locked.allows(kind_of_edit(&thirty_five, &thirty, false)).is_err());
/// assert!(kind_of_edit(&thirty_five, &thirty, false).needs_approval());
/// ```
pub fn kind_of_edit(old: &Policy, new: &Policy, suspended: bool) -> Change {
    if !weakenings(old, new).is_empty() {
        Change::ReduceRetention
    } else if old.retention != new.retention {
        Change::IncreaseRetention { suspended }
    } else {
        Change::ChangeSchedule
    }
}

fn span(rule: &str, old: Option<Span>, new: Option<Span>, found: &mut Vec<String>) {
    match (old, new) {
        (Some(old), None) => found.push(format!("the {rule} rule, which keeps {old}, is gone")),
        (Some(old), Some(new)) if !new.is_at_least(old) => {
            found.push(format!("the {rule} rule keeps {new} in place of {old}"));
        }
        _ => {}
    }
}

fn calendar(old: &CalendarRules, new: &CalendarRules, found: &mut Vec<String>) {
    span("every", old.every, new.every, found);
    span("daily", old.daily, new.daily, found);
    span("weekly", old.weekly.map(|r| r.keep), new.weekly.map(|r| r.keep), found);
    span("monthly", old.monthly.map(|r| r.keep), new.monthly.map(|r| r.keep), found);
    span("yearly", old.yearly.map(|r| r.keep), new.yearly.map(|r| r.keep), found);
    if let (Some(old), Some(new)) = (old.weekly, new.weekly)
        && !old.days.is_subset(new.days)
    {
        found.push(format!("the weekly rule tags {} in place of {}", new.days, old.days));
    }
    if let (Some(old), Some(new)) = (old.monthly, new.monthly)
        && !old.on.is_subset(&new.on)
    {
        found.push(format!("the monthly rule tags {} in place of {}", new.on, old.on));
    }
    if let (Some(old), Some(new)) = (old.yearly, new.yearly)
        && !(old.on.is_subset(&new.on) && old.months.is_subset(new.months))
    {
        found.push(format!(
            "the yearly rule tags {} of {} in place of {} of {}",
            new.on, new.months, old.on, old.months
        ));
    }
    if old.late && !new.late {
        found.push("tags of failed days are no longer carried by the next point".to_owned());
    }
}

fn keep(old: &KeepRules, new: &KeepRules, found: &mut Vec<String>) {
    if old.mode != new.mode {
        found.push(format!("the rules are {}'s in place of {}'s", new.mode, old.mode));
        return;
    }
    if old.mode != KeepMode::Restic {
        // There one rule takes points from another, so that more of one can mean less of all.
        if old != new {
            found.push(format!("rules of {} cannot be compared: more of one can keep less in all", old.mode));
        }
        return;
    }
    for bucket in Bucket::ALL {
        if new.count(bucket).limit() < old.count(bucket).limit() {
            found.push(format!("the {} rule keeps fewer", bucket.name()));
        }
        let shorter = match (old.within(bucket), new.within(bucket)) {
            (Some(old), Some(new)) => !new.is_at_least(old),
            (old, None) => old.is_some(),
            (None, Some(_)) => false,
        };
        if shorter {
            found.push(format!("the {} rule reaches less far back", bucket.within_name()));
        }
    }
    if !old.tags.iter().all(|list| new.tags.contains(list)) {
        found.push("a list of tags is gone".to_owned());
    }
}
