//! Permits for tests that are about something else.

use vmkeep_model::{Op, Owner, Permit, Scope};

/// The owner's leave to do one thing anywhere in a vault.
pub fn permit<O: Op>() -> Permit<O> {
    Owner.permit(Scope::Vault)
}
