//! A year of daily backups under a policy, read day by day and billed month by month: the meters against the vault itself.
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use vmkeep_backup::{Plan, Settings, Silent, Source, SourceDisk, run};
use vmkeep_billing::{
    BookDocument, Charge, DiskRule, Event, EventKind, Instance, InstanceMeter, Measure, Meter, Month,
    PriceBook, Redundancy, SizeRule, Statement, Tier, Window, rate_instance,
};
use vmkeep_disk::Memory;
use vmkeep_envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep_model::{
    BlockSize, CancelToken, DiskDescription, DiskRole, LineageId, ManualClock, Timestamp, VmName, op,
};
use vmkeep_protect::{
    BillError, Bills, Ledger, Metered, PolicySource, ProtectError, Protection, labels, note_restore,
};
use vmkeep_retention::State;
use vmkeep_testkit::{PRICE_BOOK, permit};
use vmkeep_vault::{CompressionLevel, Ports, SweepSettings, Vault};

const BLOCK: usize = 16 << 10;
const DAY: i64 = 86_400_000;
/// Wednesday, 2025-01-01, 01:30 UTC.
const BEGIN: i64 = 1_735_695_000_000;

struct Year {
    store: Arc<InMemory>,
    vault: Vault,
    clock: Arc<ManualClock>,
}

impl Year {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(BEGIN)));
        let key = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
        let ports = Ports { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(1)) };
        let store = Arc::new(InMemory::new());
        Self { vault: Vault::create(store.clone(), key, ports).unwrap(), store, clock }
    }

    /// All bytes in the store, as the store itself says.
    fn bytes(&self) -> u64 {
        let list = self.store.list(None);
        let found: Vec<_> = futures::executor::block_on_stream(list).collect();
        found.into_iter().map(|object| object.unwrap().size).sum()
    }

    fn back_up(&self, vm: &str, day: usize) {
        let mut content = vec![0_u8; 12 * BLOCK];
        // It grows: of the later blocks more and more hold something.
        for (at, byte) in content.iter_mut().enumerate().take((4 + day / 60) * BLOCK) {
            let mixed = (at as u64).wrapping_mul(0x9e37_79b9).wrapping_add((at / BLOCK * day) as u64);
            *byte = u8::try_from((mixed >> 7) & 0xff).unwrap();
        }
        let source = Memory::from(content);
        let disk = |name: &str, role, source| SourceDisk {
            description: DiskDescription { name: name.parse().unwrap(), role, lun: None },
            source,
        };
        let disks = vec![
            disk("os", DiskRole::Os, Source::Read(&source)),
            disk("scratch", DiskRole::Temporary, Source::Describe(vmkeep_model::ByteLen(5 << 30))),
        ];
        let labels = labels::scheduled("daily", 1).unwrap();
        let plan = Plan { labels, ..Plan::new(vm.parse().unwrap(), disks) };
        let settings = Settings {
            level: CompressionLevel::Fast,
            block_size: BlockSize::MIN,
            workers: 1,
            memory_bytes: Settings::MEMORY_MIN,
            ..Settings::default()
        };
        run(&permit(), &self.vault, &plan, &settings, &Silent, &CancelToken::new()).unwrap();
    }

    fn sweep(&self) {
        let settings = SweepSettings::default();
        self.vault.sweep(&permit(), &settings, &CancelToken::new(), &mut |_| {}).unwrap();
    }

    fn read(&self, vm: &VmName, state: State) -> bool {
        let mut ledger = Ledger::open(&self.vault).unwrap();
        ledger.read(&permit::<op::Backup>(), vm, Some(state)).unwrap()
    }
}

/// The events of a vault by line of points, each with the VM that it was of by then.
type Events = BTreeMap<LineageId, (VmName, Vec<Event>)>;

