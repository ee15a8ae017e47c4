//! Repacking worn packs: live slots into new packs, said to be there by one create per birth pack, then the old removed.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_envelope::PackName;
use vmkeep_model::{DomainId, LineageId, SessionId};

use super::carry::pack_objects;
use super::{
    Build, Built, CreateOnce, Created, Head, Record, Reply, Request, Retirement, Rules, Step, Trouble, good,
    wait,
};
use crate::format::{MovedBody, PackBody, RepackBody, WornBody};
use crate::layout::ObjectName;

/// Most worn packs that are repacked together.
const GROUP: usize = 16;

/// Finds the newest record of where the slots of a birth pack lie.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NewestMoved {
    lineage: LineageId,
    birth: PackBody,
    k: u64,
    newest: Option<MovedBody>,
}

impl NewestMoved {
    pub(crate) fn new(lineage: LineageId, birth: PackBody) -> Self {
        Self { lineage, birth, k: 0, newest: None }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<(u64, Option<MovedBody>), Trouble>> {
        let name = |k| ObjectName::Moved(self.lineage, PackName(self.birth.1), k);
        match reply {
            Reply::Begin => {}
            Reply::Found(Record::Moved(found)) => {
                self.newest = Some(found);
                self.k += 1;
            }
            Reply::Missing => return Step::Done(Ok((self.k, self.newest.take()))),
            _ => return Step::Done(Err(Trouble::Unreadable(name(self.k + 1)))),
        }
        Step::Ask(Request::Read(name(self.k + 1)))
    }
}

/// Repacks worn packs, and tidies up after sweeps that died doing so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Repack {
    lineage: LineageId,
    sweep: [u8; 16],
    at: i64,
    rules: Rules,
    head: Head,
    /// The domain and epoch of the data key that what is thinned is sealed with; `None` when nothing is.
    seals_with: Option<(DomainId, u32)>,
    worn: Vec<PackBody>,
    group: Vec<PackBody>,
    births: BTreeSet<PackBody>,
    moved: Vec<(PackBody, u64, Option<MovedBody>)>,
    built: Built,
    /// Birth packs that another sweep moved first.
    lost: BTreeSet<PackBody>,
    repacked: Vec<PackBody>,
    /// The marker of a pack that is gone is being removed.
    skip: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Begin,
    Open(CreateOnce),
    Tombstone,
    Group,
    Births(usize),
    Moved(NewestMoved),
    Build,
    /// Marks the new packs: until it is known that nothing died meanwhile.
    Mark(usize, Option<CreateOnce>),
    Move(usize, Option<CreateOnce>),
    Remove,
    Retired(Retirement),
    Unmark,
    End,
}

fn worn_name(lineage: LineageId, pack: &PackBody) -> ObjectName {
    ObjectName::Worn(lineage, SessionId(pack.0), PackName(pack.1))
}

fn worn_mark(lineage: LineageId, pack: &PackBody, rules: Rules) -> CreateOnce {
    let worn = WornBody { lineage: lineage.0, session: pack.0, name: pack.1, dead: 0 };
    CreateOnce::new(worn_name(lineage, pack), Record::Worn(worn), rules)
}

impl Repack {
    pub(crate) fn new(
        lineage: LineageId,
        (sweep, at): ([u8; 16], i64),
        head: Head,
        seals_with: Option<(DomainId, u32)>,
        worn: Vec<PackBody>,
        rules: Rules,
    ) -> Self {
        Self {
            lineage,
            sweep,
            at,
            rules,
            head,
            seals_with,
            worn,
            group: Vec::new(),
            births: BTreeSet::new(),
            moved: Vec::new(),
            built: Built::default(),
            lost: BTreeSet::new(),
            repacked: Vec::new(),
            skip: false,
            state: State::Begin,
        }
    }

