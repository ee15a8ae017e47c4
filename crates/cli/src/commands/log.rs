//! `vmkeep log`.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::Serialize;
use vmkeep::protect::NoteWords;
use vmkeep::vault::{
    Checked, Checkpoint, Coverage, JournalEntry, Log, LogEntry, LogFault, LogStream, RoleChange, Vault,
};

use crate::args::LogArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome, chain};
use crate::output;
use crate::table::{Column, Table};

/// Longest checkpoint file that is read, in bytes: what a record may hold, and its ends.
const CHECKPOINT_MAX: u64 = (16 << 20) + 1024;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Entry {
        /// Whose journal: `vault`, `roles`, or that of a VM or line of points.
        journal: String,
        vm: Option<&'a str>,
        number: u64,
        at: String,
        at_ms: i64,
        by: Option<&'a str>,
        kind: &'static str,
        what: String,
    },
    Fault {
        what: String,
        causes: Vec<String>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    /// Entries that were shown, and all there are.
    shown: u64,
    entries: u64,
    faults: usize,
    /// When the checkpoint was taken that it was held against.
    seen: Option<String>,
    /// Whether a new one was written.
    checkpoint_written: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &LogArgs) -> Result<Outcome, Error> {
    check_kinds(&args.kinds)?;
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, args.vm.as_ref())?;
    let seen = match &args.checkpoint {
        Some(path) => read(&vault, path)?,
        None => None,
    };
    let log = vault.log(seen.as_ref())?;
    let shown = show(context, args, &log, vault.clock().now().0);
    for fault in &log.faults {
        let causes = if let LogFault::Broken { error, .. } = fault { chain(error) } else { Vec::new() };
        let what = fault.to_string();
        output::warn(&what, &causes);
        context.output.json(&Line::Fault { what, causes });
    }
    // What was not as it was seen stays a fault until somebody decides otherwise: the old checkpoint stays.
    let written = match &args.checkpoint {
        Some(path) if log.faults.is_empty() => {
            write(&vault, path, &log.checkpoint)?;
            true
        }
        _ => false,
    };
    context.output.text(match (&seen, log.faults.len()) {
        (_, faults) if faults > 0 => {
            "the log is not what it was: entries or points were removed or changed in the store".to_owned()
        }
        (Some(seen), _) => format!("nothing that was seen at {} was removed or changed", seen.at()),
        (None, _) => "every journal is a whole chain of entries".to_owned(),
    });
    context.output.json(&Summary {
        shown,
        entries: log.entries.len() as u64,
        faults: log.faults.len(),
        seen: seen.map(|seen| seen.at().to_string()),
        checkpoint_written: written,
    });
    Ok(if log.faults.is_empty() { Outcome::Good } else { Outcome::Damage })
}

/// Shows the entries that are asked for; gives how many those are.
fn show(context: &Context<'_>, args: &LogArgs, log: &Log, now: i64) -> u64 {
    let since = args.last.map_or(i64::MIN, |last| now.saturating_sub(last));
    let mut table = Table::new(["TIME (UTC)", "BY", "OF", "WHAT"].map(Column::Left));
    let mut shown = 0;
    for LogEntry { stream, record } in &log.entries {
        let vm = vm_of(stream, &record.entry);
        let (kind, what) = describe(&record.entry);
        let is_wanted = record.at.0 >= since
            && args.vm.as_ref().is_none_or(|wanted| vm.as_deref() == Some(wanted.as_str()))
            && args.by.as_ref().is_none_or(|wanted| record.by.as_ref() == Some(wanted))
            && (args.kinds.is_empty() || args.kinds.iter().any(|wanted| wanted == kind));
        if !is_wanted {
            continue;
        }
        shown += 1;
        let by = record.by.as_ref().map(vmkeep::model::Principal::as_str);
        let at = record.at.to_string();
        table.row([at.clone(), by.unwrap_or("?").to_owned(), stream.to_string(), what.clone()]);
        context.output.json(&Line::Entry {
            journal: stream.to_string(),
            vm: vm.as_deref(),
            number: record.number,
            at,
            at_ms: record.at.0,
            by,
            kind,
            what,
        });
    }
    if shown > 0 {
        table.lines().for_each(|line| context.output.text(line));
    }
    shown
}

/// The VM that an entry is about, when it is about one.
fn vm_of(stream: &LogStream, entry: &JournalEntry) -> Option<String> {
    match (stream, entry) {
        (LogStream::Vm { vm, .. } | LogStream::Damage { vm, .. }, _) => Some(vm.to_string()),
        (_, JournalEntry::Denied { scope, .. }) => scope.clone(),
        (_, JournalEntry::Note { topic, body }) => NoteWords::of(topic, body).vm,
        _ => None,
    }
}

/// The kinds of entries, as `--kind` and programs name them; notes have kinds of their own.
const KINDS: [&str; 21] = [
    "vault-created",
    "forgotten",
    "undeleted",
    "held",
    "released",
    "closed",
    "session-ended",
    "pin-broken",
    "swept",
    "suspect",
    "kek-rotated",
    "bek-rotated",
    "keys-destroyed",
    "client-granted",
    "client-withdrawn",
    "denied",
    "roles",
    "verified",
    "damaged",
    "repaired",
    "unknown",
];

