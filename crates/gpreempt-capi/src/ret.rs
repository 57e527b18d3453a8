//! How a Rust result becomes a C return value: a number that is never negative, or a negated errno and a text.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use gpreempt::Result;
use nix::errno::Errno;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of a C function. No panic leaves it: a caller in C could not survive one.
///
/// What the body locks must not stay behind broken by a panic; the session's own locks see to that.
pub(crate) fn c_return(body: impl FnOnce() -> Result<i32>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(|| body().map_err(|error| (error.errno(), error.to_string()))));
    match outcome {
        Ok(Ok(value)) => value,
        Ok(Err((errno, text))) => fail(errno, text),
        Err(panic) => fail(Errno::ENOTRECOVERABLE, format!("internal error, please report it: {}", words(&*panic))),
    }
}

/// The text of the calling thread's last failure; empty where there was none. Valid until its next call.
pub(crate) fn last_error() -> *const c_char {
    // A thread that is being torn down has no text left.
    LAST_ERROR.try_with(|text| text.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

fn fail(errno: Errno, text: String) -> i32 {
    let text = CString::new(text).unwrap_or_else(|nul| {
        let mut bytes = nul.into_vec();
        bytes.retain(|&byte| byte != 0);
        CString::new(bytes).expect("no NUL is left")
    });
    // Likewise.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
    -(errno as i32)
}

fn words(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "a panic without words"
    }
}

#[cfg(test)]
#[allow(unsafe_code, reason = "reads the text as C does")]
mod tests {
    use std::ffi::CStr;

    use gpreempt::Error;

    use super::*;

    fn text() -> String {
        // SAFETY: the pointer is this thread's text, and no call has come in between.
        unsafe { CStr::from_ptr(last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_enotrecoverable_and_its_words_the_last_error() {
        assert_eq!(c_return(|| panic!("lost count of {} queues", 3)), -libc::ENOTRECOVERABLE);
        assert_eq!(text(), "internal error, please report it: lost count of 3 queues");
        assert_eq!(c_return(|| panic!("plain words")), -131);
        assert_eq!(text(), "internal error, please report it: plain words");
    }

    #[test]
    fn the_last_error_belongs_to_its_thread_and_survives_a_success() {
        let failure = || Err(Error::new("unmapping 2 queues", Errno::EPERM).on("queue 1 of pid 7"));
        assert_eq!(c_return(failure), -libc::EPERM);
        std::thread::spawn(|| assert_eq!(text(), "")).join().unwrap();
        assert_eq!(c_return(|| Ok(3)), 3);
        assert!(text().starts_with("unmapping 2 queues (queue 1 of pid 7): "), "{}", text());
    }

    #[test]
    fn a_nul_in_a_text_is_left_out() {
        assert_eq!(c_return(|| Err(Error::new("opening a\0b", Errno::EINVAL))), -libc::EINVAL);
        assert!(text().starts_with("opening ab"), "{}", text());
    }
}
