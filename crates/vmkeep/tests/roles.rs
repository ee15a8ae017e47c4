//! Who may do what in a vault: roles are kept in it, a permit is good for what it was given for, denials are written down.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::sync::Arc;

use common::*;
use vmkeep::backup::{self, BackupError};
use vmkeep::model::*;
use vmkeep::object_store::memory::InMemory;
use vmkeep::restore::{self, Depth, RestoreError, verify_vault};
use vmkeep::vault::{APPROVAL_MAX_MS, JournalEntry, SweepSettings, Vault, VaultError};
use vmkeep_testkit::permit;

fn who(name: &str) -> Principal {
    name.parse().unwrap()
}

fn scene() -> (Arc<InMemory>, Vault) {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    for name in ["web", "db"] {
        back_up(&vault, name, &disks([("os", disk(&[Some(block(1, 500))]))])).unwrap();
    }
    (store, vault)
}

fn denied<T: std::fmt::Debug>(result: Result<T, VaultError>) -> Denied {
    match result {
        Err(VaultError::Denied(denied)) => denied,
        other => panic!("{other:?}"),
    }
}

#[test]
fn roles_are_kept_in_the_vault_and_seen_by_whoever_opens_it() {
    let (store, vault) = scene();
    vault.grant_role(&permit(), &who("ann"), "backup-operator").unwrap();
    let auditor = Role { name: "auditor".to_owned(), allows: [Operation::View].into() };
    vault.define_role(&permit(), auditor.clone()).unwrap();
    vault.grant_role(&permit(), &who("ann"), "auditor").unwrap();
    vault.grant_role(&permit(), &who("bea"), "auditor").unwrap();
    vault.revoke_role(&permit(), &who("ann"), "backup-operator").unwrap();

    let roles = open(store, 2).roles().unwrap();
    let grants: Vec<String> = roles.grants().map(|(who, roles)| format!("{who}: {roles:?}")).collect();
    assert_eq!(grants, ["ann: {\"auditor\"}", "bea: {\"auditor\"}", "owner: {\"owner\"}"]);
    assert!(roles.roles().any(|role| role == auditor));
    assert!(roles.allows(&who("ann"), Operation::View) && !roles.allows(&who("ann"), Operation::Backup));

    let unknown = vault.grant_role(&permit(), &who("ann"), "king");
    assert!(matches!(unknown, Err(VaultError::NoSuchRole { role }) if role == "king"));
    let vm_only = Owner.permit::<op::ManageRoles>(Scope::Vm(vm("web")));
    denied(vault.grant_role(&vm_only, &who("ann"), "auditor"));
    assert_vault_clean(&vault, "with roles");
}

#[test]
fn an_approval_is_of_a_second_person_for_a_protected_operation_and_ends() {
    let (_, vault) = scene();
    vault.grant_role(&permit(), &who("ann"), "backup-contributor").unwrap();
    vault.grant_role(&permit(), &who("bea"), "backup-mua-admin").unwrap();
    let now = vault.clock().now();
    let acting = |name: &str, at: i64| vault.roles().unwrap().authorizer(who(name), Timestamp(now.0 + at));
    let may = |at| Permit::<op::DestroyKeys>::ask(&acting("ann", at), Scope::Vm(vm("web")));
    assert!(may(0).unwrap_err().why.contains("second person (bea, owner)"));

    let approve = |until: i64, operation| {
        let permit = Permit::ask(&acting("bea", 0), Scope::Vm(vm("web"))).unwrap();
        vault.approve(&permit, &who("ann"), operation, Timestamp(now.0 + until))
    };
    let refused = [
        approve(0, Operation::DestroyKeys),
        approve(APPROVAL_MAX_MS + 1, Operation::DestroyKeys),
        approve(1000, Operation::Backup),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(VaultError::Approval { .. })), "{refused:?}");
    }
    let own = Permit::ask(&acting("bea", 0), Scope::Vault).unwrap();
    let own = vault.approve(&own, &who("bea"), Operation::DestroyKeys, Timestamp(now.0 + 1000));
    assert!(matches!(own, Err(VaultError::Approval { .. })), "{own:?}");
    assert!(may(0).is_err(), "nothing of this counts");

    approve(1000, Operation::DestroyKeys).unwrap();
    assert_eq!(may(999).unwrap().who(), &who("ann"));
    assert!(may(1000).is_err(), "it is over");
    assert!(Permit::<op::DestroyKeys>::ask(&acting("ann", 0), Scope::Vm(vm("db"))).is_err(), "another VM");
    assert!(
        Permit::<op::DestroyKeys>::ask(&acting("bea", 0), Scope::Vm(vm("web"))).is_err(),
        "who approves does not"
    );
}

