//! What a level promises to whoever restores.

use vmkeep_model::ConsistencyLevel;

/// What holds after a restore of a point, to be shown beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// What the snapshot holds.
    pub captures: &'static str,
    /// What is not in it.
    pub loses: &'static str,
    /// What the operating system does at its first start.
    pub at_boot: &'static str,
    /// What applications do at their first start.
    pub applications: &'static str,
}

/// What `level` promises. No level promises anything across several VMs.
pub const fn promise(level: ConsistencyLevel) -> Promise {
    match level {
        ConsistencyLevel::Application => Promise {
            captures: "files, and what applications held in memory or had not finished writing",
            loses: "nothing that was acknowledged before the snapshot",
            at_boot: "boots without a file system check",
            applications: "start without recovery",
        },
        ConsistencyLevel::FileSystem => Promise {
            captures: "every file at one instant",
            loses: "what applications held in memory",
            at_boot: "boots without a file system check",
            applications: "run their own recovery",
        },
        ConsistencyLevel::Crash => Promise {
            captures: "what had reached the disks",
            loses: "what was in memory, and writes that were not flushed",
            at_boot: "boots as after a power cut: journals are replayed, file systems may be checked",
            applications: "roll back to their last commit by their own logs",
        },
    }
}
