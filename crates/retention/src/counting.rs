//! `keep` rules applied to points.

use std::collections::HashSet;

use crate::plan::Reason;
use crate::policy::keep::{Bucket, KeepMode, KeepRules};

/// A point that takes part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Where it is among the points of the plan.
    pub(crate) index: usize,
    pub(crate) local_ms: i64,
}

/// Which rules keep which of `candidates`, which come newest first: a reason for every rule that keeps one, with the
/// candidate's place in the list, in no order.
///
/// `tags` are the tags of the point with this index.
pub(crate) fn kept<'t>(
    rules: &KeepRules,
    candidates: &[Candidate],
    tags: impl Fn(usize) -> &'t [String],
    now_local_ms: i64,
) -> Vec<(usize, Reason)> {
    let mut out = Vec::new();
    match rules.mode {
        KeepMode::Restic => {
            tagged(rules, candidates, tags, &mut out);
            restic(rules, candidates, now_local_ms, &mut out);
        }
        KeepMode::Borg => borg(rules, candidates, now_local_ms, &mut out),
        KeepMode::Proxmox => proxmox(rules, candidates, &mut out),
    }
    out
}

fn tagged<'t>(
    rules: &KeepRules,
    candidates: &[Candidate],
    tags: impl Fn(usize) -> &'t [String],
    out: &mut Vec<(usize, Reason)>,
) {
    for (place, candidate) in candidates.iter().enumerate() {
        let tags = tags(candidate.index);
        let matches = |list: &Vec<String>| !list.is_empty() && list.iter().all(|tag| tags.contains(tag));
        if let Some(list) = rules.tags.iter().position(matches) {
            out.push((place, Reason::TagList { list: u32::try_from(list).unwrap_or(u32::MAX) }));
        }
    }
}

/// The period of a candidate; of [`Bucket::Last`], one per candidate.
fn period(bucket: Bucket, place: usize, candidate: &Candidate) -> i64 {
    match bucket {
        Bucket::Last => i64::try_from(place).unwrap_or(i64::MAX),
        other => other.period(candidate.local_ms),
    }
}

fn restic(rules: &KeepRules, candidates: &[Candidate], now: i64, out: &mut Vec<(usize, Reason)>) {
    // Without a point up to now there is nothing to count back from, and everything is within.
    let latest = candidates.iter().map(|c| c.local_ms).find(|local| *local <= now);
    for bucket in Bucket::ALL {
        let (limit, mut nth, mut last) = (rules.count(bucket).limit(), 0, None);
        for (place, candidate) in candidates.iter().enumerate() {
            if nth >= limit {
                break;
            }
            let own = Some(period(bucket, place, candidate));
            let oldest = place + 1 == candidates.len();
            if own != last || oldest {
                nth += 1;
                let reason =
                    if own == last { Reason::Oldest { bucket } } else { Reason::Counted { bucket, nth } };
                out.push((place, reason));
                last = own;
            }
        }
        let Some(within) = rules.within(bucket) else { continue };
        let from = latest.map_or(i64::MIN, |latest| within.before(latest));
        let mut last = None;
        for (place, candidate) in candidates.iter().enumerate().take_while(|(_, c)| c.local_ms > from) {
            let own = Some(period(bucket, place, candidate));
            if own != last || (place + 1 == candidates.len() && bucket != Bucket::Last) {
                out.push((place, Reason::Within { bucket }));
                last = own;
            }
        }
    }
}

fn borg(rules: &KeepRules, candidates: &[Candidate], now: i64, out: &mut Vec<(usize, Reason)>) {
    let mut kept = vec![false; candidates.len()];
    if let Some(within) = rules.within(Bucket::Last) {
        let from = within.before(now);
        for (place, _) in candidates.iter().enumerate().take_while(|(_, c)| c.local_ms > from) {
            kept[place] = true;
            out.push((place, Reason::Within { bucket: Bucket::Last }));
        }
    }
    for bucket in Bucket::ALL {
        let (limit, mut nth, mut last) = (rules.count(bucket).limit(), 0, None);
        for (place, candidate) in candidates.iter().enumerate() {
            if nth >= limit {
                break;
            }
            let own = Some(bucket.period(candidate.local_ms));
            if own != last {
                last = own;
                if !kept[place] {
                    nth += 1;
                    kept[place] = true;
                    out.push((place, Reason::Counted { bucket, nth }));
                }
            }
        }
        if let Some(oldest) = candidates.len().checked_sub(1)
            && nth < limit
            && !kept[oldest]
        {
            kept[oldest] = true;
            out.push((oldest, Reason::Oldest { bucket }));
        }
    }
}

fn proxmox(rules: &KeepRules, candidates: &[Candidate], out: &mut Vec<(usize, Reason)>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        None,
        Keep,
        Remove,
    }
    let mut marks = vec![Mark::None; candidates.len()];
    for bucket in Bucket::ALL {
        let limit = rules.count(bucket).limit();
        if limit == 0 {
            continue;
        }
        let all = || candidates.iter().enumerate().map(|(place, c)| (place, period(bucket, place, c)));
        let before: HashSet<i64> =
            all().filter(|(place, _)| marks[*place] == Mark::Keep).map(|(_, p)| p).collect();
        let (mut nth, mut seen) = (0, HashSet::new());
        for (place, own) in all() {
            if marks[place] != Mark::None || before.contains(&own) {
                continue;
            }
            if seen.contains(&own) {
                marks[place] = Mark::Remove;
            } else if nth >= limit {
                break;
            } else {
                nth += 1;
                seen.insert(own);
                marks[place] = Mark::Keep;
                out.push((place, Reason::Counted { bucket, nth }));
            }
        }
    }
}
