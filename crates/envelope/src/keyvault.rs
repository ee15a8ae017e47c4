//! The port to whatever holds the key encryption key: a file, a passphrase, an HSM, a cloud key service.

use std::fmt;

use vmkeep_model::DomainId;

use crate::{Argon2Kdf, Entropy, KeyError, KeyUrl, SecretKey};

/// What a wrapped key is bound to. A vault must refuse to unwrap under another context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrapContext {
    /// Domain of the keys behind it.
    pub domain: DomainId,
    /// Their epoch.
    pub epoch: u32,
}

/// A key as a key vault wrapped it, and what that vault needs to know to unwrap it. Nothing here is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// How it is wrapped: ASCII, at most 64 bytes.
    pub algorithm: String,
    /// Which KEK wrapped it, at most 64 bytes.
    pub kek_id: Vec<u8>,
    /// Version of the KEK, ASCII, at most 128 bytes; empty for a key without versions.
    pub key_version: String,
    /// How the KEK comes from a passphrase, when it does.
    pub kdf: Option<Argon2Kdf>,
    /// The wrapped key, at most 1024 bytes.
    pub bytes: Vec<u8>,
}

/// Whose business a KEK is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KekManagement {
    /// The vault's own: a key file or a passphrase.
    Vault,
    /// The customer's: a key in a store of their own, which they can disable, revoke or rotate there.
    Customer,
}

/// What kind of KEK a key vault wraps with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekDescription {
    /// Whose business it is.
    pub managed: KekManagement,
    /// Which key, when it has a URL.
    pub url: Option<KeyUrl>,
}

/// What came of an attempt to unwrap.
#[derive(Debug)]
pub enum Unwrapped {
    /// Wrapped by another KEK (or with another passphrase): try the next key object.
    NotMine,
    /// Wrapped by this KEK, but it does not open: changed, or bound to another context.
    Broken(KeyError),
    /// The key.
    Key(SecretKey),
}

/// Wraps keys under a KEK that it alone holds.
///
/// The contract, which [`conformance::key_vault`](crate::conformance::key_vault) checks:
///
/// - What `wrap` gave, `unwrap` opens, under the same context, by any vault of the same KEK.
/// - A wrapped key of another KEK is [`Unwrapped::NotMine`], never an error.
/// - A wrapped key of this KEK that was changed, or comes with another context, is [`Unwrapped::Broken`] (or
///   `NotMine`, where the change hit what says whose it is); it never yields a key.
/// - `Err` means that the question could not be answered, so that asking again may help.
/// - Both may block, and may be called from several threads at once.
pub trait KeyVault: Send + Sync + fmt::Debug {
    /// Wraps `key`, bound to `context`.
    fn wrap(
        &self,
        key: &SecretKey,
        context: &WrapContext,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError>;

    /// What kind of KEK it wraps with, and where that is: not secret, and stated in every point.
    fn describe(&self) -> KekDescription {
        KekDescription { managed: KekManagement::Vault, url: None }
    }

    /// Unwraps what was wrapped under `context`.
    fn unwrap(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Unwrapped, KeyError>;
}