fn check_kinds(kinds: &[String]) -> Result<(), Error> {
    let known = || KINDS.into_iter().chain(NoteWords::KINDS);
    match kinds.iter().find(|kind| !known().any(|known| known == kind.as_str())) {
        None => Ok(()),
        Some(kind) => {
            let known: Vec<&str> = known().collect();
            Err(Error::usage(format!("no entry is of kind {kind:?}; there are {}", known.join(", "))))
        }
    }
}

/// The kind of an entry, and the entry in words.
fn describe(entry: &JournalEntry) -> (&'static str, String) {
    use JournalEntry as E;
    match entry {
        E::VaultCreated => ("vault-created", "made the vault".to_owned()),
        E::Forgotten { number } => ("forgotten", format!("forgot point {number}")),
        E::Undeleted { number } => ("undeleted", format!("took back that point {number} was forgotten")),
        E::Held { number } => ("held", format!("held point {number}")),
        E::Released { number } => ("released", format!("released point {number}")),
        E::Closed { number } => ("closed", format!("ended the protection, at number {number}")),
        E::Voided { number, session } => {
            ("session-ended", format!("ended backup {session}, which wanted number {number}"))
        }
        E::PinBroken { number, pin } => ("pin-broken", format!("broke pin {pin} of point {number}")),
        E::Swept { ranges, bytes } => {
            let numbers: Vec<String> = ranges
                .iter()
                .map(
                    |(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") },
                )
                .collect();
            ("swept", format!("removed {} for good, {bytes} bytes", numbers.join(", ")))
        }
        E::Suspect { disk, from, to, .. } => (
            "suspect",
            format!("found that change tracking of {disk} had missed a change: points {from} to {to}"),
        ),
        E::KekRotated { added, removed, .. } => {
            ("kek-rotated", format!("changed the vault's key: {added} wraps made, {removed} removed"))
        }
        E::BekRotated { epoch } => ("bek-rotated", format!("made new keys, epoch {epoch}")),
        E::KeysDestroyed { epoch, points, .. } => (
            "keys-destroyed",
            format!("destroyed the data key of epoch {epoch}, and with it {points} points"),
        ),
        E::ClientGranted { kek, added } => ("client-granted", format!("gave the client {kek} {added} keys")),
        E::ClientWithdrawn { kek, removed } => {
            ("client-withdrawn", format!("took {removed} keys from the client {kek}"))
        }
        E::Denied { operation, scope, .. } => {
            let of = scope.as_deref().unwrap_or("the vault");
            ("denied", format!("was refused to {operation} on {of}"))
        }
        E::Authority(change) => ("roles", role_change(change)),
        E::Note { topic, body } => {
            let words = NoteWords::of(topic, body);
            (words.kind, words.what)
        }
        E::Verified(told) => ("verified", verified(told)),
        E::Damaged { newest, packs } => {
            ("damaged", format!("found what point {newest} has lost, in {} packs", packs.len()))
        }
        E::Repaired { copies, blocks, records } => (
            "repaired",
            format!("put back {copies} copies of metadata, {blocks} blocks or patches and {records} records"),
        ),
        E::Unknown { kind } => {
            ("unknown", format!("did something of kind {kind}, which a later version knows"))
        }
        _ => ("unknown", "did something that this version has no words for".to_owned()),
    }
}

fn verified(told: &Coverage) -> String {
    let Checked { objects, bytes, damaged, .. } = &told.last;
    let found = match damaged {
        0 => "nothing damaged".to_owned(),
        damaged => format!("{damaged} of them damaged"),
    };
    let until = told.until().map_or_else(String::new, |until| format!("; verified until {until}"));
    format!("checked {objects} objects, {}: {found}{until}", bytes::show(*bytes))
}

fn role_change(change: &RoleChange) -> String {
    match change {
        RoleChange::Define(role) => format!("made or changed the role {}", role.name),
        RoleChange::Grant { who, role } => format!("gave {who} the role {role}"),
        RoleChange::Revoke { who, role } => format!("took the role {role} from {who}"),
        RoleChange::Request { operation, scope, .. } => {
            format!("asked for the approval of {operation} on {scope}")
        }
        RoleChange::Approve(approval) => {
            format!("approved {} on {} by {}", approval.operation, approval.scope, approval.who)
        }
        _ => "changed who may do what, in a way that this version has no words for".to_owned(),
    }
}

/// The checkpoint in a file; `None` when there is no such file yet.
fn read(vault: &Vault, path: &Path) -> Result<Option<Checkpoint>, Error> {
    let failed = |source| Error::File { what: "read checkpoint", path: path.to_owned(), source };
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if found.len() > CHECKPOINT_MAX {
        let what = "longer than a checkpoint may be (16 MiB)".to_owned();
        return Err(Error::Content { path: path.to_owned(), what });
    }
    let checkpoint = vault.open_checkpoint(&fs::read(path).map_err(failed)?);
    checkpoint.map(Some).map_err(|error| {
        let what = format!("not a checkpoint of this vault, or changed: {}", chain(&error).join(": "));
        Error::Content { path: path.to_owned(), what }
    })
}

/// Writes the file anew: whole, or not at all.
fn write(vault: &Vault, path: &Path, checkpoint: &Checkpoint) -> Result<(), Error> {
    let sealed = vault.seal_checkpoint(checkpoint)?;
    let failed = |source| Error::File { what: "write checkpoint", path: path.to_owned(), source };
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let written = fs::File::create(&partial)
        .and_then(|mut file| file.write_all(&sealed).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(failed)
}
