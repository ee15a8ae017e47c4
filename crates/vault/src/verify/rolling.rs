//! A rolling check: a part of the packs at a time, so that a number of runs that is known beforehand checks them all.

use std::fmt;
use std::sync::Arc;

use vmkeep_model::{CancelToken, DomainId, LineageId, Permit, Principal, Timestamp, VmName, op};

use super::coverage::{Checked, Coverage};
use super::pack::{PackDamage, PackToCheck};
use super::ring::{Ring, Turn, runs_of_bytes, runs_of_share};
use super::{Damage, PackDepth, Tally};
use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::place::PackPlace;
use crate::vault::{Inner, Vault};

/// How much a rolling run reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// About so many bytes, when the vault does not grow within two rounds; see [`Rolling`].
    Bytes(u64),
    /// So many thousandths of a per cent of what the vault holds.
    Millipercent(u32),
}

/// A rolling run under way: [`each_pack`](Self::each_pack) gives what is to be checked, [`finish`](Self::finish) remembers it.
///
/// Packs lie on a ring by their names, and a run takes the next part of it, which holds those that were unchecked for the
/// longest. **What is stated is kept**: every pack that is there, or is written, while [`Coverage::period`] says `P` is checked
/// within the next `P` runs, whatever is added, repacked or swept meanwhile and however the budget changes. (What is written
/// while a run goes on counts as written after it.) For that, a round is cut into its parts beforehand: data that was added
/// since makes a run read more than its budget in bytes, at most until the end of the next round; a larger budget counts at
/// once, and a smaller one when what was promised is over.
///
/// A run that is not finished is not remembered, and the next one takes the same part. Of two runs at the same time, the one
/// that ends last is not counted; what it found is.
///
/// Checked is what is there: that something is missing shows in the maps alone, which
/// [`DiskReader::walk_since`](crate::DiskReader::walk_since) goes through. In memory is a name for each VM, and nothing for
/// a pack or a point.
pub struct Rolling {
    vault: Arc<Inner>,
    by: Principal,
    depth: PackDepth,
    began: Timestamp,
    before: (u64, Option<Coverage>),
    turn: Turn,
    total: Tally,
}

impl fmt::Debug for Rolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rolling")
            .field("turn", &self.turn)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Begins a rolling run. Lists the packs once.
    ///
    /// # Errors
    /// When the permit is not for the whole vault, or the store fails. What earlier runs left and cannot be read counts as not
    /// there: the rounds begin anew.
    pub fn rolling(
        &self,
        permit: &Permit<op::Verify>,
        budget: Budget,
        depth: PackDepth,
        cancel: &CancelToken,
    ) -> Result<Rolling, VaultError> {
        permit.check_vault()?;
        let vault = Arc::clone(&self.uncached().inner);
        let began = vault.ports.clock.now();
        let before = match vault.newest_coverage() {
            Err(e) if e.is_of_one_object() => (0, None),
            newest => newest?,
        };
        let mut total = Tally::default();
        let mut listing = vault.objects.pages("packs");
        while let Some(page) = listing.next_page()? {
            cancel.check().map_err(VaultError::Cancelled)?;
            for (path, size) in page {
                if is_pack(&path).is_some() {
                    total.objects += 1;
                    total.bytes = total.bytes.saturating_add(size);
                }
            }
        }
        let runs = match budget {
            Budget::Bytes(budget) => runs_of_bytes(total.bytes, budget),
            Budget::Millipercent(share) => runs_of_share(share),
        };
        let ring = before.1.as_ref().and_then(|before| before.ring).unwrap_or_else(|| Ring::new(runs));
        let turn = ring.turn(runs);
        Ok(Rolling { vault, by: permit.who().clone(), depth, began, before, turn, total })
    }
}

impl Rolling {
    /// All packs that the vault holds.
    pub fn total(&self) -> Tally {
        self.total
    }

    /// Nothing checked yet: what the checks are added to.
    pub fn nothing_yet(&self) -> Checked {
        Checked::nothing(self.depth, self.began)
    }

    /// Gives every pack that is to be checked, as they are listed. A VM that cannot be opened is told of, and its packs are left
    /// out.
    pub fn each_pack(
        &self,
        cancel: &CancelToken,
        found: &mut dyn FnMut(PackDamage),
        give: &mut dyn FnMut(PackToCheck) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        for (path, _) in self.vault.objects.list("names")? {
            cancel.check().map_err(VaultError::Cancelled)?;
            let Some(lineage) = self.lineage(&path, found)? else { continue };
            let mut listing = self.vault.objects.pages(&format!("packs/{}", lineage.id));
            while let Some(page) = listing.next_page()? {
                cancel.check().map_err(VaultError::Cancelled)?;
                for (path, size) in page {
                    let Some((name, place)) = is_pack(&path) else { continue };
                    if self.turn.arc.holds(&place.name) {
                        give(PackToCheck { lineage: Arc::clone(&lineage), place, name, size })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The VM that a name record names, unlocked; `None` when it is damaged, which is told, or gone.
    fn lineage(
        &self,
        path: &str,
        found: &mut dyn FnMut(PackDamage),
    ) -> Result<Option<Arc<Lineage>>, VaultError> {
        let Some(name @ ObjectName::Name(_)) = ObjectName::parse(path) else { return Ok(None) };
        let mut tell = |object: String, vm: Option<VmName>, error: VaultError| {
            found(PackDamage { damage: Damage { object, error }, vm, blocks: None });
            Ok(None)
        };
        let body = match self.vault.name_record(&name) {
            Ok(Some(body)) => body,
            Ok(None) => return Ok(None),
            Err(e) if e.is_of_one_object() => return tell(path.to_owned(), None, e),
            Err(e) => return Err(e),
        };
        // A name that is no name is told of by an audit.
        let Ok(vm) = body.vm.parse::<VmName>() else { return Ok(None) };
        match self.vault.unlock_lineage(&body, &vm) {
            Ok(lineage) => Ok(Some(Arc::new(lineage))),
            Err(e) if e.is_of_one_object() || matches!(e, VaultError::WrongKey { .. }) => {
                let object =
                    e.object().map_or_else(|| format!("keys/{}", DomainId(body.domain)), str::to_owned);
                tell(object, Some(vm), e)
            }
            Err(e) => Err(e),
        }
    }

    /// Checks a pack, on any thread; its size, or `None` when it is gone by now. Damage is told; a failure of another kind is
    /// one of the run.
    pub fn check(
        &self,
        pack: &PackToCheck,
        cancel: &CancelToken,
        found: &mut dyn FnMut(PackDamage),
    ) -> Result<Option<u64>, VaultError> {
        self.vault.check_pack(pack, self.depth, cancel, found)
    }

    /// Remembers in the journal that every pack was checked that [`each_pack`](Self::each_pack) gave.
    pub fn finish(self, mut checked: Checked) -> Result<Coverage, VaultError> {
        checked.ended = self.vault.ports.clock.now();
        let (number, before) = &self.before;
        self.vault.remember_run(&self.by, (*number, before.as_ref()), &self.turn, checked)
    }
}

/// Name and place of a pack, or of a second copy.
fn is_pack(path: &str) -> Option<(ObjectName, PackPlace)> {
    let name = ObjectName::parse(path)?;
    let (ObjectName::Pack(_, session, pack) | ObjectName::PackCopy(_, session, pack)) = &name else {
        return None;
    };
    let place = PackPlace { lineage: None::<LineageId>, session: *session, name: *pack };
    Some((name, place))
}
