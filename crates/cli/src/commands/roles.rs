//! `vmkeep roles`.

use serde::Serialize;
use vmkeep::model::{Principal, Role, Scope, Timestamp, VmName};
use vmkeep::vault::{RoleChange, Vault};

use crate::args::{RolesArgs, RolesCommand};
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::table::{Column, Table};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Role { role: String, allows: Vec<&'static str> },
    Grant { who: String, roles: Vec<String> },
    Approval { who: String, operation: &'static str, scope: String, by: String, until: String, until_ms: i64 },
    Request { who: String, operation: &'static str, scope: String, at: String, at_ms: i64 },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    /// Whether protected operations need a second person.
    guarded: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &RolesArgs) -> Result<Outcome, Error> {
    match &args.command {
        RolesCommand::List(args) => list(context, &context.open_vault(&args.vault)?)?,
        RolesCommand::Grant(args) => {
            let vault = context.open_vault(&args.vault.vault)?;
            vault.grant_role(&context.permit(&vault, None)?, &args.who, &args.role)?;
            done(context, &vault, &format!("{} has the role {}", args.who, args.role))?;
        }
        RolesCommand::Revoke(args) => {
            let vault = context.open_vault(&args.vault.vault)?;
            vault.revoke_role(&context.permit(&vault, None)?, &args.who, &args.role)?;
            done(context, &vault, &revoked(&vault, &args.who, &args.role)?)?;
        }
        RolesCommand::Define(args) => {
            let vault = context.open_vault(&args.vault.vault)?;
            let role = Role { name: args.role.clone(), allows: args.allows() };
            vault.define_role(&context.permit(&vault, None)?, role)?;
            done(context, &vault, &format!("role {} is defined", args.role))?;
        }
        RolesCommand::Request(args) => {
            let vault = context.open_vault(&args.vault.vault)?;
            let permit = context.permit(&vault, args.vm.as_ref())?;
            vault.request_approval(&permit, args.operation)?;
            let text = format!("asked for the approval of {} on {}", args.operation, permit.scope());
            done(context, &vault, &text)?;
        }
        RolesCommand::Approve(args) => {
            let vault = context.open_vault(&args.vault.vault)?;
            let permit = context.permit(&vault, args.vm.as_ref())?;
            let until = Timestamp(vault.clock().now().0.saturating_add(args.lasts_ms));
            let approval = vault.approve(&permit, &args.who, args.operation, until)?;
            let text = format!(
                "{} may {} on {} until {}",
                approval.who, approval.operation, approval.scope, approval.until
            );
            done(context, &vault, &text)?;
        }
    }
    Ok(Outcome::Good)
}

fn done(context: &Context<'_>, vault: &Vault, text: &str) -> Result<(), Error> {
    context.output.text(text);
    context.output.json(&Summary { guarded: vault.roles()?.is_guarded() });
    Ok(())
}

fn revoked(vault: &Vault, who: &Principal, role: &str) -> Result<String, Error> {
    let kept = vault.roles()?.grants().any(|(whose, roles)| whose == who && roles.contains(role));
    Ok(if kept {
        format!("{who} keeps the role {role}: somebody must be able to grant")
    } else {
        format!("{who} does not have the role {role}")
    })
}

fn list(context: &Context<'_>, vault: &Vault) -> Result<(), Error> {
    context.may_view(vault, None)?;
    let (roles, now) = (vault.roles()?, vault.clock().now());
    let output = context.output;
    let mut table = Table::new(["ROLE", "ALLOWS"].map(Column::Left));
    for Role { name, allows } in roles.roles() {
        let allows: Vec<&str> = allows.iter().map(|operation| operation.name()).collect();
        table.row([name.clone(), allows.join(" ")]);
        output.json(&Line::Role { role: name, allows });
    }
    table.lines().for_each(|line| output.text(line));
    let mut table = Table::new(["USER", "ROLES"].map(Column::Left));
    for (who, of) in roles.grants() {
        let of: Vec<String> = of.iter().cloned().collect();
        table.row([who.to_string(), of.join(" ")]);
        output.json(&Line::Grant { who: who.to_string(), roles: of });
    }
    output.text("");
    table.lines().for_each(|line| output.text(line));
    for approval in roles.approvals(now) {
        let (who, by) = (approval.who.to_string(), approval.by.to_string());
        let (scope, until) = (approval.scope.to_string(), approval.until.to_string());
        output.text(format!("approved: {who} may {} on {scope} until {until}, by {by}", approval.operation));
        let (operation, until_ms) = (approval.operation.name(), approval.until.0);
        output.json(&Line::Approval { who, operation, scope, by, until, until_ms });
    }
    for (at, change) in vault.role_changes()? {
        let RoleChange::Request { who, operation, scope } = change else { continue };
        if roles.approvals(now).any(|a| a.who == who && a.operation == operation && a.scope.covers(&scope)) {
            continue;
        }
        output.text(format!(
            "asked for: {who} wants to {operation} on {scope}, since {at}; {}",
            advice(&who, &scope)
        ));
        output.json(&Line::Request {
            who: who.to_string(),
            operation: operation.name(),
            scope: scope.to_string(),
            at: at.to_string(),
            at_ms: at.0,
        });
    }
    output.json(&Summary { guarded: roles.is_guarded() });
    Ok(())
}

fn advice(who: &Principal, scope: &Scope) -> String {
    let vm: Option<&VmName> = match scope {
        Scope::Vault => None,
        Scope::Vm(vm) => Some(vm),
    };
    let vm = vm.map(|vm| format!(" --vm {vm}")).unwrap_or_default();
    format!("approve with vmkeep roles approve {who} OPERATION{vm}")
}
