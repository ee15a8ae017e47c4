//! Who may do what in this vault: a stream of the journal that is replayed.
//!
//! Roles are for the program or the person at the shell who asks; whoever has the vault's key can do without asking. The
//! stream is one of its own, so that reading it costs what was changed about roles, and not what happened to points.

use vmkeep_model::{
    Approval, Denied, Operation, Permit, Principal, Role, RoleSet, Scope, Timestamp, VmName, op,
};

use crate::error::VaultError;
use crate::format::{FormatError, decode_exact, encode};
use crate::journal::{self, JournalEntry};
use crate::vault::{Inner, Vault};

/// Label of the id of the stream (FORMAT.md section 8).
const STREAM_LABEL: &str = "vmkeep v1 authority stream";

/// Longest time that an approval is good for, in milliseconds: 7 days.
pub const APPROVAL_MAX_MS: i64 = 7 * 24 * 3600 * 1000;

/// A change of who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RoleChange {
    /// A role was made or changed.
    Define(Role),
    /// Somebody got a role.
    Grant {
        /// Who.
        who: Principal,
        /// The role's name.
        role: String,
    },
    /// Somebody lost a role.
    Revoke {
        /// Who.
        who: Principal,
        /// The role's name.
        role: String,
    },
    /// Somebody asks that a protected operation be approved.
    Request {
        /// Who.
        who: Principal,
        /// The operation.
        operation: Operation,
        /// On what.
        scope: Scope,
    },
    /// Somebody approved a protected operation of somebody else.
    Approve(Approval),
}

/// Body of a change: what, who, a name (a role, or an operation), a scope, who approved, until when, and operations.
type Body = (u8, String, String, Option<String>, String, i64, Vec<String>);

impl RoleChange {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let scope = |scope: &Scope| match scope {
            Scope::Vault => None,
            Scope::Vm(vm) => Some(vm.to_string()),
        };
        let body: Body = match self {
            Self::Define(Role { name, allows }) => {
                let allows = allows.iter().map(ToString::to_string).collect();
                (1, String::new(), name.clone(), None, String::new(), 0, allows)
            }
            Self::Grant { who, role } => {
                (2, who.to_string(), role.clone(), None, String::new(), 0, Vec::new())
            }
            Self::Revoke { who, role } => {
                (3, who.to_string(), role.clone(), None, String::new(), 0, Vec::new())
            }
            Self::Request { who, operation, scope: on } => {
                (4, who.to_string(), operation.to_string(), scope(on), String::new(), 0, Vec::new())
            }
            Self::Approve(Approval { operation, scope: on, who, by, until }) => {
                (5, who.to_string(), operation.to_string(), scope(on), by.to_string(), until.0, Vec::new())
            }
        };
        encode(&body)
    }

    /// `None` for what a later version wrote: an operation or a change that is not known here.
    pub(crate) fn decode(body: &[u8]) -> Result<Option<Self>, FormatError> {
        let (what, who, name, scope, by, until, allows): Body = decode_exact(body)?;
        let principal = |text: String| text.parse::<Principal>().map_err(|e| FormatError(e.to_string()));
        let scope = match scope {
            None => Scope::Vault,
            Some(vm) => Scope::Vm(vm.parse::<VmName>().map_err(|e| FormatError(e.to_string()))?),
        };
        Ok(match what {
            1 => {
                // Operations that are not known here allow nothing here.
                let allows = allows.iter().filter_map(|operation| operation.parse().ok()).collect();
                Some(Self::Define(Role { name, allows }))
            }
            2 => Some(Self::Grant { who: principal(who)?, role: name }),
            3 => Some(Self::Revoke { who: principal(who)?, role: name }),
            4 => match name.parse() {
                Ok(operation) => Some(Self::Request { who: principal(who)?, operation, scope }),
                Err(_) => None,
            },
            5 => match name.parse() {
                Ok(operation) => {
                    let (who, by, until) = (principal(who)?, principal(by)?, Timestamp(until));
                    Some(Self::Approve(Approval { operation, scope, who, by, until }))
                }
                Err(_) => None,
            },
            _ => None,
        })
    }
}

impl Inner {
    /// The stream of the journal that tells who may do what.
    pub(crate) fn authority_stream(&self) -> [u8; 16] {
        self.record.subkey(STREAM_LABEL).hash16(&[&self.id.0])
    }

    fn change_authority(&self, by: &Principal, change: RoleChange) -> Result<(), VaultError> {
        journal::append(self, self.authority_stream(), by, &JournalEntry::Authority(change))
    }
}

