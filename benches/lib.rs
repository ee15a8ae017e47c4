//! Holds the benches.
