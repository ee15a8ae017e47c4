//! `vmkeep forget`.

use serde::Serialize;

use crate::args::ForgetArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    point: String,
    forgotten: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &ForgetArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let forgotten = vault.forget(&args.point)?;
    let point = format!("{}@{}", forgotten.vm, forgotten.id.number);
    context
        .output
        .text(format!("forgot {point}; it can be restored by its number until its space is taken back"));
    context.output.json(&Summary { point, forgotten: forgotten.forgotten });
    Ok(Outcome::Good)
}
