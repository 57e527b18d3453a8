//! Layout and numbers of the KFD ABI that gpreempt speaks, under the kernel's own names.
//!
//! [`mod@gpreempt`] mirrors the commands that the project's kernel series adds: one number on
//! `/dev/kfd` that returns a lease fd, and the commands on that fd. [`stock`] mirrors the part of
//! the unpatched driver (Linux 6.12) that the library needs. Nothing here opens a file or makes a
//! system call: the driver that does, and the simulator that answers, read the same definitions.
//!
//! Every struct is free of implicit padding (`zerocopy::IntoBytes` refuses it), so a zeroed value
//! is a valid argument and no stack byte can leak into the kernel. Size, alignment, every offset
//! and every request number are asserted at compile time in `layout.rs`.
//!
//! ```
//! use gpreempt_sys::{AMDKFD_IOC_GPREEMPT_OPEN, KFD_GPREEMPT_ABI_VERSION};
//! use gpreempt_sys::kfd_ioctl_gpreempt_open_args;
//!
//! let probe = kfd_ioctl_gpreempt_open_args {
//!     abi_version: KFD_GPREEMPT_ABI_VERSION,
//!     ..Default::default()
//! };
//! assert_eq!(size_of_val(&probe), (AMDKFD_IOC_GPREEMPT_OPEN >> 16 & 0x3fff) as usize);
//! ```

pub mod gpreempt;
mod layout;
pub mod stock;

pub use gpreempt::*;
pub use stock::*;
