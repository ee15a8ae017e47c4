//! The plan: which points stay and which go, and why.

mod reason;

use std::ops::Range;

use thiserror::Error;
use vmkeep_model::{ByteLen, PointNumber, Timestamp};

pub use self::reason::{Expiry, Reason, RuleName};

use crate::anomaly::{self, Anomaly};
use crate::calendar::Span;
use crate::civil::Day;
use crate::counting::{self, Candidate};
use crate::lifecycle::StateKind;
use crate::point::{Point, PointKind};
use crate::policy::keep::KeepMode;
use crate::policy::{Policy, Retention};
use crate::tagging::Tagger;
use crate::zone::LocalTime;

/// The last instant that a plan knows, the end of the year 8999: points from later are an error.
pub const TIME_MAX: Timestamp = Timestamp(221_845_392_000_000 - 1);

/// What a plan goes by besides points, policy and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSettings {
    /// The state of the VM's protection: under some nothing expires.
    pub state: StateKind,
    /// When the VM was first protected: a tagged day before that was not missed. `None` takes every tagged day as missed that has
    /// no point, which keeps more.
    pub since: Option<Timestamp>,
    /// What every point is kept for at least, whatever its rules say.
    pub minimum: Option<Span>,
    /// The version of the policy: points made under it are held against its schedule, others against
    /// `backups_per_day_max`. `None` holds all against the schedule.
    pub policy_version: Option<u32>,
    /// The most scheduled points that any policy makes in a day.
    pub backups_per_day_max: u32,
    /// Days without a point after which the clock is doubted.
    pub leap_days: u32,
    /// Points up to this number were looked at by somebody: their times are no anomaly.
    pub trusted_up_to: Option<PointNumber>,
    /// Removes the newest point too when its time has come. Only ever by an explicit choice.
    pub to_zero: bool,
}

impl Default for PlanSettings {
    fn default() -> Self {
        Self {
            state: StateKind::Protected,
            since: None,
            minimum: None,
            policy_version: None,
            backups_per_day_max: 24,
            leap_days: 400,
            trusted_up_to: None,
            to_zero: false,
        }
    }
}

/// What becomes of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It stays.
    Keep,
    /// It goes.
    Expire,
}

/// What a plan says of one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which point.
    pub number: PointNumber,
    /// When it was made.
    pub time: Timestamp,
    /// Whether it stays.
    pub decision: Decision,
    /// When it goes if points and policy stay as they are; of a point that goes, when its time came.
    pub expires: Expiry,
    /// Bytes freed when it alone goes, if the caller said so.
    pub unique: Option<ByteLen>,
    reasons: (u32, u8),
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Two points with one number.
    #[error("two points have the number {0}; give each point of one VM once")]
    Duplicate(PointNumber),
    /// A time that no calendar reaches.
    #[error("point {number} is from {time}; points from 1970 to 8999 can be planned")]
    Time {
        /// Which point.
        number: PointNumber,
        /// Its time.
        time: Timestamp,
    },
    /// Now is a time that no calendar reaches.
    #[error("now is {0}; plans are made from 1970 to 8999")]
    Now(Timestamp),
    /// More than 2^32 points.
    #[error("{0} points are more than a plan holds")]
    TooMany(usize),
}

/// Which points of a VM stay and which go, each with every reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) policy: Policy,
    now: Timestamp,
    settings: PlanSettings,
    verdicts: Vec<Verdict>,
    reasons: Vec<Reason>,
    anomalies: Vec<Anomaly>,
}

/// A run of points that go together, between points that stay: what a vault needs to say how many bytes that frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredRun {
    /// The point before it that stays.
    pub after: Option<PointNumber>,
    /// The first that goes.
    pub first: PointNumber,
    /// The last that goes.
    pub last: PointNumber,
    /// How many go.
    pub points: usize,
    /// The point after it that stays.
    pub before: Option<PointNumber>,
}

