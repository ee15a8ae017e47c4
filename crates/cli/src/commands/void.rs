//! `vmkeep void`.

use serde::Serialize;

use crate::args::VoidArgs;
use crate::confirm::confirm;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    session: String,
    ended: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &VoidArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit(&vault, None)?;
    let question = format!(
        "Session {} can never become a point then, and what it has stored cannot be gone on from. End it?",
        args.session
    );
    confirm(context.output, args.yes, &question)?;
    if !vault.void_session(&permit, args.session)? {
        return Err(Error::SessionOver(args.session));
    }
    let session = args.session.to_string();
    context.output.text(format!("ended session {session}; the next sweep removes what it has stored"));
    context.output.json(&Summary { session, ended: true });
    Ok(Outcome::Good)
}
