//! What every command is given beside its own arguments.

use std::path::Path;

use vmkeep::model::{CancelToken, Denied, Op, Owner, Permit, Principal, Scope, VmName, op};
use vmkeep::vault::{Ports, Vault};

use crate::args::KeyArgs;
use crate::error::Error;
use crate::key::KeySource;
use crate::output::Output;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) output: &'a Output,
    pub(crate) cancel: &'a CancelToken,
    pub(crate) key: KeyArgs,
    /// Who acts; `None` for the owner.
    pub(crate) acting: Option<Principal>,
}

impl Context<'_> {
    pub(crate) fn key_source(&self) -> Result<KeySource<'_>, Error> {
        KeySource::choose(&self.key)
    }

    pub(crate) fn open_vault(&self, folder: &Path) -> Result<Vault, Error> {
        let key = self.key_source()?.open()?;
        let vault = Vault::open_folder(folder, key, Ports::default())?;
        self.cancel.check()?;
        Ok(vault)
    }

    /// Leave to do one thing, to `vm` or to the vault as a whole. That it was refused is journalled.
    pub(crate) fn permit<O: Op>(&self, vault: &Vault, vm: Option<&VmName>) -> Result<Permit<O>, Error> {
        let scope = vm.map_or(Scope::Vault, |vm| Scope::Vm(vm.clone()));
        let Some(who) = &self.acting else { return Ok(Permit::ask(&Owner, scope)?) };
        let roles = vault.roles()?.authorizer(who.clone(), vault.clock().now());
        Permit::ask(&roles, scope).map_err(|denied: Denied| match vault.record_denial(&denied) {
            Ok(()) => denied.into(),
            Err(error) => error.into(),
        })
    }

    /// Refuses who may not even look.
    pub(crate) fn may_view(&self, vault: &Vault, vm: Option<&VmName>) -> Result<(), Error> {
        self.permit::<op::View>(vault, vm).map(drop)
    }
}