/// Plans the points of one VM at `now`. They may come in any order; ascending is quickest.
///
/// - A scheduled or imported point stays as long as any rule of the policy keeps it ([`CalendarRules`](crate::CalendarRules),
///   [`KeepRules`](crate::keep::KeepRules)).
/// - A point made on demand stays until its own expiry, a held or immutable one as long as it is that.
/// - The newest point stays: the one with the latest time and the one with the highest number, should they differ.
/// - A point whose backup failed goes, since it restores nothing.
/// - While there are anomalies in the points' times, all stay.
///
/// Nothing is done: [`Plan::confirm_against`] checks the plan again when it is to be applied.
pub fn plan(points: &[Point], policy: &Policy, now: Timestamp) -> Result<Plan, PlanError> {
    plan_with(points, policy, now, &PlanSettings::default())
}

/// [`plan`], with what else is known.
pub fn plan_with(
    points: &[Point],
    policy: &Policy,
    now: Timestamp,
    settings: &PlanSettings,
) -> Result<Plan, PlanError> {
    let possible = |time: Timestamp| (0..=TIME_MAX.0).contains(&time.0);
    if !possible(now) {
        return Err(PlanError::Now(now));
    }
    if u32::try_from(points.len()).is_err() {
        return Err(PlanError::TooMany(points.len()));
    }
    if let Some(point) = points.iter().find(|point| !possible(point.time)) {
        return Err(PlanError::Time { number: point.number, time: point.time });
    }
    let order = in_order(points)?;
    let mut planner = Planner::new(points, policy, now, settings, order);
    planner.rule();
    Ok(planner.finish())
}

/// The points in ascending order of time, then number.
fn in_order(points: &[Point]) -> Result<Vec<&Point>, PlanError> {
    let mut order: Vec<&Point> = points.iter().collect();
    let key = |point: &&Point| (point.time, point.number);
    if !order.is_sorted_by_key(key) {
        order.sort_unstable_by_key(key);
    }
    if !order.is_sorted_by(|a, b| a.number < b.number) {
        let mut numbers: Vec<PointNumber> = points.iter().map(|point| point.number).collect();
        numbers.sort_unstable();
        if let Some(pair) = numbers.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PlanError::Duplicate(pair[0]));
        }
    }
    Ok(order)
}

struct Planner<'a> {
    policy: &'a Policy,
    now: Timestamp,
    settings: &'a PlanSettings,
    all: &'a [Point],
    order: Vec<&'a Point>,
    /// Local times, in the order of `order`.
    local: Vec<i64>,
    /// The last of their numbers, and of the latest time.
    newest: (Option<PointNumber>, Option<PointNumber>),
    verdicts: Vec<Verdict>,
    reasons: Vec<Reason>,
    minimum_ends: LocalTime<'a>,
}

impl<'a> Planner<'a> {
    fn new(
        all: &'a [Point],
        policy: &'a Policy,
        now: Timestamp,
        settings: &'a PlanSettings,
        order: Vec<&'a Point>,
    ) -> Self {
        let mut time = LocalTime::new(&policy.zone);
        let local = order.iter().map(|point| time.local(point.time)).collect();
        let complete = || order.iter().filter(|point| point.complete);
        let newest = (complete().map(|p| p.number).max(), complete().next_back().map(|p| p.number));
        let (verdicts, reasons) = (Vec::with_capacity(order.len()), Vec::with_capacity(order.len()));
        let minimum_ends = LocalTime::new(&policy.zone);
        Self { policy, now, settings, all, order, local, newest, verdicts, reasons, minimum_ends }
    }

