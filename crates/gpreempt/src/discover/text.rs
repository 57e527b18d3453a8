//! Reading kernel text: files that may vanish, numbers that may be wrong, and errors that say where.

use std::str::FromStr;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::host::{Host, SysResult};

/// The text of a file.
pub(super) fn read(host: &dyn Host, path: &str) -> Result<String> {
    host.read_text(path).map_err(|errno| Error::new("reading", errno).on(path))
}

/// What vanished with its process, queue or device is no error.
pub(super) fn unless_gone<T>(answer: SysResult<T>, path: &str) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENOENT | Errno::ESRCH | Errno::ENODEV) => Ok(None),
        Err(errno) => Err(Error::new("reading", errno).on(path)),
    }
}

/// The text of a file that may vanish.
pub(super) fn read_unless_gone(host: &dyn Host, path: &str) -> Result<Option<String>> {
    unless_gone(host.read_text(path), path)
}

/// The names in a folder that may vanish.
pub(super) fn list_unless_gone(host: &dyn Host, path: &str) -> Result<Option<Vec<String>>> {
    unless_gone(host.list(path), path)
}

/// A file says what its kernel code cannot print.
pub(super) fn malformed(path: &str, line: usize, item: &str, expected: &str) -> Error {
    const LONGEST: usize = 60;
    let shown: String = item.chars().take(LONGEST).collect();
    let dots = if shown.len() < item.len() { "..." } else { "" };
    Error::new("parsing", Errno::EBADMSG)
        .on(format_args!("{path}:{line}"))
        .because(format!("`{}{dots}` is not {expected}", shown.escape_debug()))
}

/// A file that holds one decimal number.
pub(super) fn number<T: FromStr>(path: &str, text: &str) -> Result<T> {
    text.trim().parse().map_err(|_| malformed(path, 1, text.trim(), "a decimal number in range"))
}

/// A hexadecimal number without prefix, 1 to 8 digits.
pub(super) fn hex32(text: &str) -> Option<u32> {
    if text.is_empty() || text.len() > 8 {
        return None;
    }
    let mut value = 0;
    for digit in text.bytes() {
        value = (value << 4) | (digit as char).to_digit(16)?;
    }
    Some(value)
}
