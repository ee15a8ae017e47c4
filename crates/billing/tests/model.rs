//! Rating against a slow model that walks hour by hour, and what must hold whatever the events are.

#![allow(clippy::unwrap_used)] // in helpers too

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use support::{DAY, GIB, HOUR, JANUARY, backup, book, book_with, events, rate, window};
use vmkeep_billing::{Amount, EventKind, Meter, PriceBook, Tier, Usage};
use vmkeep_model::Timestamp;

/// What the generator draws; `Life` makes something possible of it.
type Draw = (u8, u8, u16, u8);

#[derive(Clone, Copy)]
struct Batch {
    tier: Tier,
    bytes: u64,
    since: i64,
    deleted: Option<(i64, i64)>,
}

/// Turns draws into a possible life of an instance: times in whole hours.
fn life(start: i64, draws: &[Draw]) -> Vec<(i64, EventKind)> {
    let (mut now, mut protected) = (start, true);
    let mut batches: Vec<Batch> = Vec::new();
    let mut life = vec![(now, EventKind::Protected)];
    for &(what, hours, size, pick) in draws {
        now += i64::from(hours % 40) * HOUR;
        let tier = Tier::ALL[usize::from(pick) % 3];
        let picked = (!batches.is_empty()).then(|| usize::from(pick) % batches.len().max(1));
        let bytes = u64::from(size) * GIB / 64 + 1;
        match (what % 8, picked) {
            (0, _) if protected || !batches.is_empty() => life.push((now, backup(bytes))),
            (1 | 2, _) => {
                batches.push(Batch { tier, bytes, since: now, deleted: None });
                life.push((now, EventKind::Stored { tier, bytes }));
            }
            (3, Some(index)) => {
                let Batch { tier, bytes, since, deleted } = batches.remove(index);
                let since = Timestamp(since);
                life.push((
                    now,
                    match deleted {
                        None => EventKind::Removed { tier, bytes, since },
                        Some((at, purge)) => EventKind::Purged {
                            tier,
                            bytes,
                            since,
                            deleted_at: Timestamp(at),
                            purge_at: Timestamp(purge),
                        },
                    },
                ));
            }
            (4, Some(index)) if batches[index].deleted.is_none() => {
                let purge = now + i64::from(pick) * DAY / 4;
                let batch = &mut batches[index];
                batch.deleted = Some((now, purge));
                let purge_at = Timestamp(purge);
                life.push((now, EventKind::SoftDeleted { tier: batch.tier, bytes: batch.bytes, purge_at }));
            }
            (5, Some(index)) => {
                let batch = &mut batches[index];
                if let Some((at, purge)) = batch.deleted.take() {
                    let (deleted_at, purge_at) = (Timestamp(at), Timestamp(purge));
                    let Batch { tier, bytes, .. } = *batch;
                    life.push((now, EventKind::Undeleted { tier, bytes, deleted_at, purge_at }));
                }
            }
            (6, _) => {
                protected = !protected;
                life.push((now, if protected { EventKind::Protected } else { EventKind::Stopped }));
            }
            (7, Some(index)) if batches[index].deleted.is_none() => {
                let batch = &mut batches[index];
                let (from, bytes_there, since) = (batch.tier, bytes / 2, Timestamp(batch.since));
                life.push((now, EventKind::Moved { from, bytes: batch.bytes, since, to: tier, bytes_there }));
                *batch = Batch { tier, bytes: bytes_there, since: now, deleted: None };
            }
            _ => {}
        }
    }
    life
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec(any::<Draw>(), 1..60)
}

/// Quantity by meter and by the start of the price.
type Quantities = BTreeMap<(Meter, i64), u128>;

fn quantities<'a>(usages: impl IntoIterator<Item = &'a Usage>) -> Quantities {
    let mut sums = Quantities::new();
    for usage in usages {
        *sums.entry((usage.meter, usage.price_from.0)).or_default() += usage.quantity;
    }
    sums.retain(|_, quantity| *quantity > 0);
    sums
}

