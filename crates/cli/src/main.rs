//! The `vmkeep` command.
fn main() {}
