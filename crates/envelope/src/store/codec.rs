//! A secret as bytes, where secrets are sealed.

use std::collections::BTreeMap;

use super::{SecretBytes, SecretValue};
use crate::OpenError;
use crate::reader::Reader;
use crate::writer::{Sink, TooLarge};

/// Longest secret, in bytes: what Azure Key Vault holds.
pub(crate) const VALUE_MAX: usize = 25 << 10;
/// Longest content type.
pub(crate) const CONTENT_TYPE_MAX: usize = 255;
/// Most tags, as many as Azure Key Vault has.
pub(crate) const TAGS_MAX: usize = 15;
/// Longest name of a tag.
pub(crate) const TAG_NAME_MAX: usize = 512;
/// Longest value of a tag: a URL has to go in, which is longer than the 256 that Azure Key Vault takes.
pub(crate) const TAG_VALUE_MAX: usize = 1024;

pub(crate) fn write_secret(to: &mut impl Sink, secret: &SecretValue) -> Result<(), TooLarge> {
    to.counted("secret", secret.value.expose(), VALUE_MAX)?;
    to.optional(secret.content_type.as_ref(), |to, kind| {
        to.counted("content type", kind.as_bytes(), CONTENT_TYPE_MAX)
    })?;
    to.count("tags", secret.tags.len(), TAGS_MAX)?;
    for (name, value) in &secret.tags {
        to.counted("name of a tag", name.as_bytes(), TAG_NAME_MAX)?;
        to.counted("value of a tag", value.as_bytes(), TAG_VALUE_MAX)?;
    }
    Ok(())
}

pub(crate) fn read_secret(from: &mut Reader<'_>) -> Result<SecretValue, OpenError> {
    let value = SecretBytes::new(from.counted("secret", VALUE_MAX)?.to_vec());
    let content_type =
        from.optional(|from| from.text("content type", CONTENT_TYPE_MAX).map(str::to_owned))?;
    let mut tags = BTreeMap::new();
    for _ in 0..from.count("tags", TAGS_MAX)? {
        let name = from.text("name of a tag", TAG_NAME_MAX)?.to_owned();
        let value = from.text("value of a tag", TAG_VALUE_MAX)?.to_owned();
        if tags.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return Err(OpenError::Malformed { what: "tags are not ascending" });
        }
        tags.insert(name, value);
    }
    Ok(SecretValue { value, content_type, tags })
}
