//! `vmkeep undelete`.

use serde::Serialize;

use crate::args::PointArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    point: String,
    forgotten: bool,
    was_forgotten: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &PointArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let was_forgotten = vault.point(&args.point)?.point().forgotten;
    let point = vault.undelete(&context.permit(&vault, Some(&args.point.vm))?, &args.point)?;
    let forgotten = point.forgotten;
    let point = format!("{}@{}", point.vm, point.id.number);
    context.output.text(if was_forgotten {
        format!("{point} is no longer forgotten")
    } else {
        format!("{point} was not forgotten")
    });
    context.output.json(&Summary { point, forgotten, was_forgotten });
    Ok(Outcome::Good)
}
