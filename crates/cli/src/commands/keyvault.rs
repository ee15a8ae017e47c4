//! `vmkeep keyvault`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use vmkeep::envelope::file_vault::{FileVault, ItemInfo, ItemKind, KeyKind, Ports, Settings};
use vmkeep::envelope::{KeyStore, KeyUrl, OsEntropy, SecretBytes, SecretStore, SecretValue, WrapAlgorithm};

use crate::args::{
    GetSecretArgs, ItemArgs, KeyvaultArgs, KeyvaultCommand, KindArg, NewKeyArgs, SetSecretArgs,
};
use crate::confirm::confirm;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::stores::{self, Stores, broken};
use crate::table::{Column, Table};

/// Longest file that a secret is read from.
const SECRET_MAX: usize = 25 << 10;

/// What Azure Disk Encryption finds a wrapped BEK by.
const CONTENT_TYPE: &str = "Wrapped BEK";
const ALGORITHM_TAG: &str = "DiskEncryptionKeyEncryptionAlgorithm";
const KEK_TAG: &str = "DiskEncryptionKeyEncryptionKeyURL";
const FILE_NAME_TAG: &str = "DiskEncryptionKeyFileName";
const MACHINE_TAG: &str = "MachineName";

#[derive(Serialize)]
#[serde(tag = "type", rename = "item")]
struct ItemLine {
    kind: &'static str,
    name: String,
    versions: Vec<VersionLine>,
    /// `null` unless it was deleted.
    deleted: Option<String>,
    gone_after: Option<String>,
}

#[derive(Serialize)]
struct VersionLine {
    version: String,
    created: String,
    enabled: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    keyvault: String,
    /// URL of what was made or changed.
    url: Option<String>,
}

pub(crate) fn run(context: &Context<'_>, args: &KeyvaultArgs) -> Result<Outcome, Error> {
    if let KeyvaultCommand::Init(args) = &args.command {
        let settings =
            Settings { recoverable_days: args.recoverable_days, purge_protection: args.purge_protection };
        return init(context, settings);
    }
    let stores = Stores::open(&context.key.stores)?;
    let vault = stores.file()?;
    let (url, text) = match &args.command {
        KeyvaultCommand::Init(_) | KeyvaultCommand::List => {
            list(context, vault)?;
            (None, String::new())
        }
        KeyvaultCommand::NewKey(args) => new_key(vault, args)?,
        KeyvaultCommand::SetSecret(args) => set_secret(&stores, vault, args)?,
        KeyvaultCommand::GetSecret(args) => get_secret(&stores, vault, args)?,
        KeyvaultCommand::Enable(args) => {
            vault.set_enabled(kind(args), &args.name, None, true)?;
            (None, format!("{} may be used", args.name))
        }
        KeyvaultCommand::Disable(args) => {
            vault.set_enabled(kind(args), &args.name, None, false)?;
            (None, format!("{} is disabled, in all its versions", args.name))
        }
        KeyvaultCommand::Delete(args) => {
            vault.delete(kind(args), &args.name)?;
            (None, format!("deleted {}; vmkeep keyvault recover takes this back", args.name))
        }
        KeyvaultCommand::Recover(args) => {
            vault.recover(kind(args), &args.name)?;
            (None, format!("recovered {}", args.name))
        }
        KeyvaultCommand::Purge(args) => {
            confirm(
                context.output,
                args.yes,
                &format!("Purge {}: all its versions, and all that they wrap, for ever?", args.item.name),
            )?;
            vault.purge(kind(&args.item), &args.item.name)?;
            (None, format!("{} is gone", args.item.name))
        }
        KeyvaultCommand::Protect => {
            vault.protect_from_purge()?;
            (None, "nothing that is deleted can be purged before its days are over".to_owned())
        }
    };
    if !text.is_empty() {
        context.output.text(text);
    }
    context.output.json(&Summary { keyvault: KeyStore::url(vault).to_owned(), url });
    Ok(Outcome::Good)
}