fn events_of(vault: &Vault) -> Events {
    let mut events = Events::new();
    let ledger = Ledger::open_with(vault, &mut |metered, event| {
        let found = events.entry(event.instance).or_insert_with(|| (metered.vm.clone(), Vec::new()));
        found.1.push(event.clone());
        Ok(())
    });
    for (id, metered) in ledger.unwrap().metered() {
        assert_eq!(events.get(id).map_or(0, |(_, events)| events.len()) as u64, metered.events);
    }
    events
}

/// What a ledger hands on, notes and looks.
fn replayed(ledger: &Ledger<'_>) -> Events {
    let mut events = Events::new();
    let mut visit = |metered: &Metered, event: &Event| {
        events
            .entry(event.instance)
            .or_insert_with(|| (metered.vm.clone(), Vec::new()))
            .1
            .push(event.clone());
        Ok(())
    };
    ledger.replay(&mut visit).unwrap();
    events
}

/// The prices, with days in UTC and stored bytes so dear that small ones show.
fn book_text() -> String {
    PRICE_BOOK.replace("Europe/Berlin", "UTC").replace("\"0.0224\"", "\"100000\"")
}

fn book() -> PriceBook {
    BookDocument::from_toml(&book_text()).unwrap().check().unwrap()
}

fn instance(id: LineageId, name: &str) -> Arc<Instance> {
    Arc::new(Instance {
        id,
        name: name.to_owned(),
        region: "here".to_owned(),
        redundancy: Redundancy::Lrs,
        size_rule: SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced },
        cost_center: None,
        tags: BTreeMap::new(),
    })
}

