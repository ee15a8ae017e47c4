//! Backup blobs: one item of a vault, sealed so that any vault with the same passphrase or key can restore it.

use super::content::{Item, read_item, write_item};
use super::sealed::{Kind, NotOpened};
use super::{FileVault, ItemKind};
use crate::reader::{Reader, exactly};
use crate::writer::{Sink, TooLarge, Written};
use crate::{KeyStoreError, OpenError};

struct Blob<'a> {
    kind: ItemKind,
    name: &'a str,
    item: &'a Item,
}

impl Written for Blob<'_> {
    fn write(&self, to: &mut impl Sink) -> Result<(), TooLarge> {
        write_item(to, self.kind, self.name, self.item)
    }
}

impl FileVault {
    pub(super) fn back_up(&self, kind: ItemKind, name: &str) -> Result<Vec<u8>, KeyStoreError> {
        let content = self.read()?;
        // Refuses what is not there or was deleted.
        self.version(&content, kind, name, None)?;
        let item = content.items.get(&(kind, name.to_owned()));
        let item = item.ok_or_else(|| self.not_found(kind, name, None))?;
        let body = Blob { kind, name, item }.written();
        let body = body.map_err(|TooLarge { what, len, max }| KeyStoreError::TooLarge { what, len, max })?;
        self.lock.seal(Kind::Blob, &body, None, &*self.ports.entropy).map_err(|e| self.unsealed(e))
    }

    /// Restores an item; gives its name and the id of its newest version.
    pub(super) fn restore(&self, wanted: ItemKind, blob: &[u8]) -> Result<(String, [u8; 16]), KeyStoreError> {
        let failed = |why: String| KeyStoreError::Blob { why };
        let (body, _) = self.lock.open(Kind::Blob, blob).map_err(|e| match e {
            NotOpened::NotMine => failed("another passphrase or key made it".to_owned()),
            NotOpened::Open(e) => failed(crate::error::chain(&e)),
            NotOpened::Key(e) => self.unsealed(e),
        })?;
        let ((kind, name), mut item) = decode(&body).map_err(|e| failed(e.to_string()))?;
        if kind != wanted {
            return Err(failed("it holds the other of key and secret".to_owned()));
        }
        item.deleted = None;
        let newest = item.versions.last().map(|version| version.id);
        let newest = newest.ok_or_else(|| failed("it holds no version".to_owned()))?;
        self.change(|content| match content.items.get(&(kind, name.clone())) {
            Some(known) if known.deleted.is_some() => Err(self.deleted(kind, &name)),
            Some(_) => Err(KeyStoreError::Exists { url: self.url_of(kind, &name, None) }),
            None => {
                content.items.insert((kind, name.clone()), item);
                Ok(())
            }
        })?;
        Ok((name, newest))
    }
}

pub(super) fn decode(body: &[u8]) -> Result<((ItemKind, String), Item), OpenError> {
    let mut from = Reader::new(body);
    let found = read_item(&mut from)?;
    exactly(from.position(), body)?;
    Ok(found)
}
