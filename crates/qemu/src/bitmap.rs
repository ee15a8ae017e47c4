//! The dirty bitmaps of a disk: whose they are, which state they are in, and what to do about it.

use std::fmt;

use serde_json::{Value, json};

/// Granularity of the bitmaps that are made here, in bytes: a page, so that a small write stays a small read.
pub const BITMAP_GRANULARITY: u64 = 4096;

/// The name of the bitmap that records what changed since a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapName {
    /// Which chain of snapshots, such as a vault and a VM in it: letters, digits, `-`, `_` and `.`.
    pub chain: String,
    /// The number of the snapshot.
    pub number: u64,
}

impl fmt::Display for BitmapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vmkeep.{}.{}", self.chain, self.number)
    }
}

impl BitmapName {
    /// Reads a name; `None` for one that was not made here.
    fn parse(name: &str) -> Option<Self> {
        let (chain, number) = name.strip_prefix("vmkeep.")?.rsplit_once('.')?;
        let parsed = Self { chain: chain.to_owned(), number: number.parse().ok()? };
        (parsed.to_string() == name).then_some(parsed)
    }
}

/// Whether the changes of a disk since the base are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// By this bitmap.
    Known(String),
    /// They are not: the whole disk must be looked at.
    Lost(TrackingLoss),
}

/// Why the changes since the base are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackingLoss {
    /// There is no base: this is the first snapshot.
    NoBase,
    /// The disk has no bitmap of this chain: it is new, was replaced, or its image cannot keep bitmaps over a restart.
    Missing,
    /// The disk has bitmaps of this chain, and none of this base.
    OtherBase,
    /// QEMU did not end cleanly while the bitmap recorded.
    Inconsistent,
    /// Another program uses a bitmap of this chain just now. All of them are left as they are, and no new one is begun.
    Occupied,
    /// Another program started or stopped bitmaps of this chain, so that they may lack changes.
    OutOfOrder,
}

impl fmt::Display for TrackingLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoBase => "there is no snapshot before it",
            Self::Missing => {
                "the disk has no bitmap of ours: it is new, was replaced, or its image keeps no bitmaps"
            }
            Self::OtherBase => "the disk's bitmap is of another point",
            Self::Inconsistent => "the disk's bitmap is inconsistent: QEMU did not end cleanly",
            Self::Occupied => "another program uses the disk's bitmap",
            Self::OutOfOrder => "the disk's bitmaps were started or stopped by another program",
        })
    }
}

/// A bitmap as QEMU tells of it.
#[derive(Clone, Debug)]
struct Found {
    name: BitmapName,
    is_recording: bool,
    is_busy: bool,
    is_inconsistent: bool,
}

/// What a transaction has to do about the bitmaps of one disk.
#[derive(Debug, PartialEq)]
pub(crate) struct BitmapPlan {
    pub(crate) tracking: Tracking,
    /// Actions that put right what an interrupted snapshot left.
    pub(crate) repair: Vec<Value>,
    /// Actions at the instant of the snapshot.
    pub(crate) rotate: Vec<Value>,
    /// Whether bitmaps of this disk survive the end of QEMU.
    pub(crate) is_persistent: bool,
}

pub(crate) fn action(kind: &str, data: Value) -> Value {
    json!({ "type": kind, "data": data })
}

pub(crate) fn on_bitmap(kind: &str, node: &str, name: &str) -> Value {
    action(&format!("block-dirty-bitmap-{kind}"), json!({ "node": node, "name": name }))
}

fn add(node: &str, name: &str, is_persistent: bool) -> Value {
    let data = json!({
        "node": node, "name": name, "persistent": is_persistent, "granularity": BITMAP_GRANULARITY
    });
    action("block-dirty-bitmap-add", data)
}

/// The actions that add what `from` recorded to `into`, let `into` record on, and remove `from`.
pub(crate) fn merge(node: &str, into: &str, from: &str) -> Vec<Value> {
    let data = json!({ "node": node, "target": into, "bitmaps": [from] });
    vec![
        on_bitmap("enable", node, into),
        action("block-dirty-bitmap-merge", data),
        on_bitmap("remove", node, from),
    ]
}