    /// The packs that were worn and are gone.
    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<Vec<PackBody>, Trouble>> {
        let lineage = self.lineage;
        let own = ObjectName::Repack(lineage, SessionId(self.sweep));
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                State::Begin if self.worn.is_empty() => return Step::Done(Ok(Vec::new())),
                State::Begin => {
                    let record = RepackBody { lineage: lineage.0, sweep: self.sweep, at: self.at };
                    State::Open(CreateOnce::new(own.clone(), Record::Repack(record), self.rules))
                }
                State::Open(create) => {
                    good!(wait!(create, reply));
                    State::Tombstone
                }
                // After its own record: whoever destroys keys looks, after the tombstone, for the records of sweeps that repack.
                // So either it is seen here that nothing is to be sealed with these keys, or they are not destroyed yet.
                State::Tombstone => match (reply, self.seals_with) {
                    (_, None) | (Reply::There(false), _) => State::Group,
                    (Reply::Begin, Some((domain, epoch))) => {
                        return Step::Ask(Request::Exists(ObjectName::KeyDestroyed { domain, epoch }));
                    }
                    _ => State::End,
                },
                State::Group => {
                    let take = self.worn.len().min(GROUP);
                    self.group = self.worn.drain(..take).collect();
                    self.births.clear();
                    self.moved.clear();
                    self.lost.clear();
                    if take == 0 { State::End } else { State::Births(0) }
                }
                State::Births(at) => match (reply, self.group.get(*at)) {
                    (Reply::Begin, Some(pack)) => return Step::Ask(Request::Births(*pack)),
                    (Reply::Births(births), _) => {
                        self.births.extend(births);
                        State::Births(*at + 1)
                    }
                    // It went with all that was in it.
                    (Reply::Missing, Some(pack)) => {
                        let gone = worn_name(lineage, pack);
                        let at = *at;
                        self.group.remove(at);
                        self.state = State::Births(at);
                        self.skip = true;
                        return Step::Ask(Request::Delete(vec![gone]));
                    }
                    (Reply::Done | Reply::Uncertain, _) if self.skip => {
                        self.skip = false;
                        State::Births(*at)
                    }
                    (Reply::Begin, None) if self.group.is_empty() => State::Group,
                    (Reply::Begin, None) => self.next_moved(),
                    _ => State::Births(*at + 1),
                },
                State::Moved(find) => {
                    let birth = find.birth;
                    let (k, newest) = good!(wait!(find, reply));
                    self.moved.push((birth, k, newest));
                    self.next_moved()
                }
                State::Build => match reply {
                    Reply::Built(built) => {
                        self.built = built;
                        State::Mark(0, None)
                    }
                    Reply::Begin => {
                        let (packs, moved) = (self.group.clone(), self.moved.clone());
                        let build = Build { sweep: self.sweep, packs, moved };
                        return Step::Ask(Request::Build(build));
                    }
                    // What was stored of it is found by the next sweep.
                    _ => return Step::Done(Ok(std::mem::take(&mut self.repacked))),
                },
                State::Mark(at, Some(create)) => {
                    let at = *at;
                    good!(wait!(create, reply));
                    State::Mark(at + 1, None)
                }
                State::Mark(at, None) => match self.built.made.get(*at) {
                    Some(pack) => State::Mark(*at, Some(worn_mark(lineage, pack, self.rules))),
                    None => State::Move(0, None),
                },
                State::Move(at, Some(create)) => {
                    let at = *at;
                    if let Created::Other(_) = good!(wait!(create, reply)) {
                        let moved = &self.built.moved[at];
                        self.lost.insert((moved.session, moved.name));
                    }
                    State::Move(at + 1, None)
                }
                State::Move(at, None) => match self.built.moved.get(*at) {
                    Some(moved) => {
                        let name = ObjectName::Moved(lineage, PackName(moved.name), moved.k);
                        let create = CreateOnce::new(name, Record::Moved(moved.clone()), self.rules);
                        State::Move(*at, Some(create))
                    }
                    None => State::Remove,
                },
                State::Remove => match reply {
                    Reply::Begin => {
                        let lost = &self.lost;
                        let free = self.built.sources.iter();
                        let free: Vec<_> =
                            free.filter(|(_, births)| births.iter().all(|b| !lost.contains(b))).collect();
                        let mut names: Vec<_> =
                            free.iter().flat_map(|(pack, _)| pack_objects(lineage, pack)).collect();
                        for (pack, _) in &free {
                            let pack = (pack.session, pack.name);
                            self.repacked.push(pack);
                            names.push(worn_name(lineage, &pack));
                        }
                        return Step::Ask(Request::Delete(names));
                    }
                    Reply::Done => {
                        let retired = self.head.retired.clone();
                        State::Retired(Retirement::after(lineage, self.head.k(), retired))
                    }
                    _ => return Step::Done(Err(Trouble::GaveUp(own))),
                },
                State::Retired(probe) => {
                    let retired = good!(wait!(probe, reply));
                    let quiet = retired.as_ref().map_or(0, |retired| retired.k) == self.head.k();
                    self.head.retired = retired;
                    // What was live when the packs were built may be dead by now, and nothing else would look.
                    if quiet && self.lost.is_empty() { State::Unmark } else { State::Group }
                }
                State::Unmark => match reply {
                    Reply::Begin if !self.built.made.is_empty() => {
                        let names = self.built.made.iter().map(|pack| worn_name(lineage, pack));
                        return Step::Ask(Request::Delete(names.collect()));
                    }
                    _ => State::Group,
                },
                State::End => match reply {
                    Reply::Begin => return Step::Ask(Request::Delete(vec![own])),
                    _ => return Step::Done(Ok(std::mem::take(&mut self.repacked))),
                },
            };
        }
    }

    fn next_moved(&self) -> State {
        let looked = self.moved.len();
        match self.births.iter().nth(looked) {
            Some(birth) => State::Moved(NewestMoved::new(self.lineage, *birth)),
            None => State::Build,
        }
    }
}

