//! Keys of disks that their guests encrypt: captured by `vmkeep backup --disk-key`, put back by `vmkeep keys restore`.

use serde::Serialize;
use vmkeep::envelope::SecretBytes;
use vmkeep::envelope::guest::{
    CapturedKeys, DiskEncryption, GuestKeyStores, GuestOs, PutBack, PutBackState, azure_config,
};
use vmkeep::model::{DiskName, DiskRole, op};
use vmkeep::vault::OpenPoint;

use super::keyvault::write_secret;
use crate::args::{DiskKeyArg, ExportKeysArgs, Os, RestoreKeysArgs};
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::stores::Stores;

/// Where the keys of one disk are.
pub(super) struct DiskKey {
    pub(super) disk: DiskName,
    pub(super) encryption: DiskEncryption,
}

/// The keys that are named on the command line, in their stores.
pub(super) fn named(stores: &Stores, args: &[DiskKeyArg]) -> Result<Vec<DiskKey>, Error> {
    let key = |arg: &DiskKeyArg| {
        let bek = stores.secret(&arg.secret)?;
        let kek = arg.kek.as_ref().map(|kek| stores.key(kek).map(|(_, url)| url)).transpose()?;
        Ok(DiskKey { disk: arg.disk.clone(), encryption: DiskEncryption { bek, kek } })
    };
    args.iter().map(key).collect()
}

impl DiskKey {
    pub(super) fn stores<'a>(&self, stores: &'a Stores) -> Result<GuestKeyStores<'a>, Error> {
        stores.of_guests(self.encryption.kek.as_ref().and_then(|kek| stores.of_url(kek)))
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "keys")]
struct Line {
    disk: String,
    secret: Put,
    kek: Option<Put>,
}

#[derive(Serialize)]
struct Put {
    url: String,
    state: &'static str,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    point: String,
    disks: usize,
    /// The file that was written.
    path: Option<String>,
}

/// `vmkeep keys restore`.
pub(super) fn restore(context: &Context<'_>, args: &RestoreKeysArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit::<op::RestoreKeys>(&vault, Some(&args.point.vm))?;
    let point = vault.point(&args.point)?;
    let captured = captured(&point, &permit)?;
    let stores = Stores::open(&context.key.stores)?;
    let wanted = |disk: &DiskName| args.disks.is_empty() || args.disks.contains(disk);
    for disk in &args.disks {
        if !captured.disks.iter().any(|captured| captured.disk == *disk) {
            return Err(Error::usage(format!("{} holds no keys of disk {disk}", point.reference())));
        }
    }
    let mut disks = 0;
    for captured in captured.disks.iter().filter(|captured| wanted(&captured.disk)) {
        let kek = captured.kek.as_ref().map(|kek| stores.key(&kek.url.to_string()));
        let kek = match kek {
            Some(Ok((store, _))) => Some(store),
            // The store it came from is not given: the name alone says which key it is in the one that is.
            Some(Err(_)) => {
                captured.kek.as_ref().map(|kek| stores.key(kek.url.name())).transpose()?.map(|k| k.0)
            }
            None => None,
        };
        let put_back = PutBack {
            stores: stores.of_guests(kek.as_ref())?,
            vm: &args.point.vm,
            os: args.os.map(|os| match os {
                Os::Windows => GuestOs::Windows,
                Os::Linux => GuestOs::Linux,
            }),
            overwrite: args.overwrite,
        };
        let done = put_back.disk(captured)?;
        let line =
            Line { disk: done.disk.to_string(), secret: put(&done.bek), kek: done.kek.as_ref().map(put) };
        for (what, put) in [("key", line.kek.as_ref()), ("secret", Some(&line.secret))] {
            if let Some(Put { url, state }) = put {
                context.output.text(format!("{}: {what} {url}: {}", line.disk, state.replace('_', " ")));
            }
        }
        context.output.json(&line);
        disks += 1;
    }
    context.output.json(&Summary { point: point.reference().to_string(), disks, path: None });
    Ok(Outcome::Good)
}

/// `vmkeep keys export`.
pub(super) fn export(context: &Context<'_>, args: &ExportKeysArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit::<op::RestoreKeys>(&vault, Some(&args.point.vm))?;
    let point = vault.point(&args.point)?;
    let captured = captured(&point, &permit)?;
    let os = || point.point().disks.iter().find(|disk| disk.description.role == DiskRole::Os);
    let disk = match (&args.disk, os()) {
        (Some(disk), _) => disk.clone(),
        (None, Some(disk)) => disk.description.name.clone(),
        (None, None) => return Err(Error::usage("no disk has the role os; give --disk NAME")),
    };
    let json = azure_config(&captured, &disk)?;
    write_secret(&args.to, &SecretBytes::new(json.to_vec()))?;
    let (point, path) = (point.reference().to_string(), args.to.display().to_string());
    context
        .output
        .text(format!("wrote the keys of disk {disk} of {point} to {path}; they are in the clear there"));
    context.output.json(&Summary { point, disks: 1, path: Some(path) });
    Ok(Outcome::Good)
}

fn captured(
    point: &OpenPoint,
    permit: &vmkeep::model::Permit<op::RestoreKeys>,
) -> Result<CapturedKeys, Error> {
    point.captured_keys(permit)?.ok_or_else(|| Error::NoCapturedKeys { point: point.reference() })
}

fn put<T: ToString>(state: &PutBackState<T>) -> Put {
    let word = match state {
        PutBackState::AlreadyThere(_) => "already_there",
        PutBackState::Restored(_) => "restored",
        PutBackState::Replaced(_) => "replaced",
    };
    Put { url: state.url().to_string(), state: word }
}
