//! One seed, one run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use vmkeep_testkit::permit;

use bytes::Bytes;
use vmkeep::model::CancelToken;
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::vault::{ObjectName, Rule, SweepSettings, Vault, VaultError};
use vmkeep_testkit::{SimEvent, SimStore, Spawned, Step, snapshot, store_of};

use super::checker::{Checked, Checker};
use super::dice::Dice;
use super::guest::Guest;
use super::host::{Host, ports};
use super::ledger::{Ledger, Shared};
use super::mix::{Mix, VMS};
use super::walk::back_up;
use crate::common::{kek, vm};

/// Calls of the log that a failure shows.
const SHOWN: usize = 40;

/// More steps than a run takes whose hosts do not wait for one another for ever.
const STEPS_MAX: u64 = 30_000;

/// Sweeps in the end, until one finds nothing to do.
const SWEEPS: u32 = 6;

/// What came of the seeds that found nothing wrong.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) seeds: u64,
    pub(crate) counts: BTreeMap<String, u64>,
    /// Of every line of every log.
    pub(crate) checksum: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.checksum = self.checksum.wrapping_add(other.checksum);
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} seeds", self.seeds)?;
        self.counts.iter().try_for_each(|(what, count)| writeln!(f, "  {count:>8} {what}"))
    }
}

/// A vault with a few points of each VM, made once, and what its sessions wrote.
struct Begun {
    objects: BTreeMap<Path, Bytes>,
    shared: Ledger,
}

fn begun() -> &'static Begun {
    static BEGUN: OnceLock<Begun> = OnceLock::new();
    BEGUN.get_or_init(|| {
        let store = Arc::new(InMemory::new());
        let vault = Vault::create_inline(store.clone(), kek(), ports(1, 0)).unwrap();
        let (mut ledger, mut dice) = (Ledger::default(), Dice::new(0, 0));
        for (name, points) in VMS.into_iter().zip([5, 2]) {
            let mut guest = Guest::new(&mut dice);
            for _ in 0..points {
                guest.work(&mut dice);
                let disks = guest.snapshot();
                let mut keep = |id| drop(ledger.attempts.insert(id, disks.clone()));
                let packing = Mix::packing(&mut dice);
                back_up(&vault, &vm(name), None, &disks, packing, |session| keep(session.id())).unwrap();
            }
            ledger.guests.insert(name.to_owned(), guest);
        }
        Begun { objects: snapshot(&*store), shared: ledger }
    })
}

/// Runs a seed under `mix`; says what was wrong, with everything that led to it.
pub(crate) fn run(seed: u64, mix: &Mix) -> Result<Summary, String> {
    let shared = Shared::default();
    let mut dice = Dice::new(seed, 2);
    let store: Arc<dyn ObjectStore> = if dice.percent(mix.from_nothing) {
        let store = Arc::new(InMemory::new());
        Vault::create_inline(store.clone(), kek(), ports(seed, 0)).unwrap();
        let guests = VMS.map(|name| (name.to_owned(), Guest::new(&mut dice)));
        shared.lock().guests = guests.into();
        store
    } else {
        let begun = begun();
        let mut ledger = shared.lock();
        ledger.guests.clone_from(&begun.shared.guests);
        ledger.attempts.clone_from(&begun.shared.attempts);
        Arc::new(store_of(&begun.objects))
    };
    let sim = SimStore::over(store, seed, mix.odds(&mut dice));
    let vms = VMS.map(ToOwned::to_owned).to_vec();
    let checker = Checker::new(sim.inner(), shared.clone(), vms);
    let mut run = Run { seed, sim, shared, checker, heard: 0, steps: 0 };
    let outcome = catch_unwind(AssertUnwindSafe(|| run.whole(mix, &mut dice)));
    let problem = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(problem)) => Some(problem),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("panicked: {}", text.unwrap_or_default()))
        }
    };
    match problem {
        None => {
            if std::env::var_os("VMKEEP_SIMULATE_TELL").is_some() {
                println!("{}", run.told("nothing"));
            }
            Ok(run.summary())
        }
        Some(problem) => Err(run.told(&problem)),
    }
}

/// A host that stands still for long.
#[derive(Debug)]
struct Stall {
    from: u64,
    until: u64,
    /// In the middle of a session: one of those that have one.
    writer: bool,
    who: usize,
    /// Which host, once it is.
    stalled: Option<usize>,
}

