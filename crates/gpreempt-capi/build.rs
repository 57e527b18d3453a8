//! Link arguments of libgpreempt_poc_v2.so.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The "v2" in the name is the version of the interface, so the soname is the file's name: dlopen, -lgpreempt_poc_v2
    // and a copy inside a wheel all work with one file.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libgpreempt_poc_v2.so");
    // The monitor's thread and the fork handler outlive dlclose.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // No undefined symbols: found here, not when a program starts.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,defs");
}
