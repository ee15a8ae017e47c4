//! A simulated host: does one operation after the other at the vault, whatever becomes of them.

use std::sync::Arc;
use vmkeep::model::op;
use vmkeep_testkit::permit;

use vmkeep::envelope::SeededEntropy;
use vmkeep::model::{CancelToken, ManualClock, PointRef, SessionId, Timestamp};
use vmkeep::object_store::ObjectStore;
use vmkeep::vault::{Pin, Ports, Rule, SweepSettings, Vault, VaultError};

use super::dice::Dice;
use super::ledger::{Ledger, Mark, News, Point, Shared};
use super::walk::{Packing, Wrong, back_up, compare};
use crate::common::{kek, point_ref, vm};

/// When the simulation is, in milliseconds.
const NOW: i64 = 1_700_000_000_000;

/// How often a reader whose error awaits an explanation asks for it: each time the store may fail.
const EXPLANATIONS: u32 = 20;

/// A clock that stands, by so much later than others, and a random source.
pub(crate) fn ports(seed: u64, later: i64) -> Ports {
    let clock = Arc::new(ManualClock::new(Timestamp(NOW + later)));
    Ports { clock, entropy: Arc::new(SeededEntropy::new(seed)) }
}

/// What a host may do next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    BackUp,
    Resume,
    Void,
    Sweep {
        abandoned_after_ms: Option<i64>,
        max_repack: u64,
    },
    Read {
        pinned: bool,
    },
    Mark(Mark),
    BreakPin,
    /// Looks around, for a call or two.
    Idle,
    Reopen,
}

/// A host, and what it is to do.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Which one of the round.
    pub(crate) index: usize,
    pub(crate) vms: Vec<String>,
    pub(crate) work: Vec<(u32, Operation)>,
    /// The step at which it begins nothing new.
    pub(crate) until: u64,
    pub(crate) packing: Packing,
    pub(crate) broken: Option<Rule>,
    /// By how much its clock is ahead of those of others, in milliseconds.
    pub(crate) later: i64,
    /// Whether it chooses new points more often than old ones.
    pub(crate) likes_new: bool,
    pub(crate) seed: u64,
}

/// A host at work.
struct Desk {
    host: Host,
    store: Arc<dyn ObjectStore>,
    shared: Shared,
    dice: Dice,
    opened: u64,
    /// It was killed: nothing that it asks of the store is answered any more.
    killed: bool,
}

impl Host {
    pub(crate) fn run(self, store: Arc<dyn ObjectStore>, shared: Shared) {
        let dice = Dice::new(self.seed, 1);
        let mut desk = Desk { host: self, store, shared, dice, opened: 0, killed: false };
        let mut vault = None;
        while !desk.killed && desk.shared.lock().now < desk.host.until {
            if vault.is_none() {
                vault = desk.open();
            }
            let Some(open) = &vault else { continue };
            let operation = desk.dice.weighted(&desk.host.work);
            match operation {
                Operation::Reopen => vault = None,
                operation => desk.perform(open, operation),
            }
        }
    }
}

impl Desk {
    fn open(&mut self) -> Option<Vault> {
        self.opened += 1;
        let later = i64::try_from(self.opened).unwrap() + self.host.later;
        let ports = ports(self.host.seed.wrapping_mul(1000) + self.opened, later);
        match Vault::open_inline(Arc::clone(&self.store), kek(), ports) {
            Ok(vault) => {
                Some(self.host.broken.map_or_else(|| vault.clone(), |rule| vault.without_rule(rule)))
            }
            Err(e) => {
                self.killed = is_of_the_dead(&e);
                None
            }
        }
    }

