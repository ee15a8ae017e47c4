//! `vmkeep close`.

use serde::Serialize;

use crate::args::CloseArgs;
use crate::confirm::confirm;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vm: String,
    closed: bool,
    was_closed: bool,
    /// Points that are not forgotten: no sweep removes them.
    kept: usize,
    forgotten: usize,
}

pub(crate) fn run(context: &Context<'_>, args: &CloseArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vm.vault.vault)?;
    let vm = &args.vm.vm;
    let permit = context.permit(&vault, Some(vm))?;
    let points = vault.history(vm)?;
    let forgotten = points.iter().filter(|(_, point)| point.as_ref().is_ok_and(|p| p.forgotten)).count();
    let kept = points.len() - forgotten;
    let question = format!(
        "Points of {vm} that stay: {kept}; forgotten, and then the newest of them can be swept too: {forgotten}. A backup \
         that runs is ended, and the next one begins anew. End the protection of {vm}?"
    );
    confirm(context.output, args.yes, &question)?;
    let was_closed = !vault.close(&permit, vm)?;
    context.output.text(if was_closed {
        format!("the protection of {vm} was ended before")
    } else {
        format!("ended the protection of {vm}")
    });
    context.output.text(format!(
        "points that stay until they are forgotten: {kept}; forgotten, which the next sweep may remove: {forgotten}"
    ));
    context.output.json(&Summary { vm: vm.to_string(), closed: true, was_closed, kept, forgotten });
    Ok(Outcome::Good)
}
