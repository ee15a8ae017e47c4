//! Limits on bytes per second, of every command that reads disks.

use std::num::NonZeroU64;

use clap::Args;

use crate::bytes;

#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Most bytes read from the disks per second, all disks together
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) limit_read: Option<NonZeroU64>,
    /// Most bytes of data written to the vault per second
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) limit_write: Option<NonZeroU64>,
}

/// A size per second that is not 0.
pub(super) fn rate(text: &str) -> Result<NonZeroU64, String> {
    let none = || "0 bytes a second would never end; leave the limit out for none".to_owned();
    NonZeroU64::new(bytes::parse(text)?).ok_or_else(none)
}
