//! What rests on which epoch, and which points need it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use vmkeep_envelope::{PACK_HEADER_LEN, PackContent, PackHead};
use vmkeep_model::{CancelToken, PointNumber};

use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::map::Visit;
use crate::pack::{Whereabouts, moved_to};
use crate::place::PackPlace;
use crate::point::OpenPoint;
use crate::read::map_error;
use crate::vault::Inner;

/// Bytes of data that are sealed with the key of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochBytes {
    /// Which epoch.
    pub epoch: u32,
    /// Sizes of the data packs, as they are stored. What no point needs any more counts until a sweep removes it.
    pub bytes: u64,
    /// Number of those packs.
    pub packs: u64,
}

/// A pack of data, as the listing and its clear header tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataPack {
    pub(crate) place: PackPlace,
    pub(crate) bytes: u64,
    pub(crate) epoch: u32,
}

impl Inner {
    /// Every data pack of a lineage: one listing, and for each pack one read of its header.
    pub(crate) fn data_packs(
        &self,
        lineage: &Lineage,
        cancel: &CancelToken,
    ) -> Result<Vec<DataPack>, VaultError> {
        let listed: BTreeMap<String, u64> =
            self.objects.list(&format!("packs/{}", lineage.id))?.into_iter().collect();
        let mut packs = Vec::new();
        for (path, &bytes) in &listed {
            cancel.check()?;
            let Some(name @ ObjectName::Pack(_, session, pack)) = ObjectName::parse(path) else { continue };
            // What has a second copy is a metadata pack: a request saved.
            if listed.contains_key(&ObjectName::PackCopy(lineage.id, session, pack).to_string()) {
                continue;
            }
            let header = self.objects.read_range(&name, 0..PACK_HEADER_LEN as u64)?;
            let header = header.as_ref().and_then(|header| header.first_chunk::<PACK_HEADER_LEN>());
            // What is gone by now rests on nothing; damage is for verification to tell.
            let Some(head) = header.and_then(|header| PackHead::parse(header).ok()) else { continue };
            if head.content == PackContent::Data && head.slots.domain == lineage.domain.id {
                let place = PackPlace { lineage: None, session, name: pack };
                packs.push(DataPack { place, bytes, epoch: head.slots.epoch });
            }
        }
        Ok(packs)
    }
}

/// The bytes of `packs` by epoch.
pub(crate) fn by_epoch(packs: &[DataPack]) -> BTreeMap<u32, EpochBytes> {
    let mut sums = BTreeMap::new();
    for pack in packs {
        let sum = sums.entry(pack.epoch).or_insert(EpochBytes { epoch: pack.epoch, bytes: 0, packs: 0 });
        sum.bytes += pack.bytes;
        sum.packs += 1;
    }
    sums
}

/// The points of a lineage that need data of some epochs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needing {
    /// By epoch, the numbers of the points.
    pub(crate) points: BTreeMap<u32, BTreeSet<u64>>,
    /// The numbers of points whose captured keys of guests are sealed with one of them.
    pub(crate) guest_keys: BTreeSet<u64>,
}

impl Needing {
    /// The numbers of all points that need any of the epochs.
    pub(crate) fn all(&self) -> BTreeSet<u64> {
        self.points.values().flatten().copied().collect()
    }
}

/// Ends a walk: everything that was asked is known.
struct Known;

/// Finds out which epochs points need.
pub(crate) struct Needs<'a> {
    vault: &'a Arc<Inner>,
    lineage: &'a Lineage,
    /// Epochs that are asked about.
    epochs: BTreeSet<u32>,
    /// Those of them that data rests on.
    asked: BTreeSet<u32>,
    /// Epochs of packs, by where they lie.
    packs: HashMap<PackPlace, u32>,
}

impl<'a> Needs<'a> {
    /// Asks about `epochs`. `packs` are the data packs there are: what none of them rests on is not looked for.
    pub(crate) fn of(
        vault: &'a Arc<Inner>,
        lineage: &'a Lineage,
        epochs: &BTreeSet<u32>,
        packs: &[DataPack],
    ) -> Self {
        let asked = packs.iter().map(|pack| pack.epoch).filter(|epoch| epochs.contains(epoch)).collect();
        Self { vault, lineage, epochs: epochs.clone(), asked, packs: HashMap::new() }
    }

