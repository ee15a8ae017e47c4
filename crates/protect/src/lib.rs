//! The protected instance: which policy a VM is under, what that policy lets go, and the removal of just that.
//!
//! Where retention meets the vault. What is decided is left in the vault as notes, versions and all, so that whoever opens the vault
//! sees the same; nothing is kept anywhere else.
//!
//! | step | what it does |
//! |---|---|
//! | [`Protection::open`] | replays the notes |
//! | [`set_policy`](Protection::set_policy), [`protect`](Protection::protect) | notes; refused when immutability says so |
//! | [`plan`](Protection::plan) | a plan with reasons, from the points as they are; changes nothing |
//! | [`prune`](Protection::prune) | looks again, and forgets what the plan and a new one both let go |
//!
//! What a bill rests on is noted likewise: a [`Ledger`] holds readings of points and bytes, and gives the events that
//! `vmkeep-billing` rates; [`Bills`] are the statements that come of them, and the closed ones among them.
//!
//! How well each VM is protected, [`Protection::health`] tells in a few requests, and [`status`] judges; [`exposition`](fn@exposition) is
//! the same as metrics.
//!
//! A point that is forgotten can be had back until a sweep has taken it.
//!
//! What a point is to retention, its labels say ([`labels`]): made by the schedule or on demand, until when it is kept, under which
//! version of which policy, with which tags. A point without any was made on demand and is kept until somebody removes it.

mod bills;
mod error;
mod exposition;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod health;
pub mod labels;
mod life;
mod metering;
mod next;
mod note;
mod protection;
pub mod status;
mod words;

pub use bills::Bills;
pub use error::{BillError, ProtectError};
pub use exposition::exposition;
pub use health::{Growth, Health, HealthSettings};
pub use life::{Settled, Stop};
pub use metering::{Ledger, Metered, note_restore};
pub use next::Next;
pub use note::PolicySource;
pub use protection::{Instance, PolicyVersion, Protection, Pruned};
pub use vmkeep_billing as billing;
pub use vmkeep_retention as retention;
pub use words::NoteWords;