    fn perform(&mut self, vault: &Vault, operation: Operation) {
        let of = self.dice.index(self.host.vms.len());
        let name = self.host.vms[of].clone();
        let began = self.shared.lock().now;
        let (what, ended) = match operation {
            Operation::BackUp => ("backup".to_owned(), self.back_up(vault, &name, None)),
            Operation::Resume => ("resume".to_owned(), self.resume(vault, &name)),
            Operation::Void => ("void".to_owned(), self.void(vault, &name)),
            Operation::Sweep { abandoned_after_ms, max_repack } => {
                let settings = SweepSettings { abandoned_after_ms, max_repack, dry_run: false };
                let report = vault.sweep(&permit(), &settings, &CancelToken::new(), &mut |_| {});
                if let Ok(report) = &report {
                    let mut ledger = self.shared.lock();
                    ledger.add("points swept", report.points.len() as u64);
                    ledger.add("sessions ended by sweeps", report.ended.len() as u64);
                    ledger.add("sessions left open by sweeps", report.open_sessions);
                    ledger.add("packs repacked", report.repacked);
                    ledger.add("damage met by sweeps", report.damaged);
                }
                (
                    format!("sweep {abandoned_after_ms:?} {max_repack}"),
                    report.map(|report| format!("{report:?}")),
                )
            }
            Operation::Read { pinned } => match self.choose(&name) {
                Some(point) => {
                    (format!("read {} pinned {pinned}", point.1), self.read(vault, &point, pinned))
                }
                None => ("idle".to_owned(), vault.vms().map(|vms| format!("{vms:?}"))),
            },
            Operation::Mark(mark) => match self.choose(&name) {
                Some(point) => (format!("{mark:?} {}", point.1), self.mark(vault, &point, mark, began)),
                None => ("idle".to_owned(), vault.vms().map(|vms| format!("{vms:?}"))),
            },
            Operation::BreakPin => ("break pin".to_owned(), self.break_pin(vault, &name)),
            Operation::Idle | Operation::Reopen => {
                ("idle".to_owned(), vault.vms().map(|vms| format!("{vms:?}")))
            }
        };
        self.killed = ended.as_ref().is_err_and(is_of_the_dead);
        let mut ledger = self.shared.lock();
        let kind = format!("{operation:?}");
        let kind = kind.split([' ', '(']).next().unwrap_or_default();
        ledger.count(&format!("{kind}: {}", if ended.is_ok() { "done" } else { "failed" }));
        if let Err(e) = &ended
            && !matches!(e, VaultError::Store { .. })
        {
            let why = format!("{e:?}");
            let why = why.split([' ', '(']).next().unwrap_or_default();
            let at = e.object().and_then(|object| object.split('/').next()).unwrap_or_default();
            ledger.count(&format!("{kind}: {why} {at}"));
        }
        let now = ledger.now;
        let host = &self.host.name;
        ledger.story.push(match ended {
            Ok(done) => format!("{began}-{now} {host}: {what} of {name}: {done}"),
            Err(e) => format!("{began}-{now} {host}: {what} of {name}: {e:?}"),
        });
    }

    /// One of the points that are there.
    fn choose(&mut self, vm: &str) -> Option<Point> {
        let numbers = self.shared.lock().numbers(vm);
        // Old ones more often: that is what people forget.
        let at = (!numbers.is_empty()).then(|| {
            let at = self.dice.index(numbers.len());
            let other = self.dice.index(numbers.len());
            if self.host.likes_new { at.max(other) } else { at.min(other) }
        });
        at.map(|at| (vm.to_owned(), numbers[at]))
    }

    fn back_up(
        &mut self,
        vault: &Vault,
        name: &str,
        interrupted: Option<SessionId>,
    ) -> Result<String, VaultError> {
        let disks = {
            let mut ledger = self.shared.lock();
            let guest = ledger.guests.get_mut(name).unwrap();
            guest.work(&mut self.dice);
            guest.snapshot()
        };
        let (mut base, mut unreadable) = (None, None);
        let made = back_up(vault, &vm(name), interrupted, &disks, self.host.packing, |session| {
            let mut ledger = self.shared.lock();
            ledger.attempts.insert(session.id(), disks.clone());
            ledger.writing.insert(self.host.index);
            base = session.base();
            unreadable =
                session.unreadable_base().map(|(number, e)| format!("point {number} is gone: {e:?}"));
        });
        let mut ledger = self.shared.lock();
        ledger.writing.remove(&self.host.index);
        if let Some(what) = unreadable {
            ledger.news.push(News::Wrong(format!("a writer of {name} was told that {what}")));
        }
        match made {
            Ok(made) => {
                let point = (name.to_owned(), made.id.number.0);
                ledger.news.push(News::Committed { point, session: made.session });
                Ok(format!("{} over {base:?}, session {}", made.id.number, made.session))
            }
            Err(e) => {
                if let Some(base) = base.filter(|_| e.is_damage()) {
                    let point = (name.to_owned(), base.0);
                    ledger.news.push(News::Damaged { point, what: format!("writing over it: {e:?}") });
                }
                Err(e)
            }
        }
    }