    fn rule(&mut self) {
        match &self.policy.retention {
            Retention::Calendar(rules) => {
                let stands = self.who_stands_for_a_day();
                let since = self.settings.since.map(|since| self.policy.zone.day_of(since));
                let mut tagger = Tagger::new(rules, &self.policy.zone, since);
                for (index, stands) in stands.into_iter().enumerate() {
                    let from = self.reasons.len();
                    if self.order[index].is_ruled() {
                        tagger.tag(self.local[index], stands, &mut self.reasons);
                    }
                    self.judge(index, from);
                }
            }
            Retention::Keep(rules) => {
                let takes_part =
                    |point: &Point| point.is_ruled() && !(rules.mode == KeepMode::Proxmox && point.held);
                let newest_first = (0..self.order.len()).rev().filter(|index| takes_part(self.order[*index]));
                let places: Vec<usize> = newest_first.collect();
                let candidates: Vec<Candidate> =
                    places.iter().map(|&index| Candidate { index, local_ms: self.local[index] }).collect();
                let now_local = LocalTime::new(&self.policy.zone).local(self.now);
                let tags = |candidate: usize| self.order[candidate].tags.as_slice();
                let mut kept = counting::kept(rules, &candidates, tags, now_local);
                // Back into ascending order of time.
                kept.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
                let mut kept = kept.into_iter().peekable();
                for index in 0..self.order.len() {
                    let from = self.reasons.len();
                    while let Some((_, reason)) = kept.next_if(|(place, _)| places[*place] == index) {
                        self.reasons.push(reason);
                    }
                    self.judge(index, from);
                }
            }
        }
    }

    /// Of each point, whether it is the last ruled one of its local day.
    fn who_stands_for_a_day(&self) -> Vec<bool> {
        let mut later = None;
        let mut stands: Vec<bool> = (0..self.order.len())
            .rev()
            .map(|index| {
                let day = Day::of_local(self.local[index]);
                let ruled = self.order[index].is_ruled();
                ruled && later.replace(day) != Some(day)
            })
            .collect();
        stands.reverse();
        stands
    }

    /// The verdict on a point whose rules' reasons stand from `from` on.
    fn judge(&mut self, index: usize, from: usize) {
        let point = self.order[index];
        self.own_reasons(point, self.local[index]);
        let keeps = |reason: &Reason| reason.keeps(self.now);
        if self.reasons.len() == from {
            self.reasons.push(Reason::NoRule);
        }
        let is_newest = Some(point.number) == self.newest.0 || Some(point.number) == self.newest.1;
        if is_newest && !self.settings.to_zero && !self.reasons[from..].iter().any(keeps) {
            self.reasons.push(Reason::Newest);
        }
        if !self.settings.state.points_expire() && !self.reasons[from..].iter().any(keeps) {
            self.reasons.push(Reason::Stopped { state: self.settings.state });
        }
        // What lasts longest governs and comes first; a stable sort keeps the order of rules otherwise.
        let own = &mut self.reasons[from..];
        own.sort_by_key(|reason| std::cmp::Reverse((reason.keeps(self.now), reason.ends(), reason.rank())));
        let kept = own[0].keeps(self.now);
        let expires = if kept || own[0].ends() != Expiry::At(Timestamp(i64::MIN)) {
            own[0].ends()
        } else {
            Expiry::At(point.time)
        };
        self.verdicts.push(Verdict {
            number: point.number,
            time: point.time,
            decision: if kept { Decision::Keep } else { Decision::Expire },
            expires,
            unique: point.unique,
            reasons: (to_u32(from), u8::try_from(self.reasons.len() - from).unwrap_or(u8::MAX)),
        });
    }

    fn own_reasons(&mut self, point: &Point, local_ms: i64) {
        let reasons = &mut self.reasons;
        match (point.kind, point.expires) {
            (PointKind::OnDemand, until) => reasons.push(Reason::Own { until }),
            (_, Some(until)) => reasons.push(Reason::Own { until: Some(until) }),
            _ => {}
        }
        if point.held {
            reasons.push(Reason::Held);
        }
        if let Some(until) = point.immutable_until {
            reasons.push(Reason::Immutable { until });
        }
        if let Some(minimum) = self.settings.minimum {
            reasons.push(Reason::Minimum { until: self.minimum_ends.instant(minimum.after(local_ms)) });
        }
        if !point.complete && point.kind != PointKind::OnDemand {
            reasons.push(Reason::Incomplete);
        }
    }

