//! Making, switching, deleting and listing what is in a vault.

use super::content::{Content, Item, Material, VERSIONS_MAX, Version, is_name};
use super::{FileVault, ItemInfo, ItemKind, KeyKind, VersionInfo};
use crate::pack::hex;
use crate::wrapping::WrappingKey;
use crate::{KeyInfo, KeyStoreError, KeyUrl, SecretUrl};

impl FileVault {
    /// Makes a key, or a new version of one, which is from then on its newest.
    pub fn create_key(&self, name: &str, kind: KeyKind) -> Result<KeyInfo, KeyStoreError> {
        let key = WrappingKey::generate(kind, &*self.ports.entropy).map_err(|e| self.unsealed(e.into()))?;
        let algorithms = key.algorithms();
        let id = self.add(ItemKind::Key, name, Material::Key(key))?;
        Ok(KeyInfo { url: self.key_url(name, &id)?, enabled: true, algorithms })
    }

    /// Lists keys and secrets, deleted ones among them. No secret is shown.
    pub fn list(&self) -> Result<Vec<ItemInfo>, KeyStoreError> {
        let content = self.read()?;
        let item = |((kind, name), item): (&(ItemKind, String), &Item)| ItemInfo {
            kind: *kind,
            name: name.clone(),
            versions: item
                .versions
                .iter()
                .map(|version| VersionInfo {
                    version: hex(&version.id),
                    created: version.created,
                    enabled: version.enabled,
                })
                .collect(),
            deleted: item.deleted.map(|at| (at, content.gone_at(at))),
        };
        Ok(content.items.iter().map(item).collect())
    }

    /// Switches a version of a key or secret, or all of them, on or off.
    pub fn set_enabled(
        &self,
        kind: ItemKind,
        name: &str,
        version: Option<&str>,
        enabled: bool,
    ) -> Result<(), KeyStoreError> {
        self.change(|content| {
            let item = self.live_mut(content, kind, name)?;
            let mut found = false;
            for known in &mut item.versions {
                if version.is_none_or(|version| version == hex(&known.id)) {
                    (known.enabled, found) = (enabled, true);
                }
            }
            if found { Ok(()) } else { Err(self.not_found(kind, name, version)) }
        })
    }

    /// Deletes a key or secret, all its versions. It can be recovered until its days are over.
    pub fn delete(&self, kind: ItemKind, name: &str) -> Result<(), KeyStoreError> {
        let now = self.ports.clock.now();
        self.change(|content| {
            self.live_mut(content, kind, name)?.deleted = Some(now);
            Ok(())
        })
    }

    /// Takes back that a key or secret was deleted.
    pub fn recover(&self, kind: ItemKind, name: &str) -> Result<(), KeyStoreError> {
        self.change(|content| {
            self.deleted_mut(content, kind, name)?.deleted = None;
            Ok(())
        })
    }

    /// Removes a deleted key or secret for good. Under purge protection only when its days are over.
    pub fn purge(&self, kind: ItemKind, name: &str) -> Result<(), KeyStoreError> {
        let now = self.ports.clock.now();
        self.change(|content| {
            let at = self.deleted_mut(content, kind, name)?.deleted.unwrap_or(now);
            if content.purge_protection && now < content.gone_at(at) {
                return Err(KeyStoreError::PurgeProtected { url: self.url_of(kind, name, None) });
            }
            content.items.remove(&(kind, name.to_owned()));
            Ok(())
        })
    }

    /// Removes what was deleted so long ago that its days are over; how many things.
    pub fn purge_expired(&self) -> Result<usize, KeyStoreError> {
        let now = self.ports.clock.now();
        self.change(|content| {
            let gone =
                |content: &Content, item: &Item| item.deleted.is_some_and(|at| content.gone_at(at) <= now);
            let names: Vec<_> = content
                .items
                .iter()
                .filter(|(_, item)| gone(content, item))
                .map(|(key, _)| key.clone())
                .collect();
            for name in &names {
                content.items.remove(name);
            }
            Ok(names.len())
        })
    }

