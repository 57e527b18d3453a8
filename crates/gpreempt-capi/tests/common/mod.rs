//! The built library and the C and C++ compilers, for tests that look at it from outside.
#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the crate lies two folders below the root")
}

/// The library of this very build: cargo builds all forms of the crate's library before its tests, and puts the shared
/// one beside the test programs (`target/<profile>/deps`).
pub fn library() -> PathBuf {
    let library = std::env::current_exe().expect("the test runs").with_file_name("libgpreempt_poc_v2.so");
    assert!(library.exists(), "{} was not built", library.display());
    library
}

/// A fresh folder for what the running test builds.
pub fn folder(name: &str) -> PathBuf {
    let test = std::thread::current().name().unwrap_or("main").to_owned();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the target folder is writable");
    folder
}

/// Runs a command and returns what it printed; what it printed is the message where it fails.
pub fn run(command: &mut Command) -> String {
    let output = try_run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs a command that may fail.
pub fn try_run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A compiler with all warnings as errors and the header in reach.
pub fn compiler(program: &str, standard: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(format!("-std={standard}")).args(["-Wall", "-Wextra", "-Wpedantic", "-Wredundant-decls"]);
    command.args(["-Werror", "-g"]);
    command.arg("-I").arg(root().join("include"));
    command
}

/// Builds `tests/c/<name>.c` as C11 or, where `name` ends in `++`, as C++11, linked with the library.
pub fn program(name: &str) -> PathBuf {
    let source = name.trim_end_matches("++");
    let mut compiler = if source == name { compiler("cc", "gnu11") } else { compiler("c++", "gnu++11") };
    let directory = folder(name);
    let binary = directory.join(source);
    if source != name {
        compiler.args(["-x", "c++"]);
    }
    compiler.arg(root().join("tests/c").join(format!("{source}.c"))).arg("-o").arg(&binary);
    compiler.args(["-x", "none"]).arg(library()).args(["-pthread", "-ldl"]);
    compiler.arg(format!("-Wl,-rpath,{}", library().parent().expect("it lies in a folder").display()));
    run(&mut compiler);
    binary
}

/// A command on the simulated machine with a virtual clock.
pub fn simulated(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GPREEMPT_") {
            command.env_remove(name);
        }
    }
    command.env("GPREEMPT_BACKEND", "sim").env("GPREEMPT_SIM_CLOCK", "virtual");
    command
}
