//! A lineage: the line of recovery points of one VM, and where its newest point is.

use std::sync::Arc;

use vmkeep_envelope::Branch;
use vmkeep_model::{LineageId, PointNumber, VmName};

use crate::error::VaultError;
use crate::format::{ClosedBody, ForgetBody, HeadBody, PointBody, RecordKind, RetiredBody, VoidBody};
use crate::keyring::Domain;
use crate::layout::{ObjectName, highest_taken};
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
    /// What stands at `number`; `None` when the number is free.
    pub(crate) fn at(&self, vault: &Inner, number: u64) -> Result<Option<AtNumber>, VaultError> {
        let name = ObjectName::Point(self.id, PointNumber(number));
        let Some(bytes) = vault.objects.read(&name)? else { return Ok(None) };
        self.decode_at(vault, &name, number, &bytes).map(Some)
    }

    fn decode_at(
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
        let hint = self.hint(vault)?;
        let retired = self.retired(vault, hint.as_ref().map_or(0, |hint| hint.retired))?;
        let known =
            hint.map_or(0, |hint| hint.newest).max(retired.as_ref().map_or(0, |retired| retired.newest));
        let top = self.top(vault, known)?;
        let (mut newest, mut unreadable, mut closed, mut number) = (None, None, false, top);
        while number > 0 && newest.is_none() && unreadable.is_none() {
            if retired.as_ref().is_some_and(|retired| retired.holds(number)) {
                number -= 1;
                continue;
            }
            let name = ObjectName::Point(self.id, PointNumber(number));
            match self.at(vault, number).or_missing(&name) {
                Ok(AtNumber::Point(point)) => newest = Some(point),
                Ok(AtNumber::Void(_)) => {}
                Ok(AtNumber::Closed(_)) => closed = true,
                Err(e) if e.is_damage() => unreadable = Some((PointNumber(number), e)),
                Err(e) => return Err(e),
            }
            number -= 1;
        }
        Ok(Head { top, newest, unreadable, closed, retired })
    }

    /// Highest taken number, searched upwards from `known`: every number between it and the highest is taken.
    fn top(&self, vault: &Inner, known: u64) -> Result<u64, VaultError> {
        highest_taken(known, |number| vault.objects.exists(&ObjectName::Point(self.id, PointNumber(number))))
    }

    /// The hint, or `None` when there is none or it does not open: it only saves requests, and `verify` reports it.
    fn hint(&self, vault: &Inner) -> Result<Option<HeadBody>, VaultError> {
        let name = ObjectName::Head(self.id);
        let Some(bytes) = vault.objects.read(&name)? else { return Ok(None) };
        match records::open(&name, &bytes, &vault.record) {
            Ok(hint) => Ok(Some(hint)),
            Err(e) if e.is_of_one_object() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The newest retirement record, searched upwards from `k`.
    pub(crate) fn retired(&self, vault: &Inner, k: u64) -> Result<Option<RetiredBody>, VaultError> {
        let read = |k: u64| -> Result<Option<RetiredBody>, VaultError> {
            let name = ObjectName::Retired(self.id, k);
            let Some(bytes) = vault.objects.read(&name)? else { return Ok(None) };
            records::open(&name, &bytes, &vault.record).map(Some)
        };
        let (mut k, mut newest) = (k, if k == 0 { None } else { read(k)? });
        while let Some(next) = read(k + 1)? {
            (k, newest) = (k + 1, Some(next));
        }
        Ok(newest)
    }

    /// Every number that counts, ascending: the point, or why it cannot be read.
    pub(crate) fn history(&self, vault: &Inner) -> Result<History, VaultError> {
        let head = self.head(vault)?;
        let forgotten = self.forgotten(vault)?;
        let mut points = Vec::new();
        for number in
            (1..=head.top).filter(|&n| !head.retired.as_ref().is_some_and(|retired| retired.holds(n)))
        {
            let name = ObjectName::Point(self.id, PointNumber(number));
            let point = match self.at(vault, number).or_missing(&name) {
                Ok(AtNumber::Point(body)) => {
                    body.to_point(forgotten.contains(&number)).map_err(|e| VaultError::malformed(&name, e))
                }
                Ok(AtNumber::Void(_) | AtNumber::Closed(_)) => continue,
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

    /// Numbers of the points that were forgotten and not yet swept. A record that does not open forgets nothing.
    fn forgotten(&self, vault: &Inner) -> Result<Vec<u64>, VaultError> {
        let mut numbers = Vec::new();
        for (path, _) in vault.objects.list(&format!("forgets/{}", self.id))? {
            let Some(ObjectName::Forget(_, number)) = ObjectName::parse(&path) else { continue };
            match self.is_forgotten(vault, number.0) {
                Ok(true) => numbers.push(number.0),
                Ok(false) => {}
                Err(e) if e.is_of_one_object() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(numbers)
    }

    /// Whether the point was forgotten. An error when something is there that does not say so: a file that anyone may
    /// have left must not make an older point pass for the latest.
    pub(crate) fn is_forgotten(&self, vault: &Inner, number: u64) -> Result<bool, VaultError> {
        let name = ObjectName::Forget(self.id, PointNumber(number));
        if !vault.objects.exists(&name)? {
            return Ok(false);
        }
        let bytes = vault.objects.read(&name).or_missing(&name)?;
        records::open::<ForgetBody>(&name, &bytes, &vault.record).map(|_| true)
    }
}
