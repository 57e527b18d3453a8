//! Lets `cargo build` of this crate find the libpython it links; a wheel links none.
fn main() {
    pyo3_build_config::add_libpython_rpath_link_args();
}
