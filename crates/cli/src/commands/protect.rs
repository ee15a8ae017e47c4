//! `vmkeep protect`.

use serde::Serialize;
use vmkeep::model::op;
use vmkeep::protect::Protection;
use vmkeep::retention::weakenings;

use crate::args::ProtectArgs;
use crate::confirm::{confirm, word};
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary<'a> {
    vm: String,
    policy: &'a str,
    version: u32,
    state: &'static str,
    /// Points up to this number were looked at by somebody.
    trusted_up_to: Option<u64>,
}

pub(crate) fn run(context: &Context<'_>, args: &ProtectArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vm.vault.vault)?;
    let vm = &args.vm.vm;
    let mut protection = Protection::open(&vault)?;
    if let Some(policy) = &args.policy {
        let to = protection.policy(policy)?;
        let weaker = match protection.instance(vm) {
            Ok(instance) => weakenings(&protection.policy(&instance.policy)?.policy, &to.policy),
            Err(_) => Vec::new(),
        };
        let shorten = if weaker.is_empty() {
            None
        } else {
            let question = format!(
                "Policy {policy} keeps less than that of {vm} does ({}). Put {vm} under {policy}?",
                weaker.join("; ")
            );
            confirm(context.output, args.yes, &question)?;
            Some(context.permit::<op::ShortenRetention>(&vault, Some(vm))?)
        };
        let confirmed = word(&Protection::long_retention(&to.policy), args.confirm.as_deref())?;
        let permit = context.permit(&vault, Some(vm))?;
        protection.protect_confirmed(&permit, shorten.as_ref(), vm, policy, confirmed.as_ref())?;
        context.output.text(format!("{vm} is under policy {policy}"));
    }
    if let Some(number) = args.trust {
        protection.trust(&context.permit(&vault, Some(vm))?, vm, number)?;
        context.output.text(format!("the times of the points of {vm} up to {number} are taken as right"));
    }
    let instance = protection.instance(vm)?;
    context.output.json(&Summary {
        vm: vm.to_string(),
        policy: &instance.policy,
        version: protection.policy(&instance.policy)?.version,
        state: super::life::name(instance.state),
        trusted_up_to: instance.trusted_up_to.map(|number| number.0),
    });
    Ok(Outcome::Good)
}