impl Vault {
    /// The changes of who may do what, oldest first, each with its time.
    pub fn role_changes(&self) -> Result<Vec<(Timestamp, RoleChange)>, VaultError> {
        let records = journal::read(&self.inner, self.inner.authority_stream())?;
        let changes = records.into_iter().filter_map(|record| match record.entry {
            JournalEntry::Authority(change) => Some((record.at, change)),
            _ => None,
        });
        Ok(changes.collect())
    }

    /// Who may do what: the built-in roles and what was changed since.
    pub fn roles(&self) -> Result<RoleSet, VaultError> {
        let mut set = RoleSet::default();
        for (_, change) in self.role_changes()? {
            match change {
                RoleChange::Define(role) => set.define(role),
                RoleChange::Grant { who, role } => set.grant(who, role),
                RoleChange::Revoke { who, role } => set.revoke(&who, &role),
                RoleChange::Approve(approval) => set.approve(approval),
                RoleChange::Request { .. } => {}
            }
        }
        Ok(set)
    }

    /// Makes a role, or changes one. A built-in role can be changed too.
    pub fn define_role(&self, permit: &Permit<op::ManageRoles>, role: Role) -> Result<(), VaultError> {
        permit.check_vault()?;
        self.inner.change_authority(permit.who(), RoleChange::Define(role))
    }

    /// Gives somebody a role. The role must be there.
    pub fn grant_role(
        &self,
        permit: &Permit<op::ManageRoles>,
        who: &Principal,
        role: &str,
    ) -> Result<(), VaultError> {
        permit.check_vault()?;
        if !self.roles()?.roles().any(|known| known.name == role) {
            return Err(VaultError::NoSuchRole { role: role.to_owned() });
        }
        self.inner
            .change_authority(permit.who(), RoleChange::Grant { who: who.clone(), role: role.to_owned() })
    }

    /// Takes a role from somebody. The owner's cannot be taken.
    pub fn revoke_role(
        &self,
        permit: &Permit<op::ManageRoles>,
        who: &Principal,
        role: &str,
    ) -> Result<(), VaultError> {
        permit.check_vault()?;
        self.inner
            .change_authority(permit.who(), RoleChange::Revoke { who: who.clone(), role: role.to_owned() })
    }

    /// Asks that a protected operation of one's own be approved.
    pub fn request_approval(
        &self,
        permit: &Permit<op::RequestApproval>,
        operation: Operation,
    ) -> Result<(), VaultError> {
        let (who, scope) = (permit.who().clone(), permit.scope().clone());
        check_protected(operation)?;
        self.inner.change_authority(permit.who(), RoleChange::Request { who, operation, scope })
    }

    /// Approves that `who` does a protected operation on what the permit is for, until a time at most
    /// [`APPROVAL_MAX_MS`] from now. Nobody approves for themselves.
    pub fn approve(
        &self,
        permit: &Permit<op::Approve>,
        who: &Principal,
        operation: Operation,
        until: Timestamp,
    ) -> Result<Approval, VaultError> {
        check_protected(operation)?;
        let (by, scope) = (permit.who().clone(), permit.scope().clone());
        let now = self.inner.ports.clock.now();
        if by == *who {
            return Err(VaultError::Approval { why: "nobody approves what they do themselves".to_owned() });
        }
        if until <= now || until.0.saturating_sub(now.0) > APPROVAL_MAX_MS {
            return Err(VaultError::Approval {
                why: "it ends within 7 days, and not in the past".to_owned(),
            });
        }
        let approval = Approval { operation, scope, who: who.clone(), by, until };
        self.inner.change_authority(permit.who(), RoleChange::Approve(approval.clone()))?;
        Ok(approval)
    }

    /// Writes down that somebody was refused: into the journal of the vault.
    pub fn record_denial(&self, denied: &Denied) -> Result<(), VaultError> {
        let entry = JournalEntry::Denied {
            who: denied.who.to_string(),
            operation: denied.operation.to_string(),
            scope: match &denied.scope {
                Scope::Vault => None,
                Scope::Vm(vm) => Some(vm.to_string()),
            },
        };
        journal::append(&self.inner, self.inner.id.0, &denied.who, &entry)
    }
}

fn check_protected(operation: Operation) -> Result<(), VaultError> {
    if operation.is_protected() {
        return Ok(());
    }
    let protected: Vec<&str> =
        Operation::ALL.iter().filter(|o| o.is_protected()).map(|operation| operation.name()).collect();
    let why = format!("{operation} needs no approval; protected are {}", protected.join(", "));
    Err(VaultError::Approval { why })
}
