//! The outward walk: from disks to a committed recovery point.