/// Tidies up after a sweep that died repacking: packs of it that no `moved` record names go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tidy {
    lineage: LineageId,
    rules: Rules,
    dead: SessionId,
    /// Pack and its objects. The last is next.
    packs: Vec<(PackBody, Vec<ObjectName>)>,
    births: Vec<PackBody>,
    used: bool,
    state: TidyState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TidyState {
    List,
    Births,
    Look(NewestMoved),
    Fence(CreateOnce),
    Mark(CreateOnce),
    Remove,
    End,
}

impl Tidy {
    pub(crate) fn new(lineage: LineageId, dead: SessionId, rules: Rules) -> Self {
        let (packs, births) = (Vec::new(), Vec::new());
        Self { lineage, rules, dead, packs, births, used: false, state: TidyState::List }
    }

    pub(crate) fn step(&mut self, reply: Reply) -> Step<Result<(), Trouble>> {
        let lineage = self.lineage;
        let mut next = Some(reply);
        loop {
            let reply = next.take().unwrap_or(Reply::Begin);
            self.state = match &mut self.state {
                TidyState::List => match reply {
                    Reply::Names(names) => {
                        let mut packs: BTreeMap<PackBody, Vec<ObjectName>> = BTreeMap::new();
                        for name in names {
                            if let ObjectName::Pack(_, session, pack)
                            | ObjectName::PackCopy(_, session, pack) = &name
                            {
                                packs.entry((session.0, pack.0)).or_default().push(name);
                            }
                        }
                        self.packs = packs.into_iter().collect();
                        TidyState::Births
                    }
                    _ => return Step::Ask(Request::List(format!("packs/{lineage}/{}", self.dead))),
                },
                TidyState::Births => match (reply, self.packs.last()) {
                    (_, None) => TidyState::End,
                    (Reply::Begin, Some((pack, _))) => {
                        self.used = false;
                        return Step::Ask(Request::Births(*pack));
                    }
                    (Reply::Missing, _) => {
                        self.packs.pop();
                        TidyState::Births
                    }
                    (Reply::Births(births), _) if !births.is_empty() => {
                        self.births = births;
                        self.look()
                    }
                    // Nothing is known of it, so nothing is removed.
                    _ => return Step::Done(Ok(())),
                },
                TidyState::Look(find) => {
                    let birth = find.birth;
                    let (k, newest) = good!(wait!(find, reply));
                    let pack = self.packs.last().map(|(pack, _)| *pack);
                    let slots = newest.map(|moved| moved.slots).unwrap_or_default();
                    if slots.iter().any(|slot| Some(slot.pack) == pack) {
                        self.used = true;
                        self.births.pop();
                        self.look()
                    } else {
                        // Said once more under the next number: the owner, should it still be there, comes too late.
                        let (session, name) = birth;
                        let moved = MovedBody { lineage: lineage.0, session, name, k: k + 1, slots };
                        let name = ObjectName::Moved(lineage, PackName(moved.name), moved.k);
                        TidyState::Fence(CreateOnce::new(name, Record::Moved(moved), self.rules))
                    }
                }
                TidyState::Fence(create) => {
                    if let Created::Ours = good!(wait!(create, reply)) {
                        self.births.pop();
                    }
                    self.look()
                }
                TidyState::Mark(create) => {
                    good!(wait!(create, reply));
                    self.packs.pop();
                    TidyState::Births
                }
                TidyState::Remove => match reply {
                    Reply::Begin => {
                        let (pack, mut names) = self.packs.pop().unwrap_or_default();
                        names.push(worn_name(lineage, &pack));
                        return Step::Ask(Request::Delete(names));
                    }
                    Reply::Done => TidyState::Births,
                    _ => return Step::Done(Ok(())),
                },
                TidyState::End => match reply {
                    Reply::Begin => {
                        return Step::Ask(Request::Delete(vec![ObjectName::Repack(lineage, self.dead)]));
                    }
                    _ => return Step::Done(Ok(())),
                },
            };
        }
    }

    fn look(&self) -> TidyState {
        match (self.births.last(), self.packs.last()) {
            (Some(birth), _) => TidyState::Look(NewestMoved::new(self.lineage, *birth)),
            (None, Some((pack, _))) if self.used => {
                TidyState::Mark(worn_mark(self.lineage, pack, self.rules))
            }
            _ => TidyState::Remove,
        }
    }
}
