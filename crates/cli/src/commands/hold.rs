//! `vmkeep hold`.

use serde::Serialize;

use crate::args::PointArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    point: String,
    held: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &PointArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let point = vault.hold(&context.permit(&vault, Some(&args.point.vm))?, &args.point)?;
    let point = format!("{}@{}", point.vm, point.id.number);
    context.output.text(format!("{point} is held: no sweep removes it until vmkeep release {point}"));
    context.output.json(&Summary { point, held: true });
    Ok(Outcome::Good)
}
