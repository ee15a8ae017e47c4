//! `vmkeep init`.

use serde::Serialize;
use vmkeep::envelope::Argon2Params;
use vmkeep::vault::{Ports, Vault};

use crate::args::InitArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::key::{self, KeySource};
use crate::output;

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vault: String,
    folder: String,
    key: &'static str,
    key_file: Option<String>,
    key_file_made: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &InitArgs) -> Result<Outcome, Error> {
    let source = context.key_source()?;
    let folder = &args.vault.vault;
    let params = argon2_params(args, source)?;
    let key_file = source.key_file();
    if let Some(path) = key_file {
        key::check_apart(folder, path)?;
    }

    let (key, key_file_made) = source.open_or_make(params)?;
    let vault = Vault::create_folder(folder, key, Ports::default()).inspect_err(|_| {
        if let Some(path) = key_file.filter(|_| key_file_made) {
            output::note(&format!(
                "key file {} was made; the next init will use it, or delete it",
                path.display()
            ));
        }
    })?;

    let shown = key_file.map(|path| path.display().to_string());
    context.output.text(format!("made vault {} in {}", vault.id(), folder.display()));
    if let Some(path) = &shown {
        let made = if key_file_made { "made" } else { "uses" };
        context.output.text(format!(
            "{made} key file {path}: keep a copy of it in another place; without it the vault cannot be read"
        ));
    }
    context.output.json(&Summary {
        vault: vault.id().to_string(),
        folder: folder.display().to_string(),
        key: source.kind(),
        key_file: shown,
        key_file_made,
    });
    Ok(Outcome::Good)
}

fn argon2_params(args: &InitArgs, source: KeySource<'_>) -> Result<Argon2Params, Error> {
    let default = Argon2Params::default();
    let given = [args.argon2_memory_kib, args.argon2_passes, args.argon2_lanes];
    if matches!(source, KeySource::File(_) | KeySource::Store(..)) && given.iter().any(Option::is_some) {
        return Err(Error::usage("--argon2 options are for passphrases; other keys do not need them"));
    }
    let [memory_kib, passes, lanes] = given;
    Argon2Params::new(
        memory_kib.unwrap_or(default.memory_kib()),
        passes.unwrap_or(default.passes()),
        lanes.unwrap_or(default.lanes()),
    )
    .map_err(Error::usage)
}
