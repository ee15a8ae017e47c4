//! The keys of a vault and of its VMs, unlocked.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkeep_envelope::{
    BranchId, BranchKey, DomainKeys, Entropy, IdentityKey, KeyVault, OpenError, OpenedKeys, SealContext,
    open_key_object, seal_key_object,
};
use vmkeep_model::{ContentHash, DomainId};

use crate::error::VaultError;
use crate::format::FormatError;
use crate::layout::ObjectName;
use crate::map::NodeHasher;
use crate::store::{Created, Objects, ResultExt};

/// The keys of one VM (or group), every epoch of them.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) id: DomainId,
    epochs: BTreeMap<u32, DomainKeys>,
}

impl NodeHasher for IdentityKey {
    fn node_hash(&self, expanded: &[u8]) -> ContentHash {
        IdentityKey::node_hash(self, expanded)
    }
}

impl Domain {
    fn new(id: DomainId, epochs: BTreeMap<u32, DomainKeys>) -> Result<Self, VaultError> {
        let domain = Self { id, epochs };
        domain.identity()?;
        Ok(domain)
    }

    /// A domain of which the holder has some keys alone.
    #[cfg(test)]
    pub(crate) fn of_some(keys: DomainKeys) -> Self {
        Self { id: keys.domain(), epochs: BTreeMap::from([(keys.epoch(), keys)]) }
    }

    fn newest(&self) -> Result<&DomainKeys, VaultError> {
        self.epochs.values().next_back().ok_or_else(|| VaultError::WrongKey { what: self.what() })
    }

    /// What content is hashed with: one key for all epochs.
    pub(crate) fn identity(&self) -> Result<&IdentityKey, VaultError> {
        self.newest()?.identity().map_err(|source| VaultError::Key { what: self.what(), source })
    }

    /// The map branch that new metadata is sealed with.
    pub(crate) fn map_key(&self) -> Result<&BranchKey, VaultError> {
        self.newest()?.map().map_err(|source| VaultError::Key { what: self.what(), source })
    }

    /// The data branch (the BEK) that new data is sealed with.
    pub(crate) fn data_key(&self) -> Result<&BranchKey, VaultError> {
        self.newest()?.data().map_err(|source| VaultError::Key { what: self.what(), source })
    }

    /// The map branch of `epoch`.
    pub(crate) fn map_key_of(&self, epoch: u32) -> Result<&BranchKey, VaultError> {
        self.of(epoch)?.map().map_err(|source| VaultError::Key { what: self.what(), source })
    }

    /// The map branch that the object `name` claims, in its clear head, to be sealed with. A claim that no key fits
    /// is a fault of the object: who reads it goes on to the next.
    pub(crate) fn map_key_claimed(
        &self,
        name: &ObjectName,
        claimed: BranchId,
    ) -> Result<&BranchKey, VaultError> {
        if self.epochs.contains_key(&claimed.epoch) {
            return self.map_key_of(claimed.epoch);
        }
        let expected = self.map_key()?.id();
        Err(VaultError::open(name, OpenError::WrongKey { expected, found: claimed }))
    }

    /// The data branch of `epoch`.
    pub(crate) fn data_key_of(&self, epoch: u32) -> Result<&BranchKey, VaultError> {
        self.of(epoch)?.data().map_err(|source| VaultError::Key { what: self.what(), source })
    }

    fn of(&self, epoch: u32) -> Result<&DomainKeys, VaultError> {
        self.epochs
            .get(&epoch)
            .ok_or_else(|| VaultError::WrongKey { what: format!("{}, epoch {epoch}", self.what()) })
    }

    fn what(&self) -> String {
        format!("key domain {}", self.id)
    }
}

/// Every key object of `domain` that `key_vault` opens, newest epoch last.
///
/// `WrongKey` when there are key objects and none is for this key; the damage when one is and does not open.
pub(crate) fn unlock(
    objects: &Objects,
    key_vault: &dyn KeyVault,
    domain: DomainId,
    what: &str,
) -> Result<BTreeMap<u32, Vec<DomainKeys>>, VaultError> {
    let (mut opened, mut broken) = (BTreeMap::<u32, Vec<DomainKeys>>::new(), None);
    for (path, _) in objects.list(&format!("keys/{domain}"))? {
        let Some(name @ ObjectName::Key { epoch, .. }) = ObjectName::parse(&path) else { continue };
        let bytes = objects.read(&name).or_missing(&name)?;
        match open_key_object(&bytes, &path, key_vault) {
            Ok(OpenedKeys::Keys(keys)) => opened.entry(epoch).or_default().push(keys),
            Ok(OpenedKeys::NotMine) => {}
            Err(source) => broken = Some(VaultError::open(&name, source)),
        }
    }
    match (opened.is_empty(), broken) {
        (true, Some(broken)) => Err(broken),
        (true, None) => Err(VaultError::WrongKey { what: what.to_owned() }),
        (false, _) => Ok(opened),
    }
}

/// The keys of a VM's domain.
pub(crate) fn unlock_domain(
    objects: &Objects,
    key_vault: &dyn KeyVault,
    domain: DomainId,
    what: &str,
) -> Result<Arc<Domain>, VaultError> {
    let epochs = unlock(objects, key_vault, domain, what)?;
    let first_of_each =
        epochs.into_iter().filter_map(|(epoch, keys)| Some((epoch, keys.into_iter().next()?)));
    Domain::new(domain, first_of_each.collect()).map(Arc::new)
}

/// Makes the keys of a new domain and stores them, wrapped. Also returns how many bytes that took.
pub(crate) fn create_domain(
    objects: &Objects,
    key_vault: &dyn KeyVault,
    domain: DomainId,
    entropy: &dyn Entropy,
    context: &SealContext<'_>,
) -> Result<(DomainKeys, u64), VaultError> {
    let what = || format!("key domain {domain}");
    let key_error = |source| VaultError::Key { what: what(), source };
    let keys = DomainKeys::generate(domain, 0, entropy).map_err(key_error)?;
    let (path, object) =
        seal_key_object(&keys, key_vault, &format!("keys/{domain}/0/"), context).map_err(key_error)?;
    let name = ObjectName::parse(&path).ok_or_else(|| {
        VaultError::malformed(&path, FormatError("a key object has no name of the vault".to_owned()))
    })?;
    match objects.create(&name, &object)? {
        Created::Ours => Ok((keys, object.bytes().len() as u64)),
        Created::Other => Err(VaultError::Taken { object: name.to_string() }),
    }
}

/// As [`create_domain`], unlocked for use.
pub(crate) fn create_vm_domain(
    objects: &Objects,
    key_vault: &dyn KeyVault,
    domain: DomainId,
    entropy: &dyn Entropy,
    context: &SealContext<'_>,
) -> Result<(Arc<Domain>, u64), VaultError> {
    let (keys, stored) = create_domain(objects, key_vault, domain, entropy, context)?;
    Ok((Arc::new(Domain::new(domain, BTreeMap::from([(0, keys)]))?), stored))
}
