//! Removing what no recovery point needs any more.

mod liveness;
mod reachable;

#[allow(unused_imports)] // for the sweep, which judges by it
pub(crate) use liveness::{Judge, Verdict};
