//! Identities: random 128-bit ids, point numbers, and how a person writes a point.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{NameError, VmName};

/// A text is not 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an id is 32 lower-case hexadecimal digits")]
pub struct IdParseError;

macro_rules! id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub [u8; 16]);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }

        impl FromStr for $type {
            type Err = IdParseError;

            fn from_str(text: &str) -> Result<Self, IdParseError> {
                parse_hex16(text).map(Self).ok_or(IdParseError)
            }
        }
    };
}

fn parse_hex16(text: &str) -> Option<[u8; 16]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
    let mut id = [0; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(id)
}

id!(
    /// A vault, for ever. Random.
    VaultId
);
id!(
    /// A lineage: the line of recovery points of one protected VM. Random, so that names say nothing.
    LineageId
);
id!(
    /// A backup session. Random; what it writes carries it.
    SessionId
);
id!(
    /// A key domain: what shares an identity key and a BEK. All zero is the vault's own domain.
    DomainId
);

impl DomainId {
    /// The domain of what belongs to no VM.
    pub const VAULT: Self = Self([0; 16]);
}

/// The number of a recovery point within its lineage: 1, 2, 3 ... Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointNumber(pub u64);

impl fmt::Display for PointNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which point of a VM is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PointSelector {
    /// The newest that is not forgotten.
    Latest,
    /// The one with this number.
    Number(PointNumber),
}

/// A point as a person writes it: `vm@7` or `vm@latest`.
///
/// ```
/// # use vmkeep_model::{PointNumber, PointRef, PointSelector};
/// let point: PointRef = "web@7".parse()?;
/// assert_eq!(point.selector, PointSelector::Number(PointNumber(7)));
/// assert_eq!(point.to_string(), "web@7");
/// # Ok::<(), vmkeep_model::PointRefError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointRef {
    /// The VM.
    pub vm: VmName,
    /// Which of its points.
    pub selector: PointSelector,
}

/// Why a text does not name a point.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PointRefError {
    /// No `@`.
    #[error("{0:?} does not name a point; write vm@number or vm@latest")]
    Shape(String),
    /// What follows the `@` is neither a number from 1 nor `latest`.
    #[error("{0:?} is not a point number; write a number from 1, or latest")]
    Number(String),
    /// What stands before the `@` is no VM name.
    #[error("before the @ stands no VM name")]
    Name(#[from] NameError),
}

impl FromStr for PointRef {
    type Err = PointRefError;

    fn from_str(text: &str) -> Result<Self, PointRefError> {
        let (vm, number) = text.split_once('@').ok_or_else(|| PointRefError::Shape(text.to_owned()))?;
        let selector = match number {
            "latest" => PointSelector::Latest,
            digits => match digits.parse::<u64>() {
                Ok(n) if n > 0 && digits.starts_with(|c: char| c.is_ascii_digit()) => {
                    PointSelector::Number(PointNumber(n))
                }
                _ => return Err(PointRefError::Number(digits.to_owned())),
            },
        };
        Ok(Self { vm: vm.parse()?, selector })
    }
}

impl fmt::Display for PointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.selector {
            PointSelector::Latest => write!(f, "{}@latest", self.vm),
            PointSelector::Number(n) => write!(f, "{}@{n}", self.vm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print_and_nothing_else() {
        let id = LineageId([0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xf0]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "0f", &"0F".repeat(16), &"é".repeat(16), &"0g".repeat(16)] {
            assert_eq!(bad.parse::<LineageId>(), Err(IdParseError), "{bad}");
        }
    }

    #[test]
    fn a_point_is_a_vm_and_a_number_from_one() {
        for bad in
            ["", "web", "web@", "web@0", "web@-1", "web@+1", "@1", "web@1@2", "web@18446744073709551616"]
        {
            assert!(bad.parse::<PointRef>().is_err(), "{bad}");
        }
    }
}
