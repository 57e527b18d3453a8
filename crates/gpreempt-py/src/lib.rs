//! The native half of the Python package `gpreempt`: conversion only.
//!
//! What C and Python share is in the library. Here arguments become the library's, results become values, errors become
//! the exceptions of `gpreempt.errors`, the GIL is released around every call, and what belongs to the parent of a forked
//! process is left alone.

mod convert;
mod monitor;
mod scheduler;
mod session;
mod value;

#[pyo3::pymodule]
mod _gpreempt {
    use std::ffi::OsString;
    use std::sync::OnceLock;

    use pyo3::prelude::*;
    use pyo3_log::{Caching, Logger, ResetHandle};

    #[pymodule_export]
    use crate::monitor::PyMonitor;
    #[pymodule_export]
    use crate::scheduler::{Online, PyScheduler};
    #[pymodule_export]
    use crate::session::{_abandon_after_fork, Session};
    #[pymodule_export]
    use crate::value::{Batch, HQDStatus, QueueInfo, QueueStatus, Reservation};

    static LOG_LEVELS: OnceLock<ResetHandle> = OnceLock::new();

    /// The version of the package.
    #[allow(non_upper_case_globals, reason = "the name that Python packages use")]
    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    // Without the module as an argument, so that the generated stub is complete.
    #[pymodule_init]
    fn init(py: Python<'_>) -> PyResult<()> {
        // A program that embeds Python may have a logger already; then the records go there.
        if let Ok(handle) = Logger::new(py, Caching::LoggersAndLevels)?.install() {
            let _ = LOG_LEVELS.set(handle);
        }
        Ok(())
    }

    /// Looks at the levels of Python's loggers again; they are cached so that a silent record costs nothing.
    #[pyfunction]
    fn refresh_logging() {
        if let Some(levels) = LOG_LEVELS.get() {
            levels.reset();
        }
    }

    /// Runs the `gpreempt` command and returns its exit status.
    #[pyfunction]
    fn run_command(py: Python<'_>, arguments: Vec<OsString>) -> PyResult<u8> {
        crate::convert::detached(py, || Ok(gpreempt_cli::main(arguments)))
    }
}