#[test]
fn a_denial_is_written_into_the_journal_of_the_vault() {
    let (store, vault) = scene();
    let roles = vault.roles().unwrap().authorizer(who("eve"), vault.clock().now());
    let refused = Permit::<op::Restore>::ask(&roles, Scope::Vm(vm("web"))).unwrap_err();
    vault.record_denial(&refused).unwrap();
    let entries = open(store, 2).journal().unwrap();
    let expected = JournalEntry::Denied {
        who: "eve".to_owned(),
        operation: "restore".to_owned(),
        scope: Some("web".to_owned()),
    };
    assert_eq!(entries.last().map(|record| &record.entry), Some(&expected));
    assert_vault_clean(&vault, "with a denial");
}

#[test]
fn leave_for_one_vm_is_none_for_another_and_none_for_the_vault() {
    let (_, vault) = scene();
    let db = || Scope::Vm(vm("db"));
    let point = point_ref("web@1");
    let before = vault.journal().unwrap().len();

    denied(vault.begin(&Owner.permit(db()), &vm("web")));
    denied(vault.resume(&Owner.permit(db()), &vm("web"), SessionId([1; 16])));
    denied(vault.forget(&Owner.permit(db()), &point));
    denied(vault.undelete(&Owner.permit(db()), &point));
    denied(vault.hold(&Owner.permit(db()), &point));
    denied(vault.release(&Owner.permit(db()), &point));
    denied(vault.break_pin(&Owner.permit(db()), &point, SessionId([1; 16])));
    denied(vault.close(&Owner.permit(db()), &vm("web")));
    denied(vault.void_session(&Owner.permit(db()), SessionId([1; 16])));
    denied(vault.sweep(&Owner.permit(db()), &SweepSettings::default(), &CancelToken::new(), &mut |_| {}));

    let open = vault.point(&point).unwrap();
    let os = "os".parse().unwrap();
    denied(open.disk(&Owner.permit::<op::Restore>(db()), &os));
    denied(open.disk(&Owner.permit::<op::Verify>(db()), &os));
    denied(open.config(&Owner.permit(db())));
    denied(open.pin(&Owner.permit::<op::Restore>(db()), "reading"));
    let all = verify_vault(
        &Owner.permit(db()),
        &vault,
        Depth::Data,
        &reading(),
        &restore::Silent,
        &CancelToken::new(),
    );
    assert!(matches!(all, Err(RestoreError::Open(VaultError::Denied(_)))), "{all:?}");

    let memory = vmkeep::disk::Memory::new(BLOCK);
    let plan = plan("web", &[("os", &memory)]);
    let run =
        backup::run(&Owner.permit(db()), &vault, &plan, &inline(), &backup::Silent, &CancelToken::new());
    assert!(matches!(run, Err(BackupError::Store(VaultError::Denied(_)))), "{run:?}");

    assert_eq!(vault.journal().unwrap().len(), before);
    assert_eq!(vault.points(&vm("web")).unwrap().len(), 1);
    assert!(!vault.points(&vm("web")).unwrap()[0].forgotten);
    vault.forget(&Owner.permit(Scope::Vm(vm("web"))), &point).unwrap();
}
