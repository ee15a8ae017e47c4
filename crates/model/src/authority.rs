//! Who may do what: operations, the permits that they take, and the port that grants them.
//!
//! Every operation that changes a vault or reveals what is in it takes a [`Permit`] of its own kind, and a permit comes
//! from an [`Authorizer`] alone. This is where an embedding program puts its policy; it is not a boundary. Whoever holds
//! the keys and the credentials of the store can do without this library.

mod operation;
mod permit;
mod roles;

pub use self::operation::{Op, Operation, UnknownOperation, op};
pub use self::permit::{AccessRequest, Authorizer, Decision, Denied, Owner, Permit, Scope};
pub use self::roles::{Approval, Role, RoleSet, RoleSetAuthorizer};
