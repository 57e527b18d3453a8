//! The background thread that ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::host::spawn_background;
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
        let thread = spawn_background("gpreempt-scheduler", move || {
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
        })
        .map_err(|errno| Error::new("starting the scheduler's thread", errno))?;
        Ok(Ticker { shared, stop, thread: Some(thread) })
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
