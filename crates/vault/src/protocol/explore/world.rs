//! A store and what is in it, as small as it can be: every request is one step.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use vmkeep_envelope::PackName;
use vmkeep_model::{LineageId, PointNumber, SessionId};

use crate::format::{DeadPackBody, MovedBody, MovedSlotBody, PackBody, RetiredBody, TAKEN};
use crate::layout::ObjectName;
use crate::protocol::{Build, Built, Examine, Examined, Record, Reply, Request, mark_name};

pub(super) const L: LineageId = LineageId([7; 16]);

/// A stored reference: birth pack and slot, and since which point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ref {
    pub(super) pack: PackBody,
    pub(super) slot: u32,
    pub(super) birth: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Record(Record),
    /// The slots that lie in it, in order: birth pack and number. The birth of all of them.
    Pack(Vec<(PackBody, u32)>, u64),
}

/// A table whose fingerprint costs what changes.
#[derive(Clone, Debug)]
pub(super) struct Table<K, V> {
    map: BTreeMap<K, Rc<V>>,
    print: u64,
    /// Under which keys somebody looked, while that is written down.
    looked: RefCell<Option<Vec<K>>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), print: 0, looked: RefCell::default() }
    }
}

impl<K: Clone + Ord + Hash, V: Hash> Table<K, V> {
    fn print_of(key: &K, value: &V) -> u64 {
        let mut hasher = DefaultHasher::new();
        (key, value).hash(&mut hasher);
        hasher.finish()
    }

    fn look(&self, key: &K) {
        if let Some(looked) = &mut *self.looked.borrow_mut() {
            looked.push(key.clone());
        }
    }

    /// Writes down where somebody looks, from now on.
    pub(super) fn note(&self) {
        self.looked.replace(Some(Vec::new()));
    }

    /// Where somebody looked since then; nothing more is written down.
    pub(super) fn noted(&self) -> Vec<K> {
        self.looked.take().unwrap_or_default()
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.look(key);
        self.map.get(key).map(|value| &**value)
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.look(key);
        self.map.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        self.print ^= Self::print_of(&key, &value);
        self.map.insert(key, Rc::new(value));
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(value) = self.map.remove(key) {
            self.print ^= Self::print_of(key, &value);
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.map.keys()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.map.iter().map(|(key, value)| (key, &**value))
    }
}

/// Everything there is.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) objects: Table<ObjectName, Value>,
    /// What points refer to: the content of their maps, by session, which no request looks into but `Examine`.
    pub(super) maps: Table<[u8; 16], BTreeSet<Ref>>,
    /// How many writers and sweepers have a name: they get theirs when they first leave a trace, so that two of a kind
    /// are the same until then.
    pub(super) named: [u8; 2],
    /// Hints are not written, and numbers that nothing can retire are known: reads of what cannot change need not be
    /// interleaved.
    pub(super) fixed: Option<Fixed>,
    /// Every point that ever counted, with its session.
    pub(super) committed: BTreeMap<u64, [u8; 16]>,
    /// Packs that were stored after their session had ended: the writer takes them away when it learns of it. If it
    /// never does, the sweep that looks at every pack finds them.
    pub(super) late: BTreeSet<PackBody>,
}

/// What cannot change in a run. Each is watched: a run in which one does fails.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    /// The numbers that can be retired, all in one record.
    pub(super) retirable: BTreeSet<u64>,
}

pub(super) fn id(n: u8) -> [u8; 16] {
    [n; 16]
}

