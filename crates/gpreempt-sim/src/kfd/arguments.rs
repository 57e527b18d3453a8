//! How arguments cross the border: `/dev/kfd` takes any size, a lease is strict.

use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call::Call;

/// How KFD's table declares a command: what is copied, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    In,
    Out,
    Both,
}

/// Runs a command of `/dev/kfd` on its struct: a shorter one of the caller is filled up with zeros, a longer one keeps
/// its tail, and results go back whatever the command says.
pub(crate) fn loose<T>(
    argument: &mut [u8],
    direction: Direction,
    command: impl FnOnce(&mut T) -> Result<i32, Errno>,
) -> Result<i32, Errno>
where
    T: FromBytes + IntoBytes + Immutable,
{
    let mut value = T::new_zeroed();
    let size = argument.len().min(size_of::<T>());
    if direction != Direction::Out {
        value.as_mut_bytes()[..size].copy_from_slice(&argument[..size]);
    }
    let answer = command(&mut value);
    if direction != Direction::In {
        argument[..size].copy_from_slice(&value.as_bytes()[..size]);
    }
    answer
}

/// What is beyond the driver's struct must be zero.
pub(crate) fn check_tail<T>(argument: &[u8]) -> Result<(), Errno> {
    if argument.iter().skip(size_of::<T>()).any(|byte| *byte != 0) { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Runs a command of a lease on its struct: as [`loose`], but what is beyond the driver's struct must be zero.
pub(crate) fn strict<T>(argument: &mut [u8], command: impl FnOnce(&mut T) -> Result<i32, Errno>) -> Result<i32, Errno>
where
    T: FromBytes + IntoBytes + Immutable,
{
    if argument.is_empty() {
        return Err(Errno::EINVAL);
    }
    check_tail::<T>(argument)?;
    loose(argument, Direction::Both, command)
}

/// Largest array element that a caller may name.
const ELEMENT_MAX: u32 = 4096;

/// Checks the element size of an array whose elements the driver knows as `T`: version 1 is the smallest.
pub(crate) fn check_element<T>(size: u32) -> Result<u64, Errno> {
    if (size as usize) < size_of::<T>() || size > ELEMENT_MAX || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    Ok(u64::from(size))
}

/// Reads an array whose elements may be longer than the driver's, with a zero tail.
pub(crate) fn read_array<T>(call: &mut Call<'_>, address: u64, count: u32, stride: u64) -> Result<Vec<T>, Errno>
where
    T: FromBytes + IntoBytes,
{
    let size = size_of::<T>();
    let stride = usize::try_from(stride).map_err(|_| Errno::EINVAL)?;
    let mut bytes = vec![0; stride * count as usize];
    call.memory.read(address, &mut bytes)?;
    let mut values = Vec::with_capacity(count as usize);
    for element in bytes.chunks_exact(stride) {
        if element[size..].iter().any(|byte| *byte != 0) {
            return Err(Errno::EINVAL);
        }
        values.push(T::read_from_bytes(&element[..size]).expect("an element holds a T"));
    }
    Ok(values)
}

/// Writes an array back; the tail of longer elements stays as it is.
pub(crate) fn write_array<T>(call: &mut Call<'_>, address: u64, values: &[T], stride: u64) -> Result<(), Errno>
where
    T: IntoBytes + Immutable,
{
    if stride == size_of::<T>() as u64 {
        return call.memory.write(address, values.as_bytes());
    }
    for (value, position) in values.iter().zip(0u64..) {
        let at = position.checked_mul(stride).and_then(|offset| address.checked_add(offset)).ok_or(Errno::EFAULT)?;
        call.copy_out(at, value)?;
    }
    Ok(())
}
