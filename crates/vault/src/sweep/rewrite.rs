//! Moving data from old epochs of keys to the newest: repacking of packs that are worn in another way.
//!
//! The machine is that of the sweep's repacking, and so is what it rests on: new packs first, then a create per birth pack that
//! says where its slots lie now, then the old ones are removed. Every frame is opened with the key it was sealed with, compared
//! with the hashes in its footer, and sealed again with the newest data key; what is dead in it is left out.

use vmkeep_model::{CancelToken, Permit, SessionId, VmName, op};

use super::SweepEvent;
use super::data::SweepData;
use crate::drive::{Driver, NoData};
use crate::error::VaultError;
use crate::format::PackBody;
use crate::keys::DataPack;
use crate::lineage::Lineage;
use crate::protocol::{FindHead, Repack};
use crate::records::random_id;
use crate::vault::{Inner, Vault};

/// What moving data to the newest key did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Bytes of packs that rested on old epochs and are gone: what is needed of them lies in new packs.
    pub moved: u64,
    /// Bytes of packs that still rest on old epochs and hold something that a point needs.
    pub left: u64,
    /// Of those left, the bytes that no run can move: their key was destroyed, is not at hand, or they are damaged.
    pub stuck: u64,
    /// Bytes that the new packs were made of.
    pub copied: u64,
    /// Things that could not be read.
    pub damaged: u64,
}

impl Vault {
    /// Moves data of `vm` that rests on old epochs of its keys to the newest, until about `budget` bytes are copied. Run
    /// again, it goes on; once nothing is left, no point needs an old data key, but for captured
    /// keys of guests: they lie in the point and stay.
    ///
    /// Points stay as they are and restore all the while; safe beside backups, readers and sweeps as a sweep is, and safe to stop
    /// at any time: a sweep tidies up what a stopped one leaves. What no point needs is left to the sweep, packs of
    /// sessions that have not committed stay, and a pack larger than the budget waits for a larger one. A pack that is damaged
    /// stays as it is and is told of.
    ///
    /// Reads the header of each data pack, and the footer of those it takes. Block maps and other metadata stay under the keys they
    /// were sealed with: it is the data keys that nothing rests on any more.
    pub fn rewrite(
        &self,
        permit: &Permit<op::RotateBek>,
        vm: &VmName,
        budget: u64,
        cancel: &CancelToken,
        events: &mut dyn FnMut(SweepEvent),
    ) -> Result<Rewritten, VaultError> {
        permit.check(vm)?;
        // With nothing remembered: a pack that was repacked since would be judged where it no longer lies.
        let vault = &self.uncached().inner;
        let lineage = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let newest = lineage.domain.data_key()?.id().epoch;
        let mut old = vault.data_packs(&lineage, cancel)?;
        old.retain(|pack| pack.epoch < newest);
        let mut done = Rewritten::default();
        let can_move = |pack: &DataPack| lineage.domain.data_key_of(pack.epoch).is_ok();
        let (old, stuck): (Vec<DataPack>, Vec<DataPack>) = old.into_iter().partition(can_move);
        let mut data = SweepData::new(
            vault,
            &lineage,
            SessionId(random_id(&*vault.ports.entropy)?),
            budget,
            false,
            cancel,
            events,
        );
        let old = data.needed(&old)?;
        let stuck = data.needed(&stuck)?;
        let bytes = |packs: &[DataPack]| packs.iter().map(|pack| pack.bytes).sum::<u64>();
        done.stuck = bytes(&stuck);
        let (mut fits, mut taken) = (Vec::new(), 0_u64);
        for pack in &old {
            if taken.saturating_add(pack.bytes) <= budget {
                taken += pack.bytes;
                fits.push((pack.place.session.0, pack.place.name.0));
            }
        }
        let gone = vault.rewrite_packs(&lineage, &mut data, fits)?;
        let is_gone = |pack: &&DataPack| gone.contains(&(pack.place.session.0, pack.place.name.0));
        done.moved = old.iter().filter(is_gone).map(|pack| pack.bytes).sum();
        done.left = bytes(&old) - done.moved + done.stuck;
        (done.copied, done.damaged) = (data.tally.copied, data.tally.damaged);
        Ok(done)
    }
}

impl Inner {
    /// Repacks `packs`; gives those that are gone.
    fn rewrite_packs(
        &self,
        lineage: &Lineage,
        data: &mut SweepData<'_>,
        packs: Vec<PackBody>,
    ) -> Result<Vec<PackBody>, VaultError> {
        let mut none = NoData;
        let mut find = FindHead::new(lineage.id);
        let head = Driver::new(self, Some(lineage), &mut none).finish(|reply| find.step(reply))?;
        let (sweep, at) = (data.sweep().0, self.ports.clock.now().0);
        let mut repack = Repack::new(lineage.id, (sweep, at), head, lineage.seals_with(), packs, self.rules);
        Driver::new(self, Some(lineage), data).finish(|reply| repack.step(reply))
    }
}
