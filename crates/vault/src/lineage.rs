//! A lineage: the line of recovery points of one VM, and where its newest point is.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkeep_envelope::Branch;
use vmkeep_model::{DomainId, LineageId, PointNumber, VmName};

use crate::drive::{Driver, NoData};
use crate::error::VaultError;
use crate::format::{
    ClosedBody, FORGOTTEN, HeadBody, InheritedBody, PointBody, RecordKind, RetiredBody, VoidBody,
};
use crate::keyring::Domain;
use crate::layout::ObjectName;
use crate::protocol::{self, FindHead, NewestMark, Retirement, Waiting};
use crate::records;
use crate::store::ResultExt;
use crate::vault::{History, Inner};

/// One VM's line of points, with its keys unlocked.
#[derive(Clone, Debug)]
pub(crate) struct Lineage {
    pub(crate) id: LineageId,
    pub(crate) vm: VmName,
    pub(crate) domain: Arc<Domain>,
}

/// What stands at a number of a lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AtNumber {
    Point(Box<PointBody>),
    Void(VoidBody),
    Inherited(InheritedBody),
    Closed(ClosedBody),
}

/// Where a lineage stands.
#[derive(Debug)]
pub(crate) struct Head {
    /// Highest number that is taken or retired; 0 when there is none.
    pub(crate) top: u64,
    /// The newest committed point.
    pub(crate) newest: Option<Box<PointBody>>,
    /// What stands highest and is damaged or missing: whether it is the newest point cannot be told.
    pub(crate) unreadable: Option<(PointNumber, VaultError)>,
    pub(crate) closed: bool,
    pub(crate) retired: Option<RetiredBody>,
}

impl Lineage {
    /// The domain and epoch of the data key that new data is sealed with, where it is at hand.
    pub(crate) fn seals_with(&self) -> Option<(DomainId, u32)> {
        self.domain.data_key().ok().map(|key| (key.id().domain, key.id().epoch))
    }

    /// What stands at `number`; `None` when the number is free.
    pub(crate) fn at(&self, vault: &Inner, number: u64) -> Result<Option<AtNumber>, VaultError> {
        let name = ObjectName::Point(self.id, PointNumber(number));
        let Some(bytes) = vault.objects.read(&name)? else { return Ok(None) };
        self.decode_at(vault, &name, number, &bytes).map(Some)
    }

    pub(crate) fn decode_at(
        &self,
        vault: &Inner,
        name: &ObjectName,
        number: u64,
        bytes: &[u8],
    ) -> Result<AtNumber, VaultError> {
        let head = records::head(name, bytes)?;
        let misplaced = |what: &str| VaultError::malformed(name, crate::format::FormatError(what.to_owned()));
        if head.branch.branch == Branch::Map {
            let key = self.domain.map_key_claimed(name, head.branch)?;
            let body = records::open_bytes(name, RecordKind::Point, bytes, key)?;
            let point = PointBody::decode(&body).map_err(|e| VaultError::malformed(name, e))?;
            point.to_point(false).map_err(|e| VaultError::malformed(name, e))?;
            if point.head.lineage != self.id.0 || point.head.number != number || point.vm != self.vm.as_str()
            {
                return Err(misplaced("the point says it is another"));
            }
            return Ok(AtNumber::Point(Box::new(point)));
        }
        let (at, lineage, its_number) = if head.kind == RecordKind::Void.number() {
            let void: VoidBody = records::open(name, bytes, &vault.record)?;
            let (lineage, number) = (void.lineage, void.number);
            (AtNumber::Void(void), lineage, number)
        } else if head.kind == RecordKind::Inherited.number() {
            let ended: InheritedBody = records::open(name, bytes, &vault.record)?;
            let (lineage, number) = (ended.lineage, ended.number);
            (AtNumber::Inherited(ended), lineage, number)
        } else {
            let closed: ClosedBody = records::open(name, bytes, &vault.record)?;
            let (lineage, number) = (closed.lineage, closed.number);
            (AtNumber::Closed(closed), lineage, number)
        };
        if lineage != self.id.0 || its_number != number {
            return Err(misplaced("the record says it is another"));
        }
        Ok(at)
    }

    /// Finds the newest point. Requests do not depend on how many points there are.
    ///
    /// A damaged record ends the search: what lies below it is not the newest.
    pub(crate) fn head(&self, vault: &Inner) -> Result<Head, VaultError> {
        let mut data = NoData;
        let mut driver = Driver::new(vault, Some(self), &mut data);
        let mut find = FindHead::new(self.id);
        let found = driver.finish(|reply| find.step(reply))?;
        Ok(self.whole_head(found, &mut driver))
    }