#[test]
fn the_meters_are_the_bytes_in_the_vault_and_every_month_adds_up() {
    let year = Year::new();
    let (web, db): (VmName, VmName) = ("web".parse().unwrap(), "db".parse().unwrap());
    let mut protection = Protection::open(&year.vault).unwrap();
    let policy = PolicySource::Toml(
        "zone = \"UTC\"\nschedule.daily = { at = \"01:30\" }\nretention.daily = \"10 days\"".to_owned(),
    );
    protection.set_policy(&permit(), None, "daily", policy).unwrap();
    protection.protect(&permit(), None, &web, "daily").unwrap();
    protection.protect(&permit(), None, &db, "daily").unwrap();
    let book = book();
    // By VM and day: bytes in the vault after that day's reading.
    let mut levels: BTreeMap<(LineageId, usize), u64> = BTreeMap::new();
    let mut ids: BTreeMap<String, LineageId> = BTreeMap::new();
    for day in 0..365 {
        year.clock.set(Timestamp(BEGIN + i64::try_from(day).unwrap() * DAY));
        year.back_up("web", day);
        // The other is backed up every tenth day, and begins in March.
        if day % 10 == 3 && day > 60 {
            year.back_up("db", day);
        }
        let protection = Protection::open(&year.vault).unwrap();
        let plan = protection.plan(&web).unwrap();
        protection.prune(&permit(), &web, &plan).unwrap();
        if day % 7 == 5 {
            year.sweep();
        }
        year.read(&web, State::Protected);
        year.read(&db, State::Protected);
        assert!(!year.read(&web, State::Protected), "nothing is new");
        let (events, usage) = (events_of(&year.vault), year.vault.usage().unwrap());
        assert_eq!(
            (usage.total(), usage.foreign),
            (year.bytes(), 0),
            "every byte of the store belongs to somebody"
        );
        for lineage in &usage.lineages {
            let name = lineage.vm.as_ref().unwrap().to_string();
            let instance = instance(lineage.id, &name);
            let mut meter = InstanceMeter::new(&book, &instance);
            events[&lineage.id].1.iter().for_each(|event| meter.apply(event).unwrap());
            // What is of this instant counts from the next.
            meter.usage_until(Timestamp(year.vault.clock().now().0 + 1)).unwrap();
            let bytes = lineage.data + lineage.metadata;
            assert_eq!(meter.stored_bytes(Tier::Vault), bytes, "{name}, day {day}");
            levels.insert((lineage.id, day), bytes);
            ids.insert(name, lineage.id);
        }
    }
    assert_eq!(ids.len(), 2);
    months(&year, &book, &ids, &levels);
    // Replayed from the notes alone, it is the same bill; a reading that is not understood stops it.
    year.vault.note(&permit::<op::Backup>(), "metering", br#"{"version":2}"#).unwrap();
    assert!(matches!(Ledger::open(&year.vault), Err(ProtectError::Note { .. })));
}

/// Bills each month and compares the storage meter with a sum over days.
fn months(
    year: &Year,
    book: &PriceBook,
    ids: &BTreeMap<String, LineageId>,
    levels: &BTreeMap<(LineageId, usize), u64>,
) {
    let events = events_of(&year.vault);
    let mut month: Month = "2025-01".parse().unwrap();
    for number in 1..=12 {
        let mut statement = Statement::new(book, month).unwrap();
        let (from, until) = statement.period();
        for (name, id) in ids {
            let instance = instance(*id, name);
            let usages = rate_instance(book, &instance, &events[id].1, Window { from, until }).unwrap();
            statement.add(book, &instance, &usages).unwrap();
        }
        let sum: i128 = statement.lines().iter().map(|line| line.minor).sum();
        assert_eq!(sum, statement.total_minor());
        let of = |name: &str, meter| {
            let lines = statement.lines().iter().filter(|line| line.instance.name == name);
            let lines = lines.filter(|line| line.charge == Charge::Usage(meter));
            lines.map(|line| line.measured.as_ref().unwrap().quantity).sum::<u128>()
        };
        for (name, id) in ids {
            // The slow model: each level from its reading to the next day's.
            let model: i128 = (0..365_usize)
                .map(|day| {
                    let at = BEGIN + i64::try_from(day).unwrap() * DAY;
                    let overlap = (at + DAY).min(until.0) - at.max(from.0);
                    i128::from(levels.get(&(*id, day)).copied().unwrap_or(0)) * i128::from(overlap.max(0))
                })
                .sum();
            let metered = i128::try_from(of(name, Meter::Storage(Tier::Vault))).unwrap();
            // The first reading of a VM comes after its first backup by no time at all; after the last day nothing is read.
            let after = if number == 12 { until.0 - (BEGIN + 365 * DAY) } else { 0 };
            let tail = i128::from(levels[&(*id, 364)]) * i128::from(after.max(0));
            assert_eq!(metered, model + tail, "{name}, {month}");
        }
        // 192 KiB at the most: half an instance for each day that has one, from the first success on.
        let days = i128::try_from(of("web", Meter::Instance)).unwrap() / 500_000;
        let in_month = i128::from((until.0 - from.0) / DAY);
        assert_eq!(days, in_month, "{month}");
        assert_eq!(of("db", Meter::Instance) > 0, number >= 3, "{month}: db begins in March");
        month = month.next();
    }
}

#[test]
fn stopping_deleting_and_coming_back_are_events() {
    let year = Year::new();
    let web: VmName = "web".parse().unwrap();
    let at = |day: i64| Timestamp(BEGIN + day * DAY);
    let names = || {
        let events = events_of(&year.vault).into_values();
        events.flat_map(|(_, events)| events).map(|event| event.kind.name()).collect::<Vec<_>>()
    };
    assert!(!year.read(&web, State::Protected), "there is nothing of it in the vault");
    year.back_up("web", 1);
    assert!(year.read(&web, State::Protected));
    assert_eq!(names(), ["protected", "backup", "stored", "stored"], "what its session wrote, and the rest");
    year.clock.set(at(1));
    year.read(&web, State::StoppedRetain { since: at(1) });
    year.clock.set(at(2));
    year.read(&web, State::SoftDeleted { since: at(2), until: at(16) });
    year.clock.set(at(3));
    year.read(&web, State::StoppedRetain { since: at(3) });
    year.clock.set(at(4));
    year.read(&web, State::Protected);
    assert_eq!(names()[4..], ["stopped", "soft-deleted", "undeleted", "protected"]);
    year.clock.set(at(5));
    year.back_up("web", 2);
    year.vault.forget(&permit(), &"web@1".parse().unwrap()).unwrap();
    year.sweep();
    year.read(&web, State::Protected);
    assert_eq!(names()[8..10], ["backup", "stored"]);
    let before = names().len();
    year.vault.close(&permit(), &web).unwrap();
    year.vault.forget(&permit(), &"web@2".parse().unwrap()).unwrap();
    year.sweep();
    year.clock.set(at(6));
    year.read(&web, State::Purged { since: at(6) });
    assert_eq!(names()[before..], ["stopped", "removed"]);
    // All of it is billable: no event is one that cannot have happened.
    let book = book();
    for (id, (_, events)) in events_of(&year.vault) {
        let instance = instance(id, "web");
        let mut meter = InstanceMeter::new(&book, &instance);
        for event in &events {
            meter.apply(event).unwrap();
        }
    }
}

/// Nobody read the vault for a month: what happened then is billed from when it happened.
#[test]
fn a_late_reading_bills_points_from_when_they_were_made() {
    let year = Year::new();
    let web: VmName = "web".parse().unwrap();
    let at = |day: i64| Timestamp(BEGIN + day * DAY);
    for day in [0_i64, 3, 7] {
        year.clock.set(at(day));
        year.back_up("web", usize::try_from(day).unwrap());
    }
    year.clock.set(at(30));
    assert!(year.read(&web, State::StoppedRetain { since: at(20) }));
    let events = events_of(&year.vault).into_values().next().unwrap().1;
    let days = |name: &str| -> Vec<i64> {
        let events = events.iter().filter(|event| event.kind.name() == name);
        events.map(|event| (event.at.0 - BEGIN) / DAY).collect()
    };
    assert_eq!((days("backup"), days("stopped")), (vec![0, 3, 7], vec![20]));
    // Marks of none of the points, and the heads, are all that counts from the reading on only.
    assert_eq!(days("stored"), [0, 3, 7, 30]);
    let stored: Vec<u64> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Stored { bytes, .. } => Some(bytes),
            _ => None,
        })
        .collect();
    let usage = year.vault.usage().unwrap();
    assert_eq!(stored.iter().sum::<u64>(), usage.lineages[0].data + usage.lineages[0].metadata);
    assert!(stored[0] > 4 * stored[3], "{stored:?}");
}

