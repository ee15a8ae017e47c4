//! The vault as a store of keys and of secrets.

use super::content::{Content, Material, Version};
use super::{FileVault, ItemKind};
use crate::store::codec::{CONTENT_TYPE_MAX, TAG_NAME_MAX, TAG_VALUE_MAX, TAGS_MAX, VALUE_MAX};
use crate::wrapping::{NotUnwrapped, NotWrapped, WrappingKey};
use crate::{
    Entropy, KeyInfo, KeyStore, KeyStoreError, Secret, SecretBytes, SecretStore, SecretUrl, SecretValue,
    StoreWrapped, WrapAlgorithm,
};

impl FileVault {
    /// A version of a key that may be used, and the key.
    fn usable<'c>(
        &self,
        content: &'c Content,
        name: &str,
        version: Option<&str>,
    ) -> Result<(&'c Version, &'c WrappingKey), KeyStoreError> {
        let found = self.version(content, ItemKind::Key, name, version)?;
        if !found.enabled {
            return Err(KeyStoreError::Disabled { url: self.key_url(name, &found.id)?.to_string() });
        }
        match &found.material {
            Material::Key(key) => Ok((found, key)),
            Material::Secret(_) => Err(self.not_found(ItemKind::Key, name, version)),
        }
    }
}

impl KeyStore for FileVault {
    fn url(&self) -> &str {
        &self.url
    }

    /// Versions are 128 random bits, which a backup blob keeps.
    fn key_scope(&self) -> &'static str {
        ""
    }

    fn key(&self, name: &str, version: Option<&str>) -> Result<KeyInfo, KeyStoreError> {
        let content = self.read()?;
        let found = self.version(&content, ItemKind::Key, name, version)?;
        let algorithms = match &found.material {
            Material::Key(key) => key.algorithms(),
            Material::Secret(_) => Vec::new(),
        };
        Ok(KeyInfo { url: self.key_url(name, &found.id)?, enabled: found.enabled, algorithms })
    }

    fn wrap(
        &self,
        name: &str,
        version: Option<&str>,
        algorithm: WrapAlgorithm,
        plain: &[u8],
        _: &dyn Entropy,
    ) -> Result<StoreWrapped, KeyStoreError> {
        let content = self.read()?;
        let (found, key) = self.usable(&content, name, version)?;
        let url = self.key_url(name, &found.id)?;
        match key.wrap(algorithm, plain) {
            Ok(bytes) => Ok(StoreWrapped { url, algorithm, bytes }),
            Err(NotWrapped::Algorithm) => Err(KeyStoreError::Algorithm { url: url.to_string(), algorithm }),
            Err(NotWrapped::Length) => {
                Err(KeyStoreError::Length { url: url.to_string(), algorithm, len: plain.len() })
            }
        }
    }

    fn unwrap(
        &self,
        name: &str,
        version: &str,
        algorithm: WrapAlgorithm,
        wrapped: &[u8],
    ) -> Result<SecretBytes, KeyStoreError> {
        let content = self.read()?;
        let (found, key) = self.usable(&content, name, Some(version))?;
        let url = self.key_url(name, &found.id)?.to_string();
        key.unwrap(algorithm, wrapped).map_err(|e| match e {
            NotUnwrapped::Algorithm => KeyStoreError::Algorithm { url, algorithm },
            NotUnwrapped::Forged => KeyStoreError::NotUnwrapped { url },
        })
    }

    fn backup_key(&self, name: &str) -> Result<Vec<u8>, KeyStoreError> {
        self.back_up(ItemKind::Key, name)
    }

    fn restore_key(&self, blob: &[u8]) -> Result<KeyInfo, KeyStoreError> {
        let (name, _) = self.restore(ItemKind::Key, blob)?;
        self.key(&name, None)
    }
}

impl SecretStore for FileVault {
    fn url(&self) -> &str {
        &self.url
    }

    fn secret(&self, name: &str, version: Option<&str>) -> Result<Secret, KeyStoreError> {
        let content = self.read()?;
        let found = self.version(&content, ItemKind::Secret, name, version)?;
        let url = self.secret_url(name, &found.id)?;
        if !found.enabled {
            return Err(KeyStoreError::Disabled { url: url.to_string() });
        }
        match &found.material {
            Material::Secret(value) => Ok(Secret { url, value: value.again() }),
            Material::Key(_) => Err(self.not_found(ItemKind::Secret, name, version)),
        }
    }

    fn set_secret(&self, name: &str, value: &SecretValue) -> Result<SecretUrl, KeyStoreError> {
        let limits = [
            ("secret", value.value.expose().len(), VALUE_MAX),
            ("content type", value.content_type.as_ref().map_or(0, String::len), CONTENT_TYPE_MAX),
            ("tags", value.tags.len(), TAGS_MAX),
            ("name of a tag", value.tags.keys().map(String::len).max().unwrap_or(0), TAG_NAME_MAX),
            ("value of a tag", value.tags.values().map(String::len).max().unwrap_or(0), TAG_VALUE_MAX),
        ];
        if let Some((what, len, max)) = limits.into_iter().find(|(_, len, max)| len > max) {
            return Err(KeyStoreError::TooLarge { what, len, max });
        }
        let id = self.add(ItemKind::Secret, name, Material::Secret(value.again()))?;
        self.secret_url(name, &id)
    }

    fn backup_secret(&self, name: &str) -> Result<Vec<u8>, KeyStoreError> {
        self.back_up(ItemKind::Secret, name)
    }

    fn restore_secret(&self, blob: &[u8]) -> Result<SecretUrl, KeyStoreError> {
        let (name, newest) = self.restore(ItemKind::Secret, blob)?;
        self.secret_url(&name, &newest)
    }
}
