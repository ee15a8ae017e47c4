//! Holds the store against what the hosts did, after every call that changed it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use vmkeep::model::{LineageId, SessionId};
use vmkeep::object_store::{Error, ObjectStore};
use vmkeep::vault::{ObjectName, Vault, VaultError};
use vmkeep_testkit::{Action, Call, Fate, SimEvent, Tap, TappedStore, Verdict};

use super::guest::Disks;
use super::host::{ports, reference};
use super::ledger::{Ledger, Mark, News, Point, Shared};
use super::walk::{Wrong, compare};
use crate::common::{kek, vm};

/// Something is not as it must be.
pub(crate) type Checked = Result<(), String>;

/// Notes what is read.
#[derive(Debug, Default)]
struct Reads(Mutex<BTreeSet<String>>);

impl Tap for Reads {
    fn before(&self, call: &Call<'_>) -> Verdict {
        if matches!(call.action, Action::Get { .. } | Action::Head) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(call.path.to_string());
        }
        Verdict::Pass
    }

    fn after(&self, _: &Call<'_>, _: Result<u64, &Error>) {}
}

impl std::fmt::Display for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reads")
    }
}

/// What is known of a point.
#[derive(Debug)]
struct Known {
    session: SessionId,
    content: Disks,
    /// Packs and records of moved slots that were asked for when it was restored last: while none of them changes, it
    /// restores as it did.
    reads: BTreeSet<String>,
    /// Forgotten and held, each from that step on.
    states: Vec<(u64, bool, bool)>,
    gone: bool,
}

impl Known {
    fn state(&self) -> (bool, bool) {
        self.states.last().map_or((false, false), |(_, forgotten, held)| (*forgotten, *held))
    }
}

#[derive(Debug)]
pub(crate) struct Checker {
    reads: TappedStore<Reads>,
    vault: Vault,
    shared: Shared,
    vms: Vec<String>,
    lineages: BTreeMap<LineageId, String>,
    points: BTreeMap<Point, Known>,
    /// How often a point was restored.
    pub(crate) restored: u64,
}

