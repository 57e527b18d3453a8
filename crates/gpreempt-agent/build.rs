//! Link arguments of libgpreempt_agent.so.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libgpreempt_agent.so");
    // Its thread and its fork handler stay for good.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // No undefined symbols: found here, not when a program starts.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,defs");
}