/// Deleted, had back and deleted again between two readings; purged in the end; and an older line of points.
#[test]
fn what_happened_between_readings_is_never_an_impossible_event() {
    let year = Year::new();
    let web: VmName = "web".parse().unwrap();
    let at = |day: i64| Timestamp(BEGIN + day * DAY);
    year.back_up("web", 1);
    year.read(&web, State::Protected);
    year.clock.set(at(5));
    year.read(&web, State::SoftDeleted { since: at(2), until: at(16) });
    year.clock.set(at(9));
    year.read(&web, State::SoftDeleted { since: at(7), until: at(21) });
    // Another line of points begins while the old one is still in the vault.
    year.vault.close(&permit(), &web).unwrap();
    year.clock.set(at(10));
    year.back_up("web", 2);
    year.read(&web, State::Protected);
    let events = events_of(&year.vault);
    let (book, mut protected, mut stored, mut deleted) = (book(), 0, 0, 0);
    assert_eq!(events.len(), 2);
    for (id, (_, events)) in events {
        let instance = instance(id, "web");
        let mut meter = InstanceMeter::new(&book, &instance);
        for event in &events {
            meter.apply(event).unwrap();
        }
        meter.usage_until(at(11)).unwrap();
        stored += meter.stored_bytes(Tier::Vault);
        deleted += meter.soft_deleted_bytes(Tier::Vault);
        let names: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
        protected += usize::from(!names.contains(&"stopped"));
    }
    assert_eq!(protected, 1, "backups of the newer line alone are to be expected");
    assert!(stored > 0 && deleted > 0, "{stored} {deleted}");
}

