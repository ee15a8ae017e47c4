//! Tiers: where copies of a point lie, and when they move. Plans only; nothing is moved here.
//!
//! A point can be in several tiers at once. A copy in the archive is whole: it shares nothing with other points, so that no other
//! point depends on it or it on another.

use std::fmt;

use vmkeep_model::{ByteLen, PointNumber, Timestamp};

use crate::calendar::Span;
use crate::civil::{DAY_MS, Day};
use crate::plan::{Decision, Expiry, Plan, Reason, RuleName};
use crate::point::{Point, PointKind};
use crate::policy::{Archiving, Limits, Vaulting};
use crate::zone::{LocalTime, Zone};

/// Where a copy of a point lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Beside the VM's disks: restored from at once.
    Snapshot,
    /// In the vault.
    Vault,
    /// In the archive: to be brought back before it can be restored.
    Archive,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "snapshot",
            Self::Vault => "vault",
            Self::Archive => "archive",
        })
    }
}

/// Snapshots that are no longer needed, oldest first: those `days` old or more in the zone's days, but never the newest one of a
/// complete point, which stays until the next backup succeeded. So up to one more than the days' worth exists.
///
/// `points` are those that have a snapshot. While protection is stopped or soft-deleted snapshots stay, as points do: ask this only
/// where [`StateKind::points_expire`](crate::StateKind::points_expire).
pub fn expired_snapshots(points: &[Point], days: u32, zone: &Zone, now: Timestamp) -> Vec<PointNumber> {
    let newest = points.iter().filter(|p| p.complete).max_by_key(|p| (p.time, p.number)).map(|p| p.number);
    let mut time = LocalTime::new(zone);
    let mut expired: Vec<(Timestamp, PointNumber)> = Vec::new();
    for point in points.iter().filter(|p| !p.held && Some(p.number) != newest) {
        let local = time.local(point.time);
        if time.instant(Span::days(days).after(local)) <= now {
            expired.push((point.time, point.number));
        }
    }
    expired.sort_unstable();
    expired.into_iter().map(|(_, number)| number).collect()
}

/// Which points go to the vault, in ascending order of time. `points` in any order; of those that failed, `complete` is `false`.
///
/// Under [`Vaulting::LastOfDay`] it is the last scheduled run of each local day that is over, and when that run failed the first
/// complete one of a later day. Points on demand always go.
pub fn vault_bound(points: &[Point], vaulting: Vaulting, zone: &Zone, now: Timestamp) -> Vec<PointNumber> {
    let mut order: Vec<&Point> = points.iter().collect();
    order.sort_unstable_by_key(|p| (p.time, p.number));
    if vaulting == Vaulting::EveryPoint {
        return order.into_iter().filter(|p| p.complete).map(|p| p.number).collect();
    }
    let mut time = LocalTime::new(zone);
    let today = Day::of_local(time.local(now));
    let days: Vec<Day> = order.iter().map(|p| Day::of_local(time.local(p.time))).collect();
    let scheduled = |index: &usize| order[*index].kind != PointKind::OnDemand;
    let mut bound = Vec::new();
    let (mut owed, mut indices) = (false, (0..order.len()).filter(scheduled).peekable());
    while let Some(index) = indices.next() {
        let last_of_day = indices.peek().is_none_or(|next| days[*next] != days[index]) && days[index] < today;
        let complete = order[index].complete;
        if complete && (owed || last_of_day) {
            bound.push(index);
        }
        owed = if last_of_day { !complete } else { owed && !complete };
    }
    bound.extend((0..order.len()).filter(|index| !scheduled(index) && order[*index].complete));
    bound.sort_unstable();
    bound.into_iter().map(|index| order[index].number).collect()
}

/// Why a point does not move to the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEligible {
    /// The plan lets it go.
    Expires,
    /// No monthly or yearly rule tags it.
    NotLongTerm,
    /// It is too young.
    TooYoung {
        /// It may move from then on.
        from: Timestamp,
    },
    /// It does not live long enough any more.
    TooShort {
        /// When it goes.
        expires: Timestamp,
        /// It would have to live until then.
        needed: Timestamp,
    },
}

impl fmt::Display for NotEligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expires => f.write_str("it expires"),
            Self::NotLongTerm => f.write_str("no monthly or yearly rule keeps it"),
            Self::TooYoung { from } => write!(f, "it is too young; it may move from {from} on"),
            Self::TooShort { expires, needed } => {
                write!(f, "it goes at {expires} and would have to live until {needed}")
            }
        }
    }
}

/// Whether the point of a verdict may move to the archive at the plan's instant, under these limits: tagged monthly or yearly, old
/// enough, and with enough of its life left. Its end, or why not.
pub fn archive_eligibility(plan: &Plan, at: usize, limits: &Limits) -> Result<Expiry, NotEligible> {
    let Some(verdict) = plan.verdicts().get(at).filter(|v| v.decision == Decision::Keep) else {
        return Err(NotEligible::Expires);
    };
    let long = |reason: &Reason| {
        let rule = matches!(reason, Reason::Tag { rule: RuleName::Monthly | RuleName::Yearly, .. });
        rule && reason.keeps(plan.now())
    };
    if !plan.reasons(verdict).iter().any(long) {
        return Err(NotEligible::NotLongTerm);
    }
    let mut time = LocalTime::new(&plan.policy().zone);
    let least = match plan.policy().archive {
        Archiving::After(span) => span,
        _ => Span::months(limits.archive_after_months),
    };
    let local = time.local(verdict.time);
    let from = time.instant(least.after(local));
    if plan.now() < from {
        return Err(NotEligible::TooYoung { from });
    }
    let now = time.local(plan.now());
    let needed = time.instant(Span::months(limits.archive_remaining_months).after(now));
    match verdict.expires {
        Expiry::At(expires) if expires < needed => Err(NotEligible::TooShort { expires, needed }),
        expires => Ok(expires),
    }
}

