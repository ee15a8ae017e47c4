//! The keys of a vault and of its VMs, unlocked.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use vmkeep_envelope::{
    Branch, BranchId, BranchKey, DomainKeys, Entropy, IdentityKey, KeyError, KeyObjectHead, KeyVault,
    OpenError, OpenedKeys, SealContext, SealingKey, open_key_object, seal_key_object, wrap_name,
};
use vmkeep_model::{ContentHash, DomainId, Timestamp};

use crate::error::VaultError;
use crate::format::{DestroyedBody, FormatError};
use crate::layout::ObjectName;
use crate::map::NodeHasher;
use crate::records;
use crate::store::{Created, Objects};
use crate::vault::Inner;

/// What identity keys are compared by.
const SAME_IDENTITY: &str = "vmkeep v1 same identity";

/// How often key objects are listed again because all that were listed had gone: a rotation was at work.
const LOOKS: u32 = 4;

/// The keys of one VM (or group), every epoch of them.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) id: DomainId,
    epochs: BTreeMap<u32, DomainKeys>,
    /// Epochs whose data key was destroyed on purpose.
    destroyed: BTreeMap<u32, DestroyedBody>,
    /// An epoch above those that open, whose keys are for this KEK and do not open.
    broken: Option<u32>,
    /// Names of its key objects and tombstones when it was unlocked.
    seen: Vec<String>,
    /// Where to look for keys that were made since; nowhere in some tests.
    source: Option<Source>,
    /// The same domain, unlocked when an epoch was met that was not there before.
    later: OnceLock<Arc<Self>>,
}

/// Where a domain's keys come from.
#[derive(Debug)]
struct Source {
    objects: Objects,
    key_vault: Arc<dyn KeyVault>,
    record: Arc<BranchKey>,
    what: String,
}

impl NodeHasher for IdentityKey {
    fn node_hash(&self, expanded: &[u8]) -> ContentHash {
        IdentityKey::node_hash(self, expanded)
    }
}

impl Source {
    fn of(vault: &Inner, what: &str) -> Self {
        Self {
            objects: vault.objects.uncached(),
            key_vault: Arc::clone(&vault.key_vault),
            record: Arc::clone(&vault.record),
            what: what.to_owned(),
        }
    }

    fn unlock(self, id: DomainId) -> Result<Domain, VaultError> {
        let scan = scan(&self.objects, &*self.key_vault, Some(&self.record), id, &self.what)?;
        one_identity(&scan, &self.what)?;
        let first_of_each =
            scan.opened.into_iter().filter_map(|(epoch, keys)| Some((epoch, keys.into_iter().next()?)));
        let epochs = first_of_each.map(|(epoch, keys)| {
            // The tombstone counts, also before whoever wrote it has removed the key.
            let gone = scan.destroyed.contains_key(&epoch);
            (epoch, if gone { keys.without(Branch::Data).without(Branch::DataPublic) } else { keys })
        });
        let domain = Domain {
            id,
            epochs: epochs.collect(),
            destroyed: scan.destroyed,
            broken: scan.broken,
            seen: scan.names,
            source: Some(self),
            later: OnceLock::new(),
        };
        domain.identity()?;
        Ok(domain)
    }

    fn again(&self) -> Self {
        Self {
            objects: self.objects.uncached(),
            key_vault: Arc::clone(&self.key_vault),
            record: Arc::clone(&self.record),
            what: self.what.clone(),
        }
    }
}

impl Domain {
    /// A domain of which the holder has some keys alone.
    #[cfg(test)]
    pub(crate) fn of_some(keys: DomainKeys) -> Self {
        let (destroyed, later) = (BTreeMap::new(), OnceLock::new());
        let epochs = BTreeMap::from([(keys.epoch(), keys)]);
        Self {
            id: epochs.values().next().unwrap().domain(),
            epochs,
            destroyed,
            broken: None,
            seen: Vec::new(),
            source: None,
            later,
        }
    }

    /// The keys of the newest epoch, as far as they are at hand.
    pub(crate) fn newest(&self) -> Result<&DomainKeys, VaultError> {
        self.epochs.values().next_back().ok_or_else(|| VaultError::WrongKey { what: self.what() })
    }