impl Checker {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, shared: Shared, vms: Vec<String>) -> Self {
        let reads = TappedStore::with_tap(store, Reads::default());
        let vault = Vault::open_inline(Arc::new(reads.clone()), kek(), ports(99, 0)).unwrap();
        let (lineages, points) = (BTreeMap::new(), BTreeMap::new());
        Self { reads, vault, shared, vms, lineages, points, restored: 0 }
    }

    /// Looks at what `events` may have changed, and at what the hosts were told.
    pub(crate) fn check(&mut self, events: &[SimEvent]) -> Checked {
        let (mut list, mut marked, mut packs) = (false, BTreeSet::new(), BTreeSet::new());
        for path in events.iter().filter_map(changed) {
            match ObjectName::parse(path) {
                Some(ObjectName::Point(..) | ObjectName::Retired(..) | ObjectName::Name(_)) => list = true,
                Some(ObjectName::Forget(lineage, number) | ObjectName::Mark(lineage, number, _)) => {
                    list = true;
                    marked.insert((lineage, number.0));
                }
                Some(ObjectName::Pack(..) | ObjectName::PackCopy(..) | ObjectName::Moved(..)) => {
                    packs.insert(path.to_owned());
                }
                _ => {}
            }
        }
        let shared = self.shared.clone();
        let ledger = &mut *shared.lock();
        if list {
            self.list(ledger)?;
        }
        for (lineage, number) in marked {
            self.look_at_hold(lineage, number, ledger.now)?;
        }
        if !packs.is_empty() {
            let touched = |known: &Known| !known.gone && !known.reads.is_disjoint(&packs);
            let touched: Vec<Point> =
                self.points.iter().filter(|(_, known)| touched(known)).map(|(at, _)| at.clone()).collect();
            touched.iter().try_for_each(|point| self.restore(point))?;
        }
        std::mem::take(&mut ledger.news).into_iter().try_for_each(|news| self.hear(ledger, news))
    }

    /// Every point that is there, restored, whatever is remembered of it.
    pub(crate) fn check_all(&mut self) -> Checked {
        let shared = self.shared.clone();
        self.list(&mut shared.lock())?;
        let there: Vec<Point> =
            self.points.iter().filter(|(_, known)| !known.gone).map(|(point, _)| point.clone()).collect();
        there.iter().try_for_each(|point| self.restore(point))
    }

    fn list(&mut self, ledger: &mut Ledger) -> Checked {
        let vault = self.vault.uncached();
        let mut listed = BTreeMap::new();
        for name in self.vms.clone() {
            let history = match vault.history(&vm(&name)) {
                Ok(history) => history,
                Err(VaultError::NoSuchVm(_)) => Vec::new(),
                Err(e) => return Err(format!("the points of {name} cannot be listed: {e:?}")),
            };
            for (number, found) in history {
                let at = (name.clone(), number.0);
                let found = found.map_err(|e| format!("{at:?} is listed and cannot be read: {e:?}"))?;
                self.lineages.insert(found.id.lineage, name.clone());
                listed.insert(at.clone(), found.session);
                if let Some(known) = self.points.get_mut(&at) {
                    if known.gone {
                        return Err(format!("{at:?} is back after it was swept"));
                    }
                    if known.session != found.session {
                        return Err(format!("{at:?} is another point than before"));
                    }
                    let (forgotten, held) = known.state();
                    if forgotten != found.forgotten {
                        known.states.push((ledger.now, found.forgotten, held));
                    }
                    continue;
                }
                let Some(content) = ledger.attempts.get(&found.session).cloned() else {
                    return Err(format!("{at:?} is of session {}, which nobody began", found.session));
                };
                let states = vec![(ledger.now, found.forgotten, false)];
                let (session, reads) = (found.session, BTreeSet::new());
                self.points.insert(at.clone(), Known { session, content, reads, states, gone: false });
                self.restore(&at)?;
            }
        }
        for (at, known) in &mut self.points {
            if known.gone || listed.contains_key(at) {
                continue;
            }
            known.gone = true;
            match known.state() {
                (true, false) => {}
                (forgotten, held) => {
                    return Err(format!(
                        "{at:?} is gone, though forgotten is {forgotten} and held is {held}"
                    ));
                }
            }
            let pin = ledger.pins.iter().find(|(pin, point)| *point == at && !ledger.broken.contains(pin));
            if let Some((pin, _)) = pin {
                return Err(format!("{at:?} is gone under pin {pin}"));
            }
        }
        ledger.listed = listed;
        Ok(())
    }

    fn look_at_hold(&mut self, lineage: LineageId, number: u64, now: u64) -> Checked {
        let Some(name) = self.lineages.get(&lineage) else { return Ok(()) };
        let at = (name.clone(), number);
        let Some(known) = self.points.get_mut(&at).filter(|known| !known.gone) else { return Ok(()) };
        let vault = self.vault.uncached();
        let held = vault.point(&reference(&at)).and_then(|open| vault.is_held(&open));
        let held = held.map_err(|e| format!("{at:?} is listed and cannot be opened: {e:?}"))?;
        let (forgotten, before) = known.state();
        if held != before {
            known.states.push((now, forgotten, held));
        }
        Ok(())
    }

    fn restore(&mut self, at: &Point) -> Checked {
        let Some(known) = self.points.get_mut(at) else { return Ok(()) };
        let noted =
            || std::mem::take(&mut *self.reads.tap().0.lock().unwrap_or_else(PoisonError::into_inner));
        noted();
        let open = self.vault.uncached().point(&reference(at)).map_err(Wrong::from);
        open.and_then(|open| compare(&open, &known.content)).map_err(|wrong| match wrong {
            Wrong::Error(e) => format!("{at:?} does not restore: {e:?}"),
            Wrong::Content(what) => format!("{at:?} restores to something else: {what}"),
        })?;
        known.reads = noted().into_iter().filter(|path| is_of_content(path)).collect();
        self.restored += 1;
        Ok(())
    }

    fn hear(&mut self, ledger: &mut Ledger, news: News) -> Checked {
        match news {
            News::Wrong(what) => Err(what),
            News::Committed { point, session } => match self.points.get(&point) {
                Some(known) if known.session == session => {
                    ledger.count("committed");
                    Ok(())
                }
                Some(known) => Err(format!(
                    "{point:?} was committed by session {session}, and is of session {}",
                    known.session
                )),
                None => Err(format!("{point:?} was committed by session {session}, and is not there")),
            },
            News::Marked { point, mark, began } => self.marked(&point, mark, began),
            News::Damaged { point, what } => {
                if self.points.get(&point).is_some_and(|known| known.gone) {
                    ledger.count("swept under a reader");
                    return Ok(());
                }
                // It is whole: whoever was told that it is not was told something wrong.
                self.restore(&point)?;
                Err(format!("{point:?} is whole, and somebody was told that it is damaged: {what}"))
            }
        }
    }

    /// Whether a point was, at some time since `began`, what somebody was told it is now.
    fn marked(&self, point: &Point, mark: Mark, began: u64) -> Checked {
        let Some(known) = self.points.get(point) else {
            return Err(format!("{point:?} was marked and was never there"));
        };
        let is = |&(_, forgotten, held): &(u64, bool, bool)| match mark {
            Mark::Forget => forgotten,
            Mark::Undelete => !forgotten,
            Mark::Hold => held,
            Mark::Release => !held,
        };
        let since = known.states.iter().rposition(|(step, ..)| *step <= began).unwrap_or(0);
        if known.states[since..].iter().any(is) {
            return Ok(());
        }
        Err(format!("somebody was told {mark:?} of {point:?} is done, and it was {:?}", known.states))
    }
}

fn is_of_content(path: &str) -> bool {
    matches!(
        ObjectName::parse(path),
        Some(ObjectName::Pack(..) | ObjectName::PackCopy(..) | ObjectName::Moved(..))
    )
}

/// The object that an event may have changed.
fn changed(event: &SimEvent) -> Option<&str> {
    if !matches!(event.fate, Fate::Passed | Fate::AnswerLost | Fate::Again | Fate::KilledAfter) {
        return None;
    }
    let (verb, rest) = event.call.split_once(' ')?;
    let path = rest.split(' ').next()?;
    matches!(verb, "create" | "put" | "Delete").then_some(path)
}