/// What a GiB costs for thirty days, in any unit that is small enough for whole numbers, such as millionths of a cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierPrices {
    /// In the vault.
    pub vault: u64,
    /// In the archive.
    pub archive: u64,
    /// To bring the whole point back once, per GiB; counted against moving as often as `restores_per_thousand` says.
    pub rehydration: u64,
    /// How many of a thousand archived points are ever brought back.
    pub restores_per_thousand: u64,
}

/// Bytes of a point, for the cost of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointBytes {
    /// What the vault frees when the point goes to the archive.
    pub unique: ByteLen,
    /// What the archive holds: all of the point.
    pub whole: ByteLen,
}

/// One point and what moving it would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveMove {
    /// Which.
    pub number: PointNumber,
    /// What it costs in the vault until it goes, in the prices' unit times GiB.
    pub stay: u128,
    /// What it costs in the archive until then.
    pub go: u128,
    /// Why it moves.
    pub by_rule: bool,
}

/// Years for which a point that never expires is reckoned.
const FOREVER_DAYS: i64 = 3653;
const GIB: u128 = 1 << 30;
const MONTH_DAYS: u128 = 30;

/// The points to move to the archive now, in ascending order of time: under [`Archiving::After`] all that are eligible, under
/// [`Archiving::Recommended`] those that cost less there, under [`Archiving::Never`] none. Points without known bytes move by
/// rule only. `archived` says which are there already.
///
/// The cost of staying counts only what the point alone holds in the vault: what it shares stays there for others.
pub fn archive_moves(
    plan: &Plan,
    limits: &Limits,
    prices: &TierPrices,
    archived: impl Fn(PointNumber) -> bool,
    bytes: impl Fn(PointNumber) -> Option<PointBytes>,
) -> Vec<ArchiveMove> {
    let mode = plan.policy().archive;
    if mode == Archiving::Never {
        return Vec::new();
    }
    let mut moves = Vec::new();
    for (index, verdict) in plan.verdicts().iter().enumerate() {
        if archived(verdict.number) {
            continue;
        }
        let Ok(expires) = archive_eligibility(plan, index, limits) else { continue };
        let days = match expires {
            Expiry::At(at) => (at.0 - plan.now().0).div_euclid(DAY_MS),
            Expiry::WhenReplaced | Expiry::Never => FOREVER_DAYS,
        };
        let (stay, go) = bytes(verdict.number).map_or((0, 0), |bytes| costs(bytes, days, limits, prices));
        let by_rule = mode != Archiving::Recommended;
        if by_rule || go < stay {
            moves.push(ArchiveMove { number: verdict.number, stay, go, by_rule });
        }
    }
    moves
}

fn costs(bytes: PointBytes, days: i64, limits: &Limits, prices: &TierPrices) -> (u128, u128) {
    let days = u128::try_from(days).unwrap_or(0);
    let paid = days.max(u128::from(limits.archive_paid_days));
    let storage = |bytes: ByteLen, price: u64, days: u128| {
        u128::from(bytes.0) * u128::from(price) * days / MONTH_DAYS / GIB
    };
    let back = u128::from(bytes.whole.0) * u128::from(prices.rehydration) / GIB
        * u128::from(prices.restores_per_thousand)
        / 1000;
    (storage(bytes.unique, prices.vault, days), storage(bytes.whole, prices.archive, paid) + back)
}

/// What is charged when a point leaves the archive before the days that it is paid for at least: the price of the days that are
/// missing, whole days begun counted as spent.
pub fn early_deletion_charge(
    moved: Timestamp,
    removed: Timestamp,
    whole: ByteLen,
    limits: &Limits,
    prices: &TierPrices,
) -> u128 {
    let spent = (removed.0.saturating_sub(moved.0)).max(0).div_euclid(DAY_MS);
    let missing = i64::from(limits.archive_paid_days).saturating_sub(spent).max(0);
    u128::from(whole.0) * u128::from(prices.archive) * u128::try_from(missing).unwrap_or(0) / MONTH_DAYS / GIB
}

/// How soon an archived point is brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RehydrationPriority {
    /// Within fifteen hours.
    Standard,
    /// Within an hour, for more money.
    High,
}

/// A copy of an archived point in the vault, there for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rehydration {
    /// How soon.
    pub priority: RehydrationPriority,
    /// The copy goes then; the archived one stays.
    pub until: Timestamp,
}

/// Days for which a copy brought back may be kept.
pub const REHYDRATED_DAYS: std::ops::RangeInclusive<u32> = 10..=30;

impl Rehydration {
    /// For so many days from `now` on; `None` when they are out of [`REHYDRATED_DAYS`].
    pub fn new(priority: RehydrationPriority, now: Timestamp, days: u32) -> Option<Self> {
        let until = Timestamp(now.0.saturating_add(i64::from(days) * DAY_MS));
        REHYDRATED_DAYS.contains(&days).then_some(Self { priority, until })
    }

    /// The tiers of an archived point at `now`.
    pub fn tiers(&self, now: Timestamp) -> &'static [Tier] {
        if now < self.until { &[Tier::Vault, Tier::Archive] } else { &[Tier::Archive] }
    }
}
