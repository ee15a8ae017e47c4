//! What a request looks at and what it changes, and when two of them may change places.

use std::collections::{BTreeSet, HashMap};

use super::actor::{Actor, Reading};
use super::world::{L, World, is_under, pack_name};
use super::{Process, Ref, changes};
use crate::layout::ObjectName;
use crate::protocol::Request;

/// Names of a run, a bit each. The first bits stand for what is no object: the names that processes get.
#[derive(Debug, Default)]
pub(super) struct Names {
    bits: HashMap<ObjectName, u32>,
    /// What was listed, a bit each as well.
    prefixes: Vec<String>,
    /// Per prefix, the names under it.
    under: Vec<u128>,
}

/// How many kinds of processes get names.
const KINDS: u32 = 2;

impl Names {
    fn bit(&mut self, name: &ObjectName) -> u128 {
        if let Some(bit) = self.bits.get(name) {
            return 1 << bit;
        }
        let bit = u32::try_from(self.bits.len()).unwrap() + KINDS;
        assert!(bit < u128::BITS, "too many names for one run");
        self.bits.insert(name.clone(), bit);
        for (prefix, under) in self.prefixes.iter().zip(&mut self.under) {
            if is_under(name, prefix) {
                *under |= 1 << bit;
            }
        }
        1 << bit
    }

    fn listing(&mut self, prefix: &str) -> u64 {
        let known = self.prefixes.iter().position(|known| known == prefix);
        let at = known.unwrap_or_else(|| {
            let under = self.bits.iter().filter(|(name, _)| is_under(name, prefix));
            self.under.push(under.fold(0, |under, (_, bit)| under | 1 << bit));
            self.prefixes.push(prefix.to_owned());
            self.prefixes.len() - 1
        });
        assert!(at < 64, "too many prefixes for one run");
        1 << at
    }

    /// The names that are there.
    pub(super) fn present(&mut self, world: &World) -> u128 {
        world.objects.keys().fold(0, |there, name| there | self.bit(name))
    }

    /// How many names and prefixes there are: with another, listings may show more.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.bits.len(), self.prefixes.len())
    }

    /// The same with every name among the looks that its listings may show.
    pub(super) fn widened(&self, mut touch: Touch) -> Touch {
        let mut listed = touch.lists;
        while listed != 0 {
            touch.looks |= self.under[listed.trailing_zeros() as usize];
            listed &= listed - 1;
        }
        touch
    }
}

/// What is looked at and what is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Touch {
    looks: u128,
    /// By prefix.
    lists: u64,
    creates: u128,
    removes: u128,
}

impl Touch {
    /// What another must not touch, ever, so that this may be done before anything it does, while `there` are the names
    /// that are there.
    ///
    /// Names are created and removed as a whole, so that what is said of a look or a change depends on whether its name
    /// is there now, and whether the other may ever make that otherwise: a look at a name that is there only minds its
    /// removal, at one that is not only its creation. A create that finds its name taken is a look. A removal minds looks
    /// and creates, and another removal never: both leave nothing, and neither is told what was there. What is not there
    /// stays so unless the other creates it, and removing it does nothing then.
    pub(super) fn minds(&self, there: u128) -> Self {
        let looks = self.looks | self.creates;
        Self {
            looks: self.creates & !there | self.removes & there,
            lists: 0,
            creates: looks & !there | self.removes,
            removes: looks & there | self.creates & !there,
        }
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        (self.looks & other.looks) | (self.creates & other.creates) | (self.removes & other.removes) != 0
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self {
            looks: self.looks | other.looks,
            lists: self.lists | other.lists,
            creates: self.creates | other.creates,
            removes: self.removes | other.removes,
        }
    }

