//! What is noted in the vault, as JSON with a version: a reader refuses what it does not know, rather than plan without it.

use serde::{Deserialize, Serialize};
use vmkeep_model::Timestamp;
use vmkeep_retention::azure::AzurePolicy;
use vmkeep_retention::{Immutability, Limits, Policy, PolicySpec, SoftDelete, State};

use crate::ProtectError;

/// The topic of the notes that are written here.
pub(crate) const TOPIC: &str = "protection";

/// Version of the notes.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    note: Note,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what", deny_unknown_fields)]
pub(crate) enum Note {
    /// A version of a policy, in the words of whoever wrote it.
    Policy { name: String, source: Source, text: String },
    /// A VM is under a policy from now on.
    Protect { vm: String, policy: String },
    /// Where the protection of a VM stands from now on.
    State { vm: String, state: StateNote },
    /// The times of points up to this number were looked at by somebody, and are right.
    Trust { vm: String, number: u64 },
    /// Whether points can be removed before their time.
    Immutability { is: ImmutabilityNote },
    /// For how long deleted VMs can be had back.
    SoftDelete { is: SoftDeleteNote },
}

/// An [`Immutability`], as it is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ImmutabilityNote {
    Disabled,
    Unlocked,
    Locked,
}

impl ImmutabilityNote {
    pub(crate) fn immutability(self) -> Immutability {
        match self {
            Self::Disabled => Immutability::Disabled,
            Self::Unlocked => Immutability::Unlocked,
            Self::Locked => Immutability::Locked,
        }
    }

    pub(crate) fn of(immutability: Immutability) -> Self {
        match immutability {
            Immutability::Disabled => Self::Disabled,
            Immutability::Unlocked => Self::Unlocked,
            Immutability::Locked => Self::Locked,
        }
    }
}

/// A [`SoftDelete`], as it is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum SoftDeleteNote {
    Disabled,
    Enabled { days: u32 },
    AlwaysOn { days: u32 },
}

impl SoftDeleteNote {
    /// `None` for days that are out of range.
    pub(crate) fn soft_delete(self) -> Option<SoftDelete> {
        let in_range = |days: u32| vmkeep_retention::SOFT_DELETE_DAYS.contains(&days);
        match self {
            Self::Disabled => Some(SoftDelete::Disabled),
            Self::Enabled { days } => in_range(days).then_some(SoftDelete::Enabled { days }),
            Self::AlwaysOn { days } => in_range(days).then_some(SoftDelete::AlwaysOn { days }),
        }
    }

    pub(crate) fn of(soft_delete: SoftDelete) -> Self {
        match soft_delete {
            SoftDelete::Disabled => Self::Disabled,
            SoftDelete::Enabled { days } => Self::Enabled { days },
            SoftDelete::AlwaysOn { days } => Self::AlwaysOn { days },
        }
    }
}

/// In which language a policy is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Source {
    Toml,
    Azure,
}

/// A [`State`], as it is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
pub(crate) enum StateNote {
    Protected,
    VmGone { since: i64 },
    StoppedRetain { since: i64 },
    StoppedByPolicy { since: i64 },
    SoftDeleted { since: i64, until: i64 },
    Purged { since: i64 },
}

impl StateNote {
    pub(crate) fn state(self) -> State {
        match self {
            Self::Protected => State::Protected,
            Self::VmGone { since } => State::VmGone { since: Timestamp(since) },
            Self::StoppedRetain { since } => State::StoppedRetain { since: Timestamp(since) },
            Self::StoppedByPolicy { since } => State::StoppedByPolicy { since: Timestamp(since) },
            Self::SoftDeleted { since, until } => {
                State::SoftDeleted { since: Timestamp(since), until: Timestamp(until) }
            }
            Self::Purged { since } => State::Purged { since: Timestamp(since) },
        }
    }

    /// Since when it is so, where that is noted.
    pub(crate) fn since(self) -> Option<Timestamp> {
        match self {
            Self::Protected => None,
            Self::VmGone { since }
            | Self::StoppedRetain { since }
            | Self::StoppedByPolicy { since }
            | Self::SoftDeleted { since, .. }
            | Self::Purged { since } => Some(Timestamp(since)),
        }
    }

    /// `None` for a VM that never was protected, of which nothing is noted.
    pub(crate) fn of(state: State) -> Option<Self> {
        Some(match state {
            State::Unprotected => return None,
            State::Protected => Self::Protected,
            State::VmGone { since } => Self::VmGone { since: since.0 },
            State::StoppedRetain { since } => Self::StoppedRetain { since: since.0 },
            State::StoppedByPolicy { since } => Self::StoppedByPolicy { since: since.0 },
            State::SoftDeleted { since, until } => Self::SoftDeleted { since: since.0, until: until.0 },
            State::Purged { since } => Self::Purged { since: since.0 },
        })
    }
}

impl Note {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let document = Document { version: VERSION, note: self.clone() };
        serde_json::to_vec(&document).expect("strings and numbers are JSON")
    }

    pub(crate) fn decode(number: u64, bytes: &[u8]) -> Result<Self, ProtectError> {
        let why = |why: String| ProtectError::Note { number, why };
        let document: Document = serde_json::from_slice(bytes).map_err(|e| why(e.to_string()))?;
        if document.version != VERSION {
            return Err(why(format!("it is of version {}", document.version)));
        }
        Ok(document.note)
    }
}

/// A policy in the words of whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// The short TOML of this project.
    Toml(String),
    /// Azure's JSON, every field of it.
    Azure(String),
}

impl PolicySource {
    /// The policy that it says, checked: Azure's against Azure's limits.
    pub fn policy(&self) -> Result<Policy, ProtectError> {
        Ok(match self {
            Self::Toml(text) => Policy::new(PolicySpec::from_toml(text)?, &Limits::default())?,
            Self::Azure(text) => Policy::new(AzurePolicy::parse(text.as_bytes())?.spec()?, &Limits::azure())?,
        })
    }

    /// The text.
    pub fn text(&self) -> &str {
        match self {
            Self::Toml(text) | Self::Azure(text) => text,
        }
    }

    pub(crate) fn noted(source: Source, text: String) -> Self {
        match source {
            Source::Toml => Self::Toml(text),
            Source::Azure => Self::Azure(text),
        }
    }

    pub(crate) fn source(&self) -> Source {
        match self {
            Self::Toml(_) => Source::Toml,
            Self::Azure(_) => Source::Azure,
        }
    }
}
