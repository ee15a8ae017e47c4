//! Notes: what is decided about VMs and their points outside of this crate (policies, states of protection), kept in a journal stream of
//! its own.

use vmkeep_model::{Op, Permit, Principal, Timestamp};

use crate::error::VaultError;
use crate::format::FormatError;
use crate::journal::{self, JournalEntry, JournalRecord};
use crate::vault::{Inner, Vault};

/// Longest body of a note, in bytes.
pub const NOTE_MAX: usize = 1 << 20;

/// What the id of the stream is made with.
const STREAM_LABEL: &str = "vmkeep v1 note stream";

/// A note, and who left it when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its number among the notes: 1 for the first.
    pub number: u64,
    /// When, by the clock of the host that wrote it.
    pub at: Timestamp,
    /// Who.
    pub by: Option<Principal>,
    /// What kind of note it is.
    pub topic: String,
    /// What it says.
    pub body: Vec<u8>,
}

impl Inner {
    /// The stream of the journal that notes are in.
    pub(crate) fn note_stream(&self) -> [u8; 16] {
        self.record.subkey(STREAM_LABEL).hash16(&[&self.id.0])
    }
}

impl Vault {
    /// Leaves a note, for good: notes are never changed. What may be noted is for the caller to decide; the permit is for that, and says who.
    ///
    /// # Errors
    /// [`VaultError::Malformed`] when the body is longer than [`NOTE_MAX`] or the topic than 64 bytes.
    pub fn note<O: Op>(&self, permit: &Permit<O>, topic: &str, body: &[u8]) -> Result<(), VaultError> {
        if body.len() > NOTE_MAX || topic.is_empty() || topic.len() > 64 {
            let what = format!("{} bytes on {topic:?} are no note: at most {NOTE_MAX}", body.len());
            return Err(VaultError::malformed("a note", FormatError(what)));
        }
        let entry = JournalEntry::Note { topic: topic.to_owned(), body: body.to_vec() };
        journal::append(&self.inner, self.inner.note_stream(), permit.who(), &entry)
    }

    /// Every note, oldest first, read and checked one by one: memory holds one. The first fault is the last that it gives.
    pub fn notes(&self) -> impl Iterator<Item = Result<Note, VaultError>> {
        let records = journal::entries(&self.inner, self.inner.note_stream());
        records.filter_map(|record| match record {
            Ok(JournalRecord { number, at, by, entry: JournalEntry::Note { topic, body } }) => {
                Some(Ok(Note { number, at, by, topic, body }))
            }
            Ok(_) => None,
            Err(e) => Some(Err(e)),
        })
    }
}