    /// What a step touched that answered `request` of the process `before` in the world `from`, and made of them `after`
    /// and `to`, in which every look was noted. To this belongs what has to be looked at to tell whether the step does
    /// harm: then whoever finds harm finds it in whichever order he takes steps that may change places.
    pub(super) fn of(
        names: &mut Names,
        request: &Request,
        (before, from): (&Process, &World),
        (after, to): (&Process, &World),
    ) -> Self {
        let mut touch = Self::default();
        match request {
            Request::List(prefix) => touch.lists = names.listing(prefix),
            Request::Unused { sessions, .. } => {
                for session in sessions {
                    touch.lists |= names.listing(&format!("packs/{L}/{session}"));
                }
            }
            Request::Create(name, _) => touch.creates = names.bit(name),
            Request::Delete(removed) => {
                touch.removes = removed.iter().fold(0, |bits, name| bits | names.bit(name));
            }
            Request::Overwrite(name, _) if from.fixed.is_none() => {
                let bit = names.bit(name);
                (touch.looks, touch.creates, touch.removes) = (bit, bit, bit);
            }
            _ => {}
        }
        for (kind, (was, is)) in from.named.iter().zip(to.named).enumerate() {
            if *was != is {
                touch.creates |= 1 << kind;
            }
        }
        let mut looked = to.objects.noted();
        if let Request::Build(_) = request {
            let built = to.objects.keys().filter(|name| !from.objects.contains_key(name));
            touch.creates |= built.fold(0, |bits, name| bits | names.bit(name));
        }
        if changes(request) {
            looked.extend(harm(request, from, to));
        }
        // A pinned reader looks at what it reads when it begins and when it ends: what is gone between stays gone.
        let pinned = |process: &Process| match &process.actor {
            Actor::Reader(reader) if reader.state == Reading::Pinned => Some(reader.number),
            _ => None,
        };
        if let Some(number) = pinned(before).or(pinned(after)) {
            looked.extend(noting(from, |world| world.has_point(number)));
        }
        touch.looks |= looked.iter().fold(0, |bits, name| bits | names.bit(name));
        // What it removes is not there when it looks for harm.
        touch.looks &= !touch.removes | touch.creates;
        touch
    }
}

/// Where `look` looks.
fn noting<T>(world: &World, look: impl FnOnce(&World) -> T) -> Vec<ObjectName> {
    world.objects.note();
    look(world);
    world.objects.noted()
}

/// What has to be looked at to tell whether a change takes something away from a point that counts.
///
/// Nothing else can: a point is whole as long as no object that it needs is changed, and does not count once a mark or a
/// retirement says so, which no step takes back unless that is looked at here. What a writer needs that may still commit is
/// not looked at: were it gone, the writer's own create would make a point that is not whole.
fn harm(request: &Request, from: &World, to: &World) -> Vec<ObjectName> {
    let names = match request {
        Request::Create(name, _) => std::slice::from_ref(name),
        Request::Delete(names) => names.as_slice(),
        _ => return Vec::new(),
    };
    let there = |world: &World, name: &ObjectName| world.objects.contains_key(name);
    let changed: BTreeSet<&ObjectName> =
        names.iter().filter(|name| there(from, name) != there(to, name)).collect();
    let mut looked = Vec::new();
    for &name in &changed {
        let number = match name {
            ObjectName::Point(_, number) | ObjectName::Forget(_, number) | ObjectName::Mark(_, number, _) => {
                number.0
            }
            _ => continue,
        };
        if let ObjectName::Point(..) = name {
            // A new point must be whole, and one that goes must not count.
            let look = |world: &World| world.has_point(number).is_ok() || world.is_taken(number);
            looked.extend(noting(to, look));
        } else {
            // What was taken must not come back.
            looked.extend(noting(to, |world| {
                let back = !world.is_marked_taken(number) && from.is_marked_taken(number);
                back && !world.is_taken(number) && world.has_point(number).is_ok()
            }));
        }
    }
    let refs = to.committed.keys().filter_map(|n| from.point(*n).map(|refs| (*n, refs)));
    for (number, at) in refs.flat_map(|(n, refs)| refs.iter().map(move |at| (n, at))) {
        if !changed.iter().any(|name| concerns(name, at)) {
            continue;
        }
        let again = changed.iter().any(|&name| *name == pack_name(at.pack) && there(to, name));
        assert!(!again, "a pack that was gone is there again");
        let ways = |world: &World| noting(world, |world| world.resolves(at));
        looked.extend(ways(from));
        looked.extend(ways(to));
        if !to.resolves(at) {
            looked.extend(noting(to, |world| world.is_taken(number)));
        }
    }
    looked
}

/// Whether the reference may lead somewhere else when the object changes.
fn concerns(name: &ObjectName, at: &Ref) -> bool {
    match name {
        // Copies lie in packs of sweeps: each may hold it.
        ObjectName::Pack(_, session, pack) => *name == pack_name(at.pack) || session.0 != pack.0,
        ObjectName::Moved(_, pack, _) => pack.0 == at.pack.1,
        _ => false,
    }
}
