//! Limits on bytes per second, for reads of a disk and writes to a vault.
//!
//! [`TokenBucket`] is the arithmetic, without a clock; [`Limiter`] lets threads wait by it, one after another in the
//! order they came, so that disks that share a limit share it evenly.
//!
//! ```
//! use std::num::NonZeroU64;
//! use vmkeep_blockdiff::{Limiter, TokenBucket};
//! use vmkeep_model::{ByteLen, CancelToken};
//!
//! let rate = NonZeroU64::new(100 << 20).expect("not zero"); // 100 MiB/s
//! let limiter = Limiter::new(TokenBucket::per_second(rate));
//! limiter.acquire(ByteLen(65_536), &CancelToken::new())?; // then read 64 KiB
//! # Ok::<(), vmkeep_model::Cancelled>(())
//! ```

mod bucket;
mod limiter;
mod waiter;

pub use bucket::{Take, TokenBucket};
pub use limiter::Limiter;
pub use waiter::{SystemWaiter, Waiter};
