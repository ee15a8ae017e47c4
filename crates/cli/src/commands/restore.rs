//! `vmkeep restore`.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use vmkeep::disk::{BlockWrite, DiskError, Overwrite, Qcow2Target, RawTarget};
use vmkeep::model::{ByteLen, DiskName, Permit, op};
use vmkeep::protect::{Protection, note_restore};
use vmkeep::restore::{Copied, RestoreError, Settings, copy_disk};
use vmkeep::vault::{DiskReader, OpenPoint, Pin, StoreOperation, VaultError};

use crate::args::{RestoreArgs, TargetFormat};
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome, causes, chain, sentence};
use crate::output;
use crate::paths;
use crate::progress::Progress;
use crate::staging::{Existing, Staged};

/// A qcow2 image holds whole sectors.
const SECTOR: u64 = 512;
/// What is shown to whoever wonders what keeps a point.
const PIN_REASON: &str = "vmkeep restore";

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    point: String,
    folder: String,
    disks: Vec<Restored>,
    config: Option<String>,
    /// Temporary disks, of which nothing is stored.
    not_stored: Vec<String>,
    bytes_written: u64,
    duration_ms: u64,
}

#[derive(Serialize)]
struct Restored {
    name: String,
    path: String,
    format: &'static str,
    size: u64,
    bytes_written: u64,
}

/// A disk on its way to its file.
struct Job {
    disk: DiskReader,
    file: Staged,
}

pub(crate) fn run(context: &Context<'_>, args: &RestoreArgs) -> Result<Outcome, Error> {
    if paths::lies_in(&args.to, &args.vault.vault) {
        return Err(Error::usage(format!(
            "{} lies in the vault; restore to another folder",
            args.to.display()
        )));
    }
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit(&vault, Some(&args.point.vm))?;
    let began = vault.clock().now();
    // Where that cannot be read, data comes first.
    if let Ok(protection) = Protection::open(&vault) {
        protection.may_restore(&args.point.vm)?;
    }
    let point = vault.point(&args.point)?;
    let mut jobs = jobs(&permit, &point, args)?;
    let config = config(&permit, &point, args)?;
    let pin = if args.no_pin { None } else { pin(&permit, &point)? };

    make_folder(&args.to)?;
    let progress = Progress::new(context.output);
    let mut copied = Vec::new();
    for job in &mut jobs {
        let target = job.create(args.format)?;
        let disk = copy_disk(&job.disk, &*target, &Settings::default(), &progress, context.cancel);
        copied.push(disk.map_err(|error| explained(&point, pin.as_ref(), error))?);
    }
    if let Some(Err(error)) = pin.map(Pin::release) {
        output::warn("the pin could not be taken away; vmkeep pins lists it", &chain(&error));
    }
    let config =
        config.map(|(mut file, content)| write_config(&mut file, content).map(|()| file)).transpose()?;
    drop(progress);

    // Everything is whole and on disk: from here on names change and nothing else.
    context.cancel.check()?;
    let mut disks = Vec::new();
    for (job, copied) in jobs.into_iter().zip(copied) {
        disks.push(job.publish(copied, args.format)?);
    }
    let config = config.map(Staged::publish).transpose()?.map(|path| path.display().to_string());
    let bytes = disks.iter().map(|disk| disk.bytes_written).sum();
    if let Err(error) = note_restore(&vault, &permit, point.point(), bytes) {
        output::warn("the vault has no record of this restore", &chain(&error));
    }
    let elapsed = vault.clock().now().0.saturating_sub(began.0);
    print(
        context,
        Summary {
            point: point.reference().to_string(),
            folder: args.to.display().to_string(),
            bytes_written: bytes,
            disks,
            config,
            not_stored: not_stored(&point, args),
            duration_ms: u64::try_from(elapsed).unwrap_or(0),
        },
    );
    Ok(Outcome::Good)
}

