//! What every command is given beside its own arguments.

use std::path::Path;

use vmkeep::model::CancelToken;
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
}
