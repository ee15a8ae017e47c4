//! Azure's REST documents of VM backup policies (`AzureIaasVM`), read and written without losing a field.
//!
//! A document is kept as it came: fields that nobody here knows, of newer versions of the service or of somebody's own, are
//! written back as they were. learn.microsoft.com/rest/api/backup/protection-policies describes the format; both of its
//! kinds are read, V1 (`SimpleSchedulePolicy`) and V2 (`SimpleSchedulePolicyV2`).
//!
//! What Azure leaves open is decided so: the tag of a failed day is carried by the next point, and every point reaches the vault.
//! Points of an hourly policy that do not stand for their day are kept for as long as its snapshots.

mod read;
mod write;

use serde_json::Value;
use thiserror::Error;

use super::{PolicySpec, Violation};

/// Most bytes of a document: a policy has a few thousand.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// A policy document that is not understood, or a policy that such a document cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AzureError {
    /// Too long to be a policy.
    #[error("the document has {len} bytes; a policy has at most {DOCUMENT_BYTES_MAX}")]
    TooLong {
        /// Its bytes.
        len: usize,
    },
    /// No JSON, or nested deeper than 127 levels.
    #[error("this is no JSON: {0}")]
    Json(String),
    /// A field says what it cannot mean.
    #[error("{}", .0)]
    Field(Box<Violation>),
    /// Azure has no words for it.
    #[error("a policy of Azure cannot say: {0}")]
    Inexpressible(&'static str),
}

/// A policy document of Azure.
///
/// ```
/// # use vmkeep_retention::azure::AzurePolicy;
/// # use vmkeep_retention::{Limits, Policy, Span};
/// let text = br#"{"properties": {
///     "backupManagementType": "AzureIaasVM", "timeZone": "Pacific Standard Time", "mine": [1, 2],
///     "schedulePolicy": {"schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Daily",
///         "scheduleRunTimes": ["2026-01-24T10:00:00Z"]},
///     "retentionPolicy": {"retentionPolicyType": "LongTermRetentionPolicy", "dailySchedule": {
///         "retentionTimes": ["2026-01-24T10:00:00Z"], "retentionDuration": {"count": 30, "durationType": "Days"}}}}}"#;
/// let document = AzurePolicy::parse(text)?;
/// let mut spec = document.spec()?;
/// assert!(Policy::new(spec.clone(), &Limits::azure()).is_ok());
/// if let vmkeep_retention::Retention::Calendar(rules) = &mut spec.retention {
///     rules.daily = Some(Span::days(60));
/// }
/// let longer = document.with_spec(&spec)?;
/// assert_eq!(longer.spec()?, spec);
/// assert_eq!(longer.document()["properties"]["mine"][1], 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AzurePolicy {
    document: Value,
}

impl AzurePolicy {
    /// Reads a document: the body of a request or answer, or its `properties` alone. What they say is looked at by
    /// [`AzurePolicy::spec`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AzureError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(AzureError::TooLong { len: bytes.len() });
        }
        let document: Value = serde_json::from_slice(bytes).map_err(|e| AzureError::Json(e.to_string()))?;
        Ok(Self { document })
    }

    /// A new document that says this.
    pub fn of(spec: &PolicySpec) -> Result<Self, AzureError> {
        Self { document: serde_json::json!({ "properties": {} }) }.with_spec(spec)
    }

    /// The document, every field of it.
    pub fn document(&self) -> &Value {
        &self.document
    }

    /// As text, to send or to keep.
    pub fn to_json(&self) -> String {
        format!("{:#}", self.document)
    }

    /// The policy's name, where the document has one.
    pub fn name(&self) -> Option<&str> {
        self.document.get("name").and_then(Value::as_str)
    }

    /// What it says. [`Policy::new`](crate::Policy::new) with [`Limits::azure`](crate::Limits::azure) checks that.
    pub fn spec(&self) -> Result<PolicySpec, AzureError> {
        read::spec(&self.document)
    }

    /// Where it says what Azure's own clients refuse although nothing here depends on it: retention times that are not the
    /// schedule's.
    pub fn remarks(&self) -> Vec<Violation> {
        read::remarks(&self.document)
    }

    /// The same document with another policy in it. Fields that belong to no policy stay.
    ///
    /// A document has no words for [`CalendarRules::late`](crate::CalendarRules::late) and for
    /// [`Vaulting`](crate::Vaulting): read back, they are what Azure's documents mean here. A zone is written by its name of
    /// Windows ([`Zone::windows_name`](crate::Zone::windows_name)); of one that has none, Azure cannot be told.
    pub fn with_spec(&self, spec: &PolicySpec) -> Result<Self, AzureError> {
        if self.spec().as_ref() == Ok(spec) {
            return Ok(self.clone());
        }
        let mut document = self.document.clone();
        write::spec(&mut document, spec)?;
        Ok(Self { document })
    }
}