impl Stall {
    fn draw(mix: &Mix, dice: &mut Dice, now: u64, hosts: usize) -> Vec<Self> {
        let mut stall = |writer, first: (u64, u64), last: (u64, u64)| {
            let from = now + dice.between(first.0, first.1);
            let until = from + dice.between(last.0, last.1);
            Self { from, until, writer, who: dice.index(hosts * 12), stalled: None }
        };
        let mut stalls: Vec<Self> =
            (0..mix.pauses).map(|_| stall(false, (0, mix.steps.1), (20, 400))).collect();
        let writer = stall(true, (10, 200), (100, 800));
        stalls.truncate(usize::try_from(dice.below(mix.pauses + 1)).unwrap());
        stalls.extend(dice.percent(mix.stall).then_some(writer));
        stalls
    }
}

struct Run {
    seed: u64,
    sim: SimStore,
    shared: Shared,
    checker: Checker,
    /// Events that the checker has seen.
    heard: usize,
    steps: u64,
}

impl Run {
    fn whole(&mut self, mix: &Mix, dice: &mut Dice) -> Checked {
        self.checker.check_all()?;
        let rounds = dice.between(1, mix.rounds);
        for round in 0..rounds {
            self.shared.lock().writing.clear();
            let hosts = self.spawn(mix.hosts(dice, self.seed * 100 + round, self.steps));
            let power_cut = dice.percent(mix.power_cut).then(|| self.steps + dice.between(20, 600));
            let stalls = Stall::draw(mix, dice, self.steps, hosts.len());
            let done = self.step_through(power_cut, stalls, &hosts);
            for host in &hosts {
                // Those that have not ended: after a power cut, or when something is wrong.
                self.sim.kill(host.id());
            }
            hosts.into_iter().for_each(Spawned::join);
            done?;
            self.look()?;
        }
        self.sim.settle();
        self.look()?;
        self.checker.check_all()?;
        if mix.broken.is_none() { self.end() } else { Ok(()) }
    }

    fn spawn(&self, hosts: Vec<Host>) -> Vec<Spawned<()>> {
        let spawn = |host: Host| {
            let (name, shared) = (host.name.clone(), self.shared.clone());
            let spawned = self.sim.spawn(&name, move |store| host.run(store, shared));
            // It comes to its first call before the next one starts: only one at a time looks at the ledger.
            self.sim.log_from(usize::MAX);
            spawned
        };
        hosts.into_iter().map(spawn).collect()
    }

    fn step_through(
        &mut self,
        power_cut: Option<u64>,
        mut stalls: Vec<Stall>,
        hosts: &[Spawned<()>],
    ) -> Checked {
        loop {
            self.steps += 1;
            self.shared.lock().now = self.steps;
            if power_cut == Some(self.steps) {
                for host in hosts {
                    self.sim.kill(host.id());
                    self.look()?;
                }
                return Ok(());
            }
            self.stall(&mut stalls, hosts);
            match self.sim.step() {
                Step::Ended => return Ok(()),
                Step::Stuck => match stalls.iter().position(|stall| stall.stalled.is_some()) {
                    // What everybody waits for does not come by itself.
                    Some(at) => self.resume(&stalls.swap_remove(at), hosts),
                    None => self.sim.unstick(),
                },
                Step::Called(_) | Step::Stopped(_) => {}
            }
            self.look()?;
            if self.steps > STEPS_MAX {
                return Err("the hosts do not come to an end".to_owned());
            }
        }
    }

    /// Begins and ends stalls that are due.
    fn stall(&self, stalls: &mut Vec<Stall>, hosts: &[Spawned<()>]) {
        let writing = self.shared.lock().writing.clone();
        for stall in &mut *stalls {
            if stall.stalled.is_some() || self.steps < stall.from {
                continue;
            }
            let among: Vec<usize> =
                if stall.writer { writing.iter().copied().collect() } else { (0..hosts.len()).collect() };
            if let Some(&host) = among.get(stall.who % among.len().max(1)) {
                self.sim.stop(hosts[host].id());
                stall.stalled = Some(host);
            }
        }
        for over in stalls.extract_if(.., |stall| stall.until <= self.steps) {
            self.resume(&over, hosts);
        }
    }

    fn resume(&self, stall: &Stall, hosts: &[Spawned<()>]) {
        if let Some(host) = stall.stalled {
            self.sim.resume(hosts[host].id());
        }
    }

    /// Has the checker look at what happened since.
    fn look(&mut self) -> Checked {
        let events = self.sim.log_from(self.heard);
        self.heard += events.len();
        self.checker.check(&events)
    }

