//! Evidence as bytes: JSON with a version, bounded both ways.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Evidence;

/// Longest encoded evidence in bytes. Longer evidence is refused, written or read.
pub const EVIDENCE_BYTES_MAX: usize = 256 * 1024;

const VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    evidence: &'a Evidence,
}

#[derive(Deserialize)]
struct Header {
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentV1 {
    #[serde(rename = "version")]
    _version: u32,
    evidence: Evidence,
}

/// Bytes are not evidence, or evidence has too many bytes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Longer than [`EVIDENCE_BYTES_MAX`].
    #[error("evidence of {0} bytes; {EVIDENCE_BYTES_MAX} is the most")]
    TooLong(usize),
    /// Written by a later version of this library.
    #[error("evidence of version {0}; this version reads {VERSION}: use a newer one")]
    Version(u32),
    /// Not the JSON that it should be.
    #[error("evidence is damaged")]
    Damaged(#[source] serde_json::Error),
}

/// The evidence as JSON, the same bytes for the same evidence.
///
/// # Errors
/// When it is longer than [`EVIDENCE_BYTES_MAX`].
pub fn encode(evidence: &Evidence) -> Result<Vec<u8>, EvidenceError> {
    let bytes =
        serde_json::to_vec(&Document { version: VERSION, evidence }).map_err(EvidenceError::Damaged)?;
    if bytes.len() > EVIDENCE_BYTES_MAX {
        return Err(EvidenceError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// The evidence that [`encode`] made bytes of.
///
/// # Errors
/// On anything else.
pub fn decode(bytes: &[u8]) -> Result<Evidence, EvidenceError> {
    if bytes.len() > EVIDENCE_BYTES_MAX {
        return Err(EvidenceError::TooLong(bytes.len()));
    }
    let header: Header = serde_json::from_slice(bytes).map_err(EvidenceError::Damaged)?;
    if header.version != VERSION {
        return Err(EvidenceError::Version(header.version));
    }
    serde_json::from_slice::<DocumentV1>(bytes)
        .map(|document| document.evidence)
        .map_err(EvidenceError::Damaged)
}
