//! Hosts that back up, forget, sweep and read beside one another, under a store that does what stores do.

mod checker;
mod dice;
mod guest;
mod host;
mod ledger;
pub(crate) mod mix;
pub(crate) mod run;
mod walk;
