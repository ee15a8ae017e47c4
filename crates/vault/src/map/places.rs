//! What sits at the 64 places of a node.

use super::error::Malformed;
use super::shape::PLACES;

/// At most one thing at each of 64 places, in order of place.
///
/// Sparse maps have many nodes with few places taken, so only those are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places<T> {
    taken: Vec<(u8, T)>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { taken: Vec::new() }
    }
}

impl<T> Places<T> {
    /// Number of places taken.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether no place is taken.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// What is at `place`.
    pub fn get(&self, place: u8) -> Option<&T> {
        self.find(place).ok().map(|at| &self.taken[at].1)
    }

    /// Every place taken, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u8, &T)> {
        self.taken.iter().map(|(place, thing)| (*place, thing))
    }

    /// The first place at or after `place` that is taken.
    pub(crate) fn first_from(&self, place: u8) -> Option<(u8, &T)> {
        let at = self.taken.partition_point(|&(taken, _)| taken < place);
        self.taken.get(at).map(|(place, thing)| (*place, thing))
    }

    /// Appends at a place after all that are taken.
    pub fn push(&mut self, place: u8, thing: T) -> Result<(), Malformed> {
        if place >= PLACES {
            return Err(Malformed { what: "place past the end of a node" });
        }
        if self.taken.last().is_some_and(|&(last, _)| last >= place) {
            return Err(Malformed { what: "order of places" });
        }
        self.taken.push((place, thing));
        Ok(())
    }

    /// Puts `thing` at `place`, or empties it; whether that changed anything.
    pub(crate) fn set(&mut self, place: u8, thing: Option<T>) -> bool
    where
        T: PartialEq,
    {
        debug_assert!(place < PLACES);
        match (self.find(place), thing) {
            (Ok(at), Some(thing)) if self.taken[at].1 == thing => return false,
            (Ok(at), Some(thing)) => self.taken[at].1 = thing,
            (Err(at), Some(thing)) => self.taken.insert(at, (place, thing)),
            (Ok(at), None) => drop(self.taken.remove(at)),
            (Err(_), None) => return false,
        }
        true
    }

    /// The same places with other things at them.
    pub(crate) fn try_map<U, E>(&self, mut f: impl FnMut(&T) -> Result<U, E>) -> Result<Places<U>, E> {
        let taken = self.taken.iter().map(|(place, thing)| Ok((*place, f(thing)?)));
        Ok(Places { taken: taken.collect::<Result<_, E>>()? })
    }

    /// The things, in order of place.
    pub(crate) fn into_things(self) -> impl DoubleEndedIterator<Item = (u8, T)> {
        self.taken.into_iter()
    }

    fn find(&self, place: u8) -> Result<usize, usize> {
        // Changes come in ascending order, so the last place is the usual one.
        match self.taken.last() {
            Some(&(last, _)) if last < place => Err(self.taken.len()),
            _ => self.taken.binary_search_by_key(&place, |&(taken, _)| taken),
        }
    }
}

impl<T: PartialEq> Places<T> {
    /// Bit per place that `self` has and `other` has not.
    pub(crate) fn missing_from(&self, other: &Self) -> u64 {
        self.iter()
            .filter(|&(place, _)| other.get(place).is_none())
            .fold(0, |mask, (place, _)| mask | 1 << place)
    }

    /// Places of `self` that `other` does not have, or has something else at.
    pub(crate) fn changed_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u8, &'a T)> {
        self.iter().filter(|&(place, thing)| other.get(place) != Some(thing))
    }

    /// `self` without the places in `removed`, and with `changes` laid over it.
    pub(crate) fn overlaid(mut self, removed: u64, changes: Self) -> Result<Self, Malformed> {
        for place in (0..PLACES).filter(|place| removed >> place & 1 == 1) {
            if changes.get(place).is_some() || !self.set(place, None) {
                return Err(Malformed { what: "mask of removed places" });
            }
        }
        for (place, thing) in changes.into_things() {
            self.set(place, Some(thing));
        }
        Ok(self)
    }
}
