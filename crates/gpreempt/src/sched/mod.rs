//! Who is online, and what to do about it: the scheduler executes what a policy decides.

pub mod policy;
