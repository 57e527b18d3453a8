//! The C interface of gpreempt.
