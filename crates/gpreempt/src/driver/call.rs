//! Typed ioctls over the seam.

use nix::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::host::{Array, Host, RawFile, SysResult};

/// Calls with a struct whose pointer fields are filled from `arrays`.
pub(super) fn call<T: FromBytes + IntoBytes>(
    host: &dyn Host,
    file: RawFile,
    request: u32,
    argument: &mut T,
    arrays: &mut [Array<'_>],
) -> SysResult<i32> {
    if file < 0 {
        // Abandoned after a fork.
        return Err(Errno::EBADF);
    }
    host.ioctl(file, request, argument.as_mut_bytes(), arrays)
}

/// The array behind the pointer at offset `field`.
pub(super) fn array<T: FromBytes + IntoBytes>(field: usize, items: &mut [T]) -> Array<'_> {
    Array { field, bytes: items.as_mut_bytes() }
}

/// The errno of a kernel result, None for 0.
pub(super) fn failure(result: i32) -> Option<Errno> {
    (result != 0).then(|| Errno::from_raw(result.wrapping_neg()))
}
