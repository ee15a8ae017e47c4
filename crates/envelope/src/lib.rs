//! BEK/KEK envelope encryption: key domains, wrapping, and sealing whole objects.
//!
//! Everything a vault stores passes through here on its way out and on its way back. What goes out is a
//! [`SealedObject`], which nothing else can make; what comes back is bytes that nobody vouches for until they are
//! opened.
//!
//! ```text
//! KEK: a key file, a passphrase, an HSM, a key service        [KeyVault]
//!  └─ wraps an object key, one per key object                  [seal_key_object]
//!      └─ seals the keys of a domain and epoch                 [DomainKeys]
//!          ├─ record    seals what belongs to no VM            [seal_record]
//!          ├─ map       seals maps, footers, points            [seal_record, PackBuilder]
//!          ├─ data      seals the content of disks: the BEK    [PackBuilder]
//!          └─ identity  names content, seals nothing           [IdentityKey]
//! ```
//!
//! A whole turn: make a key file, make keys, put them away, seal a record, fetch the keys, open the record.
//!
//! ```
//! use std::sync::atomic::AtomicU64;
//!
//! use vmkeep_envelope::*;
//! use vmkeep_model::{DomainId, SessionId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let key_file = folder.path().join("vault.key");
//! let kek = KeyFileVault::create(&key_file, &OsEntropy)?;
//!
//! // Keys of the vault's own domain, and the object that keeps them.
//! let counter = AtomicU64::new(0);
//! let ctx = SealContext { session: SessionId([1; 16]), counter: &counter, entropy: &OsEntropy };
//! let keys = DomainKeys::generate(DomainId::VAULT, 0, &OsEntropy)?;
//! let prefix = format!("keys/{}/0/", DomainId::VAULT);
//! let (key_name, key_object) = seal_key_object(&keys, &kek, &prefix, &ctx)?;
//!
//! // A record of kind 1 that opens under the name "vault" and no other.
//! let record = seal_record(1, keys.record()?, "vault", b"hello", &ctx)?;
//!
//! // Another day: the key file opens the key object, and the record key in it the record.
//! let kek = KeyFileVault::open(&key_file)?;
//! let OpenedKeys::Keys(keys) = open_key_object(key_object.bytes(), &key_name, &kek)? else {
//!     panic!("another key file wrapped these keys");
//! };
//! assert_eq!(open_record(record.bytes(), "vault", keys.record()?, 1)?, b"hello");
//! assert!(matches!(open_record(record.bytes(), "names/0", keys.record()?, 1), Err(OpenError::Tampered)));
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! - **No key and nonce ever meet two plaintexts.** Every salt is a keyed hash of the session, a counter, random
//!   bytes *and everything that will be sealed under it*; the sealing key comes from the salt, and nonces number the
//!   slots. A cloned host whose random source repeats makes equal bytes at worst ([`SealContext`]).
//! - **Bytes open at their place or not at all.** A record is bound to its object's name, a slot to the pack it was
//!   born in, its number, length and codec, a footer to the header and trailer of its pack.
//! - **Lengths are believed after they were checked.** Opening allocates at most what the format allows for the object
//!   at hand, and never panics on any input.
//! - **What does not open shows nothing.** Where bytes fail to authenticate, the buffer that they were to be opened in is
//!   zeros, and the error is the same whatever is wrong with them. Tags are compared by the cipher's library, in time that
//!   does not depend on them, and nowhere else; keys and secrets by [`SecretKey::ct_eq`] and [`SecretBytes::ct_eq`].
//! - **Keys are not copied about.** [`SecretKey`] has no `Clone`, shows nothing, lies in one place on the heap and is wiped
//!   when dropped, as are passphrases, secrets of stores, derived keys, and whatever a key passes through on its way. The
//!   test `heap` looks at all memory that is freed during whole lives of keys and finds no 8 bytes of one. `secrecy` sees to
//!   it that no error and no debug output tells one.
//! - Randomness comes in through [`Entropy`], so a test can repeat a whole vault byte for byte.
//!
//! # What it does not do
//!
//! It knows no store and no object but by the name it is told, does not compress, and does not look into a body.
//! It protects against whoever holds the store; not against whoever reads this process's memory. Freshness (is this the
//! newest object of its name?) is for the commit protocol to say.
//!
//! Wiping ends where this crate's own heap does. Not covered: copies that computing leaves in registers and on stacks (and,
//! from there, in parts of values that are not set); key schedules in memory of a C library, with the feature `aws-lc` or a
//! key service's own (`aws-lc-rs` wipes what it frees, which no test here can see); pages that the system swaps out or writes
//! to a core file.

mod aead;
mod argon;
#[cfg(feature = "azure-config")]
mod base64url;
#[doc(hidden)]
pub mod bench;
mod branch;
pub mod conformance;
mod entropy;
mod error;
#[cfg(feature = "file-vault")]
pub mod file_vault;
#[doc(hidden)]
pub mod fuzzing;
pub mod guest;
mod kek;
mod key_file;
mod key_object;
mod keys;
mod keyvault;
mod labels;
mod pack;
mod passphrase;
mod public;
mod reader;
mod record;
mod salt;
mod seal;
mod secret;
mod store;
mod store_kek;
#[cfg(feature = "file-vault")]
mod wrapping;
mod writer;

pub use aead::TAG_LEN;
pub use argon::{Argon2Kdf, Argon2Params};
#[cfg(feature = "azure-config")]
pub use base64url::{base64url, from_base64url};
pub use branch::{Branch, BranchId, BranchKey, IdentityKey, SubKey};
pub use entropy::{Entropy, EntropyError, OsEntropy, SeededEntropy};
pub use error::{KeyError, OpenError, SealError};
pub use key_file::KeyFileVault;
pub use key_object::{
    KEY_OBJECT_VERSION, KeyObjectHead, OpenedKeys, WrapNaming, open_key_object, seal_key_object,
    seal_key_object_as, wrap_name, wrap_name_of_some,
};
pub use keys::DomainKeys;
pub use keyvault::{KekDescription, KekManagement, KeyVault, Unwrapped, WrapContext, WrappedKey};
pub use pack::{
    Codec, OpenedSlot, PACK_HEADER_LEN, PACK_LEN_MAX, PACK_VERSION, PackBuilder, PackContent, PackHead,
    PackName, RepackBuilder, SLOT_COUNT_MAX, SLOT_HEADER_LEN, SLOT_PLAIN_MAX, SealedPack, SlotCiphers,
    SlotHead, SlotId, SlotKind, SlotLayout, TRAILER_LEN, Trailer, open_footer, open_slot, readmit_pack,
};
pub use passphrase::PassphraseVault;
pub use public::{PublicKey, SealingKey};
pub use record::{RECORD_BODY_MAX, RECORD_HEADER_LEN, RECORD_VERSION, RecordHead, open_record, seal_record};
pub use seal::{SealContext, SealedObject};
pub use secret::{Passphrase, SecretKey};
pub use store::{
    KeyInfo, KeyStore, KeyStoreError, KeyUrl, ObjectUrlError, Secret, SecretBytes, SecretStore, SecretUrl,
    SecretValue, StoreWrapped, WrapAlgorithm,
};
pub use store_kek::StoreKek;
