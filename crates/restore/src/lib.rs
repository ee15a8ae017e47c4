//! The return walk: from a recovery point to disks, verified.
