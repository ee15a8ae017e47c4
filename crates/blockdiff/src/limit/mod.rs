//! Limits on bytes per second, for reads of a disk and writes to a vault.
//!
//! [`TokenBucket`] is the arithmetic, without a clock; [`Limiter`] lets threads wait by it, one after another in the
//! order they came, so that disks that share a limit share it evenly.

mod bucket;
mod limiter;
mod waiter;

pub use bucket::{Take, TokenBucket};
pub use limiter::Limiter;
pub use waiter::{SystemWaiter, Waiter};
