//! Starting a background thread.

use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use super::SysResult;

/// Starts a thread that takes none of the program's signals: they land on the program's own threads.
///
/// # Errors
/// EAGAIN where there may be no more threads.
pub(crate) fn spawn_background(name: &str, run: impl FnOnce() + Send + 'static) -> SysResult<JoinHandle<()>> {
    // A thread inherits the mask of the one that starts it.
    let mut previous = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut previous))?;
    let spawned = Builder::new().name(name.to_owned()).spawn(run);
    previous.thread_set_mask().expect("a mask that was in force may be set");
    spawned.map_err(|error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_thread_takes_no_signal_and_its_starter_takes_those_it_took() {
        let before = SigSet::thread_get_mask().unwrap();
        let thread = spawn_background("gpreempt-test", || {
            assert_eq!(std::thread::current().name(), Some("gpreempt-test"));
            assert!(SigSet::thread_get_mask().unwrap().contains(nix::sys::signal::SIGTERM));
        });
        thread.unwrap().join().unwrap();
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
        assert!(!before.contains(nix::sys::signal::SIGTERM));
    }
}
