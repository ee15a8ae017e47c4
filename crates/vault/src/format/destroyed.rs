//! The tombstone of destroyed keys.

use serde::{Deserialize, Serialize};

use super::{Body, FormatError, RecordKind};

/// Longest name of who destroyed keys, in bytes.
const DESTROYED_BY_MAX: usize = 128;

/// Keys that were destroyed on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct DestroyedBody {
    pub(crate) domain: [u8; 16],
    pub(crate) epoch: u32,
    pub(crate) at: i64,
    /// Who did it.
    pub(crate) by: String,
    /// Which branches of the epoch are gone, by number, ascending.
    pub(crate) branches: Vec<u8>,
    /// Points that could no longer be restored from then on.
    pub(crate) points: u64,
}

impl Body for DestroyedBody {
    const KIND: RecordKind = RecordKind::Destroyed;

    fn check(&self) -> Result<(), FormatError> {
        let wrong = |what: &str| Err(FormatError(format!("a tombstone of keys {what}")));
        if self.domain == [0; 16] {
            return wrong("of the vault's own domain");
        }
        let ascending = self.branches.windows(2).all(|pair| pair[0] < pair[1]);
        if self.branches.is_empty() || !ascending || self.branches.iter().any(|b| !(2..=4).contains(b)) {
            return wrong("that does not say which branches");
        }
        if self.by.is_empty() || self.by.len() > DESTROYED_BY_MAX {
            return wrong("that does not say by whom");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_says_whose_keys_which_and_by_whom() {
        let branches = vec![3];
        let good =
            DestroyedBody { domain: [1; 16], epoch: 0, at: 0, by: "alice".to_owned(), branches, points: 0 };
        assert!(good.check().is_ok());
        for bad in [
            DestroyedBody { domain: [0; 16], ..good.clone() },
            DestroyedBody { by: String::new(), ..good.clone() },
            DestroyedBody { by: "a".repeat(DESTROYED_BY_MAX + 1), ..good.clone() },
            DestroyedBody { branches: Vec::new(), ..good.clone() },
            DestroyedBody { branches: vec![3, 2], ..good.clone() },
            DestroyedBody { branches: vec![1], ..good.clone() },
            DestroyedBody { branches: vec![5], ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
