//! Driving the protocol's machines against the store.
//!
//! The machines ([`crate::protocol`]) decide what is asked and in which order; here each request becomes calls of the
//! store, records are sealed and opened, and what goes wrong is kept for the error that the caller sees.

use std::collections::{BTreeMap, HashMap};

use vmkeep_envelope::SealedObject;

use crate::error::VaultError;
use crate::format::{
    Body, FORGOTTEN, ForgetBody, HeadBody, MarkBody, MovedBody, PinBody, PlanBody, PointBody, RecordKind,
    RepackBody, RetiredBody, SessionBody, WornBody,
};
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::protocol::{PointStub, Record, Reply, Request, Step, Trouble};
use crate::records;
use crate::store::Put;
use crate::vault::Inner;

/// Answers what has to do with packs and maps.
pub(crate) trait DataPlane {
    /// The reply to an `Examine`, `Unused`, `Births` or `Build`.
    fn answer(&mut self, request: &Request) -> Result<Reply, VaultError>;

    /// Told of objects that were listed, with their sizes.
    fn listed(&mut self, _objects: &[(String, u64)]) {}

    /// Told of objects that were removed.
    fn removed(&mut self, names: &[ObjectName]);
}

/// For machines that ask nothing about packs.
pub(crate) struct NoData;

impl DataPlane for NoData {
    fn answer(&mut self, _: &Request) -> Result<Reply, VaultError> {
        Ok(Reply::Unreadable)
    }

    fn removed(&mut self, _: &[ObjectName]) {}
}