    /// The epochs that this KEK opens, ascending.
    pub(crate) fn epochs(&self) -> impl DoubleEndedIterator<Item = u32> + use<'_> {
        self.epochs.keys().copied()
    }

    /// What content is hashed with: one key for all epochs.
    pub(crate) fn identity(&self) -> Result<&IdentityKey, VaultError> {
        self.newest()?.identity().map_err(|source| self.key_error(source))
    }

    /// The keys that new objects are sealed with: none, where newer ones are there and do not open.
    fn sealing(&self) -> Result<&DomainKeys, VaultError> {
        match self.broken {
            Some(epoch) => Err(VaultError::NewestKeys { what: self.what(), epoch }),
            None => self.newest(),
        }
    }

    /// The map branch that new metadata is sealed with.
    pub(crate) fn map_key(&self) -> Result<&BranchKey, VaultError> {
        self.sealing()?.map().map_err(|source| self.key_error(source))
    }

    /// What new data is sealed with: the data branch (the BEK), or its public side where that is all there is.
    pub(crate) fn sealing_key(&self) -> Result<SealingKey<'_>, VaultError> {
        let keys = self.sealing()?;
        match self.destroyed_error(keys.epoch()) {
            Some(error) => Err(error),
            None => keys.sealing().map_err(|source| self.key_error(source)),
        }
    }

    /// Whether new data can be sealed and not be read again: the keys are those of a write-only client.
    pub(crate) fn is_write_only(&self) -> bool {
        self.newest().is_ok_and(|keys| keys.data().is_err() && keys.public().is_some())
    }

    /// The data branch (the BEK) that new data is sealed with.
    pub(crate) fn data_key(&self) -> Result<&BranchKey, VaultError> {
        self.data_key_in(self.sealing()?)
    }

    /// The map branch of `epoch`.
    pub(crate) fn map_key_of(&self, epoch: u32) -> Result<&BranchKey, VaultError> {
        self.of(epoch)?.1.map().map_err(|source| self.key_error(source))
    }

    /// The map branch that the object `name` claims, in its clear head, to be sealed with. A claim that no key fits
    /// is a fault of the object: who reads it goes on to the next.
    pub(crate) fn map_key_claimed(
        &self,
        name: &ObjectName,
        claimed: BranchId,
    ) -> Result<&BranchKey, VaultError> {
        if let Some((_, keys)) = self.find(claimed.epoch)? {
            return keys.map().map_err(|source| self.key_error(source));
        }
        let expected = self.newest()?.map().map_err(|source| self.key_error(source))?.id();
        Err(VaultError::open(name, OpenError::WrongKey { expected, found: claimed }))
    }

    /// The data branch of `epoch`; [`VaultError::KeyDestroyed`] when it was destroyed on purpose.
    pub(crate) fn data_key_of(&self, epoch: u32) -> Result<&BranchKey, VaultError> {
        let (domain, keys) = self.of(epoch)?;
        domain.data_key_in(keys)
    }

    fn data_key_in<'k>(&self, keys: &'k DomainKeys) -> Result<&'k BranchKey, VaultError> {
        match self.destroyed_error(keys.epoch()) {
            Some(error) => Err(error),
            None => keys.data().map_err(|source| self.key_error(source)),
        }
    }

    /// Why the data of `epoch` is gone, when its key was destroyed on purpose.
    pub(crate) fn destroyed_error(&self, epoch: u32) -> Option<VaultError> {
        let DestroyedBody { at, by, .. } = self.destroyed.get(&epoch)?;
        let whose = self.source.as_ref().map_or_else(|| self.what(), |source| source.what.clone());
        let what = format!("the data key of {whose}, epoch {epoch},");
        Some(VaultError::KeyDestroyed { what, at: Timestamp(*at), by: by.clone() })
    }

    /// The tombstones, by epoch.
    pub(crate) fn destroyed(&self) -> &BTreeMap<u32, DestroyedBody> {
        &self.destroyed
    }

    fn of(&self, epoch: u32) -> Result<(&Self, &DomainKeys), VaultError> {
        let missing = || VaultError::WrongKey { what: format!("{}, epoch {epoch}", self.what()) };
        self.find(epoch)?.ok_or_else(missing)
    }

    /// The keys of `epoch`, which may have been made since the domain was unlocked: then they are fetched. What new data
    /// is sealed with stays what it was.
    fn find(&self, epoch: u32) -> Result<Option<(&Self, &DomainKeys)>, VaultError> {
        let mut at = self;
        loop {
            if let Some(keys) = at.epochs.get(&epoch) {
                return Ok(Some((at, keys)));
            }
            let newest = at.epochs.keys().next_back().copied();
            let Some(source) = at.source.as_ref().filter(|_| newest < Some(epoch)) else { return Ok(None) };
            if at.later.get().is_none() {
                let fresh = match source.again().unlock(at.id) {
                    Ok(fresh) if fresh.epochs.keys().next_back().copied() > newest => fresh,
                    Ok(_) | Err(VaultError::WrongKey { .. } | VaultError::Key { .. }) => return Ok(None),
                    Err(e) if e.is_of_one_object() => return Ok(None),
                    Err(e) => return Err(e),
                };
                at.later.set(Arc::new(fresh)).ok();
            }
            match at.later.get() {
                Some(later) => at = later,
                None => return Ok(None),
            }
        }
    }

    fn key_error(&self, source: KeyError) -> VaultError {
        VaultError::Key { what: self.what(), source }
    }

    fn what(&self) -> String {
        format!("key domain {}", self.id)
    }
}

