//! Sealed records by name: written, read, and checked for what they are.

use std::sync::atomic::AtomicU64;

use vmkeep_envelope::{BranchKey, Entropy, RecordHead, SealContext, SealedObject, open_record, seal_record};
use vmkeep_model::SessionId;

use crate::error::VaultError;
use crate::format::{Body, RecordKind, decode_body, encode};
use crate::layout::ObjectName;

/// Who seals: the session id, counter and random source that go into every salt.
#[derive(Debug)]
pub(crate) struct Sealer {
    pub(crate) session: SessionId,
    pub(crate) counter: AtomicU64,
}

impl Sealer {
    pub(crate) fn new(session: SessionId) -> Self {
        Self { session, counter: AtomicU64::new(0) }
    }

    pub(crate) fn context<'a>(&'a self, entropy: &'a dyn Entropy) -> SealContext<'a> {
        SealContext { session: self.session, counter: &self.counter, entropy }
    }
}

/// A fresh random id.
pub(crate) fn random_id(entropy: &dyn Entropy) -> Result<[u8; 16], VaultError> {
    let mut id = [0; 16];
    entropy.fill(&mut id)?;
    Ok(id)
}

/// The object that holds `body` under `name`.
pub(crate) fn seal<T: Body>(
    name: &ObjectName,
    body: &T,
    key: &BranchKey,
    context: &SealContext<'_>,
) -> Result<SealedObject, VaultError> {
    let bytes = encode(body).map_err(|e| VaultError::malformed(name, e))?;
    seal_bytes(name, T::KIND, &bytes, key, context)
}

/// As [`seal`], for a body that is already bytes.
pub(crate) fn seal_bytes(
    name: &ObjectName,
    kind: RecordKind,
    body: &[u8],
    key: &BranchKey,
    context: &SealContext<'_>,
) -> Result<SealedObject, VaultError> {
    seal_record(kind.number(), key, &name.to_string(), body, context)
        .map_err(|source| VaultError::Seal { object: name.to_string(), source })
}

/// The body that the object `bytes` under `name` holds.
pub(crate) fn open<T: Body>(name: &ObjectName, bytes: &[u8], key: &BranchKey) -> Result<T, VaultError> {
    let body = open_bytes(name, T::KIND, bytes, key)?;
    decode_body(&body).map_err(|e| VaultError::malformed(name, e))
}

/// As [`open`], leaving the body as bytes.
pub(crate) fn open_bytes(
    name: &ObjectName,
    kind: RecordKind,
    bytes: &[u8],
    key: &BranchKey,
) -> Result<Vec<u8>, VaultError> {
    open_record(bytes, &name.to_string(), key, kind.number()).map_err(|e| VaultError::open(name, e))
}

/// What kind of record `bytes` claim to be. Claimed only: nothing of it is believed before it opens.
pub(crate) fn head(name: &ObjectName, bytes: &[u8]) -> Result<RecordHead, VaultError> {
    RecordHead::parse(bytes).map_err(|e| VaultError::open(name, e))
}