    /// All is quiet: what nothing needs any more can be swept, and the rest is there.
    fn end(&mut self) -> Checked {
        let vault = Vault::open_inline(self.sim.inner(), kek(), ports(self.seed ^ 0xe4d, 1 << 30));
        let vault = vault.map_err(|e| format!("the vault does not open: {e:?}"))?;
        let settings = SweepSettings { abandoned_after_ms: Some(0), ..SweepSettings::default() };
        let mut sweeps = 0;
        loop {
            let before = self.objects();
            let swept = vault.uncached().sweep(&permit(), &settings, &CancelToken::new(), &mut |_| {});
            let swept = swept.map_err(|e| format!("the last sweep failed: {e:?}"))?;
            self.checker.check_all()?;
            // A point that is pinned is marked twice by each sweep: doomed, and spared.
            let but_marks = |objects: BTreeSet<String>| -> Vec<String> {
                objects.into_iter().filter(|path| !path.starts_with("forgets/")).collect()
            };
            let quiet = but_marks(self.objects()) == but_marks(before);
            self.shared.lock().story.push(format!("last sweep: {swept:?}"));
            sweeps += 1;
            if quiet {
                break;
            }
            if sweeps == SWEEPS {
                return Err(format!("sweep {sweeps} of a quiet vault still finds something: {swept:?}"));
            }
        }
        self.shared.lock().count(&format!("quiet after {sweeps} sweeps"));
        self.account(&vault)
    }

    /// Every pack is one that a point refers to, or one that a host stored after its session was ended.
    fn account(&mut self, vault: &Vault) -> Checked {
        let objects = self.objects();
        let mut reachable = BTreeSet::new();
        for name in VMS {
            match vault.uncached().reachable(&vm(name)) {
                Ok(packs) => reachable.extend(packs),
                Err(VaultError::NoSuchVm(_)) => {}
                Err(e) => return Err(format!("what {name} refers to cannot be found: {e:?}")),
            }
        }
        let lost: Vec<_> = reachable.difference(&objects).collect();
        if !lost.is_empty() {
            return Err(format!("points refer to packs that are not there: {lost:?}"));
        }
        let mut ledger = self.shared.lock();
        let mut late = BTreeMap::new();
        for object in &objects {
            match ObjectName::parse(object) {
                Some(ObjectName::Pack(_, session, _) | ObjectName::PackCopy(_, session, _)) => {
                    ledger.count("packs in the end");
                    if !reachable.contains(object) {
                        *late.entry(session).or_insert(0) += 1;
                    }
                }
                Some(name @ (ObjectName::Session(_) | ObjectName::Plan(..) | ObjectName::Repack(..))) => {
                    return Err(format!("{name} is left after the last sweep"));
                }
                Some(ObjectName::Worn(..)) => ledger.count("worn markers in the end"),
                Some(ObjectName::Moved(..)) => ledger.count("moved records in the end"),
                _ => {}
            }
        }
        for (session, packs) in late {
            let wrote = ledger.attempts.contains_key(&session);
            ledger.count(if wrote { "sessions with late packs" } else { "sweeps with late packs" });
            *ledger.tally.entry("late packs".to_owned()).or_default() += packs;
        }
        Ok(())
    }

    fn objects(&self) -> BTreeSet<String> {
        snapshot(&*self.sim.inner()).keys().map(ToString::to_string).collect()
    }

    fn summary(&self) -> Summary {
        let mut counts = self.shared.lock().tally.clone();
        counts.insert("steps".to_owned(), self.steps);
        counts.insert("restores".to_owned(), self.checker.restored);
        let mut sum = DefaultHasher::new();
        self.sim.log().iter().for_each(|event| event.to_string().hash(&mut sum));
        Summary { seeds: 1, counts, checksum: sum.finish() }
    }

    /// What went wrong, and how it came to that.
    fn told(&self, problem: &str) -> String {
        let mut text = format!("seed {}: {problem}\n\noperations:\n", self.seed);
        for line in &self.shared.lock().story {
            writeln!(text, "  {line}").unwrap();
        }
        let log = self.sim.log();
        let skip = if std::env::var_os("VMKEEP_SIMULATE_WHOLE_LOG").is_some() { 0 } else { SHOWN };
        let from = if skip == 0 { 0 } else { log.len().saturating_sub(skip) };
        writeln!(text, "\nthe last of {} calls:", log.len()).unwrap();
        log[from..].iter().for_each(|event: &SimEvent| writeln!(text, "  {event}").unwrap());
        text
    }
}

/// Whether a seed under `mix` finds that `rule` is broken: what it finds.
pub(crate) fn finds(mix: &Mix, rule: Rule, seeds: u64) -> Option<String> {
    let mix = Mix { broken: Some(rule), ..mix.clone() };
    (0..seeds).find_map(|seed| run(seed, &mix).err())
}