/// Whether a listing of `prefix` shows `name`. By its first part when that alone tells.
pub(super) fn is_under(name: &ObjectName, prefix: &str) -> bool {
    let first = match name {
        ObjectName::Point(..) => "points",
        ObjectName::Head(_) => "heads",
        ObjectName::Retired(..) => "retired",
        ObjectName::Session(_) => "sessions",
        ObjectName::Forget(..) | ObjectName::Mark(..) => "forgets",
        ObjectName::Pin(..) => "pins",
        ObjectName::Plan(..) | ObjectName::Worn(..) | ObjectName::Repack(..) => "sweep",
        ObjectName::Pack(..) => "packs",
        ObjectName::Moved(..) => "moved",
        _ => "",
    };
    prefix.starts_with(first)
        && (prefix == first
            || name.to_string().strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')))
}

pub(super) fn pack_name(pack: PackBody) -> ObjectName {
    ObjectName::Pack(L, SessionId(pack.0), PackName(pack.1))
}

impl World {
    /// What tells it from other worlds.
    pub(super) fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.objects.print, self.maps.print, self.named, &self.committed, &self.late).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether the answer is the same whenever it is asked from now on, and nothing is changed by asking.
    pub(super) fn is_stable(&self, request: &Request) -> bool {
        let Some(fixed) = &self.fixed else { return false };
        match request {
            Request::Read(ObjectName::Head(_)) | Request::Overwrite(..) => true,
            Request::Read(name @ ObjectName::Retired(_, k)) => *k > 1 || self.objects.contains_key(name),
            Request::Read(name @ ObjectName::Point(_, number))
            | Request::Exists(name @ ObjectName::Point(_, number)) => {
                !fixed.retirable.contains(&number.0) && self.objects.contains_key(name)
            }
            _ => false,
        }
    }

    fn watch(&self, request: &Request) {
        let Some(fixed) = &self.fixed else { return };
        match request {
            Request::Create(ObjectName::Retired(_, k), _) => assert_eq!(*k, 1, "another retirement"),
            Request::Delete(names) => {
                for name in names {
                    assert!(!matches!(name, ObjectName::Retired(..) | ObjectName::Head(_)), "{name}");
                    if let ObjectName::Point(_, number) = name {
                        assert!(fixed.retirable.contains(&number.0), "{name} is removed");
                    }
                }
            }
            _ => {}
        }
    }

    fn record(&self, name: &ObjectName) -> Option<&Record> {
        match self.objects.get(name) {
            Some(Value::Record(record)) => Some(record),
            _ => None,
        }
    }

    pub(super) fn retired(&self) -> Option<&RetiredBody> {
        let mut newest = None;
        for k in 1.. {
            match self.record(&ObjectName::Retired(L, k)) {
                Some(Record::Retired(retired)) => newest = Some(retired),
                _ => break,
            }
        }
        newest
    }

    pub(super) fn is_retired(&self, number: u64) -> bool {
        self.retired().is_some_and(|retired| retired.holds(number))
    }

    /// Whether a sweep has taken the point for good.
    pub(super) fn is_taken(&self, number: u64) -> bool {
        self.is_marked_taken(number) || self.is_retired(number)
    }

    pub(super) fn is_marked_taken(&self, number: u64) -> bool {
        let marks = (1..).map_while(|g| self.record(&mark_name(L, number, g)));
        let state = marks.last().map_or(0, |mark| if let Record::Mark(mark) = mark { mark.state } else { 0 });
        state & TAKEN != 0
    }

    pub(super) fn point(&self, number: u64) -> Option<&BTreeSet<Ref>> {
        match self.record(&ObjectName::Point(L, PointNumber(number))) {
            Some(Record::Point(point)) => self.maps.get(&point.session),
            _ => None,
        }
    }

    /// What a session would have committed is nothing to anybody, unless it is committed all the same.
    pub(super) fn forget_map(&mut self, session: [u8; 16]) {
        let is_point =
            |value: &Value| matches!(value, Value::Record(Record::Point(p)) if p.session == session);
        if !self.objects.iter().any(|(_, value)| is_point(value)) {
            self.maps.remove(&session);
        }
    }

    fn moved(&self, birth: PackBody) -> Option<&MovedBody> {
        let mut newest = None;
        for k in 1.. {
            match self.record(&ObjectName::Moved(L, PackName(birth.1), k)) {
                Some(Record::Moved(moved)) => newest = Some(moved),
                _ => break,
            }
        }
        newest
    }

    /// Whether a reader finds the reference: in its birth pack, else where the newest record says.
    pub(super) fn resolves(&self, at: &Ref) -> bool {
        if self.objects.contains_key(&pack_name(at.pack)) {
            return true;
        }
        let slot = self.moved(at.pack).and_then(|moved| moved.slots.iter().find(|slot| slot.slot == at.slot));
        slot.is_some_and(|slot| match self.objects.get(&pack_name(slot.pack)) {
            Some(Value::Pack(slots, _)) => slots.get(slot.at as usize) == Some(&(at.pack, at.slot)),
            _ => false,
        })
    }

    /// Does what is asked. `as_if` says whether it has an effect, for requests that have one.
    pub(super) fn answer(&mut self, request: &Request, effect: bool) -> Reply {
        self.watch(request);
        match request {
            Request::Overwrite(..) if self.fixed.is_some() => Reply::Done,
            Request::Read(name) => match self.record(name) {
                Some(record) => Reply::Found(record.clone()),
                None => Reply::Missing,
            },
            Request::ReadBack(name, wanted) => match self.record(name) {
                Some(record) if record == wanted => Reply::Same,
                Some(record) => Reply::Found(record.clone()),
                None => Reply::Missing,
            },
            Request::Exists(name) => Reply::There(self.objects.contains_key(name)),
            Request::List(prefix) => {
                let names = self.objects.keys().filter(|name| is_under(name, prefix));
                Reply::Names(names.cloned().collect())
            }
            Request::Create(name, _) if self.objects.contains_key(name) => Reply::Taken,
            Request::Create(name, record) => {
                if effect {
                    self.create(name, record);
                }
                Reply::Done
            }
            Request::Overwrite(name, record) => {
                if effect {
                    self.objects.insert(name.clone(), Value::Record(record.clone()));
                }
                Reply::Done
            }
            Request::Delete(names) => {
                if effect {
                    for name in names {
                        self.objects.remove(name);
                    }
                }
                Reply::Done
            }
            Request::Examine(examine) => self.examine(examine),
            Request::Unused { sessions, .. } => {
                let unused = self.objects.iter().filter_map(|(name, value)| match (name, value) {
                    (ObjectName::Pack(_, session, _), Value::Pack(..)) if sessions.contains(session) => {
                        self.judge(name, &self.all_retired()).iter().all(|live| !live).then(|| name.clone())
                    }
                    _ => None,
                });
                Reply::Objects(unused.collect())
            }
            Request::Births(pack) => match self.objects.get(&pack_name(*pack)) {
                Some(Value::Pack(slots, _)) => {
                    let births: BTreeSet<_> = slots.iter().map(|(birth, _)| *birth).collect();
                    Reply::Births(births.into_iter().collect())
                }
                _ => Reply::Missing,
            },
            Request::Build(build) => self.build(build, effect),
        }
    }

    fn create(&mut self, name: &ObjectName, record: &Record) {
        if let (ObjectName::Point(_, number), Record::Point(point)) = (name, record)
            && !self.is_retired(number.0)
        {
            assert!(!self.committed.contains_key(&number.0), "number {number} is used twice");
            self.committed.insert(number.0, point.session);
        }
        self.objects.insert(name.clone(), Value::Record(record.clone()));
    }

    /// The first point from `birth` on that counts when `gone` does not.
    fn counting(&self, birth: u64, gone: &[u64]) -> Option<&BTreeSet<Ref>> {
        // Beyond the highest it looks where the next ones would be, so that it is known to.
        let top = self.committed.keys().max().copied().unwrap_or(0) + 4;
        (birth..=top).find(|n| !gone.contains(n) && self.point(*n).is_some()).and_then(|n| self.point(n))
    }

    /// Which slots of a pack some point refers to, wherever it is read from.
    fn judge(&self, name: &ObjectName, gone: &[u64]) -> Vec<bool> {
        let Some(Value::Pack(slots, birth)) = self.objects.get(name) else { return Vec::new() };
        let point = self.counting(*birth, gone);
        let live = |(born, slot): &(PackBody, u32)| {
            point.is_some_and(|refs| refs.iter().any(|at| (at.pack, at.slot) == (*born, *slot)))
        };
        slots.iter().map(live).collect()
    }

    /// Whether readers look for the slot in this pack.
    fn lies_in(&self, born: PackBody, slot: u32, pack: PackBody) -> bool {
        born == pack
            || self
                .moved(born)
                .is_some_and(|moved| moved.slots.iter().any(|m| m.slot == slot && m.pack == pack))
    }

    /// Every number that the newest retirement record lists.
    fn all_retired(&self) -> Vec<u64> {
        self.committed.keys().copied().filter(|n| self.is_retired(*n)).collect()
    }

    fn examine(&self, examine: &Examine) -> Reply {
        let listed =
            examine.retired.iter().flat_map(|retired| retired.ranges.iter().flat_map(|&(a, b)| a..=b));
        let gone: Vec<u64> = examine.numbers.iter().copied().chain(listed).collect();
        let mut touched: BTreeSet<PackBody> = BTreeSet::new();
        let mut blocked = Vec::new();
        for job in &examine.jobs {
            let next = job.next.map(|next| self.point(next));
            // A map is read from the packs of its point.
            match (self.point(job.number), next) {
                (Some(refs), None | Some(Some(_)))
                    if refs.iter().filter(|at| at.birth > job.since).all(|at| self.resolves(at)) =>
                {
                    let next = next.flatten();
                    let lost = refs.iter().filter(|at| at.birth > job.since);
                    let lost = lost.filter(|at| !next.is_some_and(|next| next.contains(at)));
                    touched.extend(lost.map(|at| at.pack));
                }
                _ => blocked.push(job.number),
            }
        }
        if !blocked.is_empty() {
            return Reply::Blocked(blocked);
        }
        let mut physical: BTreeSet<PackBody> = touched.clone();
        for birth in &touched {
            physical
                .extend(self.moved(*birth).iter().flat_map(|moved| moved.slots.iter().map(|slot| slot.pack)));
        }
        let mut examined = Examined::default();
        for pack in physical {
            let live = self.judge(&pack_name(pack), &gone);
            if live.is_empty() {
                continue;
            }
            if live.iter().all(|live| !live) {
                examined.dead.push(DeadPackBody { session: pack.0, name: pack.1, metadata: false, bytes: 1 });
            } else if live.iter().any(|live| !live) {
                examined.worn.push((pack, 1));
            }
        }
        examined.settled = touched.into_iter().filter(|birth| self.is_settled(*birth, &gone)).collect();
        Reply::Examined(examined)
    }

    fn is_settled(&self, birth: PackBody, gone: &[u64]) -> bool {
        let Some(moved) = self.moved(birth) else { return false };
        moved.slots.iter().all(|slot| {
            let name = pack_name(slot.pack);
            let Some(Value::Pack(slots, _)) = self.objects.get(&name) else { return true };
            let live = self.judge(&name, gone);
            slots.iter().zip(live).all(|((born, _), live)| *born != birth || !live)
        })
    }

    fn build(&mut self, asked: &Build, effect: bool) -> Reply {
        let mut built = Built::default();
        let made = (asked.sweep, id(asked.packs.first().map_or(0, |pack| pack.1[0]).wrapping_add(100)));
        let mut slots = Vec::new();
        let mut birth_of = 0;
        let mut moves: BTreeMap<PackBody, Vec<MovedSlotBody>> = BTreeMap::new();
        for pack in &asked.packs {
            let name = pack_name(*pack);
            let live = self.judge(&name, &self.all_retired());
            let Some(Value::Pack(held, birth)) = self.objects.get(&name) else { continue };
            birth_of = *birth;
            let mut births = BTreeSet::new();
            for ((born, slot), live) in held.iter().zip(live) {
                // What was born here and died is dead for ever. What was moved here may yet be said to lie here, unless
                // its owner's next record is taken.
                if *born == *pack && !live {
                    continue;
                }
                births.insert(*born);
                let moves = moves.entry(*born).or_default();
                if live && self.lies_in(*born, *slot, *pack) {
                    let at = u32::try_from(slots.len()).unwrap();
                    moves.push(MovedSlotBody { slot: *slot, pack: made, at });
                    slots.push((*born, *slot));
                }
            }
            let dead = DeadPackBody { session: pack.0, name: pack.1, metadata: false, bytes: 1 };
            built.sources.push((dead, births.into_iter().collect()));
        }
        for (birth, mut slots) in moves {
            let Some((_, k, before)) = asked.moved.iter().find(|(known, ..)| *known == birth) else {
                continue;
            };
            for slot in before.iter().flat_map(|before| &before.slots) {
                if !asked.packs.contains(&slot.pack) && !slots.iter().any(|s| s.slot == slot.slot) {
                    slots.push(slot.clone());
                }
            }
            slots.sort_by_key(|slot| slot.slot);
            built.moved.push(MovedBody { lineage: L.0, session: birth.0, name: birth.1, k: k + 1, slots });
        }
        if !slots.is_empty() {
            built.made.push(made);
            if effect {
                self.objects.insert(pack_name(made), Value::Pack(slots, birth_of));
            }
        }
        Reply::Built(built)
    }
}
