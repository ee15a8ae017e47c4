//! The marker of a KEK that is being changed.

use serde::{Deserialize, Serialize};

use super::{Body, FormatError, RecordKind};

/// Longest id of a KEK.
const KEK_ID_MAX: usize = 64;

/// Keys that `from` wraps are being wrapped by `to`, and its wraps removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RotationBody {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    pub(crate) at: i64,
}

impl Body for RotationBody {
    const KIND: RecordKind = RecordKind::Rotation;

    fn check(&self) -> Result<(), FormatError> {
        let is_id = |id: &[u8]| (1..=KEK_ID_MAX).contains(&id.len());
        if is_id(&self.from) && is_id(&self.to) && self.from != self.to {
            return Ok(());
        }
        Err(FormatError("no change from one KEK to another".to_owned()))
    }
}
