//! Holds the examples.
