//! What happens in a forked child, before fork returns there: the child lets go of what is the parent's.
#![allow(unsafe_code, reason = "pthread_atfork takes a C function")]

use std::sync::atomic::{AtomicBool, Ordering};

use gpreempt::{Error, Result};
use nix::errno::Errno;

static WATCHED: AtomicBool = AtomicBool::new(false);

/// Sees to it that [`in_child`] runs.
pub(crate) fn watch() -> Result<()> {
    // Not a `Once`: a child forked in the middle of it would wait for ever.
    if WATCHED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    // SAFETY: the handler is a function of this library, which is never unloaded (-z nodelete).
    match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
        0 => Ok(()),
        errno => {
            WATCHED.store(false, Ordering::Relaxed);
            Err(Error::new("registering a fork handler", Errno::from_raw(errno)))
        }
    }
}

/// Async-signal-safe: the threads of the parent are gone, and any lock may be held for ever.
extern "C" fn in_child() {
    crate::global::disown();
}