/// Decides what to do about the bitmaps of the node that `info` (of `query-named-block-nodes`) describes.
pub(crate) fn plan(info: &Value, chain: &str, base: Option<u64>, number: u64) -> BitmapPlan {
    let node = info.get("node-name").and_then(Value::as_str).unwrap_or("");
    // Version 2 of qcow2 (0.10) has no place for bitmaps, and neither has any other format.
    let is_persistent = info["image"]["format-specific"]["data"]["compat"] == "1.1";
    let next = BitmapName { chain: chain.to_owned(), number }.to_string();
    let ours = found(info, chain);
    let remove = |b: &Found| on_bitmap("remove", node, &b.name.to_string());
    let start = || vec![add(node, &next, is_persistent)];
    let lost = |why| {
        let tracking = Tracking::Lost(why);
        BitmapPlan { tracking, repair: ours.iter().map(remove).collect(), rotate: start(), is_persistent }
    };
    if ours.iter().any(|b| b.is_busy) {
        let tracking = Tracking::Lost(TrackingLoss::Occupied);
        return BitmapPlan { tracking, repair: Vec::new(), rotate: Vec::new(), is_persistent };
    }
    let Some(base) = base else { return lost(TrackingLoss::NoBase) };
    let Some(of_base) = ours.iter().find(|b| b.name.number == base) else {
        return lost(if ours.is_empty() { TrackingLoss::Missing } else { TrackingLoss::OtherBase });
    };
    let old = of_base.name.to_string();
    let later: Vec<_> = ours.iter().filter(|b| b.name.number > base).collect();
    if of_base.is_inconsistent || later.iter().any(|b| b.is_inconsistent) {
        return lost(TrackingLoss::Inconsistent);
    }
    let mut repair: Vec<Value> = ours.iter().filter(|b| b.name.number < base).map(remove).collect();
    match later[..] {
        [] if of_base.is_recording => {}
        // A snapshot after the base was begun and not stored: its changes belong to the base again.
        [one] if !of_base.is_recording && one.is_recording => {
            repair.extend(merge(node, &old, &one.name.to_string()));
        }
        _ => return lost(TrackingLoss::OutOfOrder),
    }
    let mut rotate = start();
    rotate.push(on_bitmap("disable", node, &old));
    BitmapPlan { tracking: Tracking::Known(old), repair, rotate, is_persistent }
}

fn found(info: &Value, chain: &str) -> Vec<Found> {
    let list = info.get("dirty-bitmaps").and_then(Value::as_array);
    let bitmap = |entry: &Value| {
        let is = |field: &str| entry.get(field).and_then(Value::as_bool).unwrap_or(false);
        let name = BitmapName::parse(entry.get("name")?.as_str()?).filter(|name| name.chain == chain)?;
        let (is_recording, is_busy, is_inconsistent) = (is("recording"), is("busy"), is("inconsistent"));
        Some(Found { name, is_recording, is_busy, is_inconsistent })
    };
    list.map(|list| list.iter().filter_map(bitmap).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(bitmaps: &[(&str, &str)]) -> Value {
        let list: Vec<_> = bitmaps
            .iter()
            .map(|(name, state)| {
                json!({ "name": name, "recording": state.contains("recording"), "busy": state.contains("busy"),
                        "inconsistent": state.contains("inconsistent") })
            })
            .collect();
        json!({ "node-name": "d", "dirty-bitmaps": list })
    }

    fn check(bitmaps: &[(&str, &str)], base: Option<u64>, tracking: Tracking, repairs: &[&str]) {
        let plan = plan(&info(bitmaps), "c", base, 9);
        assert_eq!(plan.tracking, tracking, "{bitmaps:?}");
        let did: Vec<String> = plan
            .repair
            .iter()
            .map(|a| {
                let kind = a["type"].as_str().unwrap().trim_start_matches("block-dirty-bitmap-");
                let name = a["data"]["name"].as_str().or(a["data"]["target"].as_str()).unwrap();
                format!("{kind} {name}")
            })
            .collect();
        assert_eq!(did, repairs, "{bitmaps:?}");
    }

    #[test]
    fn bitmaps_in_every_state() {
        use TrackingLoss::{Inconsistent, Missing, NoBase, Occupied, OtherBase, OutOfOrder};
        let known = || Tracking::Known("vmkeep.c.7".to_owned());
        let lost = Tracking::Lost;
        check(&[], None, lost(NoBase), &[]);
        check(&[("vmkeep.c.7", "recording")], None, lost(NoBase), &["remove vmkeep.c.7"]);
        check(&[], Some(7), lost(Missing), &[]);
        check(&[("b", "recording"), ("vmkeep.x.7", "recording")], Some(7), lost(Missing), &[]);
        check(&[("vmkeep.c.6", "recording")], Some(7), lost(OtherBase), &["remove vmkeep.c.6"]);
        check(&[("vmkeep.c.7", "inconsistent")], Some(7), lost(Inconsistent), &["remove vmkeep.c.7"]);
        check(&[("vmkeep.c.7", "recording busy")], Some(7), lost(Occupied), &[]);
        check(&[("vmkeep.c.7", "recording"), ("vmkeep.c.8", "busy")], Some(7), lost(Occupied), &[]);
        // What is left stopped here would look like an interrupted snapshot after the next one.
        check(&[("vmkeep.c.7", "")], Some(7), lost(OutOfOrder), &["remove vmkeep.c.7"]);
        let both = [("vmkeep.c.7", "recording"), ("vmkeep.c.8", "recording")];
        check(&both, Some(7), lost(OutOfOrder), &["remove vmkeep.c.7", "remove vmkeep.c.8"]);
        check(&[("vmkeep.c.7", "recording")], Some(7), known(), &[]);
        let stored = [("vmkeep.c.6", ""), ("vmkeep.c.7", "recording")];
        check(&stored, Some(7), known(), &["remove vmkeep.c.6"]);
        let failed = [("vmkeep.c.7", ""), ("vmkeep.c.8", "recording")];
        check(&failed, Some(7), known(), &["enable vmkeep.c.7", "merge vmkeep.c.7", "remove vmkeep.c.8"]);
        check(&[("vmkeep.c.07", "recording")], Some(7), lost(Missing), &[]);
    }
}
