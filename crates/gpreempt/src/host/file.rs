//! An open file that closes itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::{Host, RawFile};

/// An open file of this process, closed when dropped.
#[derive(Debug)]
pub struct OwnedFile {
    host: Arc<dyn Host>,
    raw: AtomicI32,
    /// The process that opened it: a forked child must not take the locks that closing may need.
    opener: u32,
}

impl OwnedFile {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`Host::open`].
    pub fn open(host: &Arc<dyn Host>, path: &str) -> super::SysResult<OwnedFile> {
        let raw = host.open(path)?;
        Ok(OwnedFile::from_raw(host, raw))
    }

    /// Takes over a file that a system call returned.
    pub fn from_raw(host: &Arc<dyn Host>, raw: RawFile) -> OwnedFile {
        OwnedFile { host: Arc::clone(host), raw: AtomicI32::new(raw), opener: std::process::id() }
    }

    /// The file, or -1 once it was abandoned.
    pub fn raw(&self) -> RawFile {
        self.raw.load(Ordering::Relaxed)
    }

    /// Closes it in a forked child, see [`Host::abandon`].
    pub fn abandon(&self) {
        let raw = self.raw.swap(-1, Ordering::Relaxed);
        if raw >= 0 {
            self.host.abandon(raw);
        }
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        let raw = *self.raw.get_mut();
        if raw < 0 {
            return;
        }
        if std::process::id() == self.opener {
            self.host.close(raw);
        } else {
            self.host.abandon(raw);
        }
    }
}
