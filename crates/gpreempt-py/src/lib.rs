//! The native half of the Python package `gpreempt`: conversion only.
