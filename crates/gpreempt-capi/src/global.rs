//! The one global of the project: the session behind `gpreempt_poc_init()` and `gpreempt_poc_cleanup()`.
//!
//! A call takes a share of the session and lets go of every lock before it works, so `cleanup` neither waits for a call
//! in flight nor frees anything under it: whoever lets go of the last share closes the session.
#![allow(unsafe_code, reason = "one pointer to what is never freed")]

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use gpreempt::{Error, Result, Session, SessionBuilder};
use nix::errno::Errno;

use crate::fork;
use crate::watch::Watch;

/// An open session and its monitor.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) watch: Watch,
    pub(crate) session: Session,
}

/// What one process has. Never freed. A forked child makes its own, for the locks that it inherits may be held by threads
/// that it does not have.
struct Global {
    pid: libc::pid_t,
    /// Calls of init that cleanup has not undone. Locked while a session is opened.
    inits: Mutex<u32>,
    open: RwLock<Option<Arc<Open>>>,
}

/// The process that initialised last: this one, or the one it was forked from.
static CURRENT: AtomicPtr<Global> = AtomicPtr::new(ptr::null_mut());

/// Stands in [`CURRENT`] for the global of a parent. No process has pid 0.
static OF_PARENT: Global = Global::new(0);

impl Global {
    const fn new(pid: libc::pid_t) -> Global {
        Global { pid, inits: Mutex::new(0), open: RwLock::new(None) }
    }

    /// The last one, this process's or a parent's.
    fn last() -> Option<&'static Global> {
        // SAFETY: CURRENT is null or points to what is never freed: OF_PARENT, or a box that `own_or_new` leaked.
        unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
    }

    /// Whether it is this process's. A fork that ran no handler (a bare clone system call) shows by the pid alone.
    fn is_own(&self) -> bool {
        self.pid == pid()
    }

    /// Closes the child's copies of the parent's files, or its lease would outlive the parent's own close. Takes no lock;
    /// where another thread held this one it was about to close them itself, or had not opened them.
    fn abandon(&self) {
        let open = match self.open.try_read() {
            Ok(open) => open,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if let Some(open) = &*open {
            open.session.abandon_after_fork();
        }
    }

    fn own() -> Result<&'static Global> {
        let global = Global::last().ok_or_else(not_initialised)?;
        if !global.is_own() {
            return Err(Error::new("using gpreempt in a forked process", Errno::EBADF)
                .because("the session stayed with the parent")
                .remedy("call gpreempt_poc_init() in the child"));
        }
        Ok(global)
    }

    fn own_or_new() -> &'static Global {
        loop {
            let seen = CURRENT.load(Ordering::Acquire);
            if let Ok(global) = Global::own() {
                return global;
            }
            let fresh = Box::into_raw(Box::new(Global::new(pid())));
            if CURRENT.compare_exchange(seen, fresh, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                // SAFETY: as in `last`.
                if let Some(of_parent) = unsafe { seen.as_ref() } {
                    of_parent.abandon();
                }
            } else {
                // SAFETY: it was not published, so this is its only owner.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
    }
}

/// Opens the session, or counts one more user of it.
pub(crate) fn init() -> Result<i32> {
    fork::watch()?;
    let global = Global::own_or_new();
    let mut inits = global.inits.lock().unwrap_or_else(PoisonError::into_inner);
    if *inits == 0 {
        let session = SessionBuilder::from_env()?.open()?;
        let open = Arc::new(Open { watch: Watch::default(), session });
        *global.open.write().unwrap_or_else(PoisonError::into_inner) = Some(open);
    }
    *inits += 1;
    Ok(0)
}

/// Counts one user less; the last one closes the session.
pub(crate) fn cleanup() -> Result<i32> {
    let global = Global::own()?;
    let mut inits = global.inits.lock().unwrap_or_else(PoisonError::into_inner);
    *inits = inits.checked_sub(1).ok_or_else(not_initialised)?;
    if *inits == 0 {
        let last = global.open.write().unwrap_or_else(PoisonError::into_inner).take();
        // To stop the monitor is to wait for its callback, which may be waiting for this lock.
        drop(inits);
        if let Some(open) = last {
            open.watch.stop();
        }
    }
    Ok(0)
}

/// A share of the session.
pub(crate) fn share() -> Result<Arc<Open>> {
    let open = Global::own()?.open.read().unwrap_or_else(PoisonError::into_inner).clone();
    open.ok_or_else(not_initialised)
}

/// Whether this is a forked child of the process that initialised.
pub(crate) fn forked() -> bool {
    Global::last().is_some_and(|global| !global.is_own())
}

/// In a forked child: the session is the parent's. Async-signal-safe.
pub(crate) fn disown() {
    if let Some(global) = Global::last() {
        global.abandon();
        CURRENT.store(ptr::from_ref(&OF_PARENT).cast_mut(), Ordering::Release);
    }
}

fn not_initialised() -> Error {
    Error::new("using gpreempt", Errno::ENODEV)
        .because("it is not initialised")
        .remedy("call gpreempt_poc_init() first, and gpreempt_poc_cleanup() last")
}

fn pid() -> libc::pid_t {
    nix::unistd::getpid().as_raw()
}
