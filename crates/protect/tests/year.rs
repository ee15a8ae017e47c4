//! A year of daily backups under a policy, with the real vault: what plans keep restores, day by day.
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::memory::InMemory;
use vmkeep_backup::{Compare, Pages, Plan, Settings, Silent, Source, SourceDisk, run};
use vmkeep_disk::Memory;
use vmkeep_envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep_model::{
    BlockSize, CancelToken, DiskDescription, DiskRole, ManualClock, PointNumber, Timestamp, VmName, op,
};
use vmkeep_protect::retention::Decision;
use vmkeep_protect::{PolicySource, ProtectError, Protection, labels};
use vmkeep_restore::copy_disk;
use vmkeep_testkit::permit;
use vmkeep_vault::{CompressionLevel, Ports, SweepSettings, Vault};

const BLOCK: usize = 16 << 10;
const DAY: i64 = 86_400_000;
/// Wednesday, 2025-01-01, 01:30 UTC.
const BEGIN: i64 = 1_735_695_000_000;

fn vm() -> VmName {
    "web".parse().unwrap()
}

fn protect(vault: &Vault, name: &str, policy: PolicySource) {
    let mut protection = Protection::open(vault).unwrap();
    protection.set_policy(&permit(), None, name, policy).unwrap();
    protection.protect(&permit(), None, &vm(), name).unwrap();
}

fn toml(daily: u32, weekly: u32, monthly: u32) -> PolicySource {
    PolicySource::Toml(format!(
        r#"
        zone = "Europe/Berlin"
        schedule.daily = {{ at = "02:30" }}
        [retention]
        daily = "{daily} days"
        weekly = {{ days = ["Sunday"], keep = "{weekly} weeks" }}
        monthly = {{ weeks = ["First"], days = ["Sunday"], keep = "{monthly} months" }}
        "#
    ))
}

struct Year {
    vault: Vault,
    clock: Arc<ManualClock>,
    /// What each point held.
    content: BTreeMap<u64, Vec<u8>>,
}

impl Year {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(BEGIN)));
        let key = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
        let ports = Ports { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(1)) };
        let vault = Vault::create(Arc::new(InMemory::new()), key, ports).unwrap();
        Self { vault, clock, content: BTreeMap::new() }
    }

    /// A disk of which two blocks differ from day to day.
    fn disk(day: i64) -> Vec<u8> {
        let mut disk = vec![0; 12 * BLOCK];
        for (at, byte) in disk.iter_mut().enumerate() {
            let block = at / BLOCK;
            let seed = if block == 3 || block == usize::try_from(day % 12).unwrap() { day } else { 0 };
            let mixed = (at as u64).wrapping_mul(0x9e37_79b9).wrapping_add(seed.unsigned_abs() * 77);
            *byte = u8::try_from((mixed >> 7) & 0xff).unwrap();
        }
        disk
    }

    fn back_up(&mut self, day: i64, labels: vmkeep_model::Labels) {
        let content = Self::disk(day);
        let source = Memory::from(content.clone());
        let description = DiskDescription { name: "os".parse().unwrap(), role: DiskRole::Os, lun: None };
        let disks = vec![SourceDisk { description, source: Source::Read(&source) }];
        let plan = Plan { labels, ..Plan::new(vm(), disks) };
        let settings = Settings {
            level: CompressionLevel::Fast,
            block_size: BlockSize::MIN,
            workers: 1,
            memory_bytes: Settings::MEMORY_MIN,
            pages: Pages { compare: Compare::Always, ..Pages::default() },
            ..Settings::default()
        };
        let made = run(&permit(), &self.vault, &plan, &settings, &Silent, &CancelToken::new()).unwrap();
        self.content.insert(made.point.id.number.0, content);
    }

    fn restores(&self, number: PointNumber) {
        let point = format!("web@{number}").parse().unwrap();
        let disk = self.vault.point(&point).unwrap();
        let disk = disk.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
        let target = Memory::new(usize::try_from(disk.size().0).unwrap());
        let settings = vmkeep_restore::Settings { workers: 1, memory_bytes: 8 << 20 };
        let _ = copy_disk(&disk, &target, &settings, &vmkeep_restore::Silent, &CancelToken::new()).unwrap();
        assert!(target.to_vec() == self.content[&number.0], "web@{number} restores to other bytes");
    }

    /// Plans and prunes as a scheduler does every day; the points that stay.
    fn prune(&self) -> Vec<PointNumber> {
        let protection = Protection::open(&self.vault).unwrap();
        let plan = protection.plan(&vm()).unwrap();
        let pruned = protection.prune(&permit(), &vm(), &plan).unwrap();
        let goes: Vec<PointNumber> = plan.expired().map(|verdict| verdict.number).collect();
        assert_eq!((&pruned.forgotten, pruned.spared.len(), pruned.gone.len()), (&goes, 0, 0));
        // At the same instant there is nothing more to do.
        let again = protection.plan(&vm()).unwrap();
        assert_eq!(again.expired().count(), 0, "a plan that was applied lets nothing more go");
        let kept = plan.verdicts().iter().filter(|verdict| verdict.decision == Decision::Keep);
        kept.map(|verdict| verdict.number).collect()
    }
}

