//! The background thread that ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};

use crate::error::{Error, Result};
use crate::sched::shared::Shared;

/// Ticks until dropped.
#[derive(Debug)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(super) fn start(shared: Arc<Shared>) -> Result<Ticker> {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, of_thread) = (stop.clone(), shared.clone());
        shared.host.enlist(&shared.alarm);
        let fail = |errno| Error::new("starting the scheduler's thread", errno);
        // A thread inherits the mask, so the program's signals land on the program's threads.
        let mut previous = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut previous)).map_err(fail)?;
        let spawned = Builder::new().name("gpreempt-scheduler".to_owned()).spawn(move || {
            while !seen.load(Ordering::Acquire) {
                of_thread.tick();
                let deadline = {
                    let mut state = of_thread.lock();
                    let deadline = state.next_wakeup(of_thread.host.now());
                    state.asleep_until = Some(deadline);
                    deadline
                };
                of_thread.host.park(&of_thread.alarm, deadline);
                of_thread.lock().asleep_until = None;
            }
        });
        let restored = previous.thread_set_mask();
        let thread = spawned.map_err(|error| fail(error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw)))?;
        let ticker = Ticker { shared, stop, thread: Some(thread) };
        restored.map_err(fail)?;
        Ok(ticker)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if self.shared.forked() {
            // There is no such thread here, and joining it would abort.
            std::mem::forget(self.thread.take());
            return;
        }
        self.stop.store(true, Ordering::Release);
        self.shared.alarm.ring();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the scheduler's thread panicked");
        }
    }
}