    /// Adds a version, and the item with its first.
    pub(super) fn add(
        &self,
        kind: ItemKind,
        name: &str,
        material: Material,
    ) -> Result<[u8; 16], KeyStoreError> {
        if !is_name(name) {
            return Err(KeyStoreError::Name { name: name.to_owned() });
        }
        let (mut id, created) = ([0; 16], self.ports.clock.now());
        self.ports.entropy.fill(&mut id).map_err(|e| self.unsealed(e.into()))?;
        self.change(|content| {
            let item = content.items.entry((kind, name.to_owned()));
            let item = item.or_insert_with(|| Item { versions: Vec::new(), deleted: None });
            if item.deleted.is_some() {
                return Err(self.deleted(kind, name));
            }
            if item.versions.len() == VERSIONS_MAX {
                let (len, max) = (VERSIONS_MAX + 1, VERSIONS_MAX);
                return Err(KeyStoreError::TooLarge { what: "versions", len, max });
            }
            item.versions.push(Version { id, created, enabled: true, material });
            Ok(id)
        })
    }

    /// A version that is there; the newest when none is asked for.
    pub(super) fn version<'c>(
        &self,
        content: &'c Content,
        kind: ItemKind,
        name: &str,
        version: Option<&str>,
    ) -> Result<&'c Version, KeyStoreError> {
        let item = content.items.get(&(kind, name.to_owned()));
        let item = item.ok_or_else(|| self.not_found(kind, name, None))?;
        if item.deleted.is_some() {
            return Err(self.deleted(kind, name));
        }
        let found = match version {
            None => item.versions.last(),
            Some(version) => item.versions.iter().find(|known| hex(&known.id) == version),
        };
        found.ok_or_else(|| self.not_found(kind, name, version))
    }

    fn live_mut<'c>(
        &self,
        content: &'c mut Content,
        kind: ItemKind,
        name: &str,
    ) -> Result<&'c mut Item, KeyStoreError> {
        let item = content.items.get_mut(&(kind, name.to_owned()));
        let item = item.ok_or_else(|| self.not_found(kind, name, None))?;
        if item.deleted.is_some() { Err(self.deleted(kind, name)) } else { Ok(item) }
    }

    fn deleted_mut<'c>(
        &self,
        content: &'c mut Content,
        kind: ItemKind,
        name: &str,
    ) -> Result<&'c mut Item, KeyStoreError> {
        let item = content.items.get_mut(&(kind, name.to_owned())).filter(|item| item.deleted.is_some());
        item.ok_or_else(|| KeyStoreError::NotFound {
            url: format!("a deleted {}", self.url_of(kind, name, None)),
        })
    }

    pub(super) fn url_of(&self, kind: ItemKind, name: &str, version: Option<&str>) -> String {
        let kind = match kind {
            ItemKind::Key => "keys",
            ItemKind::Secret => "secrets",
        };
        let version = version.map(|version| format!("/{version}")).unwrap_or_default();
        format!("{}/{kind}/{name}{version}", self.url)
    }

    pub(super) fn key_url(&self, name: &str, id: &[u8; 16]) -> Result<KeyUrl, KeyStoreError> {
        KeyUrl::new(&self.url, name, Some(&hex(id)))
            .map_err(|_| KeyStoreError::Name { name: name.to_owned() })
    }

    pub(super) fn secret_url(&self, name: &str, id: &[u8; 16]) -> Result<SecretUrl, KeyStoreError> {
        SecretUrl::new(&self.url, name, Some(&hex(id)))
            .map_err(|_| KeyStoreError::Name { name: name.to_owned() })
    }

    pub(super) fn not_found(&self, kind: ItemKind, name: &str, version: Option<&str>) -> KeyStoreError {
        KeyStoreError::NotFound { url: self.url_of(kind, name, version) }
    }

    pub(super) fn deleted(&self, kind: ItemKind, name: &str) -> KeyStoreError {
        KeyStoreError::Deleted { url: self.url_of(kind, name, None), store: self.path.display().to_string() }
    }
}
