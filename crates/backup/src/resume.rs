//! Which interrupted backup, if any, a backup goes on from.

use vmkeep_model::{Permit, SessionId, VmName, op};
use vmkeep_vault::{ABANDONED_AFTER_MS, OpenSession, Session, Vault, VaultError};

use crate::BackupError;
use crate::observer::{Event, Observer};

/// Which interrupted backup of the VM a backup goes on from: what that one has stored is not stored again.
///
/// The one that is gone on from is ended by it: were it still running, it could no longer commit, and would end with
/// [`VaultError::SessionVoided`]. So this says when to go on, not whether it is safe. When the one chosen committed or
/// was ended meanwhile, the backup begins afresh and tells it by [`Event::NotResumed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resume {
    /// From none. The vault is not even asked whether there is one.
    Never,
    /// From this one.
    Session(SessionId),
    /// From one that began so many milliseconds ago or more, by the vault's clock. Of several, the one that has stored
    /// the most.
    Abandoned {
        /// How long ago.
        after_ms: i64,
    },
    /// From the newest that has stored anything, however lately it began: for when it is known to run no more.
    Newest,
}

impl Default for Resume {
    /// From one that began 7 days ago or earlier.
    fn default() -> Self {
        Self::Abandoned { after_ms: ABANDONED_AFTER_MS }
    }
}

/// Begins the backup of `vm`, going on from another when `resume` finds one; returns that as well.
pub(crate) fn begin(
    permit: &Permit<op::Backup>,
    vault: &Vault,
    vm: &VmName,
    resume: Resume,
    observer: &dyn Observer,
) -> Result<(Session, Option<OpenSession>), BackupError> {
    let open = match resume {
        Resume::Never => Vec::new(),
        _ => vault.open_sessions(vm).map_err(BackupError::Store)?,
    };
    let chosen = choose(vault, vm, resume, &open)?;
    for session in open.iter().filter(|session| Some(session.id) != chosen) {
        observer.event(Event::LeftOpen { session });
    }
    if let Some(session) = chosen {
        match vault.resume(permit, vm, session) {
            Ok(begun) => {
                let from = open.into_iter().find(|open| open.id == session);
                return Ok((begun, from));
            }
            Err(error) if is_over(&error) => observer.event(Event::NotResumed { session, error: &error }),
            Err(error) => return Err(BackupError::Store(error)),
        }
    }
    Ok((vault.begin(permit, vm).map_err(BackupError::Store)?, None))
}

/// The session to go on from.
fn choose(
    vault: &Vault,
    vm: &VmName,
    resume: Resume,
    open: &[OpenSession],
) -> Result<Option<SessionId>, BackupError> {
    let before = match resume {
        Resume::Never => return Ok(None),
        Resume::Session(session) => return Ok(Some(session)),
        Resume::Newest => None,
        Resume::Abandoned { after_ms } => Some(vault.clock().now().0.saturating_sub(after_ms)),
    };
    let mut best = None;
    // The newest first.
    for session in open.iter().rev().filter(|session| before.is_none_or(|before| session.opened.0 <= before))
    {
        let stored = match vault.stored_by(vm, session.id) {
            Ok(stored) => stored,
            Err(error) if is_over(&error) || error.is_of_one_object() => 0,
            Err(error) => return Err(BackupError::Store(error)),
        };
        if stored > best.map_or(0, |(most, _)| most) {
            best = Some((stored, session.id));
            if resume == Resume::Newest {
                break;
            }
        }
    }
    Ok(best.map(|(_, session)| session))
}

/// Whether a session cannot be gone on from because of what became of it meanwhile.
fn is_over(error: &VaultError) -> bool {
    matches!(error, VaultError::NotAdoptable { .. } | VaultError::NoSuchSession { .. })
}