/// Refuses keys of which one epoch has another identity key than the rest. It is the same for as long as a domain is; a KEK whose
/// wrapping half is public (RSA) wraps whatever anybody makes, and who made this does not know it.
fn one_identity(scan: &Scan, what: &str) -> Result<(), VaultError> {
    let print = |keys: &DomainKeys| keys.identity().ok().map(|key| key.subkey(SAME_IDENTITY).hash16(&[]));
    let mut found = scan.opened.values().flatten().filter_map(print);
    let first = found.next();
    if found.all(|other| Some(other) == first) {
        return Ok(());
    }
    Err(VaultError::KeysDiffer { object: format!("one of the key objects of {what}") })
}

/// What there is of a domain's keys.
pub(crate) struct Scan {
    /// What `key_vault` opens, by epoch; of each epoch those with the data key first, then those with the most branches.
    pub(crate) opened: BTreeMap<u32, Vec<DomainKeys>>,
    /// Whether one of them is named by the KEK alone, as an owner's is.
    pub(crate) owner: bool,
    /// An epoch above those that open, whose keys are for this KEK and do not open.
    broken: Option<u32>,
    pub(crate) destroyed: BTreeMap<u32, DestroyedBody>,
    /// Every object under the domain's prefix.
    names: Vec<String>,
}

/// Opens what `key_vault` opens of `domain`. The tombstones are read when `record`, which seals them, is given.
///
/// `WrongKey` when there are key objects and none is for this key; the damage when one is and does not open.
pub(crate) fn scan(
    objects: &Objects,
    key_vault: &dyn KeyVault,
    record: Option<&BranchKey>,
    domain: DomainId,
    what: &str,
) -> Result<Scan, VaultError> {
    for _ in 0..LOOKS {
        let (opened, destroyed) = (BTreeMap::new(), BTreeMap::new());
        let mut found = Scan { opened, owner: false, broken: None, destroyed, names: Vec::new() };
        let (mut broken, mut gone) = (None, false);
        for (path, _) in objects.list(&format!("keys/{domain}"))? {
            let name = ObjectName::parse(&path);
            found.names.push(path.clone());
            match name {
                Some(name @ ObjectName::Key { epoch, .. }) => {
                    // Removed since the listing, by whoever changes the KEK: another is there in its place.
                    let Some(bytes) = objects.read(&name)? else {
                        gone = true;
                        continue;
                    };
                    match open_key_object(&bytes, &path, key_vault) {
                        Ok(OpenedKeys::Keys(keys)) => {
                            let head = KeyObjectHead::parse(&bytes);
                            found.owner |= head.is_ok_and(|head| path.ends_with(&wrap_name(&head.kek_id)));
                            found.opened.entry(epoch).or_default().push(keys);
                        }
                        Ok(OpenedKeys::NotMine) => {}
                        // Whoever holds the KEK did not answer: nothing is known of what is in it.
                        Err(source) if source.is_unanswered() => return Err(VaultError::open(&name, source)),
                        Err(source) => {
                            let error = VaultError::open(&name, source);
                            if broken.as_ref().is_none_or(|(newest, _)| *newest <= epoch) {
                                broken = Some((epoch, error));
                            }
                        }
                    }
                }
                Some(ObjectName::KeyDestroyed { epoch, .. }) => {
                    let Some(record) = record else { continue };
                    // One that does not open says nothing; an audit tells of it.
                    if let Some(body) = tombstone(objects, record, domain, epoch)? {
                        found.destroyed.insert(epoch, body);
                    }
                }
                _ => {}
            }
        }
        for keys in found.opened.values_mut() {
            keys.sort_by_key(|keys| Reverse((keys.data().is_ok(), keys.branches().len())));
        }
        let newest = found.opened.keys().next_back().copied();
        match (newest, broken) {
            (None, Some((_, broken))) => return Err(broken),
            (None, None) if gone => {}
            (None, None) => break,
            (Some(newest), broken) => {
                // What the older ones sealed is read all the same; new data is not sealed with them.
                found.broken = broken.map(|(epoch, _)| epoch).filter(|epoch| *epoch > newest);
                return Ok(found);
            }
        }
    }
    Err(VaultError::WrongKey { what: what.to_owned() })
}

