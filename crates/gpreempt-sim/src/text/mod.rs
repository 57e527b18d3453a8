//! The text files of amdkfd and procfs, as the kernel prints them.

pub mod debugfs;
pub mod proc;
pub mod sysfs;
