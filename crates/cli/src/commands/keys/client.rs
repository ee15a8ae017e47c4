//! `vmkeep keys grant-client` and `withdraw-client`.

use std::collections::BTreeSet;

use serde::Serialize;
use vmkeep::envelope::Argon2Params;
use vmkeep::vault::{Ports, Vault, VaultError};

use super::super::sweep::count;
use crate::args::{GrantClientArgs, WithdrawClientArgs};
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::key::{self, KeySource};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Granted<'a> {
    /// The client's key, by its id.
    kek: &'a str,
    vms: Vec<String>,
    /// Key objects that were made.
    added: u64,
    /// VMs that were not protected and have keys now.
    prepared: Vec<String>,
    key: &'static str,
    key_file: Option<String>,
    key_file_made: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Withdrawn<'a> {
    kek: &'a str,
    removed: u64,
}

pub(super) fn grant(context: &Context<'_>, args: &GrantClientArgs) -> Result<Outcome, Error> {
    let folder = &args.vault.vault;
    let vault = context.open_vault(folder)?;
    let permit = context.permit(&vault, None)?;
    let source = KeySource::of_client(&args.client, &context.key.stores)?;
    if let Some(path) = source.key_file() {
        key::check_apart(folder, path)?;
    }
    let (client, made) = source.open_or_make(Argon2Params::default())?;
    // A passphrase that opens something goes on with the salt of that.
    match Vault::open_folder(folder, client.clone(), Ports::default()) {
        Ok(_) | Err(VaultError::WrongKey { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let given = vault.grant_client(&permit, &*client, &args.vms)?;
    let key_file = source.key_file().map(|path| path.display().to_string());
    if let Some(path) = key_file.as_ref().filter(|_| made) {
        context.output.text(format!("made key file {path}"));
    }
    for vm in &given.prepared {
        context.output.text(format!("{vm} is new: it has keys now, and no point yet"));
    }
    let vms: Vec<String> = args.vms.iter().map(ToString::to_string).collect();
    context.output.text(match given.added {
        0 => "the client had all of it before".to_owned(),
        added => format!("gave the client {} for {}", count(added, "key"), vms.join(", ")),
    });
    context.output.text(format!(
        "its key, {}, makes points and reads none; what the store lets it remove, the store has to prevent",
        given.kek
    ));
    context.output.json(&Granted {
        kek: &given.kek,
        vms,
        added: given.added,
        prepared: given.prepared.iter().map(ToString::to_string).collect(),
        key: source.kind(),
        key_file,
        key_file_made: made,
    });
    Ok(Outcome::Good)
}

pub(super) fn withdraw(context: &Context<'_>, args: &WithdrawClientArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit(&vault, None)?;
    let kek = find(&vault, &args.client)?;
    let removed = vault.withdraw_client(&permit, &kek)?;
    context.output.text(format!("removed {} of the client {kek}", count(removed, "key")));
    context.output.text(
        "whoever kept copies of them can still seal to the keys of that time; vmkeep keys rotate-bek makes new ones",
    );
    context.output.json(&Withdrawn { kek: &kek, removed });
    Ok(Outcome::Good)
}

/// The one KEK whose id begins with `prefix`.
fn find(vault: &Vault, prefix: &str) -> Result<String, Error> {
    let domains = vault.keys()?;
    let wraps = domains.iter().flat_map(|domain| &domain.epochs).flat_map(|epoch| &epoch.wraps);
    let prefix = prefix.to_lowercase();
    let found: BTreeSet<&str> =
        wraps.map(|wrap| wrap.kek.as_str()).filter(|kek| kek.starts_with(&prefix)).collect();
    let mut found = found.into_iter();
    match (found.next().filter(|_| !prefix.is_empty()), found.next()) {
        (Some(kek), None) => Ok(kek.to_owned()),
        (None, _) => Err(Error::usage(format!("no key of this vault has an id that begins with {prefix:?}"))),
        (Some(_), Some(_)) => Err(Error::usage(format!(
            "more than one key has an id that begins with {prefix:?}; give more of it"
        ))),
    }
}
