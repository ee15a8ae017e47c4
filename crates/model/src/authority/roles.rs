//! Roles as data: the five of Azure Backup, those an embedder adds, and who has which.

use std::collections::{BTreeMap, BTreeSet};

use super::operation::Operation;
use super::permit::{AccessRequest, Authorizer, Decision, Scope};
use crate::{Principal, Timestamp};

/// A role: a name, and what those who have it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name, such as `backup-operator`.
    pub name: String,
    /// What it allows.
    pub allows: BTreeSet<Operation>,
}

impl Role {
    /// The roles of Azure Backup, and the owner.
    ///
    /// Reader sees everything and changes nothing; Operator backs up and restores, and may neither remove a backup nor
    /// change a policy; Contributor does everything but grant access. The two roles of multi-user authorization ask for
    /// and give the second approval that protected operations need. (Azure Backup's built-in roles, and its table of
    /// minimum roles by operation: `backup-rbac-rs-vault` in its documentation.)
    pub fn built_in() -> Vec<Self> {
        use Operation as O;
        let reader = [O::View, O::Verify];
        let operator = [O::Backup, O::Restore, O::RestoreKeys, O::EndSession];
        let role = |name: &str, allows: &[&[Operation]]| Self {
            name: name.to_owned(),
            allows: allows.iter().flat_map(|some| some.iter().copied()).collect(),
        };
        let contributor: Vec<Operation> = O::ALL
            .iter()
            .copied()
            .filter(|operation| {
                !matches!(operation, O::GrantKeys | O::ManageRoles | O::Approve | O::RequestApproval)
            })
            .collect();
        vec![
            role("backup-reader", &[&reader]),
            role("backup-operator", &[&reader, &operator]),
            role("backup-contributor", &[&contributor]),
            role("backup-mua-operator", &[&[O::View, O::RequestApproval]]),
            role("backup-mua-admin", &[&[O::View, O::Approve]]),
            role("owner", &[O::ALL]),
        ]
    }
}

/// Somebody agreed that somebody else does a protected operation, until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The operation.
    pub operation: Operation,
    /// On what.
    pub scope: Scope,
    /// Who may do it.
    pub who: Principal,
    /// Who approved it: somebody else.
    pub by: Principal,
    /// From when on it is good for nothing.
    pub until: Timestamp,
}

/// Who has which role, which roles there are, and what was approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleSet {
    roles: BTreeMap<String, BTreeSet<Operation>>,
    grants: BTreeMap<Principal, BTreeSet<String>>,
    approvals: Vec<Approval>,
}

impl Default for RoleSet {
    /// The built-in roles, granted to nobody but the owner.
    fn default() -> Self {
        let mut set = Self { roles: BTreeMap::new(), grants: BTreeMap::new(), approvals: Vec::new() };
        for role in Role::built_in() {
            set.define(role);
        }
        set.grant(Principal::owner(), "owner".to_owned());
        set
    }
}

impl RoleSet {
    /// Adds a role, or changes one.
    pub fn define(&mut self, role: Role) {
        self.roles.insert(role.name, role.allows);
    }

    /// Gives `who` a role. A role that is not defined allows nothing until it is.
    pub fn grant(&mut self, who: Principal, role: String) {
        self.grants.entry(who).or_default().insert(role);
    }

    /// Takes a role from `who`. The owner stays one: somebody must be able to grant.
    pub fn revoke(&mut self, who: &Principal, role: &str) {
        if *who == Principal::owner() && role == "owner" {
            return;
        }
        if let Some(roles) = self.grants.get_mut(who) {
            roles.remove(role);
            if roles.is_empty() {
                self.grants.remove(who);
            }
        }
    }

    /// Adds an approval. Nobody approves for themselves: one by the same person counts for nothing.
    pub fn approve(&mut self, approval: Approval) {
        self.approvals.push(approval);
    }

    /// The roles there are.
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        self.roles.iter().map(|(name, allows)| Role { name: name.clone(), allows: allows.clone() })
    }

    /// Who has which roles.
    pub fn grants(&self) -> impl Iterator<Item = (&Principal, &BTreeSet<String>)> {
        self.grants.iter()
    }

    /// The approvals that are still good at `now`.
    pub fn approvals(&self, now: Timestamp) -> impl Iterator<Item = &Approval> {
        self.approvals.iter().filter(move |approval| now < approval.until && approval.who != approval.by)
    }

    /// Whether `who` has a role that allows `operation`.
    pub fn allows(&self, who: &Principal, operation: Operation) -> bool {
        self.grants
            .get(who)
            .into_iter()
            .flatten()
            .any(|role| self.roles.get(role).is_some_and(|allows| allows.contains(&operation)))
    }

    /// Whether protected operations need a second person: as soon as somebody other than the owner may approve.
    pub fn is_guarded(&self) -> bool {
        let owner = Principal::owner();
        self.grants.keys().any(|who| *who != owner && self.allows(who, Operation::Approve))
    }

    /// Who may approve.
    fn approvers(&self, but: &Principal) -> Vec<String> {
        let may = |who: &&Principal| *who != but && self.allows(who, Operation::Approve);
        self.grants.keys().filter(may).map(ToString::to_string).collect()
    }

    /// What `who` is told about `request` at `now`.
    pub fn decide(&self, who: &Principal, request: &AccessRequest<'_>, now: Timestamp) -> Decision {
        let AccessRequest { operation, scope } = *request;
        let deny = |why: String| Decision::Deny { who: who.clone(), why };
        if !self.allows(who, operation) {
            let having: Vec<&str> = self
                .roles
                .iter()
                .filter(|(_, allows)| allows.contains(&operation))
                .map(|(name, _)| name.as_str())
                .collect();
            return deny(format!("it takes one of the roles {}", having.join(", ")));
        }
        let approved = |approval: &Approval| {
            approval.operation == operation && approval.who == *who && approval.scope.covers(scope)
        };
        if operation.is_protected() && self.is_guarded() && !self.approvals(now).any(approved) {
            return deny(format!(
                "it is a protected operation and needs the approval of a second person ({})",
                self.approvers(who).join(", ")
            ));
        }
        Decision::Allow(who.clone())
    }

    /// An authorizer that decides for `who` as of `now`.
    pub fn authorizer(self, who: Principal, now: Timestamp) -> RoleSetAuthorizer {
        RoleSetAuthorizer { set: self, who, now }
    }
}

/// Decides by a [`RoleSet`], for one person at one time.
#[derive(Clone, Debug)]
pub struct RoleSetAuthorizer {
    set: RoleSet,
    who: Principal,
    now: Timestamp,
}

impl Authorizer for RoleSetAuthorizer {
    fn decide(&self, request: &AccessRequest<'_>) -> Decision {
        self.set.decide(&self.who, request, self.now)
    }
}
