//! What the built-in roles may do, what a second person is needed for, and that a better role never may less.

use std::collections::BTreeSet;

use proptest::prelude::*;
use vmkeep_model::*;

use Operation as O;

fn who(name: &str) -> Principal {
    name.parse().expect("a name")
}

fn decide(set: &RoleSet, name: &str, operation: Operation) -> bool {
    let request = AccessRequest { operation, scope: &Scope::Vault };
    matches!(set.decide(&who(name), &request, Timestamp(0)), Decision::Allow(_))
}

/// One row per operation: reader, operator, contributor, MUA operator, MUA admin, owner.
///
/// Azure Backup's table of minimum roles: backup now and restore take an Operator; stopping backup and changing a policy a
/// Contributor; an Operator may neither remove a backup nor change a policy; a Reader changes nothing; none of the three may
/// grant access.
#[test]
fn every_built_in_role_may_exactly_what_the_table_says() {
    let table = [
        (O::View, "yyyyyy"),
        (O::Verify, "yyy--y"),
        (O::Backup, "-yy--y"),
        (O::Restore, "-yy--y"),
        (O::RestoreKeys, "-yy--y"),
        (O::EndSession, "-yy--y"),
        (O::Forget, "--y--y"),
        (O::Undelete, "--y--y"),
        (O::Hold, "--y--y"),
        (O::Release, "--y--y"),
        (O::BreakPin, "--y--y"),
        (O::Sweep, "--y--y"),
        (O::Close, "--y--y"),
        (O::Repair, "--y--y"),
        (O::RotateKek, "--y--y"),
        (O::RotateBek, "--y--y"),
        (O::DestroyKeys, "--y--y"),
        (O::ChangePolicy, "--y--y"),
        (O::DisableSoftDelete, "--y--y"),
        (O::ShortenRetention, "--y--y"),
        (O::StopWithDelete, "--y--y"),
        (O::RequestApproval, "---y-y"),
        (O::Approve, "----yy"),
        (O::GrantKeys, "-----y"),
        (O::ManageRoles, "-----y"),
    ];
    assert_eq!(
        table.map(|(operation, _)| operation).into_iter().collect::<BTreeSet<_>>().len(),
        O::ALL.len()
    );
    let roles = [
        "backup-reader",
        "backup-operator",
        "backup-contributor",
        "backup-mua-operator",
        "backup-mua-admin",
        "owner",
    ];
    for (operation, may) in table {
        for (role, may) in roles.iter().zip(may.chars()) {
            let mut set = RoleSet::default();
            set.grant(who("ann"), (*role).to_owned());
            // Asked for the right alone: whether a second person is needed is another matter.
            assert_eq!(set.allows(&who("ann"), operation), may == 'y', "{role} {operation}");
        }
    }
}

#[test]
fn who_has_no_role_may_nothing_and_the_owner_everything() {
    let set = RoleSet::default();
    for &operation in O::ALL {
        assert!(!decide(&set, "nobody", operation) && decide(&set, "owner", operation), "{operation}");
    }
    let mut set = set;
    set.revoke(&Principal::owner(), "owner");
    assert!(decide(&set, "owner", O::ManageRoles), "somebody must be able to grant");
}

#[test]
fn a_protected_operation_needs_a_second_person_as_soon_as_there_is_one() {
    let mut set = RoleSet::default();
    set.grant(who("ann"), "backup-contributor".to_owned());
    assert!(decide(&set, "ann", O::DestroyKeys), "nobody could approve");
    set.grant(who("bea"), "backup-mua-admin".to_owned());
    for &operation in O::ALL.iter().filter(|operation| set.allows(&who("ann"), **operation)) {
        assert_eq!(decide(&set, "ann", operation), !operation.is_protected(), "{operation}");
    }
    assert!(!decide(&set, "owner", O::DestroyKeys), "the owner too");

    let approval = |name: &str, by: &str, operation, scope, until| Approval {
        operation,
        scope,
        who: who(name),
        by: who(by),
        until: Timestamp(until),
    };
    for useless in [
        approval("ann", "ann", O::DestroyKeys, Scope::Vault, 100),
        approval("ann", "bea", O::StopWithDelete, Scope::Vault, 100),
        approval("eve", "bea", O::DestroyKeys, Scope::Vault, 100),
        approval("ann", "bea", O::DestroyKeys, Scope::Vm("web".parse().expect("a name")), 100),
        approval("ann", "bea", O::DestroyKeys, Scope::Vault, 0),
    ] {
        let mut set = set.clone();
        set.approve(useless.clone());
        assert!(!decide(&set, "ann", O::DestroyKeys), "{useless:?}");
    }
    set.approve(approval("ann", "bea", O::DestroyKeys, Scope::Vault, 100));
    assert!(decide(&set, "ann", O::DestroyKeys));
    let request =
        AccessRequest { operation: O::DestroyKeys, scope: &Scope::Vm("web".parse().expect("a name")) };
    assert_eq!(set.decide(&who("ann"), &request, Timestamp(99)), Decision::Allow(who("ann")), "a part of it");
    assert!(matches!(set.decide(&who("ann"), &request, Timestamp(100)), Decision::Deny { .. }), "it is over");
}

#[test]
fn a_refusal_says_who_what_and_which_role_it_takes() {
    let set = RoleSet::default().authorizer(who("ann"), Timestamp(0));
    let denied = Permit::<op::Sweep>::ask(&set, Scope::Vault).expect_err("no role");
    assert_eq!(
        denied.to_string(),
        "ann may not sweep on the vault: it takes one of the roles backup-contributor, owner"
    );
    let permit = Owner.permit::<op::Forget>(Scope::Vm("web".parse().expect("a name")));
    let beyond = permit.check(&"db".parse().expect("a name")).expect_err("another VM");
    assert_eq!(beyond.to_string(), "owner may not forget on VM db: leave was given for VM web only");
    assert!(permit.check_vault().is_err());
}

#[test]
fn operations_have_names_that_parse_back() {
    for &operation in O::ALL {
        assert_eq!(operation.name().parse(), Ok(operation));
    }
    assert!("everything".parse::<Operation>().is_err());
}

fn any_role() -> impl Strategy<Value = Role> {
    let operations = proptest::collection::btree_set(proptest::sample::select(O::ALL.to_vec()), 0..6);
    ("[a-c]", operations).prop_map(|(name, allows)| Role { name, allows })
}

proptest! {
    /// Roles are data: what somebody may do is the union of what their roles allow, and nothing else.
    #[test]
    fn what_somebody_may_is_the_union_of_their_roles(
        roles in proptest::collection::vec(any_role(), 0..4),
        has in proptest::collection::btree_set("[a-d]", 0..4),
    ) {
        let mut set = RoleSet::default();
        for role in &roles {
            set.define(role.clone());
        }
        for role in &has {
            set.grant(who("ann"), role.clone());
        }
        for &operation in O::ALL {
            let allowed = has.iter().any(|name| {
                let last = roles.iter().rev().find(|role| role.name == *name);
                last.is_some_and(|role| role.allows.contains(&operation))
            });
            prop_assert_eq!(set.allows(&who("ann"), operation), allowed);
        }
    }
}
