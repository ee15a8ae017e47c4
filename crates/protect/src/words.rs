//! What notes say to a person who reads the log.

use crate::note::{self, ImmutabilityNote, Note, StateNote};
use crate::{bills, metering};

/// A note in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteWords {
    /// What kind of act it was, one of [`NoteWords::KINDS`].
    pub kind: &'static str,
    /// The VM that it is about, when it is about one.
    pub vm: Option<String>,
    /// What was done, as the rest of a sentence that begins with who did it.
    pub what: String,
}

impl NoteWords {
    /// Every kind there is.
    pub const KINDS: [&str; 9] = [
        "policy",
        "protection",
        "trusted",
        "immutability",
        "soft-delete",
        "metered",
        "restored",
        "billed",
        "note",
    ];

    /// The words of a note on `topic`; of one that nobody here wrote, or that a later version wrote, not many.
    pub fn of(topic: &str, body: &[u8]) -> Self {
        let known = match topic {
            note::TOPIC => Note::decode(0, body).ok().map(|note| decided(&note)),
            metering::TOPIC => {
                metering::words(body).map(|(kind, vm, what)| Self { kind, vm: Some(vm), what })
            }
            bills::TOPIC => bills::words(body).map(|what| Self { kind: "billed", vm: None, what }),
            _ => None,
        };
        known.unwrap_or_else(|| Self {
            kind: "note",
            vm: None,
            what: format!("left a note on {topic:?} that this version has no words for"),
        })
    }
}

fn decided(note: &Note) -> NoteWords {
    let (kind, vm, what) = match note {
        Note::Policy { name, .. } => ("policy", None, format!("made or changed the policy {name:?}")),
        Note::Protect { vm, policy } => {
            ("protection", Some(vm), format!("put {vm} under the policy {policy:?}"))
        }
        Note::State { vm, state } => ("protection", Some(vm), stands(vm, *state)),
        Note::Trust { vm, number } => {
            ("trusted", Some(vm), format!("found the times of {vm} up to point {number} right"))
        }
        Note::Immutability { is } => {
            let is = match is {
                ImmutabilityNote::Disabled => "off",
                ImmutabilityNote::Unlocked => "on",
                ImmutabilityNote::Locked => "on for good",
            };
            ("immutability", None, format!("turned immutability {is}"))
        }
        Note::SoftDelete { .. } => {
            ("soft-delete", None, "changed for how long what is deleted stays".to_owned())
        }
    };
    NoteWords { kind, vm: vm.cloned(), what }
}

fn stands(vm: &str, state: StateNote) -> String {
    match state {
        StateNote::Protected => format!("resumed the protection of {vm}"),
        StateNote::VmGone { .. } => format!("found {vm} gone"),
        StateNote::StoppedRetain { .. } => format!("stopped the protection of {vm}, and its points stay"),
        StateNote::StoppedByPolicy { .. } => {
            format!("stopped the protection of {vm}, and its points expire by the policy")
        }
        StateNote::SoftDeleted { .. } => format!("deleted {vm}, which can be had back"),
        StateNote::Purged { .. } => format!("deleted {vm} for good"),
    }
}