    fn finish(mut self) -> Plan {
        let day = |index: usize| Day::of_local(self.local[index]);
        let anomalies = anomaly::find(&self.order, day, self.policy, self.now, self.settings);
        if !anomalies.is_empty() {
            for verdict in self.verdicts.iter_mut().filter(|v| v.decision == Decision::Expire) {
                verdict.decision = Decision::Keep;
            }
        }
        debug_assert_eq!(self.all.len(), self.verdicts.len());
        Plan {
            policy: self.policy.clone(),
            now: self.now,
            settings: self.settings.clone(),
            verdicts: self.verdicts,
            reasons: self.reasons,
            anomalies,
        }
    }
}

fn to_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Plan {
    /// One verdict per point, in ascending order of time.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// The instant it was made for.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The policy it was made under.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What else it went by.
    pub fn settings(&self) -> &PlanSettings {
        &self.settings
    }

    /// Why nothing is removed although times have come; empty when all is well.
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }

    /// Every reason of a verdict of this plan, the one that governs first.
    pub fn reasons(&self, verdict: &Verdict) -> &[Reason] {
        let from = usize::try_from(verdict.reasons.0).unwrap_or(usize::MAX);
        let range: Range<usize> = from..from.saturating_add(usize::from(verdict.reasons.1));
        self.reasons.get(range).unwrap_or_default()
    }

    /// The reason that decides: of those that keep the point, the one that lasts longest.
    pub fn governing(&self, verdict: &Verdict) -> Option<&Reason> {
        self.reasons(verdict).first()
    }

    /// Every reason in words, the one that governs first; before all, that anomalies keep the point, if they alone do.
    pub fn explain(&self, verdict: &Verdict) -> Vec<String> {
        let reasons = self.reasons(verdict);
        let blocked = verdict.decision == Decision::Keep && !reasons.iter().any(|r| r.keeps(self.now));
        let anomaly = || "kept, for the points' times do not fit; see the warnings".to_owned();
        let own = reasons.iter().map(|reason| reason.words(&self.policy, self.now));
        blocked.then(anomaly).into_iter().chain(own).collect()
    }

    /// The points that go, in ascending order of time.
    pub fn expired(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| verdict.decision == Decision::Expire)
    }

    /// What is freed at the least when all of [`Plan::expired`] go: the bytes that only one of them refers to. What several of
    /// them share comes on top, which [`Plan::runs`] lets a vault find out. `None` when the caller gave no sizes.
    pub fn freed_at_least(&self) -> Option<ByteLen> {
        self.expired().try_fold(ByteLen(0), |sum, v| Some(ByteLen(sum.0.saturating_add(v.unique?.0))))
    }

    /// The points that go as runs between points that stay, by number.
    pub fn runs(&self) -> Vec<ExpiredRun> {
        let mut all: Vec<(PointNumber, Decision)> =
            self.verdicts.iter().map(|v| (v.number, v.decision)).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        let mut runs: Vec<ExpiredRun> = Vec::new();
        let (mut kept, mut open) = (None, false);
        for (number, decision) in all {
            match (decision, runs.last_mut()) {
                (Decision::Keep, last) => {
                    if let (true, Some(run)) = (open, last) {
                        run.before = Some(number);
                    }
                    (kept, open) = (Some(number), false);
                }
                (Decision::Expire, Some(run)) if open => (run.last, run.points) = (number, run.points + 1),
                (Decision::Expire, _) => {
                    runs.push(ExpiredRun {
                        after: kept,
                        first: number,
                        last: number,
                        points: 1,
                        before: None,
                    });
                    open = true;
                }
            }
        }
        runs
    }

    /// Bytes of memory it takes, without the policy.
    pub fn memory(&self) -> usize {
        self.verdicts.capacity() * size_of::<Verdict>() + self.reasons.capacity() * size_of::<Reason>()
    }
}
