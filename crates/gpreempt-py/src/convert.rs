//! Arguments and errors, from Python and to Python.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use gpreempt::PolicyFlags;
use nix::errno::Errno;
use pyo3::exceptions::PyTypeError;
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::{PyDelta, PyFloat, PyInt, PyType};
use pyo3::{type_hint_identifier, type_hint_subscript, type_hint_union};

use crate::value::QueueInfo;

pyo3::import_exception!(gpreempt.errors, GpreemptError);

/// Runs a call of the library without the GIL; its error, or its panic, becomes a `gpreempt.errors` exception.
pub(crate) fn detached<T: Send>(py: Python<'_>, call: impl FnOnce() -> gpreempt::Result<T> + Send) -> PyResult<T> {
    // What a panic leaves behind is guarded by the library's own locks.
    match py.detach(|| catch_unwind(AssertUnwindSafe(call))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(raise(&error)),
        Err(panic) => {
            let text = format!("internal error, please report it: {}", words(&*panic));
            Err(GpreemptError::new_err((Errno::ENOTRECOVERABLE as i32, text)))
        }
    }
}

/// The exception of an error: the class is the errno's.
pub(crate) fn raise(error: &gpreempt::Error) -> PyErr {
    GpreemptError::new_err((error.errno() as i32, error.to_string()))
}

/// The exception of a wrong argument.
pub(crate) fn invalid(text: impl Into<String>) -> PyErr {
    GpreemptError::new_err((Errno::EINVAL as i32, text.into()))
}

/// The exception of something that was closed.
pub(crate) fn unavailable(text: &'static str) -> PyErr {
    GpreemptError::new_err((Errno::ENODEV as i32, text))
}

/// The exception of something that a forked process inherited.
pub(crate) fn stale(text: &'static str) -> PyErr {
    GpreemptError::new_err((Errno::EBADF as i32, text))
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

/// A non-negative number of 32 bits; another one is a wrong argument, not an overflow.
pub(crate) struct Number(pub(crate) u32);

impl<'py> FromPyObject<'_, 'py> for Number {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr = type_hint_identifier!("builtins", "int");

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Number> {
        if let Ok(number) = object.extract::<u32>() {
            return Ok(Number(number));
        }
        if object.is_instance_of::<PyInt>() {
            return Err(invalid(format!("{} is not a number from 0 to {}", object.repr()?, u32::MAX)));
        }
        Err(PyTypeError::new_err(format!("expected an int, not {}", object.get_type().name()?)))
    }
}

/// A queue: its number, or what discovery said of it.
pub(crate) struct Queue(pub(crate) u32);

impl<'py> FromPyObject<'_, 'py> for Queue {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr =
        type_hint_union!(<PyInt as PyTypeInfo>::TYPE_HINT, <QueueInfo as PyTypeInfo>::TYPE_HINT);

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Queue> {
        match object.cast::<QueueInfo>() {
            Ok(info) => Ok(Queue(info.get().queue_id)),
            Err(_) => object.extract::<Number>().map(|number| Queue(number.0)),
        }
    }
}

/// Any iterable of queues.
pub(crate) struct Queues(pub(crate) Vec<u32>);

impl<'py> FromPyObject<'_, 'py> for Queues {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr =
        type_hint_subscript!(type_hint_identifier!("collections.abc", "Iterable"), Queue::INPUT_TYPE);

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Queues> {
        object.try_iter()?.map(|queue| Ok(queue?.extract::<Queue>()?.0)).collect::<PyResult<_>>().map(Queues)
    }
}

/// A time: seconds, or a `timedelta`.
#[derive(Clone, Copy)]
pub(crate) struct Seconds(pub(crate) Duration);

impl<'py> FromPyObject<'_, 'py> for Seconds {
    type Error = PyErr;

    const INPUT_TYPE: PyStaticExpr =
        type_hint_union!(<PyFloat as PyTypeInfo>::TYPE_HINT, <PyDelta as PyTypeInfo>::TYPE_HINT);

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Seconds> {
        let is_number = object.is_instance_of::<PyFloat>() || object.is_instance_of::<PyInt>();
        let seconds: f64 = match (is_number, object.cast::<PyDelta>()) {
            (true, _) => object.extract()?,
            (false, Ok(delta)) => delta.call_method0("total_seconds")?.extract()?,
            (false, Err(_)) => {
                let found = object.get_type().name()?;
                return Err(PyTypeError::new_err(format!("expected seconds or a timedelta, not {found}")));
            }
        };
        match Duration::try_from_secs_f64(seconds) {
            Ok(duration) => Ok(Seconds(duration)),
            Err(_) => Err(invalid(format!("{seconds} s is not a time that can be waited for"))),
        }
    }
}

/// A policy in force: a `gpreempt.QueuePolicy`.
pub(crate) struct Policy(pub(crate) PolicyFlags);

impl<'py> IntoPyObject<'py> for Policy {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    const OUTPUT_TYPE: PyStaticExpr = type_hint_identifier!("gpreempt.flags", "QueuePolicy");

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        CLASS.import(py, "gpreempt.flags", "QueuePolicy")?.call1((self.0.bits(),))
    }
}