fn init(context: &Context<'_>, settings: Settings) -> Result<Outcome, Error> {
    let args = &context.key.stores;
    let path = args.keyvault.as_ref().ok_or_else(|| Error::usage("say where: give --keyvault FILE"))?;
    let (key, made) = stores::new_file_vault_key(args)?;
    let vault = FileVault::create(path, key, settings, Ports::default())?;
    context.output.text(format!("made key vault {} in {}", KeyStore::url(&vault), path.display()));
    if let Some(key_file) = args.kv_key_file.as_ref().filter(|_| made) {
        context.output.text(format!(
            "made key file {}: keep a copy of it in another place; without it the key vault cannot be read",
            key_file.display()
        ));
    }
    context.output.json(&Summary { keyvault: KeyStore::url(&vault).to_owned(), url: None });
    Ok(Outcome::Good)
}

fn list(context: &Context<'_>, vault: &FileVault) -> Result<(), Error> {
    let items = vault.list()?;
    let mut table = Table::new(["KIND", "NAME", "VERSION", "CREATED (UTC)", ""].map(Column::Left));
    for ItemInfo { kind, name, versions, deleted } in &items {
        let kind = match kind {
            ItemKind::Key => "key",
            ItemKind::Secret => "secret",
        };
        for (nth, version) in versions.iter().rev().enumerate() {
            let of_item = |text: &str| if nth == 0 { text.to_owned() } else { String::new() };
            let mark = match (deleted, version.enabled) {
                (Some((_, gone)), _) => format!("deleted, gone after {gone}"),
                (None, false) => "disabled".to_owned(),
                (None, true) => String::new(),
            };
            table.row([
                of_item(kind),
                of_item(name),
                version.version.clone(),
                version.created.to_string(),
                mark,
            ]);
        }
        context.output.json(&ItemLine {
            kind,
            name: name.clone(),
            versions: versions
                .iter()
                .map(|version| VersionLine {
                    version: version.version.clone(),
                    created: version.created.to_string(),
                    enabled: version.enabled,
                })
                .collect(),
            deleted: deleted.map(|(at, _)| at.to_string()),
            gone_after: deleted.map(|(_, gone)| gone.to_string()),
        });
    }
    if items.is_empty() {
        context.output.text("no keys and no secrets");
    } else {
        table.lines().for_each(|line| context.output.text(line));
    }
    Ok(())
}

fn new_key(vault: &FileVault, args: &NewKeyArgs) -> Result<(Option<String>, String), Error> {
    let kind = match args.kind {
        KindArg::Rsa2048 => KeyKind::Rsa2048,
        KindArg::Rsa3072 => KeyKind::Rsa3072,
        KindArg::Rsa4096 => KeyKind::Rsa4096,
        KindArg::Aes256 => KeyKind::Aes256,
    };
    let url = vault.create_key(&args.name, kind)?.url.to_string();
    Ok((Some(url.clone()), format!("made {url}")))
}

fn set_secret(
    stores: &Stores,
    vault: &FileVault,
    args: &SetSecretArgs,
) -> Result<(Option<String>, String), Error> {
    let plain = read_secret(&args.from)?;
    let value = match &args.wrap_with {
        None => SecretValue { value: plain, content_type: None, tags: BTreeMap::new() },
        Some(kek) => wrapped(stores, kek, &plain, args.machine.as_deref())?,
    };
    let url = vault.set_secret(&args.name, &value)?.to_string();
    Ok((Some(url.clone()), format!("set {url}")))
}

