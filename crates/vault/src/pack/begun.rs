//! Packs that were begun and are not referred to yet, and what becomes of them when their writer gives up.

use std::sync::{Mutex, PoisonError};

use vmkeep_envelope::{PackContent, PackName, SealedObject};
use vmkeep_model::{LineageId, SessionId};

use super::reader::second_copy;
use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::session::Writing;
use crate::store::PendingCreate;

/// The packs that one writer has begun to store. Unless it says that it is done, they are orphans of its session
/// when it goes: a disk that is started over leaves packs that no point will ever name, in a session that commits.
pub(crate) struct Begun<'s> {
    session: &'s Writing,
    content: PackContent,
    packs: Vec<PackName>,
    on_their_way: Vec<PendingCreate>,
}

impl std::fmt::Debug for Begun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Begun({} packs)", self.packs.len())
    }
}

impl<'s> Begun<'s> {
    pub(crate) fn new(session: &'s Writing, content: PackContent) -> Self {
        Self { session, content, packs: Vec::new(), on_their_way: Vec::new() }
    }

    /// Starts storing the pack `name`: a metadata pack in both copies.
    pub(crate) fn start(&mut self, name: PackName, object: &SealedObject) {
        self.packs.push(name);
        for name in objects_of(self.session.lineage.id, self.session.id, name, self.content) {
            self.on_their_way.push(self.session.start_create(&name, object));
        }
    }

    /// Blocks until all that was started is durable. After an error the rest is still on its way.
    pub(crate) fn wait(&mut self) -> Result<(), VaultError> {
        while !self.on_their_way.is_empty() {
            self.on_their_way.remove(0).wait_ours()?;
        }
        Ok(())
    }

    /// The writer is done: the packs are referred to by what it wrote.
    pub(crate) fn done(&mut self) {
        self.packs.clear();
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let (lineage, session) = (self.session.lineage.id, self.session.id);
        let packs = std::mem::take(&mut self.packs);
        let names = packs.into_iter().flat_map(|pack| objects_of(lineage, session, pack, self.content));
        self.session.orphans.add(names, &mut self.on_their_way);
    }
}

fn objects_of(
    lineage: LineageId,
    session: SessionId,
    pack: PackName,
    content: PackContent,
) -> impl Iterator<Item = ObjectName> {
    let first = ObjectName::Pack(lineage, session, pack);
    let copy = (content == PackContent::Metadata).then(|| second_copy(&first));
    std::iter::once(first).chain(copy)
}

/// What writers of a session left that did not come to their end.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    names: Vec<ObjectName>,
    on_their_way: Vec<PendingCreate>,
}

impl Orphans {
    fn add(&self, names: impl Iterator<Item = ObjectName>, on_their_way: &mut Vec<PendingCreate>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.names.extend(names);
        left.on_their_way.append(on_their_way);
    }

    /// Their names, each given once. Waits for those still on their way: one that lands after it was deleted would
    /// stay for ever.
    pub(crate) fn take(&self) -> Vec<ObjectName> {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        for put in left.on_their_way {
            // Landed or not: its name is among those to delete.
            put.wait().ok();
        }
        left.names
    }
}
