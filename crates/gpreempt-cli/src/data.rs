//! Where the published traces and recorded machines lie, for tests.

use std::path::PathBuf;

/// The folder of real inputs: `GPREEMPT_DATA`, or `shared/data` beside the checkout. None (said on stderr) where it is absent.
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("GPREEMPT_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no real inputs at {} (GPREEMPT_DATA names another folder)", folder.display());
    None
}