/// The bill as one would do it by hand: look at every hour, and add.
fn slow(life: &[(i64, EventKind)], from: i64, until: i64, price_change: i64, by_day: bool) -> Quantities {
    let (mut protected, mut first, mut size) = (false, false, 0_u64);
    let mut kept: BTreeMap<Tier, i128> = BTreeMap::new();
    let mut soft: BTreeMap<(Tier, i64, i64), i128> = BTreeMap::new();
    let mut sums = Quantities::new();
    let mut peaks: BTreeMap<Meter, u128> = BTreeMap::new();
    let mut next = 0;
    let mut hour = life[0].0.min(from);
    while hour < until {
        let price = |meter| if meter == Meter::Instance && hour >= price_change { price_change } else { 0 };
        let mut early = 0;
        while next < life.len() && life[next].0 <= hour {
            let mut left = |tier: Tier, bytes: u64, since: Timestamp| {
                let missing = (180 * DAY - (hour - since.0)).max(0);
                if tier == Tier::Archive {
                    early += u128::from(bytes) * u128::from(missing.unsigned_abs());
                }
            };
            match &life[next].1 {
                EventKind::Protected => protected = true,
                EventKind::Stopped => protected = false,
                EventKind::Backup { disks, .. } => {
                    let same_instant = next > 0
                        && life[..next]
                            .iter()
                            .any(|(at, kind)| *at == hour && matches!(kind, EventKind::Backup { .. }));
                    let bytes = disks[0].nonzero_bytes.expect("it was given");
                    size = if same_instant { size.max(bytes) } else { bytes };
                    first = true;
                }
                EventKind::Stored { tier, bytes } => *kept.entry(*tier).or_default() += i128::from(*bytes),
                EventKind::Removed { tier, bytes, since } => {
                    left(*tier, *bytes, *since);
                    *kept.entry(*tier).or_default() -= i128::from(*bytes);
                }
                EventKind::Moved { from, bytes, since, to, bytes_there } => {
                    left(*from, *bytes, *since);
                    *kept.entry(*from).or_default() -= i128::from(*bytes);
                    *kept.entry(*to).or_default() += i128::from(*bytes_there);
                }
                EventKind::SoftDeleted { tier, bytes, purge_at } => {
                    *kept.entry(*tier).or_default() -= i128::from(*bytes);
                    *soft.entry((*tier, hour, purge_at.0)).or_default() += i128::from(*bytes);
                }
                EventKind::Undeleted { tier, bytes, deleted_at, purge_at } => {
                    *kept.entry(*tier).or_default() += i128::from(*bytes);
                    *soft.entry((*tier, deleted_at.0, purge_at.0)).or_default() -= i128::from(*bytes);
                }
                EventKind::Purged { tier, bytes, since, deleted_at, purge_at } => {
                    left(*tier, *bytes, *since);
                    *soft.entry((*tier, deleted_at.0, purge_at.0)).or_default() -= i128::from(*bytes);
                }
                EventKind::Restored { .. } => {}
            }
            next += 1;
        }
        if first && early > 0 && hour >= from {
            *sums.entry((Meter::EarlyDeletion, 0)).or_default() += early;
        }
        soft.retain(|_, bytes| *bytes > 0);
        kept.retain(|_, bytes| *bytes > 0);
        if !protected && kept.is_empty() && soft.is_empty() {
            first = false;
        }
        let mut levels: BTreeMap<Meter, u128> = BTreeMap::new();
        for (tier, bytes) in &kept {
            *levels.entry(Meter::Storage(*tier)).or_default() += bytes.unsigned_abs();
        }
        for ((tier, deleted, purge), bytes) in &soft {
            let free = hour >= (purge - 14 * DAY).max(*deleted) && hour < *purge;
            if !free {
                *levels.entry(Meter::Storage(*tier)).or_default() += bytes.unsigned_abs();
            }
        }
        let gib = size.div_ceil(GIB);
        let units = if size <= 50 * GIB { 500_000 } else { 1_000_000 * u128::from(gib.div_ceil(500)) };
        if protected || !levels.is_empty() {
            levels.insert(Meter::Instance, units);
        }
        if hour.rem_euclid(DAY) == 0 {
            peaks.clear();
        }
        for (meter, level) in levels.into_iter().filter(|_| first) {
            let peak = peaks.entry(meter).or_default();
            let added = if by_day { level.saturating_sub(*peak) } else { level * 3_600_000 };
            *peak = level.max(*peak);
            if hour >= from && added > 0 {
                *sums.entry((meter, price(meter))).or_default() += added;
            }
        }
        hour += HOUR;
    }
    sums
}