/// A secret wrapped by a key, with the content type and tags that say so.
fn wrapped(
    stores: &Stores,
    kek: &str,
    plain: &SecretBytes,
    machine: Option<&str>,
) -> Result<SecretValue, Error> {
    let (store, url) = stores.key(kek)?;
    let info = store.key(url.name(), url.version())?;
    // What Azure Disk Encryption wraps with comes first; a key that cannot do it does what it can.
    let oaep = info.algorithms.iter().copied().find(|algorithm| *algorithm == WrapAlgorithm::RsaOaep);
    let algorithm = oaep.or(info.algorithms.first().copied());
    let algorithm = algorithm.ok_or_else(|| Error::usage(format!("{} cannot wrap", info.url)))?;
    let wrapped = store.wrap(url.name(), info.url.version(), algorithm, plain.expose(), &OsEntropy)?;
    let mut tags = BTreeMap::from([
        (ALGORITHM_TAG.to_owned(), algorithm.name().to_owned()),
        (FILE_NAME_TAG.to_owned(), "LinuxPassPhraseFileName".to_owned()),
        (KEK_TAG.to_owned(), wrapped.url.to_string()),
    ]);
    if let Some(machine) = machine {
        tags.insert(MACHINE_TAG.to_owned(), machine.to_owned());
    }
    let value = SecretBytes::new(vmkeep::envelope::base64url(&wrapped.bytes).into_bytes());
    Ok(SecretValue { value, content_type: Some(CONTENT_TYPE.to_owned()), tags })
}

fn get_secret(
    stores: &Stores,
    vault: &FileVault,
    args: &GetSecretArgs,
) -> Result<(Option<String>, String), Error> {
    let url = stores.secret(&args.name)?;
    let secret = vault.secret(url.name(), url.version())?;
    let plain = if args.unwrap {
        let tag = |name: &str| {
            secret.value.tags.get(name).ok_or_else(|| broken(&secret.url, &format!("it has no tag {name}")))
        };
        let kek: KeyUrl = tag(KEK_TAG)?.parse().map_err(Error::usage)?;
        let algorithm = tag(ALGORITHM_TAG)?;
        let algorithm = WrapAlgorithm::from_name(algorithm)
            .ok_or_else(|| broken(&secret.url, &format!("{algorithm} is no algorithm")))?;
        let text = std::str::from_utf8(secret.value.value.expose()).ok();
        let bytes = text.and_then(vmkeep::envelope::from_base64url);
        let bytes = bytes.ok_or_else(|| broken(&secret.url, "it is not base64url"))?;
        let (store, kek) = stores.key(&kek.to_string())?;
        let version = kek.version().ok_or_else(|| broken(&secret.url, "its key has no version"))?;
        store.unwrap(kek.name(), version, algorithm, &bytes)?
    } else {
        secret.value.value
    };
    write_secret(&args.to, &plain)?;
    let url = secret.url.to_string();
    Ok((Some(url.clone()), format!("wrote {url} to {}", args.to.display())))
}

fn read_secret(path: &Path) -> Result<SecretBytes, Error> {
    let failed = |source| Error::File { what: "read secret", path: path.to_owned(), source };
    // Room for all of it at once: a vector that grows would leave parts of it behind.
    let mut bytes = Vec::with_capacity(SECRET_MAX + 1);
    let file = File::open(path).map_err(failed)?;
    file.take(SECRET_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let secret = SecretBytes::new(bytes);
    if secret.expose().len() > SECRET_MAX {
        let what = "longer than a secret may be (25 KiB)".to_owned();
        return Err(Error::Content { path: path.to_owned(), what });
    }
    Ok(secret)
}

pub(super) fn write_secret(path: &Path, secret: &SecretBytes) -> Result<(), Error> {
    let failed = |source| Error::File { what: "write", path: path.to_owned(), source };
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        _ => failed(source),
    })?;
    file.write_all(secret.expose()).and_then(|()| file.sync_all()).map_err(failed)
}

fn kind(args: &ItemArgs) -> ItemKind {
    match args.kind {
        crate::args::ItemKindArg::Key => ItemKind::Key,
        crate::args::ItemKindArg::Secret => ItemKind::Secret,
    }
}
