//! The `gpreempt` command.
fn main() {}