    fn resume(&mut self, vault: &Vault, name: &str) -> Result<String, VaultError> {
        let open = vault.open_sessions(&vm(name))?;
        if open.is_empty() {
            return Ok("nothing to resume".to_owned());
        }
        let session = open[self.dice.index(open.len())].id;
        let done = self.back_up(vault, name, Some(session))?;
        self.shared.lock().count("backups that went on from another");
        Ok(format!("{session}: {done}"))
    }

    fn void(&mut self, vault: &Vault, name: &str) -> Result<String, VaultError> {
        let open = vault.open_sessions(&vm(name))?;
        if open.is_empty() {
            return Ok("nothing to void".to_owned());
        }
        let session = open[self.dice.index(open.len())].id;
        vault.void_session(&permit(), session).map(|voided| format!("{session}: {voided}"))
    }

    fn mark(&mut self, vault: &Vault, point: &Point, mark: Mark, began: u64) -> Result<String, VaultError> {
        let at = reference(point);
        match mark {
            Mark::Forget => vault.forget(&permit(), &at)?,
            Mark::Undelete => vault.undelete(&permit(), &at)?,
            Mark::Hold => vault.hold(&permit(), &at)?,
            Mark::Release => vault.release(&permit(), &at)?,
        };
        let point = point.clone();
        self.shared.lock().news.push(News::Marked { point, mark, began });
        Ok("done".to_owned())
    }

    fn break_pin(&mut self, vault: &Vault, name: &str) -> Result<String, VaultError> {
        let pins = vault.pins(&vm(name))?;
        if pins.is_empty() {
            return Ok("no pins".to_owned());
        }
        let pin = &pins[self.dice.index(pins.len())];
        self.shared.lock().broken.insert(pin.id);
        let point = (name.to_owned(), pin.number.0);
        vault
            .break_pin(&permit(), &reference(&point), pin.id)
            .map(|there| format!("{} of {}: {there}", pin.id, pin.number))
    }

    fn read(&mut self, vault: &Vault, point: &Point, pinned: bool) -> Result<String, VaultError> {
        let open = vault.point(&reference(point))?;
        let Some(expected) = self.shared.lock().attempts.get(&open.point().session).cloned() else {
            let what = format!("{point:?} is of session {}, which nobody began", open.point().session);
            self.shared.lock().news.push(News::Wrong(what));
            return Ok("strange".to_owned());
        };
        let pin = if pinned { Some(open.pin(&permit::<op::Restore>(), "simulated")?) } else { None };
        if let Some(pin) = &pin {
            self.shared.lock().pins.insert(pin.id(), point.clone());
        }
        let read = compare(&open, &expected);
        let read = match read {
            Ok(()) => Ok("good".to_owned()),
            Err(Wrong::Content(what)) => {
                self.shared.lock().news.push(News::Wrong(format!("a reader of {point:?} got: {what}")));
                Ok(what)
            }
            Err(Wrong::Error(error)) => {
                let object = error.object().unwrap_or_default().to_owned();
                let damage = error.is_damage();
                let error = Arc::try_unwrap(error).unwrap_or(VaultError::Missing { object });
                let mut explained = error;
                for _ in 0..EXPLANATIONS {
                    explained = open.explain(explained, pin.as_ref());
                }
                let mut ledger = self.shared.lock();
                if damage {
                    judge(&mut ledger, point, pin.as_ref(), &explained);
                }
                Err(explained)
            }
        };
        if let Some(pin) = &pin {
            self.shared.lock().pins.remove(&pin.id());
        }
        read
    }
}

/// Something was missing for a reader: is it what it was told?
fn judge(ledger: &mut Ledger, point: &Point, pin: Option<&Pin>, error: &VaultError) {
    let broken = pin.is_none_or(|pin| ledger.broken.contains(&pin.id()));
    if !broken {
        let what = format!("a reader of {point:?} lost it under an unbroken pin: {error:?}");
        ledger.news.push(News::Wrong(what));
    }
    ledger.news.push(News::Damaged { point: point.clone(), what: format!("{error:?}") });
}

/// Whether the error is what a store tells a host that was killed.
fn is_of_the_dead(error: &VaultError) -> bool {
    format!("{error:?}").contains("the host was killed")
}

pub(crate) fn reference((name, number): &Point) -> PointRef {
    point_ref(&format!("{name}@{number}"))
}
