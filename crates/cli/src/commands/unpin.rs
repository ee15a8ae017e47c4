//! `vmkeep unpin`.

use serde::Serialize;

use crate::args::UnpinArgs;
use crate::confirm::confirm;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    point: String,
    pin: String,
    broken: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &UnpinArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit(&vault, Some(&args.point.vm))?;
    let point = vault.point(&args.point)?.reference();
    let question =
        format!("A restore of {point} that still runs may find it gone and fail. Break pin {}?", args.pin);
    confirm(context.output, args.yes, &question)?;
    if !vault.break_pin(&permit, &point, args.pin)? {
        return Err(Error::NoSuchPin(point, args.pin));
    }
    let (point, pin) = (point.to_string(), args.pin.to_string());
    context.output.text(format!("broke pin {pin} of {point}"));
    context.output.json(&Summary { point, pin, broken: true });
    Ok(Outcome::Good)
}
