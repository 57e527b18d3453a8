//! What the agent adds to an ioctl that is none of its business: the same call through it and past it.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_ulong, c_void};
use std::ptr::null_mut;
use std::time::Instant;

type Ioctl = unsafe extern "C" fn(c_int, c_ulong, *mut c_void) -> c_int;

const CALLS: u32 = 1000;
const SAMPLES: usize = 4001;

/// Nanoseconds of one call, mean of [`CALLS`]: the kernel refuses the descriptor at once.
fn sample(ioctl: Ioctl) -> f64 {
    let begin = Instant::now();
    for _ in 0..CALLS {
        // SAFETY: there is no descriptor -1, so nothing is read or written.
        unsafe { ioctl(-1, libc::TIOCGWINSZ, null_mut()) };
    }
    begin.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn main() {
    // SAFETY: libc is loaded, and its ioctl has this signature in the calling conventions that the agent supports.
    let libc_ioctl: Ioctl = unsafe {
        let libc = libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_NOW);
        std::mem::transmute::<*mut c_void, Ioctl>(libc::dlsym(libc, c"ioctl".as_ptr()))
    };
    let agent: Ioctl = gpreempt_agent::ioctl;
    assert_ne!(agent as usize, libc_ioctl as usize);
    // In turns, so that whatever else the machine does meets both.
    let (mut through, mut past) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        through.push(sample(agent));
        past.push(sample(libc_ioctl));
    }
    let (through, past) = (median(through), median(past));
    println!(
        "an ioctl that is not KFD's: p50 {past:.1} ns, with the agent {through:.1} ns: it adds {:.1} ns (measured on this machine)",
        through - past
    );
}
