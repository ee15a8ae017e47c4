//! `vmkeep keys rotate-kek`.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;
use vmkeep::envelope::{Argon2Params, KeyVault};
use vmkeep::vault::{KekEvent, KekRotation, Ports, Vault, VaultError};

use super::super::sweep;
use crate::args::RotateKekArgs;
use crate::context::Context;
use crate::error::{Error, Outcome, chain};
use crate::key::{self, KeySource};
use crate::output::{self, Output};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    /// Keys are wrapped by the new key.
    Wrapping {
        done: u64,
        of: u64,
    },
    /// What was wrapped is read back and compared.
    Checking {
        done: u64,
        of: u64,
    },
    /// Wraps by the old key are removed.
    Removing {
        done: u64,
        of: u64,
    },
    Damaged {
        causes: Vec<String>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    added: u64,
    removed: u64,
    damaged: usize,
    /// Data keys with a tombstone that are still there.
    unfinished: u64,
    /// The old key opened the vault no more: an earlier run had come that far.
    resumed: bool,
    key: &'static str,
    key_file: Option<String>,
    key_file_made: bool,
}

/// The vault with its two keys.
struct Keys {
    vault: Vault,
    /// The old key, when it is the new one that opens the vault.
    from: Option<Arc<dyn KeyVault>>,
    /// The new key, when it was needed to open the vault.
    to: Option<Arc<dyn KeyVault>>,
}

pub(super) fn run(context: &Context<'_>, args: &RotateKekArgs) -> Result<Outcome, Error> {
    let folder = &args.vault.vault;
    let new = KeySource::new_one(&args.new, &context.key.stores)?;
    if let Some(path) = new.key_file() {
        key::check_apart(folder, path)?;
    }
    let Keys { vault, from, to } = open(context, folder, new)?;
    let resumed = from.is_some();
    let permit = context.permit(&vault, None)?;
    let (to, made) = match to {
        Some(to) => (to, false),
        None => {
            let (to, made) = new.open_or_make(Argon2Params::default())?;
            // A passphrase that opens something goes on with the salt of that: so one that is the old one is found out.
            match Vault::open_folder(folder, Arc::clone(&to), Ports::default()) {
                Ok(_) | Err(VaultError::WrongKey { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            (to, made)
        }
    };
    let key_file = new.key_file().map(|path| path.display().to_string());
    if let Some(path) = key_file.as_ref().filter(|_| made) {
        context.output.text(format!("made key file {path}"));
    }
    let progress = Progress::new(context.output);
    let rotated = vault.rotate_kek(&permit, to, from, context.cancel, &mut |event| progress.event(event));
    progress.finish();
    let done = rotated.inspect_err(|error| {
        if error.is_cancelled() {
            output::note("stopped; keep both keys, and give the same command again to go on");
        }
    })?;
    report(context, &done, key_file.as_deref())?;
    context.output.json(&Summary {
        added: done.added,
        removed: done.removed,
        damaged: done.damaged.len(),
        unfinished: done.unfinished,
        resumed,
        key: new.kind(),
        key_file,
        key_file_made: made,
    });
    Ok(if done.damaged.is_empty() { Outcome::Good } else { Outcome::Damage })
}

/// Opens the vault with the old key; or with the new one, when an earlier run came so far that the old one opens it no more.
fn open(context: &Context<'_>, folder: &Path, new: KeySource<'_>) -> Result<Keys, Error> {
    let old = context.key_source()?.open()?;
    let refused = match Vault::open_folder(folder, Arc::clone(&old), Ports::default()) {
        Ok(vault) => return Ok(Keys { vault, from: None, to: None }),
        Err(error @ VaultError::WrongKey { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    if new.key_file().is_some_and(|path| !path.exists()) {
        return Err(refused.into());
    }
    let to = new.open()?;
    match Vault::open_folder(folder, Arc::clone(&to), Ports::default()) {
        Ok(vault) => Ok(Keys { vault, from: Some(old), to: Some(to) }),
        Err(VaultError::WrongKey { .. }) => Err(refused.into()),
        Err(error) => Err(error.into()),
    }
}

fn report(context: &Context<'_>, done: &KekRotation, key_file: Option<&str>) -> Result<(), Error> {
    let output = context.output;
    for error in &done.damaged {
        let causes = chain(error);
        output::warn("a key object of the old key is damaged and stays as it is", &causes);
        output.json(&Line::Damaged { causes });
    }
    output.text(match (done.added, done.removed) {
        (0, 0) => "nothing was wrapped by the old key any more".to_owned(),
        (added, removed) => format!(
            "wrapped {} by the new key, and removed {} of the old one",
            sweep::count(added, "key"),
            sweep::count(removed, "wrap")
        ),
    });
    if done.unfinished > 0 {
        output.text(format!(
            "{} with a tombstone still there: vmkeep keys destroy finishes destroying {}",
            sweep::count(done.unfinished, "data key"),
            if done.unfinished == 1 { "it" } else { "them" }
        ));
    }
    if done.left > 0 {
        return Err(Error::KeysLeft(done.left));
    }
    if let Some(path) = key_file {
        output.text(format!(
            "the vault opens with {path} from now on: keep a copy of it in another place; without it nothing can be read"
        ));
    } else {
        output.text("the vault opens with the new key from now on; without it nothing can be read");
    }
    output.text("whoever kept the old key and copies of the old key objects can still open what they opened");
    Ok(())
}

/// Tells how far it is: with a bar when stderr is a terminal, or with JSON lines.
struct Progress<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
}

impl<'a> Progress<'a> {
    fn new(output: &'a Output) -> Self {
        let shown = !output.is_json() && std::io::stderr().is_terminal();
        let bar = shown.then(|| {
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(sweep::style())
        });
        Self { output, bar }
    }

    fn event(&self, event: KekEvent) {
        let (what, done, of, line) = match event {
            KekEvent::Wrapping { done, of } => ("wrapping keys", done, of, Line::Wrapping { done, of }),
            KekEvent::Checking { done, of } => ("reading them back", done, of, Line::Checking { done, of }),
            KekEvent::Removing { done, of } => ("removing old wraps", done, of, Line::Removing { done, of }),
            _ => return,
        };
        if let Some(bar) = &self.bar {
            bar.set_length(of);
            bar.set_position(done);
            bar.set_message(what);
        }
        if sweep::is_told(done, of) {
            self.output.json(&line);
        }
    }

    /// Leaves the terminal to what is printed next.
    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