/// Answers the requests of one machine.
pub(crate) struct Driver<'a> {
    vault: &'a Inner,
    /// Whose points are read; a machine of a survey reads none.
    lineage: Option<&'a Lineage>,
    data: &'a mut dyn DataPlane,
    /// What was sealed for a name, so that trying again sends the same bytes.
    sealed: HashMap<ObjectName, (Record, SealedObject)>,
    /// Points that were read.
    points: BTreeMap<u64, Box<PointBody>>,
    /// Why writes failed and records did not open.
    troubles: HashMap<ObjectName, VaultError>,
    /// Why the last delete that failed did: a machine that gives up then names what it wanted in the end.
    undeleted: Option<VaultError>,
    /// When nothing is to be changed: what would have been made, and (`None`) removed.
    pretended: Option<BTreeMap<ObjectName, Option<Record>>>,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(vault: &'a Inner, lineage: Option<&'a Lineage>, data: &'a mut dyn DataPlane) -> Self {
        let (sealed, points, troubles) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Self { vault, lineage, data, sealed, points, troubles, undeleted: None, pretended: None }
    }

    /// From now on changes nothing, and goes on as if it had.
    pub(crate) fn only_look(&mut self) {
        self.pretended = Some(BTreeMap::new());
    }

    /// Uses `object` for `record` under `name`.
    pub(crate) fn prepare(&mut self, name: ObjectName, record: Record, object: SealedObject) {
        self.sealed.insert(name, (record, object));
    }

    /// Bytes of the object that was made for `name`; 0 when none was.
    pub(crate) fn stored(&self, name: &ObjectName) -> u64 {
        self.sealed.get(name).map_or(0, |(_, object)| object.bytes().len() as u64)
    }

    /// The whole record of a point that the machine has read.
    pub(crate) fn take_point(&mut self, number: u64) -> Option<Box<PointBody>> {
        self.points.remove(&number)
    }

    /// Why the record under `name` did not open.
    pub(crate) fn take_trouble(&mut self, name: &ObjectName) -> Option<VaultError> {
        self.troubles.remove(name)
    }

    /// Steps a machine until it ends. Fails when the store cannot be read.
    pub(crate) fn run<T>(&mut self, mut step: impl FnMut(Reply) -> Step<T>) -> Result<T, VaultError> {
        let mut reply = Reply::Begin;
        loop {
            match step(reply) {
                Step::Done(done) => return Ok(done),
                Step::Ask(request) => {
                    let _in_flight = self.vault.in_flight(&request);
                    reply = self.answer(&request)?;
                }
            }
        }
    }

    /// As [`run`](Self::run), for a machine that may end in trouble.
    pub(crate) fn finish<T>(
        &mut self,
        step: impl FnMut(Reply) -> Step<Result<T, Trouble>>,
    ) -> Result<T, VaultError> {
        let done = self.run(step)?;
        done.map_err(|trouble| self.error_of(trouble))
    }

    fn error_of(&mut self, trouble: Trouble) -> VaultError {
        let (Trouble::GaveUp(name) | Trouble::Unreadable(name)) = &trouble;
        if let Some(error) = self.troubles.remove(name) {
            return error;
        }
        if let (Trouble::GaveUp(_), Some(error)) = (&trouble, self.undeleted.take()) {
            return error;
        }
        match trouble {
            Trouble::GaveUp(_) => VaultError::Missing { object: name.to_string() },
            Trouble::Unreadable(_) => {
                let what = crate::format::FormatError("it is another kind of record".to_owned());
                VaultError::malformed(name, what)
            }
        }
    }

    fn answer(&mut self, request: &Request) -> Result<Reply, VaultError> {
        if let Some(reply) = self.pretend(request)? {
            return Ok(reply);
        }
        let objects = &self.vault.objects;
        match request {
            Request::Read(name) => self.read(name),
            Request::Exists(name) => Ok(Reply::There(objects.exists(name)?)),
            Request::List(prefix) => {
                let listed = objects.list(prefix)?;
                self.data.listed(&listed);
                let mut names: Vec<_> =
                    listed.iter().filter_map(|(path, _)| ObjectName::parse(path)).collect();
                if let Some(pretended) = &self.pretended {
                    let under = format!("{prefix}/");
                    names.retain(|name| !pretended.contains_key(name));
                    let made = pretended
                        .iter()
                        .filter(|(name, record)| record.is_some() && name.to_string().starts_with(&under));
                    names.extend(made.map(|(name, _)| name.clone()));
                }
                Ok(Reply::Names(names))
            }
            Request::Create(name, record) => {
                let object = self.sealed(name, record)?;
                Ok(match self.vault.objects.put_once(name, &object) {
                    Put::Done => Reply::Done,
                    Put::Taken => Reply::Taken,
                    Put::Failed(error) => {
                        self.troubles.insert(name.clone(), error);
                        Reply::Uncertain
                    }
                })
            }
            Request::ReadBack(name, record) => {
                let object = self.sealed(name, record)?;
                let found = match self.vault.objects.read(name) {
                    Ok(found) => found,
                    // The write failed for the same reason, as a rule: that one says more.
                    Err(error) => return Err(self.troubles.remove(name).unwrap_or(error)),
                };
                match found {
                    Some(bytes) if bytes == *object.bytes() => Ok(Reply::Same),
                    Some(bytes) => self.decode(name, &bytes),
                    None => Ok(Reply::Missing),
                }
            }
            Request::Overwrite(name, record) => {
                let object = self.sealed(name, record)?;
                Ok(self.vault.objects.overwrite(name, &object).map_or(Reply::Uncertain, |()| Reply::Done))
            }
            Request::Delete(names) => Ok(match self.vault.objects.delete_all(names) {
                Ok(()) => {
                    self.data.removed(names);
                    Reply::Done
                }
                Err(error) => {
                    self.undeleted = Some(error);
                    Reply::Uncertain
                }
            }),
            Request::Examine(_) | Request::Unused { .. } | Request::Build(_) | Request::Births(_) => {
                self.data.answer(request)
            }
        }
    }

    /// The reply as if changes were made, to a request that makes one or asks about one.
    fn pretend(&mut self, request: &Request) -> Result<Option<Reply>, VaultError> {
        let Some(pretended) = &mut self.pretended else { return Ok(None) };
        Ok(match request {
            Request::Read(name) | Request::ReadBack(name, _) => {
                pretended.get(name).map(|record| match record {
                    Some(record) => Reply::Found(record.clone()),
                    None => Reply::Missing,
                })
            }
            Request::Exists(name) => pretended.get(name).map(|record| Reply::There(record.is_some())),
            Request::Create(name, record) => {
                let there = match pretended.get(name) {
                    Some(record) => record.is_some(),
                    None => self.vault.objects.exists(name)?,
                };
                if !there {
                    pretended.insert(name.clone(), Some(record.clone()));
                }
                Some(if there { Reply::Taken } else { Reply::Done })
            }
            Request::Overwrite(..) => Some(Reply::Done),
            Request::Delete(names) => {
                pretended.extend(names.iter().map(|name| (name.clone(), None)));
                self.data.removed(names);
                Some(Reply::Done)
            }
            _ => None,
        })
    }

    fn read(&mut self, name: &ObjectName) -> Result<Reply, VaultError> {
        match self.vault.objects.read(name)? {
            Some(bytes) => self.decode(name, &bytes),
            None => Ok(Reply::Missing),
        }
    }

    fn decode(&mut self, name: &ObjectName, bytes: &[u8]) -> Result<Reply, VaultError> {
        match self.open(name, bytes) {
            Ok(record) => Ok(Reply::Found(record)),
            // What a newer version wrote is not damage: nobody goes on past it, but for a hint.
            Err(error)
                if error.is_damage() || matches!(name, ObjectName::Head(_)) && error.is_of_one_object() =>
            {
                self.troubles.insert(name.clone(), error);
                Ok(Reply::Unreadable)
            }
            Err(error) => Err(error),
        }
    }

    fn open(&mut self, name: &ObjectName, bytes: &[u8]) -> Result<Record, VaultError> {
        let key = &self.vault.record;
        let foreign = || {
            let what = crate::format::FormatError("it says it is another".to_owned());
            Err(VaultError::malformed(name, what))
        };
        Ok(match name {
            ObjectName::Point(lineage, number) => {
                let Some(lineage) = self.lineage.filter(|own| own.id == *lineage) else { return foreign() };
                match lineage.decode_at(self.vault, name, number.0, bytes)? {
                    AtNumber::Point(point) => {
                        let stub = PointStub { session: point.head.session, base: point.head.base };
                        self.points.insert(number.0, point);
                        Record::Point(stub)
                    }
                    AtNumber::Void(void) => Record::Void(void),
                    AtNumber::Inherited(ended) => Record::Inherited(ended),
                    AtNumber::Closed(closed) => Record::Closed(closed),
                }
            }
            ObjectName::Head(_) => Record::Head(records::open::<HeadBody>(name, bytes, key)?),
            ObjectName::Retired(_, k) => {
                let body = records::open::<RetiredBody>(name, bytes, key)?;
                if body.k != *k {
                    return foreign();
                }
                Record::Retired(body)
            }
            ObjectName::Session(_) => Record::Session(records::open::<SessionBody>(name, bytes, key)?),
            ObjectName::Forget(lineage, number) => {
                let mark = open_first_mark(name, bytes, key)?;
                if (mark.lineage, mark.number) != (lineage.0, number.0) {
                    return foreign();
                }
                Record::Mark(mark)
            }
            ObjectName::Mark(lineage, number, g) => {
                let mark = records::open::<MarkBody>(name, bytes, key)?;
                if (mark.lineage, mark.number, mark.g) != (lineage.0, number.0, *g) {
                    return foreign();
                }
                Record::Mark(mark)
            }
            ObjectName::Pin(..) => Record::Pin(records::open::<PinBody>(name, bytes, key)?),
            ObjectName::Plan(..) => Record::Plan(records::open::<PlanBody>(name, bytes, key)?),
            ObjectName::Moved(..) => Record::Moved(records::open::<MovedBody>(name, bytes, key)?),
            ObjectName::Worn(..) => Record::Worn(records::open::<WornBody>(name, bytes, key)?),
            ObjectName::Repack(..) => Record::Repack(records::open::<RepackBody>(name, bytes, key)?),
            _ => return foreign(),
        })
    }

    /// The object to store for `record`, sealed once.
    fn sealed(&mut self, name: &ObjectName, record: &Record) -> Result<SealedObject, VaultError> {
        if let Some((known, object)) = self.sealed.get(name)
            && known == record
        {
            return Ok(object.clone());
        }
        let object = self.seal(name, record)?;
        self.sealed.insert(name.clone(), (record.clone(), object.clone()));
        Ok(object)
    }

    fn seal(&self, name: &ObjectName, record: &Record) -> Result<SealedObject, VaultError> {
        match record {
            Record::Point(_) => {
                let what = crate::format::FormatError("a point is sealed by its session".to_owned());
                Err(VaultError::malformed(name, what))
            }
            Record::Void(body) => self.seal_body(name, body),
            Record::Inherited(body) => self.seal_body(name, body),
            Record::Closed(body) => self.seal_body(name, body),
            Record::Head(body) => self.seal_body(name, body),
            Record::Retired(body) => self.seal_body(name, body),
            Record::Session(body) => self.seal_body(name, body),
            // The first mark of a forgotten point is as it always was.
            Record::Mark(MarkBody { g: 1, state: FORGOTTEN, lineage, number, at, .. }) => {
                self.seal_body(name, &ForgetBody { lineage: *lineage, number: *number, at: *at })
            }
            Record::Mark(body) => self.seal_body(name, body),
            Record::Pin(body) => self.seal_body(name, body),
            Record::Plan(body) => self.seal_body(name, body),
            Record::Moved(body) => self.seal_body(name, body),
            Record::Worn(body) => self.seal_body(name, body),
            Record::Repack(body) => self.seal_body(name, body),
        }
    }

    fn seal_body<T: Body>(&self, name: &ObjectName, body: &T) -> Result<SealedObject, VaultError> {
        let context = self.vault.sealer.context(&*self.vault.ports.entropy);
        records::seal(name, body, &self.vault.record, &context)
    }
}

/// The first mark of a point: a forget record, or a mark of another state.
pub(crate) fn open_first_mark(
    name: &ObjectName,
    bytes: &[u8],
    key: &vmkeep_envelope::BranchKey,
) -> Result<MarkBody, VaultError> {
    if records::head(name, bytes)?.kind == RecordKind::Mark.number() {
        return records::open::<MarkBody>(name, bytes, key);
    }
    let ForgetBody { lineage, number, at } = records::open(name, bytes, key)?;
    Ok(MarkBody { lineage, number, g: 1, state: FORGOTTEN, at, by: [0; 16], nonce: [0; 16] })
}
