//! Spreads the backups of many VMs over a window, so that few run at once.
//!
//! A VM that has a start keeps it as long as it fits; a new one gets the start at which the least runs. So adding a VM moves no
//! other.

use std::collections::BTreeMap;
use std::fmt;

use crate::calendar::TimeOfDay;
use crate::policy::Limits;

/// Minutes between two possible starts.
const STEP: u32 = 5;

/// A VM to be backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpreadVm {
    /// Its name, or whatever tells it apart.
    pub id: String,
    /// Minutes that a backup is expected to take; one at least.
    pub minutes: u32,
    /// What it loads: a host, a datastore. VMs of one target share `per_target`.
    pub target: String,
}

/// Where and how densely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpreadWindow {
    /// The first start, local time.
    pub start: TimeOfDay,
    /// Minutes from there within which backups are to be done; a day at most.
    pub minutes: u32,
    /// Most backups at once.
    pub at_once: u32,
    /// Most backups at once of one target.
    pub per_target: u32,
}

/// Something to think about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpreadWarning {
    /// More VMs than one policy should have.
    ManyVms {
        /// How many.
        vms: usize,
        /// How many are advised.
        advised: u32,
    },
    /// Many start at midnight, when everybody else's jobs do.
    MidnightPile {
        /// How many.
        vms: usize,
    },
    /// Some have no start: the window is too short for them.
    NoRoom {
        /// How many.
        vms: usize,
    },
    /// Some had to move: they were in each other's way.
    Moved {
        /// How many.
        vms: usize,
    },
}

impl fmt::Display for SpreadWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ManyVms { vms, advised } => {
                write!(f, "{vms} VMs have one policy; {advised} are advised, others some hours apart")
            }
            Self::MidnightPile { vms } => write!(f, "{vms} VMs start at midnight; move the window off it"),
            Self::NoRoom { vms } => {
                write!(f, "{vms} VMs do not fit; make the window longer or allow more at once")
            }
            Self::Moved { vms } => write!(f, "{vms} VMs moved, for they no longer fit where they were"),
        }
    }
}

/// When each VM starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Minutes after the window's start, by VM.
    pub starts: BTreeMap<String, u32>,
    /// VMs without a start, sorted.
    pub without: Vec<String>,
    /// Most backups at once.
    pub peak: u32,
    /// What to think about.
    pub warnings: Vec<SpreadWarning>,
}

impl Spread {
    /// The local time at which a VM starts.
    pub fn start_of(&self, vm: &str, window: &SpreadWindow) -> Option<TimeOfDay> {
        let minute = (u32::from(window.start.minutes()) + self.starts.get(vm)?) % (24 * 60);
        TimeOfDay::new(u8::try_from(minute / 60).ok()?, u8::try_from(minute % 60).ok()?)
    }
}

/// How many backups run in each step.
struct Load<'a> {
    all: Vec<u32>,
    targets: BTreeMap<&'a str, Vec<u32>>,
    window: &'a SpreadWindow,
}

impl<'a> Load<'a> {
    fn steps(vm: &SpreadVm) -> usize {
        usize::try_from(vm.minutes.max(1).div_ceil(STEP)).unwrap_or(usize::MAX)
    }

    /// The most that run beside the VM when it starts at this step, in all and of its target; `None` when it does not fit.
    fn beside(&self, vm: &SpreadVm, step: usize) -> Option<(u32, u32)> {
        let range = step..step.checked_add(Self::steps(vm))?;
        let most = |load: &Vec<u32>| load.get(range.clone()).and_then(|part| part.iter().max().copied());
        let all = most(&self.all)?;
        let target = self.targets.get(vm.target.as_str()).map_or(Some(0), most)?;
        (all < self.window.at_once && target < self.window.per_target).then_some((all, target))
    }

    fn put(&mut self, vm: &'a SpreadVm, step: usize) {
        let range = step..step.saturating_add(Self::steps(vm));
        let length = self.all.len();
        let target = self.targets.entry(&vm.target).or_insert_with(|| vec![0; length]);
        for load in [&mut self.all, target] {
            load.get_mut(range.clone()).into_iter().flatten().for_each(|n| *n += 1);
        }
    }
}

/// Where a VM would like to be: the same every time, and different from its neighbours.
fn liking(id: &str, steps: usize) -> usize {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from((hash ^ (hash >> 29)) % (steps.max(1) as u64)).unwrap_or(0)
}

/// Gives each VM a start. `previous` are the starts of an earlier spread over the same window.
///
/// Work grows with VMs times the window's steps of five minutes times their length.
pub fn spread(
    vms: &[SpreadVm],
    previous: &BTreeMap<String, u32>,
    window: &SpreadWindow,
    limits: &Limits,
) -> Spread {
    let steps = usize::try_from(window.minutes.min(24 * 60) / STEP).unwrap_or(0);
    let mut load = Load { all: vec![0; steps], targets: BTreeMap::new(), window };
    let mut out = Spread::default();
    let mut order: Vec<&SpreadVm> = vms.iter().collect();
    order.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    order.dedup_by(|a, b| a.id == b.id);
    let (mut fresh, mut moved) = (Vec::new(), 0);
    for vm in order {
        let step =
            previous.get(&vm.id).filter(|m| **m % STEP == 0).and_then(|m| usize::try_from(m / STEP).ok());
        match step.filter(|step| load.beside(vm, *step).is_some()) {
            Some(step) => {
                load.put(vm, step);
                out.starts.insert(vm.id.clone(), minutes(step));
            }
            None => {
                moved += usize::from(previous.contains_key(&vm.id));
                fresh.push(vm);
            }
        }
    }
    // The longest first, for they have the least choice.
    fresh.sort_by_key(|vm| std::cmp::Reverse(vm.minutes));
    for vm in fresh {
        let liked = liking(&vm.id, steps);
        let around = (0..steps).map(|offset| (liked + offset) % steps.max(1));
        let best = around
            .filter_map(|step| load.beside(vm, step).map(|beside| (beside, step)))
            .min_by_key(|(b, _)| *b);
        match best {
            Some((_, step)) => {
                load.put(vm, step);
                out.starts.insert(vm.id.clone(), minutes(step));
            }
            None => out.without.push(vm.id.clone()),
        }
    }
    out.without.sort_unstable();
    out.peak = load.all.iter().max().copied().unwrap_or(0);
    out.warnings = warnings(&out, vms.len(), moved, window, limits);
    out
}

fn minutes(step: usize) -> u32 {
    u32::try_from(step).unwrap_or(u32::MAX).saturating_mul(STEP)
}

fn warnings(
    out: &Spread,
    vms: usize,
    moved: usize,
    window: &SpreadWindow,
    limits: &Limits,
) -> Vec<SpreadWarning> {
    let mut found = Vec::new();
    let advised = limits.vms_per_policy;
    if u32::try_from(vms).is_ok_and(|vms| vms > advised) || vms > u32::MAX as usize {
        found.push(SpreadWarning::ManyVms { vms, advised });
    }
    let midnight = (24 * 60 - u32::from(window.start.minutes())) % (24 * 60);
    let pile = out.starts.values().filter(|start| **start == midnight).count();
    if pile > 1 && pile * 10 > vms {
        found.push(SpreadWarning::MidnightPile { vms: pile });
    }
    if !out.without.is_empty() {
        found.push(SpreadWarning::NoRoom { vms: out.without.len() });
    }
    if moved > 0 {
        found.push(SpreadWarning::Moved { vms: moved });
    }
    found
}
