//! The `gpreempt` command as a library, so that the Python package can offer it too.
