//! `vmkeep release`.

use serde::Serialize;

use crate::args::PointArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    point: String,
    held: bool,
    forgotten: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &PointArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let point = vault.release(&context.permit(&vault, Some(&args.point.vm))?, &args.point)?;
    let forgotten = point.forgotten;
    let point = format!("{}@{}", point.vm, point.id.number);
    let then = if forgotten { "; it is forgotten, and the next sweep may remove it" } else { "" };
    context.output.text(format!("{point} is not held{then}"));
    context.output.json(&Summary { point, held: false, forgotten });
    Ok(Outcome::Good)
}
