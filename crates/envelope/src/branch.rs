//! The keys of a domain: which key, and what is derived from it.

use std::fmt;

use vmkeep_model::{ContentHash, DomainId};
use zeroize::Zeroizing;

use crate::aead::subkey;
use crate::{KeyError, OpenError, SecretKey, labels};

/// What a key of a domain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Branch {
    /// What belongs to no VM; in the vault's own domain only.
    Record = 1,
    /// Block maps, pack footers, points.
    Map = 2,
    /// The content of disks.
    Data = 3,
    /// Content hashes. Seals nothing and is never rotated.
    Identity = 4,
    /// The public side of the data branch: seals what the data key alone opens.
    DataPublic = 5,
}

impl Branch {
    /// Its number in the format.
    pub fn number(self) -> u8 {
        match self {
            Self::Record => 1,
            Self::Map => 2,
            Self::Data => 3,
            Self::Identity => 4,
            Self::DataPublic => 5,
        }
    }

    /// The branch that opens what this one sealed.
    pub(crate) fn opened_by(self) -> Self {
        match self {
            Self::DataPublic => Self::Data,
            own => own,
        }
    }

    pub(crate) fn from_number(number: u8) -> Result<Self, OpenError> {
        match number {
            1 => Ok(Self::Record),
            2 => Ok(Self::Map),
            3 => Ok(Self::Data),
            4 => Ok(Self::Identity),
            5 => Ok(Self::DataPublic),
            _ => Err(OpenError::Malformed { what: "branch is not 1 to 5" }),
        }
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "record",
            Self::Map => "map",
            Self::Data => "data",
            Self::Identity => "identity",
            Self::DataPublic => "public data",
        })
    }
}

/// Which key: never secret, stored in the clear beside what the key sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId {
    /// Whose key.
    pub domain: DomainId,
    /// What for.
    pub branch: Branch,
    /// Which generation.
    pub epoch: u32,
}

impl BranchId {
    /// Whether what was sealed with `sealed` opens with this key: the same key, or its public side.
    pub fn opens(&self, sealed: BranchId) -> bool {
        let own = Self { branch: sealed.branch.opened_by(), ..sealed };
        own == *self
    }
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} key of domain {}, epoch {}", self.branch, self.domain, self.epoch)
    }
}

/// A key and which one it is.
#[derive(Debug)]
pub struct BranchKey {
    id: BranchId,
    key: SecretKey,
}

impl BranchKey {
    /// A key that is known to be `id`.
    pub fn from_parts(id: BranchId, key: SecretKey) -> Self {
        Self { id, key }
    }

    /// Which key.
    pub fn id(&self) -> BranchId {
        self.id
    }

    /// The key for one further purpose, which nothing can be turned back from.
    ///
    /// ```
    /// # use vmkeep_envelope::{Branch, BranchId, BranchKey, OsEntropy, SecretKey};
    /// # use vmkeep_model::DomainId;
    /// # let id = BranchId { domain: DomainId::VAULT, branch: Branch::Record, epoch: 0 };
    /// # let record = BranchKey::from_parts(id, SecretKey::generate(&OsEntropy)?);
    /// let names = record.subkey("vmkeep v1 vm name");
    /// let name = names.hash16(&[b"web", &0_u32.to_le_bytes()]);
    /// assert_ne!(name, names.hash16(&[b"web", &1_u32.to_le_bytes()]));
    /// # Ok::<(), vmkeep_envelope::EntropyError>(())
    /// ```
    pub fn subkey(&self, label: &'static str) -> SubKey {
        SubKey { key: subkey(&self.key, label) }
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.key
    }
}

/// A derived key that hashes: for names and seeds that only the holder of the key can make.
#[derive(Debug)]
pub struct SubKey {
    key: SecretKey,
}

impl SubKey {
    /// First 16 bytes of the keyed BLAKE3 hash of all `parts`, one after another.
    ///
    /// Where one part ends and the next begins is not hashed: at most one of them may vary in length.
    pub fn hash16(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(self.key.expose());
        for part in parts {
            hasher.update(part);
        }
        half(&hasher.finalize())
    }
}

/// The identity key of a domain, ready to hash: equal hashes mean equal content, to its holders only.
#[derive(Debug)]
pub struct IdentityKey {
    key: BranchKey,
    block: SecretKey,
    node: SecretKey,
}

impl IdentityKey {
    /// The identity key that `key` is; a key of another branch is refused.
    pub fn new(key: BranchKey) -> Result<Self, KeyError> {
        if key.id.branch != Branch::Identity {
            return Err(KeyError::WrongBranch { expected: Branch::Identity, found: key.id });
        }
        let (block, node) = (subkey(&key.key, labels::BLOCK), subkey(&key.key, labels::NODE));
        Ok(Self { key, block, node })
    }

    /// Which key.
    pub fn id(&self) -> BranchId {
        self.key.id
    }

    /// The key for one further purpose, such as the seed of page fingerprints.
    pub fn subkey(&self, label: &'static str) -> SubKey {
        self.key.subkey(label)
    }

    /// Hash of a whole block, the tail of a disk padded with zeros. Allocates nothing.
    pub fn block_hash(&self, block: &[u8]) -> ContentHash {
        ContentHash(half(&blake3::keyed_hash(self.block.expose(), block)))
    }

    /// Hash of an expanded node of a block map. Allocates nothing.
    pub fn node_hash(&self, expanded: &[u8]) -> ContentHash {
        ContentHash(half(&blake3::keyed_hash(self.node.expose(), expanded)))
    }

    /// What pages are fingerprinted with: as much secret as xxh3 takes. Fingerprints stay on the machine that makes
    /// them, so this is no part of the format.
    pub fn page_secret(&self) -> Zeroizing<[u8; 192]> {
        let mut secret = Zeroizing::new([0; 192]);
        let key = subkey(&self.key.key, labels::PAGE);
        blake3::Hasher::new_keyed(key.expose()).finalize_xof().fill(&mut *secret);
        secret
    }

    pub(crate) fn key(&self) -> &BranchKey {
        &self.key
    }
}

impl TryFrom<BranchKey> for IdentityKey {
    type Error = KeyError;

    fn try_from(key: BranchKey) -> Result<Self, KeyError> {
        Self::new(key)
    }
}

/// The 16 bytes of a hash that the format keeps.
pub(crate) fn half(hash: &blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}
