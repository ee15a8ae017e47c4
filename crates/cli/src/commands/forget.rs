//! `vmkeep forget`.

use serde::Serialize;
use vmkeep::model::PointSelector;
use vmkeep::protect::Protection;

use crate::args::PointArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    point: String,
    forgotten: bool,
    /// It stays until there is a newer one or the VM is closed.
    newest: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &PointArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit(&vault, Some(&args.point.vm))?;
    let number = match args.point.selector {
        // Also of a point that cannot be read.
        PointSelector::Number(number) => number,
        PointSelector::Latest => vault.point(&args.point)?.point().id.number,
    };
    Protection::open(&vault)?.may_forget(&args.point.vm, number)?;
    let forgotten = vault.forget(&permit, &args.point)?;
    let point = format!("{}@{}", forgotten.vm, forgotten.id.number);
    let newest = vault.newest(&forgotten.vm)? == Some(forgotten.id.number);
    context.output.text(format!(
        "forgot {point}; until a sweep has taken it, it can be restored by its number, and vmkeep undelete takes this back"
    ));
    if newest {
        context.output.text(format!(
            "{point} is the newest point of {}: it stays until there is a newer one or the VM is closed",
            forgotten.vm
        ));
    }
    context.output.json(&Summary { point, forgotten: forgotten.forgotten, newest });
    Ok(Outcome::Good)
}