/// Without a policy, a VM is billed as long as anything of it is in the vault; and who only looks notes nothing.
#[test]
fn one_without_a_policy_ends_with_its_points() {
    let year = Year::new();
    year.back_up("web", 1);
    year.back_up("db", 1);
    let (web, db): (VmName, VmName) = ("web".parse().unwrap(), "db".parse().unwrap());
    let names = |ledger: &Ledger<'_>, vm: &VmName| -> Vec<&str> {
        let of = replayed(ledger).into_values().filter(|(of, _)| of == vm);
        of.flat_map(|(_, events)| events).map(|event| event.kind.name()).collect()
    };
    let mut looked = Ledger::open(&year.vault).unwrap();
    let usage = looked.look([(&web, None), (&db, None)]).unwrap();
    assert_eq!((usage.lineages.len(), usage.total()), (2, year.bytes()), "nothing was noted");
    let mut ledger = Ledger::open(&year.vault).unwrap();
    assert_eq!(ledger.metered().count(), 0);
    assert!(ledger.read(&permit::<op::Backup>(), &web, None).unwrap());
    assert_eq!(names(&ledger, &web), names(&looked, &web), "a reading now makes what a look saw");
    year.vault.close(&permit(), &web).unwrap();
    year.vault.forget(&permit(), &"web@1".parse().unwrap()).unwrap();
    year.sweep();
    assert!(ledger.read(&permit::<op::Backup>(), &web, None).unwrap());
    assert!(names(&ledger, &web).contains(&"stopped") && !names(&looked, &db).contains(&"stopped"));
}

/// A restore is on record with the events, costs nothing, and before anything was metered says nothing.
#[test]
fn restores_are_on_record_and_cost_nothing() {
    let year = Year::new();
    let (web, book): (VmName, _) = ("web".parse().unwrap(), book());
    year.back_up("web", 1);
    let point = year.vault.point(&"web@1".parse().unwrap()).unwrap();
    let note = |bytes| note_restore(&year.vault, &permit::<op::Restore>(), point.point(), bytes).unwrap();
    note(1);
    assert!(events_of(&year.vault).is_empty());
    year.read(&web, State::Protected);
    year.clock.set(Timestamp(BEGIN + DAY));
    let describe = |id, vm: &VmName| instance(id, vm.as_str());
    let month: Month = "2025-01".parse().unwrap();
    let billed = || {
        let ledger = Ledger::open(&year.vault).unwrap();
        Bills::open(&year.vault).unwrap().statement(&ledger, &book, describe, month).unwrap()
    };
    let before = billed();
    note(65_536);
    let events = events_of(&year.vault).into_values().next().unwrap().1;
    let last = events.last().unwrap();
    assert_eq!((last.at, &last.kind), (Timestamp(BEGIN + DAY), &EventKind::Restored { bytes: 65_536 }));
    assert_eq!(billed().total_minor(), before.total_minor());
    year.clock.set(Timestamp(BEGIN + 2 * DAY));
    assert!(!year.read(&web, State::Protected), "nothing else is new");
}