#[test]
fn every_point_that_plans_keep_over_a_year_restores() {
    let mut year = Year::new();
    protect(&year.vault, "daily", toml(10, 5, 6));
    let (mut most, mut by_hand) = (0, None);
    for day in 0..365 {
        year.clock.set(Timestamp(BEGIN + day * DAY));
        // Some days fail.
        if day % 31 != 17 {
            let version = Protection::open(&year.vault).unwrap().policy("daily").unwrap().version;
            year.back_up(day, labels::scheduled("daily", version).unwrap());
        }
        if day == 100 {
            let until = Timestamp(BEGIN + 200 * DAY);
            year.back_up(1000, labels::on_demand(Some(until)).unwrap());
            by_hand = year.content.keys().next_back().copied();
        }
        if day == 150 {
            let mut protection = Protection::open(&year.vault).unwrap();
            assert_eq!(protection.set_policy(&permit(), None, "daily", toml(20, 6, 6)).unwrap(), 2);
        }
        if day == 250 {
            let mut protection = Protection::open(&year.vault).unwrap();
            let shorter = protection.set_policy(&permit(), None, "daily", toml(5, 4, 6));
            assert!(matches!(shorter, Err(ProtectError::Shortens { .. })), "{shorter:?}");
            protection.set_policy(&permit(), Some(&permit()), "daily", toml(5, 4, 6)).unwrap();
        }
        let kept = year.prune();
        most = most.max(kept.len());
        if day % 30 == 7 {
            let settings = SweepSettings::default();
            year.vault.sweep(&permit(), &settings, &CancelToken::new(), &mut |_| {}).unwrap();
        }
        // The newest every day, all of them now and then.
        let last = kept.last().copied().into_iter();
        let look: Vec<PointNumber> = if day % 45 == 44 { kept.clone() } else { last.collect() };
        for number in look {
            year.restores(number);
        }
        // What was made by hand stays until its time, and then goes.
        if let Some(number) = by_hand.filter(|_| day > 100) {
            assert_eq!(kept.contains(&PointNumber(number)), day < 200, "day {day}");
        }
    }
    // 20 days, 6 weeks less those in the days, and the months, at the most; at the end 5 days, 4 weeks and 6 months.
    assert!((25..40).contains(&most), "{most} points at the most");
    let kept = year.prune();
    assert!((10..18).contains(&kept.len()), "{} points in the end", kept.len());
    for number in kept {
        year.restores(number);
    }
}

