//! Labels of a recovery point: small facts that whoever makes it wants to find again.

use std::collections::BTreeMap;

use thiserror::Error;

/// Names with values that are stored in a recovery point, such as why it was made. Not secret from whoever may list points.
///
/// At most [`Labels::COUNT_MAX`]; a name is 1 to 64 of `a-z`, `0-9`, `.`, `_`, `-` and `/`; a value is at most 1,024 bytes of text
/// without control characters.
///
/// ```
/// use vmkeep_model::Labels;
///
/// let mut labels = Labels::default();
/// labels.insert("tag/before-upgrade", "")?;
/// assert_eq!(labels.get("tag/before-upgrade"), Some(""));
/// assert!(labels.insert("No Such Name", "").is_err());
/// # Ok::<(), vmkeep_model::LabelError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

/// Why something is no label.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LabelError {
    /// The name.
    #[error("{name:?} is no name of a label: 1 to 64 of a-z, 0-9, '.', '_', '-' and '/'")]
    Name {
        /// What was given.
        name: String,
    },
    /// The value.
    #[error("the value of label {name} is longer than 1024 bytes, or has control characters")]
    Value {
        /// Of which label.
        name: String,
    },
    /// One too many.
    #[error("a point has at most 64 labels")]
    TooMany,
}

impl Labels {
    /// The most labels that a point has.
    pub const COUNT_MAX: usize = 64;

    /// Adds a label, or changes its value.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) -> Result<(), LabelError> {
        let (name, value) = (name.into(), value.into());
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_allowed) {
            return Err(LabelError::Name { name });
        }
        if value.len() > 1024 || value.chars().any(char::is_control) {
            return Err(LabelError::Value { name });
        }
        if self.0.len() == Self::COUNT_MAX && !self.0.contains_key(&name) {
            return Err(LabelError::TooMany);
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// The value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Every label, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_at_their_edges() {
        let mut labels = Labels::default();
        assert!(labels.insert("", "").is_err() && labels.insert("n".repeat(65), "").is_err());
        assert!(labels.insert("a", "v".repeat(1025)).is_err() && labels.insert("a", "two\nlines").is_err());
        labels.insert("n".repeat(64), "v".repeat(1024)).unwrap();
        for n in 1..Labels::COUNT_MAX {
            labels.insert(format!("n{n}"), "").unwrap();
        }
        assert_eq!(labels.insert("one-more", ""), Err(LabelError::TooMany));
        labels.insert("n1", "changed").unwrap();
        assert_eq!((labels.iter().count(), labels.get("n1")), (64, Some("changed")));
    }
}