/// Keeps sweeps from taking the point while it is read. A vault that cannot be written is no reason not to restore.
fn pin(permit: &Permit<op::Restore>, point: &OpenPoint) -> Result<Option<Pin>, Error> {
    match point.pin(permit, PIN_REASON) {
        Ok(pin) => Ok(Some(pin)),
        Err(error @ VaultError::Store { operation: StoreOperation::Write, .. }) => {
            let why = sentence(&error.to_string(), &causes(&error));
            output::note(&format!("the point is not pinned, so do not sweep while this runs: {why}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// What is missing because a sweep took the point meanwhile is no damage.
fn explained(point: &OpenPoint, pin: Option<&Pin>, error: RestoreError) -> Error {
    if error.is_damage() || error.is_swept() {
        let gone = VaultError::Missing { object: point.reference().to_string() };
        let told = point.explain(gone, pin);
        if matches!(told, VaultError::PinBroken { .. } | VaultError::PointSwept { .. }) {
            return told.into();
        }
    }
    error.into()
}

/// The disks to restore, each with its file, which is not made yet.
fn jobs(permit: &Permit<op::Restore>, point: &OpenPoint, args: &RestoreArgs) -> Result<Vec<Job>, Error> {
    let wanted: Vec<&DiskName> = match args.disks.as_slice() {
        [] => point.stored_disks().collect(),
        named => named
            .iter()
            .enumerate()
            .filter(|(nth, name)| !named[..*nth].contains(name))
            .map(|(_, n)| n)
            .collect(),
    };
    let mut jobs = Vec::new();
    for name in wanted {
        let disk = point.disk(permit, name).map_err(|error| not_restorable(point, name, error))?;
        if args.format == TargetFormat::Qcow2 && !disk.size().0.is_multiple_of(SECTOR) {
            return Err(Error::usage(format!(
                "disk {name} has {} bytes, which are no whole sectors of {SECTOR}, and qcow2 holds only those; restore \
                 it with --format raw",
                disk.size()
            )));
        }
        let target = args.to.join(format!("{name}.{}", args.format.name()));
        jobs.push(Job { disk, file: Staged::new(target, existing(args))? });
    }
    Ok(jobs)
}

/// Why a disk cannot be restored: a temporary one is there but not stored.
fn not_restorable(point: &OpenPoint, name: &DiskName, error: VaultError) -> Error {
    let known = |disk: &vmkeep::model::DiskRecord| disk.description.name == *name && disk.stored.is_none();
    if matches!(error, VaultError::NoSuchDisk { .. }) && point.point().disks.iter().any(known) {
        return Error::usage(format!("disk {name} is a temporary disk: its content is not stored"));
    }
    error.into()
}

/// The VM's configuration, when it is stored and the whole VM is restored, with its file.
fn config<'p>(
    permit: &Permit<op::Restore>,
    point: &'p OpenPoint,
    args: &RestoreArgs,
) -> Result<Option<(Staged, &'p [u8])>, Error> {
    let content = point.config(permit)?.filter(|_| args.disks.is_empty());
    content.map(|content| Ok((Staged::new(args.to.join("config"), existing(args))?, content))).transpose()
}

fn existing(args: &RestoreArgs) -> Existing {
    if args.force { Existing::Replace } else { Existing::Refuse }
}

/// Makes the folder for its owner alone: it will hold what the vault kept encrypted.
fn make_folder(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::File { what: "make folder", path: path.to_owned(), source })
}

impl Job {
    fn create(&mut self, format: TargetFormat) -> Result<Box<dyn BlockWrite>, Error> {
        let (name, size): (_, ByteLen) = (self.disk.name().clone(), self.disk.size());
        self.file.create(
            |path| -> Result<Box<dyn BlockWrite>, DiskError> {
                Ok(match format {
                    TargetFormat::Raw => Box::new(RawTarget::create(path, size, Overwrite::Refuse)?),
                    TargetFormat::Qcow2 => Box::new(Qcow2Target::create(path, size, Overwrite::Refuse)?),
                })
            },
            |error| matches!(error, DiskError::Exists { .. }),
            |source| Error::Target { disk: name, source },
        )
    }

    fn publish(self, copied: Copied, format: TargetFormat) -> Result<Restored, Error> {
        let path: PathBuf = self.file.publish()?;
        Ok(Restored {
            name: self.disk.name().to_string(),
            path: path.display().to_string(),
            format: format.name(),
            size: copied.size.0,
            bytes_written: copied.written.0,
        })
    }
}

fn write_config(file: &mut Staged, content: &[u8]) -> Result<(), Error> {
    let path = file.target().to_owned();
    let failed = |source| Error::File { what: "write", path, source };
    let make = |path: &Path| -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    file.create(make, |error| error.kind() == io::ErrorKind::AlreadyExists, failed)
}

/// The temporary disks that were left out.
fn not_stored(point: &OpenPoint, args: &RestoreArgs) -> Vec<String> {
    let left_out = point.point().disks.iter().filter(|disk| disk.stored.is_none() && args.disks.is_empty());
    left_out.map(|disk| disk.description.name.to_string()).collect()
}

fn print(context: &Context<'_>, summary: Summary) {
    for disk in &summary.disks {
        let (size, written) = (bytes::show(disk.size), bytes::show(disk.bytes_written));
        context.output.text(format!("{}: {size}, {written} written to {}", disk.name, disk.path));
    }
    if let Some(path) = &summary.config {
        context.output.text(format!("configuration: written to {path}"));
    }
    for name in &summary.not_stored {
        context.output.text(format!("{name}: a temporary disk, not stored and so not restored"));
    }
    context.output.text(format!(
        "restored {}: {} written, in {}.{:03} s",
        summary.point,
        bytes::show(summary.bytes_written),
        summary.duration_ms / 1000,
        summary.duration_ms % 1000,
    ));
    context.output.json(&summary);
}