    /// The points that count and need one of the epochs: each is walked until all that is asked about was met, which most
    /// often is at once.
    pub(crate) fn points(&mut self, cancel: &CancelToken) -> Result<Needing, VaultError> {
        let mut needing = Needing::default();
        let head = self.lineage.head(self.vault)?;
        let is_retired = |n: u64| head.retired.as_ref().is_some_and(|retired| retired.holds(n));
        for number in (1..=head.top).filter(|n| !is_retired(*n)) {
            cancel.check()?;
            let body = match self.lineage.at(self.vault, number) {
                Ok(Some(AtNumber::Point(body))) => body,
                Ok(_) => continue,
                Err(e) if e.is_of_one_object() => continue,
                Err(e) => return Err(e),
            };
            let point = OpenPoint::known(self.vault, self.lineage, body, false)?;
            if point.epoch_of_captured_keys().is_some_and(|epoch| self.epochs.contains(&epoch)) {
                needing.guest_keys.insert(number);
            }
            if self.asked.is_empty() {
                continue;
            }
            for epoch in self.of_point(&point, cancel)? {
                needing.points.entry(epoch).or_default().insert(number);
            }
        }
        Ok(needing)
    }

    /// The epochs asked about that a point needs. What cannot be read tells nothing.
    pub(crate) fn of_point(
        &mut self,
        point: &OpenPoint,
        cancel: &CancelToken,
    ) -> Result<BTreeSet<u32>, VaultError> {
        let mut met = BTreeSet::new();
        for name in point.stored_disks() {
            let disk = match point.reader(name) {
                Ok(disk) => disk,
                Err(e) if e.is_of_one_object() => continue,
                Err(e) => return Err(e),
            };
            let walked = disk.map()?.walk_new(PointNumber(0), |visit| {
                match visit {
                    Visit::Block { entry, .. } => {
                        for reference in entry.references() {
                            let epoch = self.epoch_of(&reference.at.pack, reference.at.slot).map_err(Err)?;
                            met.extend(epoch.filter(|epoch| self.asked.contains(epoch)));
                        }
                        if met == self.asked {
                            return Err(Ok(Known));
                        }
                    }
                    Visit::Node { .. } => cancel.check().map_err(|e| Err(e.into()))?,
                    Visit::Unreadable { error, .. } => {
                        let error = map_error(&self.lineage.vm.to_string(), error);
                        if !error.is_of_one_object() {
                            return Err(Err(error));
                        }
                    }
                }
                Ok(())
            });
            match walked {
                Ok(()) => {}
                Err(Ok(Known)) => break,
                Err(Err(e)) => return Err(e),
            }
        }
        Ok(met)
    }

    /// The epoch that a slot is sealed with, wherever it lies; `None` when it cannot be found.
    fn epoch_of(&mut self, birth: &PackPlace, slot: u32) -> Result<Option<u32>, VaultError> {
        if let Some(&known) = self.packs.get(birth) {
            return Ok(Some(known));
        }
        let found = match self.vault.whereabouts(self.lineage, birth) {
            Ok(Whereabouts::InBirthPack(_)) => Ok(*birth),
            Ok(Whereabouts::Moved(record)) => {
                moved_to(&record, self.lineage, birth, slot).map(|(pack, _)| pack)
            }
            Err(e) => Err(e),
        };
        match found.and_then(|pack| self.epoch_of_pack(pack)) {
            Ok(epoch) => Ok(Some(epoch)),
            Err(e) if e.is_of_one_object() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn epoch_of_pack(&mut self, pack: PackPlace) -> Result<u32, VaultError> {
        if let Some(&known) = self.packs.get(&pack) {
            return Ok(known);
        }
        let epoch = self.vault.pack_index(self.lineage, &pack)?.epoch;
        self.packs.insert(pack, epoch);
        Ok(epoch)
    }
}