/// The tombstone of an epoch, when there is one that opens and is of that epoch.
pub(crate) fn tombstone(
    objects: &Objects,
    record: &BranchKey,
    domain: DomainId,
    epoch: u32,
) -> Result<Option<DestroyedBody>, VaultError> {
    let name = ObjectName::KeyDestroyed { domain, epoch };
    let Some(bytes) = objects.read(&name)? else { return Ok(None) };
    let body = records::open::<DestroyedBody>(&name, &bytes, record).ok();
    Ok(body.filter(|body| (body.domain, body.epoch) == (domain.0, epoch)))
}

/// Every key object of `domain` that `key_vault` opens, newest epoch last, by epoch the fullest first.
pub(crate) fn unlock(
    objects: &Objects,
    key_vault: &dyn KeyVault,
    domain: DomainId,
    what: &str,
) -> Result<BTreeMap<u32, Vec<DomainKeys>>, VaultError> {
    scan(objects, key_vault, None, domain, what).map(|scan| scan.opened)
}

/// The keys of a VM's domain.
pub(crate) fn unlock_domain(vault: &Inner, domain: DomainId, what: &str) -> Result<Arc<Domain>, VaultError> {
    Source::of(vault, what).unlock(domain).map(Arc::new)
}

/// `domain` with what was made or destroyed since it was unlocked. One listing when that is nothing.
pub(crate) fn refreshed(domain: &Arc<Domain>) -> Result<Arc<Domain>, VaultError> {
    let Some(source) = &domain.source else { return Ok(Arc::clone(domain)) };
    let listed = source.objects.list(&format!("keys/{}", domain.id))?;
    if listed.iter().map(|(path, _)| path).eq(&domain.seen) {
        return Ok(Arc::clone(domain));
    }
    source.again().unlock(domain.id).map(Arc::new)
}

/// Makes the keys of a new domain and stores them, wrapped. Also returns under which name, and how many bytes that took.
pub(crate) fn create_domain(
    objects: &Objects,
    key_vault: &dyn KeyVault,
    domain: DomainId,
    entropy: &dyn Entropy,
    context: &SealContext<'_>,
) -> Result<(DomainKeys, String, u64), VaultError> {
    let what = || format!("key domain {domain}");
    let key_error = |source| VaultError::Key { what: what(), source };
    let keys = DomainKeys::generate(domain, 0, entropy).map_err(key_error)?;
    let (path, object) =
        seal_key_object(&keys, key_vault, &format!("keys/{domain}/0/"), context).map_err(key_error)?;
    let name = key_name(&path)?;
    match objects.create(&name, &object)? {
        Created::Ours => Ok((keys, path, object.bytes().len() as u64)),
        Created::Other => Err(VaultError::Taken { object: name.to_string() }),
    }
}

/// The name that the object at `path`, which was just sealed, has in the vault.
pub(crate) fn key_name(path: &str) -> Result<ObjectName, VaultError> {
    ObjectName::parse(path).ok_or_else(|| {
        VaultError::malformed(path, FormatError("a key object has no name of the vault".to_owned()))
    })
}

/// As [`create_domain`], unlocked for use.
pub(crate) fn create_vm_domain(
    vault: &Inner,
    domain: DomainId,
    what: &str,
    context: &SealContext<'_>,
) -> Result<(Arc<Domain>, u64), VaultError> {
    let entropy = &*vault.ports.entropy;
    let (keys, path, stored) = create_domain(&vault.objects, &*vault.key_vault, domain, entropy, context)?;
    let new = Domain {
        id: domain,
        epochs: BTreeMap::from([(0, keys)]),
        destroyed: BTreeMap::new(),
        broken: None,
        seen: vec![path],
        source: Some(Source::of(vault, what)),
        later: OnceLock::new(),
    };
    Ok((Arc::new(new), stored))
}
