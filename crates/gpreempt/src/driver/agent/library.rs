//! Where libgpreempt_agent.so is, and whether a process has it.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::queue::Pid;

/// File name of the agent.
pub const LIBRARY: &str = "libgpreempt_agent.so";

/// Names the agent where it is in none of the usual places.
const VARIABLE: &str = "GPREEMPT_AGENT_LIBRARY";

/// The agent of this installation: beside the program or library that this code is part of (a cargo target folder, a
/// wheel), or in `lib` next to its `bin`.
///
/// # Errors
/// ENOENT names the places.
pub fn library() -> Result<PathBuf> {
    find(std::env::var_os(VARIABLE).map(PathBuf::from), &own_files(), Path::is_file)
}

fn find(chosen: Option<PathBuf>, own_files: &[PathBuf], exists: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let missing = |places: String| {
        Error::new("looking for the agent", Errno::ENOENT)
            .on(LIBRARY)
            .because(format!("it is not {places}"))
            .remedy(format!("build it (make lib), or name it in {VARIABLE}"))
    };
    if let Some(chosen) = chosen.filter(|chosen| !chosen.as_os_str().is_empty()) {
        return if exists(&chosen) { Ok(chosen) } else { Err(missing(format!("at {}", chosen.display()))) };
    }
    let mut places = Vec::new();
    for folder in own_files.iter().filter_map(|file| file.parent()) {
        places.push(folder.join(LIBRARY));
        if folder.ends_with("bin") {
            places.push(folder.with_file_name("lib").join(LIBRARY));
        }
        if folder.ends_with("deps") {
            places.extend(folder.parent().map(|target| target.join(LIBRARY)));
        }
    }
    match places.iter().find(|place| exists(place)) {
        Some(place) => Ok(place.clone()),
        None => {
            let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
            Err(missing(places.join(", nor ")))
        }
    }
}

/// The file that this code was loaded from, and the program.
fn own_files() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let here = own_files as *const () as usize;
    let mine = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        let path = rest.find('/').map(|at| PathBuf::from(&rest[at..]))?;
        (start..end).contains(&here).then_some(path)
    });
    mine.into_iter().chain(std::env::current_exe().ok()).collect()
}

/// Whether a process was started with the agent, as far as it shows its environment.
pub(super) fn is_preloaded(host: &dyn Host, pid: Pid) -> bool {
    let environment = host.read_text(&format!("/proc/{pid}/environ")).unwrap_or_default();
    let preload = environment.split('\0').find_map(|variable| variable.strip_prefix("LD_PRELOAD="));
    preload.is_some_and(|preload| preload.split([':', ' ']).any(|path| path.ends_with(LIBRARY)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(own: &str, there: &str) -> Option<PathBuf> {
        find(None, &[PathBuf::from(own)], |path| path == Path::new(there)).ok()
    }

    #[test]
    fn it_is_beside_the_file_that_asks_or_in_the_lib_next_to_its_bin() {
        for (own, there) in [
            ("/src/target/release/gpreempt", "/src/target/release/libgpreempt_agent.so"),
            ("/src/target/debug/deps/test-1", "/src/target/debug/libgpreempt_agent.so"),
            ("/usr/local/bin/gpreempt", "/usr/local/lib/libgpreempt_agent.so"),
            ("/venv/site-packages/gpreempt/_gpreempt.abi3.so", "/venv/site-packages/gpreempt/libgpreempt_agent.so"),
        ] {
            assert_eq!(found(own, there), Some(PathBuf::from(there)), "{own}");
        }
        assert_eq!(found("/opt/x/gpreempt", "/opt/lib/libgpreempt_agent.so"), None);
    }

    #[test]
    fn a_name_in_the_environment_goes_first_and_has_to_be_right() {
        let chosen = |there: bool| find(Some("/x.so".into()), &[], |_| there);
        assert_eq!(chosen(true).unwrap(), PathBuf::from("/x.so"));
        let error = chosen(false).unwrap_err();
        assert!(error.to_string().contains("/x.so") && error.to_string().contains(VARIABLE), "{error}");
    }
}