#[test]
fn the_last_point_stays_and_holds_are_honoured_also_when_they_come_after_the_plan() {
    let mut year = Year::new();
    protect(&year.vault, "short", toml(7, 1, 1));
    for day in 0..3 {
        year.clock.set(Timestamp(BEGIN + day * DAY));
        year.back_up(day, labels::scheduled("short", 1).unwrap());
    }
    year.clock.set(Timestamp(BEGIN + 300 * DAY));
    let protection = Protection::open(&year.vault).unwrap();
    let plan = protection.plan(&vm()).unwrap();
    let goes: Vec<u64> = plan.expired().map(|verdict| verdict.number.0).collect();
    assert_eq!(goes, [1, 2], "the newest stays whatever its age");
    year.vault.hold(&permit(), &"web@2".parse().unwrap()).unwrap();
    let pruned = protection.prune(&permit(), &vm(), &plan).unwrap();
    assert_eq!((pruned.forgotten.len(), pruned.spared.len()), (1, 1), "{pruned:?}");
    assert_eq!(pruned.spared[0].number, PointNumber(2));
    year.restores(PointNumber(2));
}

#[test]
fn what_somebody_else_decided_is_seen_and_an_older_plan_is_not_applied() {
    let mut year = Year::new();
    protect(&year.vault, "daily", toml(7, 1, 1));
    for day in 0..20 {
        year.clock.set(Timestamp(BEGIN + day * DAY));
        year.back_up(day, labels::scheduled("daily", 1).unwrap());
    }
    let protection = Protection::open(&year.vault).unwrap();
    let plan = protection.plan(&vm()).unwrap();
    assert!(plan.expired().count() > 5);
    let mut other = Protection::open(&year.vault).unwrap();
    other.set_policy(&permit(), None, "daily", toml(70, 1, 1)).unwrap();
    let refused = protection.prune(&permit(), &vm(), &plan);
    assert!(matches!(refused, Err(ProtectError::Apply(_))), "{refused:?}");
    assert_eq!(Protection::open(&year.vault).unwrap().plan(&vm()).unwrap().expired().count(), 0);
    // A point that nobody scheduled is nobody's to remove.
    year.back_up(50, vmkeep_model::Labels::default());
    year.clock.set(Timestamp(BEGIN + 2000 * DAY));
    let kept = year.prune();
    assert!(kept.contains(&PointNumber(21)), "{kept:?}");
}

#[test]
fn a_note_that_is_not_understood_stops_every_plan() {
    let year = Year::new();
    year.vault.note(&permit::<op::ChangePolicy>(), "protection", br#"{"version":2,"note":{}}"#).unwrap();
    assert!(matches!(Protection::open(&year.vault), Err(ProtectError::Note { number: 1, .. })));
    let other = Year::new();
    other.vault.note(&permit::<op::ChangePolicy>(), "another-topic", b"whatever").unwrap();
    let mut protection = Protection::open(&other.vault).unwrap();
    let nothing = protection.protect(&permit(), None, &vm(), "none");
    assert!(matches!(nothing, Err(ProtectError::NoSuchPolicy { .. })));
    assert!(matches!(protection.plan(&vm()), Err(ProtectError::NotProtected { .. })));
    let named = protection.set_policy(&permit(), None, "No Name", toml(7, 1, 1));
    assert!(matches!(named, Err(ProtectError::PolicyName { .. })));
}

#[test]
fn a_sweep_frees_what_the_plan_said() {
    let mut year = Year::new();
    protect(&year.vault, "daily", toml(7, 1, 1));
    for day in 0..40 {
        year.clock.set(Timestamp(BEGIN + day * DAY));
        year.back_up(day, labels::scheduled("daily", 1).unwrap());
    }
    let protection = Protection::open(&year.vault).unwrap();
    let plan = protection.plan(&vm()).unwrap();
    let freed = protection.bytes_freed(&vm(), &plan, &CancelToken::new()).unwrap();
    let numbers: Vec<PointNumber> = plan.expired().map(|verdict| verdict.number).collect();
    assert!(freed.keys().eq(&numbers), "each that goes, and no other");
    protection.prune(&permit(), &vm(), &plan).unwrap();
    let all = SweepSettings::default();
    let swept = year.vault.sweep(&permit(), &all, &CancelToken::new(), &mut |_| {}).unwrap();
    let said: u64 = freed.values().map(|bytes| bytes.0).sum();
    // Metadata comes on top, twice; so small a disk has a few KiB of it per point.
    let most = said + numbers.len() as u64 * 24_000;
    assert!(said > 0 && (said..most).contains(&swept.freed), "{said} said, {} freed", swept.freed);
}
