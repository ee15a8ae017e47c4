//! All keys of one domain and epoch that the holder has.

use vmkeep_model::DomainId;

use crate::{Branch, BranchId, BranchKey, Entropy, IdentityKey, KeyError, PublicKey, SealingKey, SecretKey};

/// The keys of one domain and epoch, or as many of them as the holder may have.
#[derive(Debug)]
pub struct DomainKeys {
    domain: DomainId,
    epoch: u32,
    record: Option<BranchKey>,
    map: Option<BranchKey>,
    data: Option<BranchKey>,
    identity: Option<IdentityKey>,
    // Boxed: few holders have one.
    public: Option<Box<PublicKey>>,
}

impl DomainKeys {
    /// Fresh keys: a record key for the vault's own domain, map, data and identity keys for any other.
    pub fn generate(domain: DomainId, epoch: u32, entropy: &dyn Entropy) -> Result<Self, KeyError> {
        let mut keys = Self::none(domain, epoch);
        for &branch in keys.branches_allowed() {
            keys.insert(branch, SecretKey::generate(entropy)?)?;
        }
        Ok(keys)
    }

    /// Keys of the next epoch: fresh ones, but for the identity key, which stays what it is for as long as the domain is.
    ///
    /// It needs all of this epoch's: what is missing here would be missing for ever. [`KeyError::BranchMissing`] else.
    pub fn successor(&self, entropy: &dyn Entropy) -> Result<Self, KeyError> {
        let mut keys = Self::none(self.domain, self.epoch.saturating_add(1));
        for &branch in self.branches_allowed() {
            let own =
                self.iter().find(|key| key.id().branch == branch).ok_or_else(|| self.missing(branch))?;
            let key = match branch {
                Branch::Identity => own.secret().duplicate(),
                _ => SecretKey::generate(entropy)?,
            };
            keys.insert(branch, key)?;
        }
        Ok(keys)
    }

    /// Which branches it has, ascending.
    pub fn branches(&self) -> Vec<Branch> {
        let public = self.public.as_ref().map(|key| key.id().branch);
        self.iter().map(|key| key.id().branch).chain(public).collect()
    }

    /// Whether it has every branch that its domain may have.
    pub fn is_full(&self) -> bool {
        self.branches() == self.branches_allowed()
    }

    /// Whether both are the same keys, of the same branches. Takes no longer for keys that are nearly the same.
    pub fn same_keys(&self, other: &Self) -> bool {
        let ids = |keys: &Self| keys.iter().map(BranchKey::id).collect::<Vec<_>>();
        ids(self) == ids(other)
            && self.public == other.public
            && self
                .iter()
                .zip(other.iter())
                .fold(true, |same, (one, two)| same & one.secret().ct_eq(two.secret()))
    }

    /// The same keys without that of `branch`: for a holder that may not have it.
    #[must_use]
    pub fn without(mut self, branch: Branch) -> Self {
        match branch {
            Branch::Record => self.record = None,
            Branch::Map => self.map = None,
            Branch::Data => self.data = None,
            Branch::Identity => self.identity = None,
            Branch::DataPublic => self.public = None,
        }
        self
    }

    /// The same keys with the public side of the data key in its place: for a holder that is to seal and not to open.
    ///
    /// [`KeyError::BranchMissing`] where there is neither.
    pub fn write_only(mut self) -> Result<Self, KeyError> {
        if self.public.is_none() {
            self.public = Some(Box::new(PublicKey::of(self.data()?)?));
        }
        Ok(self.without(Branch::Data))
    }

    /// Whose keys.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// Their generation.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The record key, or [`KeyError::BranchMissing`].
    pub fn record(&self) -> Result<&BranchKey, KeyError> {
        self.record.as_ref().ok_or_else(|| self.missing(Branch::Record))
    }

    /// The map key, or [`KeyError::BranchMissing`].
    pub fn map(&self) -> Result<&BranchKey, KeyError> {
        self.map.as_ref().ok_or_else(|| self.missing(Branch::Map))
    }

    /// The data key, or [`KeyError::BranchMissing`].
    pub fn data(&self) -> Result<&BranchKey, KeyError> {
        self.data.as_ref().ok_or_else(|| self.missing(Branch::Data))
    }

    /// What new data is sealed with: the data key, or its public side; [`KeyError::BranchMissing`] where there is neither.
    pub fn sealing(&self) -> Result<SealingKey<'_>, KeyError> {
        match (&self.data, &self.public) {
            (Some(key), _) => Ok(SealingKey::Secret(key)),
            (None, Some(key)) => Ok(SealingKey::Public { key, hedge: self.map()? }),
            (None, None) => Err(self.missing(Branch::Data)),
        }
    }

    /// The public side of the data key, where it is held in its place.
    pub fn public(&self) -> Option<&PublicKey> {
        self.public.as_deref()
    }

    /// The identity key, or [`KeyError::BranchMissing`].
    pub fn identity(&self) -> Result<&IdentityKey, KeyError> {
        self.identity.as_ref().ok_or_else(|| self.missing(Branch::Identity))
    }

    /// The record key alone, or [`KeyError::BranchMissing`].
    pub fn into_record(mut self) -> Result<BranchKey, KeyError> {
        self.record.take().ok_or_else(|| self.missing(Branch::Record))
    }

    pub(crate) fn none(domain: DomainId, epoch: u32) -> Self {
        Self { domain, epoch, record: None, map: None, data: None, identity: None, public: None }
    }

    pub(crate) fn insert(&mut self, branch: Branch, key: SecretKey) -> Result<(), KeyError> {
        let id = BranchId { domain: self.domain, branch, epoch: self.epoch };
        if branch == Branch::DataPublic {
            self.public = Some(Box::new(PublicKey::from_point(id, *key.expose())));
            return Ok(());
        }
        let key = BranchKey::from_parts(id, key);
        match branch {
            Branch::Record => self.record = Some(key),
            Branch::Map => self.map = Some(key),
            Branch::Data => self.data = Some(key),
            Branch::Identity => self.identity = Some(IdentityKey::new(key)?),
            Branch::DataPublic => {}
        }
        Ok(())
    }

    /// The branches that a key object of the domain may hold, ascending.
    pub(crate) fn branches_possible(&self) -> &'static [Branch] {
        if self.domain == DomainId::VAULT {
            &[Branch::Record]
        } else {
            &[Branch::Map, Branch::Data, Branch::Identity, Branch::DataPublic]
        }
    }

    /// The branches that a domain has, ascending.
    pub(crate) fn branches_allowed(&self) -> &'static [Branch] {
        if self.domain == DomainId::VAULT {
            &[Branch::Record]
        } else {
            &[Branch::Map, Branch::Data, Branch::Identity]
        }
    }

    /// The keys that are there, by ascending branch.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &BranchKey> {
        let identity = self.identity.as_ref().map(IdentityKey::key);
        [self.record.as_ref(), self.map.as_ref(), self.data.as_ref(), identity].into_iter().flatten()
    }

    fn missing(&self, branch: Branch) -> KeyError {
        KeyError::BranchMissing { domain: self.domain, epoch: self.epoch, branch }
    }
}