/// The book, with a dearer instance from the 17th, 05:00, on.
const CHANGE: i64 = JANUARY + 16 * DAY + 5 * HOUR;

fn changing_book(integration: &str) -> PriceBook {
    let changed = "price = \"10\"\nuntil = \"2026-01-17T05:00:00Z\"\n[[price]]\nmeter = \"instance\"\n\
        from = \"2026-01-17T05:00:00Z\"\nprice = \"11\"";
    let exact = "integration = \"exact\"";
    book_with(&[("price = \"10\"", changed), (exact, &format!("integration = \"{integration}\""))], "")
}

/// Prices that began before are all called 0 in the model.
fn renamed(quantities: Quantities) -> Quantities {
    quantities
        .into_iter()
        .map(|((meter, from), q)| ((meter, if from == CHANGE { from } else { 0 }), q))
        .collect()
}

fn total(usages: &[Usage]) -> Amount {
    usages.iter().map(Usage::amount).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn rating_agrees_with_the_slow_model(draws in draws(), early in 0_i64..20, by_day in any::<bool>()) {
        let life = life(JANUARY - early * DAY, &draws);
        let end = JANUARY + 31 * DAY;
        let book = changing_book(if by_day { "day" } else { "exact" });
        let found = quantities(&rate(&book, &events(1, &life), window(JANUARY, end)));
        prop_assert_eq!(renamed(found), slow(&life, JANUARY, end, CHANGE, by_day));
    }

    #[test]
    fn a_month_cut_anywhere_adds_up(
        draws in draws(), early in 0_i64..20, mut cuts in prop::collection::vec(0_i64..31 * DAY, 0..6),
        integration in prop::sample::select(vec!["exact", "hour", "day"]),
    ) {
        let events = events(1, &life(JANUARY - early * DAY, &draws));
        let book = changing_book(integration);
        let whole = rate(&book, &events, window(JANUARY, JANUARY + 31 * DAY));
        cuts.extend([0, 31 * DAY]);
        cuts.sort_unstable();
        let parts = cuts.windows(2).map(|c| rate(&book, &events, window(JANUARY + c[0], JANUARY + c[1])));
        let parts: Vec<Usage> = parts.flatten().collect();
        prop_assert_eq!(quantities(&parts), quantities(&whole));
        prop_assert_eq!(total(&parts), total(&whole));
    }

    #[test]
    fn events_of_one_instant_may_come_in_any_order(draws in draws(), seed in any::<u64>()) {
        let mut life = life(JANUARY, &draws);
        let book = changing_book("hour");
        let until = window(JANUARY, JANUARY + 31 * DAY);
        let before = quantities(&rate(&book, &events(1, &life), until));
        let mut start = 0;
        while start < life.len() {
            let len = life[start..].iter().take_while(|(at, _)| *at == life[start].0).count();
            life[start..start + len].rotate_left(usize::try_from(seed % len as u64).unwrap());
            if seed % 2 == 0 { life[start..start + len].reverse(); }
            start += len;
        }
        prop_assert_eq!(quantities(&rate(&book, &events(1, &life), until)), before);
    }

    #[test]
    fn more_data_never_costs_less(sizes in prop::collection::vec((0_u64..2000 * GIB, 0_u64..2000 * GIB), 1..20)) {
        let cost = |pick: &dyn Fn(u64, u64) -> u64| {
            let mut life = vec![(JANUARY, EventKind::Protected)];
            for (day, &(a, b)) in (0_i64..).zip(&sizes) {
                life.push((JANUARY + day * DAY, backup(pick(a, b))));
                life.push((JANUARY + day * DAY, support::stored(pick(a, b))));
            }
            total(&rate(&book(), &events(1, &life), window(JANUARY, JANUARY + 31 * DAY)))
        };
        prop_assert!(cost(&|a, b| a.min(b)) <= cost(&|a, b| a.max(b)));
    }
}
