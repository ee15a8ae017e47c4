//! Permits and the port that gives them.

use std::fmt;
use std::marker::PhantomData;

use thiserror::Error;

use super::operation::{Op, Operation};
use crate::{Principal, VmName};

/// What an operation is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The vault as a whole, all VMs included.
    Vault,
    /// One VM.
    Vm(VmName),
}

impl Scope {
    /// Whether `other` is the same or a part of it.
    pub fn covers(&self, other: &Self) -> bool {
        *self == Self::Vault || self == other
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault => f.write_str("the vault"),
            Self::Vm(vm) => write!(f, "VM {vm}"),
        }
    }
}

/// A question to an [`Authorizer`].
#[derive(Clone, Copy, Debug)]
pub struct AccessRequest<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// To what.
    pub scope: &'a Scope,
}

/// What an [`Authorizer`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be done; by whom is what the journal will say.
    Allow(Principal),
    /// It may not be done.
    Deny {
        /// By whom.
        who: Principal,
        /// Why not, and what to do about it.
        why: String,
    },
}

/// Says who may do what.
pub trait Authorizer: Send + Sync + fmt::Debug {
    /// Decides about `request`. Asked once per operation, not per object that it touches.
    fn decide(&self, request: &AccessRequest<'_>) -> Decision;
}

/// An operation was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{who} may not {operation} on {scope}: {why}")]
pub struct Denied {
    /// Who wanted it.
    pub who: Principal,
    /// What they wanted to do.
    pub operation: Operation,
    /// To what.
    pub scope: Scope,
    /// Why not, and what to do about it.
    pub why: String,
}

/// Leave to do one kind of operation. Whoever has one was allowed to by an [`Authorizer`].
///
/// ```
/// use vmkeep_model::{Owner, Permit, Scope, op};
/// let permit: Permit<op::Forget> = Permit::ask(&Owner, Scope::Vm("web".parse()?))?;
/// assert!(permit.covers(&"web".parse()?) && !permit.covers(&"db".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// There is no other way to one:
///
/// ```compile_fail,E0451
/// # use vmkeep_model::{Permit, Scope, op};
/// let permit = Permit::<op::Forget> { scope: Scope::Vault, ..todo!() }; // private fields
/// ```
///
/// ```compile_fail,E0599
/// # use vmkeep_model::{Owner, Permit, Scope, op};
/// let permit: Permit<op::Forget> = Permit::ask(&Owner, Scope::Vault).unwrap();
/// let second = permit.clone(); // no such method
/// ```
///
/// and that for one operation is none for another:
///
/// ```compile_fail,E0308
/// # use vmkeep_model::{Owner, Permit, Scope, op};
/// fn destroy(_: &Permit<op::DestroyKeys>) {}
/// let permit: Permit<op::Forget> = Permit::ask(&Owner, Scope::Vault).unwrap();
/// destroy(&permit); // another operation
/// ```
#[must_use = "a permit that is not used was asked for in vain"]
pub struct Permit<O: Op> {
    who: Principal,
    scope: Scope,
    operation: PhantomData<O>,
}

impl<O: Op> Permit<O> {
    /// Asks `authorizer` for leave.
    pub fn ask(authorizer: &dyn Authorizer, scope: Scope) -> Result<Self, Denied> {
        let operation = O::OPERATION;
        match authorizer.decide(&AccessRequest { operation, scope: &scope }) {
            Decision::Allow(who) => Ok(Self { who, scope, operation: PhantomData }),
            Decision::Deny { who, why } => Err(Denied { who, operation, scope, why }),
        }
    }

    /// Who was given leave.
    pub fn who(&self) -> &Principal {
        &self.who
    }

    /// For what.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether it is good for `vm`.
    pub fn covers(&self, vm: &VmName) -> bool {
        match &self.scope {
            Scope::Vault => true,
            Scope::Vm(own) => own == vm,
        }
    }

    /// Refuses what the permit does not cover.
    pub fn check(&self, vm: &VmName) -> Result<(), Denied> {
        if self.covers(vm) { Ok(()) } else { Err(self.beyond(Scope::Vm(vm.clone()))) }
    }

    /// Refuses a permit that is for one VM only.
    pub fn check_vault(&self) -> Result<(), Denied> {
        if self.scope == Scope::Vault { Ok(()) } else { Err(self.beyond(Scope::Vault)) }
    }

    fn beyond(&self, scope: Scope) -> Denied {
        let why = format!("leave was given for {} only", self.scope);
        Denied { who: self.who.clone(), operation: O::OPERATION, scope, why }
    }
}

impl<O: Op> fmt::Debug for Permit<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({} on {} for {})", O::OPERATION, self.scope, self.who)
    }
}

/// Allows everything: the policy of a program, or a person, who owns the vault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner;

impl Owner {
    /// Leave to do `O` to `scope`, which the owner always has.
    ///
    /// ```
    /// use vmkeep_model::{Owner, Permit, Scope, op};
    /// let permit: Permit<op::Backup> = Owner.permit(Scope::Vault);
    /// assert_eq!(permit.who().as_str(), "owner");
    /// ```
    pub fn permit<O: Op>(self, scope: Scope) -> Permit<O> {
        Permit { who: Principal::owner(), scope, operation: PhantomData }
    }
}

impl Authorizer for Owner {
    fn decide(&self, _: &AccessRequest<'_>) -> Decision {
        Decision::Allow(Principal::owner())
    }
}
