//! `vmkeep pins`.

use serde::Serialize;
use vmkeep::vault::PinInfo;

use crate::args::VmArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::table::{Column, Table};

#[derive(Serialize)]
#[serde(tag = "type", rename = "pin")]
struct PinLine {
    point: String,
    pin: String,
    since: String,
    since_ms: i64,
    why: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vm: String,
    pins: usize,
}

pub(crate) fn run(context: &Context<'_>, args: &VmArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, Some(&args.vm))?;
    let pins = vault.pins(&args.vm)?;
    let mut table = Table::new(["POINT", "SINCE (UTC)", "PIN", "WHY"].map(Column::Left));
    for PinInfo { id, number, at, why } in &pins {
        let (point, pin, since) = (format!("{}@{number}", args.vm), id.to_string(), at.to_string());
        table.row([point.clone(), since.clone(), pin.clone(), why.clone()]);
        context.output.json(&PinLine { point, pin, since, since_ms: at.0, why: why.clone() });
    }
    if pins.is_empty() {
        context.output.text("no pins");
    } else {
        table.lines().for_each(|line| context.output.text(line));
    }
    context.output.json(&Summary { vm: args.vm.to_string(), pins: pins.len() });
    Ok(Outcome::Good)
}
