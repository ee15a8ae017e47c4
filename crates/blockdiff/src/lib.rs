//! Which blocks of a disk changed.
