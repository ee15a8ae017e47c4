//! Names that users choose, checked once at the edge.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Why a text cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a {kind} name must not be empty")]
    Empty {
        /// "VM", "disk" or "user".
        kind: &'static str,
    },
    /// Longer than it may be.
    #[error("{kind} name of {len} bytes is longer than {max}")]
    TooLong {
        /// "VM", "disk" or "user".
        kind: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        max: usize,
    },
    /// Holds a character that the kind of name does not allow.
    #[error("{kind} name {name:?} holds {found:?}; allowed: {allowed}")]
    Character {
        /// "VM", "disk" or "user".
        kind: &'static str,
        /// The whole name.
        name: String,
        /// The first character that is not allowed.
        found: char,
        /// What is allowed, in words.
        allowed: &'static str,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $max:expr, $allowed:literal, $first:expr, $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// Longest name, in bytes.
            pub const LEN_MAX: usize = $max;

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                if name.is_empty() {
                    return Err(NameError::Empty { kind: $kind });
                }
                if name.len() > Self::LEN_MAX {
                    return Err(NameError::TooLong { kind: $kind, len: name.len(), max: Self::LEN_MAX });
                }
                let (first, rest): (fn(char) -> bool, fn(char) -> bool) = ($first, $rest);
                let bad = name.chars().enumerate().find(|&(i, c)| !(if i == 0 { first(c) } else { rest(c) }));
                match bad {
                    Some((_, found)) => Err(NameError::Character {
                        kind: $kind, name: name.to_owned(), found, allowed: $allowed,
                    }),
                    None => Ok(Self(name.to_owned())),
                }
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;

            fn try_from(name: &str) -> Result<Self, NameError> {
                name.parse()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a VM: 1 to 128 bytes of text without control characters, `@` or `/`.
    ///
    /// `@` is left out because a point is written `vm@number`.
    VmName, "VM", 128, "text without control characters, '@', '/' or outer spaces",
    |c| !c.is_control() && !c.is_whitespace() && c != '@' && c != '/',
    |c| !c.is_control() && c != '@' && c != '/'
);

name!(
    /// The name of a disk within its VM: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with a dot or a dash.
    ///
    /// A restored disk is a file of this name, so it holds nothing that a path would understand.
    DiskName, "disk", 64, "A-Z a-z 0-9 . _ -, not beginning with '.' or '-'",
    |c| c.is_ascii_alphanumeric() || c == '_',
    |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
);

name!(
    /// Who does something: 1 to 128 bytes of text without control characters or outer spaces, such as a user's name.
    Principal, "user", 128, "text without control characters or outer spaces",
    |c| !c.is_control() && !c.is_whitespace(),
    |c| !c.is_control()
);

impl Principal {
    /// Whoever holds the vault's key and calls themselves nothing else.
    pub fn owner() -> Self {
        Self("owner".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_name_cannot_leave_its_folder() {
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", "-rf", "a b", "a\0", "ä"] {
            assert!(bad.parse::<DiskName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(65).parse::<DiskName>().is_err());
        for good in ["os", "data-1", "sda.1", "_x", "0"] {
            assert_eq!(good.parse::<DiskName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn a_vm_name_cannot_hold_what_a_point_is_written_with() {
        for bad in ["", "web@3", "a/b", " web", "a\nb"] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
        assert!("Прод web 01".parse::<VmName>().is_ok());
    }
}
