//! What a session takes over from one that was interrupted, and what it has to clear away once it has committed.

use vmkeep_model::SessionId;

use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::pack::Adopted;
use crate::session::Session;

impl Session {
    /// The packs of interrupted sessions that this one may use; `None` when it inherited none.
    pub fn adopted(&self) -> Option<&Adopted> {
        self.writing.adopted.as_ref()
    }

    /// Takes over the packs of `sessions`, oldest first: all of them are its own from then on.
    ///
    /// The caller has made sure that these sessions have ended and have no other heir.
    #[doc(hidden)]
    pub fn inherit(&mut self, sessions: &[SessionId]) -> Result<(), VaultError> {
        let writing = &mut self.writing;
        writing.adopted = Some(Adopted::read(&writing.vault, &writing.lineage, sessions)?);
        Ok(())
    }

    /// Pack objects of its own that no disk refers to, because their writer was dropped; each is given once.
    #[allow(dead_code)] // for the commit, which removes them
    pub(crate) fn orphans(&self) -> Vec<ObjectName> {
        self.writing.orphans.take()
    }

    /// Pack objects of the sessions it inherited that no disk refers to.
    #[allow(dead_code)] // for the commit, which removes them
    pub(crate) fn unused(&self) -> Result<Vec<ObjectName>, VaultError> {
        self.adopted().map_or_else(|| Ok(Vec::new()), Adopted::unused)
    }
}