    /// What a machine found, with the records that it read.
    pub(crate) fn whole_head(&self, found: protocol::Head, driver: &mut Driver<'_>) -> Head {
        let newest = found.newest.as_ref().and_then(|(number, _)| driver.take_point(*number));
        let unreadable = found.unreadable.map(|number| {
            let name = ObjectName::Point(self.id, PointNumber(number));
            let missing = || VaultError::Missing { object: name.to_string() };
            (PointNumber(number), driver.take_trouble(&name).unwrap_or_else(missing))
        });
        Head { top: found.top, newest, unreadable, closed: found.closed.is_some(), retired: found.retired }
    }

    /// The newest retirement record.
    pub(crate) fn retired(&self, vault: &Inner) -> Result<Option<RetiredBody>, VaultError> {
        let name = ObjectName::Head(self.id);
        let hint =
            vault.objects.read(&name)?.and_then(|bytes| records::open(&name, &bytes, &vault.record).ok());
        let k = hint.map_or(0, |hint: HeadBody| hint.retired);
        let mut data = NoData;
        let mut probe = Retirement::after(self.id, k, None);
        Driver::new(vault, None, &mut data).finish(|reply| probe.step(reply))
    }

    /// Every number that counts, ascending: the point, or why it cannot be read.
    pub(crate) fn history(&self, vault: &Inner) -> Result<History, VaultError> {
        let head = self.head(vault)?;
        let marks = self.marks(vault)?;
        let forgotten = |number: u64| marks.get(&number).is_some_and(|state| state & FORGOTTEN != 0);
        let mut points = Vec::new();
        for number in
            (1..=head.top).filter(|&n| !head.retired.as_ref().is_some_and(|retired| retired.holds(n)))
        {
            let name = ObjectName::Point(self.id, PointNumber(number));
            let point = match self.at(vault, number).or_missing(&name) {
                Ok(AtNumber::Point(body)) => {
                    body.to_point(forgotten(number)).map_err(|e| VaultError::malformed(&name, e))
                }
                Ok(AtNumber::Void(_) | AtNumber::Inherited(_) | AtNumber::Closed(_)) => continue,
                Err(e) if e.is_of_one_object() => Err(e),
                Err(e) => return Err(e),
            };
            points.push((PointNumber(number), point));
        }
        Ok(points)
    }

    /// The newest point below `number` that counts.
    pub(crate) fn point_below(
        &self,
        vault: &Inner,
        number: u64,
        retired: Option<&RetiredBody>,
    ) -> Result<Option<Box<PointBody>>, VaultError> {
        for below in (1..number).rev().filter(|&n| !retired.is_some_and(|retired| retired.holds(n))) {
            let name = ObjectName::Point(self.id, PointNumber(below));
            if let AtNumber::Point(point) = self.at(vault, below).or_missing(&name)? {
                return Ok(Some(point));
            }
        }
        Ok(None)
    }

    /// The newest marks of all points that have one: number and state. One that does not open marks nothing.
    pub(crate) fn marks(&self, vault: &Inner) -> Result<BTreeMap<u64, u8>, VaultError> {
        let mut waiting = Waiting::default();
        for (path, _) in vault.objects.list(&format!("forgets/{}", self.id))? {
            if let Some(name) = ObjectName::parse(&path) {
                waiting.add(&name);
            }
        }
        let mut marks = BTreeMap::new();
        for (number, g) in waiting.marks {
            match self.mark_from(vault, number, g) {
                Ok(state) => drop(marks.insert(number, state)),
                Err(e) if e.is_of_one_object() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(marks)
    }

    /// The state that the newest mark of a point says. An error when something is there that does not say one: a file
    /// that anyone may have left must not make an older point pass for the latest.
    pub(crate) fn mark(&self, vault: &Inner, number: u64) -> Result<u8, VaultError> {
        self.mark_from(vault, number, 1)
    }

    fn mark_from(&self, vault: &Inner, number: u64, g: u32) -> Result<u8, VaultError> {
        let mut data = NoData;
        let mut newest = NewestMark::from(self.id, number, g);
        Driver::new(vault, None, &mut data).finish(|reply| newest.step(reply)).map(|(_, state)| state)
    }

    /// Whether the point was forgotten.
    pub(crate) fn is_forgotten(&self, vault: &Inner, number: u64) -> Result<bool, VaultError> {
        self.mark(vault, number).map(|state| state & FORGOTTEN != 0)
    }
}