/// Months are closed in order, stay as they are, and what turns out later is on the statement after them.
#[test]
fn a_closed_month_stays_and_is_corrected_on_the_next() {
    let year = Year::new();
    let (web, book) = ("web".parse::<VmName>().unwrap(), book());
    year.back_up("web", 1);
    year.read(&web, State::Protected);
    let describe = |id, vm: &VmName| instance(id, vm.as_str());
    let month = |text: &str| text.parse::<Month>().unwrap();
    let january = |book: &PriceBook| {
        let (ledger, bills) = (Ledger::open(&year.vault).unwrap(), Bills::open(&year.vault).unwrap());
        bills.statement(&ledger, book, describe, month("2025-01")).unwrap()
    };
    let close = |statement: Statement| {
        Bills::open(&year.vault).unwrap().close(&permit::<op::ChangePolicy>(), statement)
    };
    let refused = |result: Result<(), ProtectError>| match result.unwrap_err() {
        ProtectError::Bill(why) => *why,
        other => panic!("{other}"),
    };
    assert!(matches!(refused(close(january(&book))), BillError::Running { .. }));
    year.clock.set(Timestamp(BEGIN + 40 * DAY));
    let billed = january(&book);
    close(billed.clone()).unwrap();
    assert!(matches!(refused(close(billed.clone())), BillError::Closed { .. }));
    // By another book, January stays what it was.
    let dear = BookDocument::from_toml(&book_text().replace("price = \"10\"", "price = \"25\""))
        .unwrap()
        .check()
        .unwrap();
    assert_eq!(january(&dear), billed);
    let bills = Bills::open(&year.vault).unwrap();
    assert_eq!(bills.closed_of(month("2025-01")).unwrap().statement(), &billed);
    let ledger = Ledger::open(&year.vault).unwrap();
    let of = |bills: &Bills<'_>, book: &PriceBook, text: &str| {
        bills.statement(&ledger, book, describe, month(text)).unwrap()
    };
    let february = of(&bills, &dear, "2025-02");
    let corrected: i128 = february
        .lines()
        .iter()
        .filter(|line| matches!(line.charge, Charge::Correction { .. }))
        .map(|line| line.minor)
        .sum();
    let fresh = year_of(&year, &dear, describe);
    assert_eq!(
        billed.total_minor() + corrected,
        fresh.total_minor(),
        "in all it is what it should have been"
    );
    assert_ne!(corrected, 0);
    // A correction that was closed is not made again.
    year.clock.set(Timestamp(BEGIN + 70 * DAY));
    assert!(matches!(refused(close(of(&bills, &dear, "2025-03"))), BillError::Order { .. }));
    // All of February is there by now.
    close(of(&bills, &dear, "2025-02")).unwrap();
    let bills = Bills::open(&year.vault).unwrap();
    assert_eq!(bills.closed().count(), 2);
    let march = of(&bills, &dear, "2025-03");
    assert!(march.lines().iter().all(|line| !matches!(line.charge, Charge::Correction { .. })), "{march:?}");
}

/// January by a vault in which nothing is closed.
fn year_of(
    year: &Year,
    book: &PriceBook,
    describe: impl Fn(LineageId, &VmName) -> Arc<Instance>,
) -> Statement {
    let mut statement = Statement::new(book, "2025-01".parse().unwrap()).unwrap();
    let (from, until) = statement.period();
    for (id, (vm, events)) in events_of(&year.vault) {
        let instance = describe(id, &vm);
        let usages = rate_instance(book, &instance, &events, Window { from, until }).unwrap();
        statement.add(book, &instance, &usages).unwrap();
    }
    statement
}

/// A statement of many VMs takes several notes; of two that close a month, the first complete one counts.
#[test]
fn a_long_statement_is_kept_in_parts() {
    let year = Year::new();
    let book = book();
    let mut statement = Statement::new(&book, "2025-01".parse().unwrap()).unwrap();
    let (from, until) = statement.period();
    for number in 0..2000_u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let instance = instance(LineageId(id), &format!("vm-{number}-\u{e4}"));
        let kinds = [
            EventKind::Protected,
            EventKind::Backup { disks: Vec::new(), agent: vmkeep_billing::Agent::Used },
        ];
        let event = |(number, kind)| Event { instance: instance.id, number, at: from, kind };
        let events: Vec<_> = (0..).zip(kinds).map(event).collect();
        let usages = rate_instance(&book, &instance, &events, Window { from, until }).unwrap();
        statement.add(&book, &instance, &usages).unwrap();
    }
    year.clock.set(Timestamp(BEGIN + 40 * DAY));
    let mut bills = Bills::open(&year.vault).unwrap();
    bills.close(&permit::<op::ChangePolicy>(), statement.clone()).unwrap();
    let parts = year.vault.notes().filter(|note| note.as_ref().unwrap().topic == "statement").count();
    assert!(parts > 2, "{parts}");
    let again = Bills::open(&year.vault).unwrap();
    assert_eq!(again.closed().next().unwrap().statement(), &statement);
}
