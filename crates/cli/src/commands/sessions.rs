//! `vmkeep sessions`.

use serde::Serialize;
use vmkeep::vault::{OpenSession, VaultError};

use crate::args::VmArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::table::{Column, Table};
use crate::{bytes, duration};

#[derive(Serialize)]
#[serde(tag = "type", rename = "session")]
struct SessionLine {
    session: String,
    began: String,
    began_ms: i64,
    /// The number that its point would have.
    number: u64,
    /// What a backup that goes on from it would find.
    bytes_stored: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vm: String,
    sessions: usize,
}

pub(crate) fn run(context: &Context<'_>, args: &VmArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, Some(&args.vm))?;
    // A name that the vault does not know is told as such.
    vault.newest(&args.vm)?;
    let now = vault.clock().now().0;
    let mut table = Table::new(
        ["SESSION", "BEGAN (UTC)"]
            .map(Column::Left)
            .into_iter()
            .chain(["AGO", "STORED"].map(Column::Right))
            .chain([Column::Left("POINT")]),
    );
    let mut sessions = 0;
    for OpenSession { id, target, opened } in vault.open_sessions(&args.vm)? {
        context.cancel.check()?;
        let bytes_stored = match vault.stored_by(&args.vm, id) {
            // It ended just now.
            Err(VaultError::NoSuchSession { .. }) => continue,
            stored => stored?,
        };
        let (session, began) = (id.to_string(), opened.to_string());
        let ago = duration::show(now.saturating_sub(opened.0));
        let point = format!("{}@{target}", args.vm);
        table.row([session.clone(), began.clone(), ago, bytes::show(bytes_stored), point]);
        let line = SessionLine { session, began, began_ms: opened.0, number: target.0, bytes_stored };
        context.output.json(&line);
        sessions += 1;
    }
    if sessions == 0 {
        context.output.text(format!("no backup of {} is running or was interrupted", args.vm));
    } else {
        table.lines().for_each(|line| context.output.text(line));
    }
    context.output.json(&Summary { vm: args.vm.to_string(), sessions });
    Ok(Outcome::Good)
}
