//! URLs of keys and secrets: `<store>/keys/<name>[/<version>]`, `<store>/secrets/<name>[/<version>]`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Why a text is not the URL of a key or secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not <store>/{kind}/<name>[/<version>] in at most 1024 visible ASCII characters")]
pub struct ObjectUrlError {
    /// The text.
    pub text: String,
    /// `keys` or `secrets`.
    pub kind: &'static str,
}

/// Longest URL, in bytes.
const LEN_MAX: usize = 1024;

macro_rules! object_url {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type {
            store: String,
            name: String,
            version: Option<String>,
        }

        impl $type {
            /// The URL of `name` in the store of this URL.
            pub fn new(store: &str, name: &str, version: Option<&str>) -> Result<Self, ObjectUrlError> {
                let mut text = format!("{store}/{}/{name}", $kind);
                if let Some(version) = version {
                    text.push('/');
                    text.push_str(version);
                }
                let url: Self = text.parse()?;
                // A part that holds a slash would read back as something else.
                if (url.store(), url.name(), url.version()) == (store, name, version) {
                    Ok(url)
                } else {
                    Err(ObjectUrlError { text, kind: $kind })
                }
            }

            /// The store: all before the kind.
            pub fn store(&self) -> &str {
                &self.store
            }

            /// The object's name.
            pub fn name(&self) -> &str {
                &self.name
            }

            /// Its version, when the URL says which.
            pub fn version(&self) -> Option<&str> {
                self.version.as_deref()
            }

            /// The same object without a version.
            #[must_use]
            pub fn unversioned(&self) -> Self {
                Self { version: None, ..self.clone() }
            }
        }

        impl FromStr for $type {
            type Err = ObjectUrlError;

            fn from_str(text: &str) -> Result<Self, ObjectUrlError> {
                let bad = || ObjectUrlError { text: text.to_owned(), kind: $kind };
                if text.len() > LEN_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(bad());
                }
                let (store, object) = text.rsplit_once(concat!("/", $kind, "/")).ok_or_else(bad)?;
                let (name, version) = match object.split_once('/') {
                    None => (object, None),
                    Some((name, version)) => (name, Some(version)),
                };
                let word = |word: &str| !word.is_empty() && !word.contains('/');
                if store.is_empty() || !word(name) || !version.is_none_or(word) {
                    return Err(bad());
                }
                Ok(Self {
                    store: store.to_owned(),
                    name: name.to_owned(),
                    version: version.map(str::to_owned),
                })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}/{}", self.store, $kind, self.name)?;
                match &self.version {
                    Some(version) => write!(f, "/{version}"),
                    None => Ok(()),
                }
            }
        }
    };
}

object_url!(
    /// The URL of a key, such as `https://web.vault.azure.net/keys/kek/7f0c`.
    KeyUrl, "keys"
);

object_url!(
    /// The URL of a secret, such as `https://web.vault.azure.net/secrets/bek/41aa`.
    SecretUrl, "secrets"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_parse_to_themselves_and_nothing_near_them_parses() {
        for text in [
            "https://web.vault.azure.net/keys/kek/7f0c",
            "https://web.vault.azure.net/keys/kek",
            "x/keys/a/b",
        ] {
            assert_eq!(text.parse::<KeyUrl>().map(|url| url.to_string()), Ok(text.to_owned()));
            assert!(text.parse::<SecretUrl>().is_err());
        }
        for bad in
            ["", "/keys/a", "x/keys/", "x/keys//b", "x/keys/a/", "x/keys/a/b/c", "x/keys/a b", "x/keys/ä"]
        {
            assert!(bad.parse::<KeyUrl>().is_err(), "{bad}");
        }
        assert!(format!("x/keys/{}", "a".repeat(1024)).parse::<KeyUrl>().is_err());
        assert!(KeyUrl::new("x", "a", Some("1")).is_ok());
        for (store, name, version) in
            [("x", "a/b", None), ("x", "a", Some("b/c")), ("x", "keys/a", None), ("", "a", None)]
        {
            assert!(KeyUrl::new(store, name, version).is_err(), "{store} {name} {version:?}");
        }
    }
}
