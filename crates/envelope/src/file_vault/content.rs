//! What a file vault holds, and how it stands in the file (FORMAT.md section 12).

use std::collections::BTreeMap;

use vmkeep_model::Timestamp;

use super::{ItemKind, Settings};
use crate::reader::Reader;
use crate::store::codec::{read_secret, write_secret};
use crate::wrapping::WrappingKey;
use crate::writer::{Sink, TooLarge, Written};
use crate::{OpenError, SecretBytes, SecretKey, SecretValue};

/// Most items of a vault.
const ITEMS_MAX: usize = 10_000;
/// Most versions of an item.
pub(super) const VERSIONS_MAX: usize = 1000;
pub(super) const NAME_MAX: usize = 127;
/// Longest PKCS#8 of an RSA key.
const PKCS8_MAX: usize = 8 << 10;

/// Everything in a vault.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) id: [u8; 16],
    pub(super) recoverable_days: u8,
    pub(super) purge_protection: bool,
    pub(super) items: BTreeMap<(ItemKind, String), Item>,
}

/// A key or secret.
#[derive(Debug)]
pub(super) struct Item {
    /// The newest last; at least one.
    pub(super) versions: Vec<Version>,
    pub(super) deleted: Option<Timestamp>,
}

/// A version of it.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) id: [u8; 16],
    pub(super) created: Timestamp,
    pub(super) enabled: bool,
    pub(super) material: Material,
}

#[derive(Debug)]
pub(super) enum Material {
    Key(WrappingKey),
    Secret(SecretValue),
}

impl Content {
    pub(super) fn new(id: [u8; 16], settings: Settings) -> Self {
        let Settings { recoverable_days, purge_protection } = settings;
        Self { id, recoverable_days, purge_protection, items: BTreeMap::new() }
    }

    /// When an item that was deleted then is gone.
    pub(super) fn gone_at(&self, deleted: Timestamp) -> Timestamp {
        let days = i64::from(self.recoverable_days) * 24 * 3600 * 1000;
        Timestamp(deleted.0.saturating_add(days))
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut from = Reader::new(bytes);
        let id = from.array()?;
        let recoverable_days = from.u8()?;
        if !(7..=90).contains(&recoverable_days) {
            return Err(OpenError::Malformed { what: "recoverable days are not 7 to 90" });
        }
        let purge_protection = from.flag()?;
        let mut items = BTreeMap::new();
        for _ in 0..from.count("items", ITEMS_MAX)? {
            let (key, item) = read_item(&mut from)?;
            if items.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(OpenError::Malformed { what: "items are not ascending" });
            }
            items.insert(key, item);
        }
        crate::reader::exactly(from.position(), bytes)?;
        Ok(Self { id, recoverable_days, purge_protection, items })
    }
}

impl Written for Content {
    fn write(&self, to: &mut impl Sink) -> Result<(), TooLarge> {
        to.put(&self.id);
        to.put(&[self.recoverable_days]);
        to.flag(self.purge_protection);
        to.count("items", self.items.len(), ITEMS_MAX)?;
        self.items.iter().try_for_each(|((kind, name), item)| write_item(to, *kind, name, item))
    }
}

pub(super) fn write_item(
    to: &mut impl Sink,
    kind: ItemKind,
    name: &str,
    item: &Item,
) -> Result<(), TooLarge> {
    to.put(&[match kind {
        ItemKind::Key => 1,
        ItemKind::Secret => 2,
    }]);
    to.counted("name", name.as_bytes(), NAME_MAX)?;
    to.optional(item.deleted.as_ref(), |to, at| {
        to.put(&at.0.to_le_bytes());
        Ok(())
    })?;
    to.count("versions", item.versions.len(), VERSIONS_MAX)?;
    for Version { id, created, enabled, material } in &item.versions {
        to.put(id);
        to.put(&created.0.to_le_bytes());
        to.flag(*enabled);
        match material {
            Material::Key(WrappingKey::Rsa(pkcs8)) => {
                to.put(&[1]);
                to.counted("RSA key", pkcs8.expose(), PKCS8_MAX)?;
            }
            Material::Key(WrappingKey::Aes(key)) => {
                to.put(&[2]);
                to.put(key.expose());
            }
            Material::Secret(secret) => {
                to.put(&[3]);
                write_secret(to, secret)?;
            }
        }
    }
    Ok(())
}

pub(super) fn read_item(from: &mut Reader<'_>) -> Result<((ItemKind, String), Item), OpenError> {
    let kind = match from.u8()? {
        1 => ItemKind::Key,
        2 => ItemKind::Secret,
        _ => return Err(OpenError::Malformed { what: "an item is neither key nor secret" }),
    };
    let name = from.text("name", NAME_MAX)?;
    if !is_name(name) {
        return Err(OpenError::Malformed { what: "a name holds what no name may" });
    }
    let deleted = from.optional(time)?;
    let mut versions = Vec::new();
    for _ in 0..from.count("versions", VERSIONS_MAX)? {
        let (id, created, enabled) = (from.array()?, time(from)?, from.flag()?);
        let material = match (from.u8()?, kind) {
            (1, ItemKind::Key) => {
                let pkcs8 = SecretBytes::new(from.counted("RSA key", PKCS8_MAX)?.to_vec());
                let key = WrappingKey::from_pkcs8(pkcs8);
                Material::Key(key.ok_or(OpenError::Malformed { what: "an RSA key is none" })?)
            }
            (2, ItemKind::Key) => Material::Key(WrappingKey::Aes(SecretKey::fill(|key| {
                from.take(key.len()).map(|bytes| key.copy_from_slice(bytes))
            })?)),
            (3, ItemKind::Secret) => Material::Secret(read_secret(from)?),
            _ => return Err(OpenError::Malformed { what: "a version is not of its item's kind" }),
        };
        versions.push(Version { id, created, enabled, material });
    }
    if versions.is_empty() {
        return Err(OpenError::Malformed { what: "an item without versions" });
    }
    Ok(((kind, name.to_owned()), Item { versions, deleted }))
}

fn time(from: &mut Reader<'_>) -> Result<Timestamp, OpenError> {
    from.array().map(|bytes| Timestamp(i64::from_le_bytes(bytes)))
}

/// What Azure Key Vault takes for a name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
}
