//! The library as a file: its name, its symbols, its link flags, and what the header and the pkg-config file say of it.

mod common;

use std::fs;
use std::process::Command;

use common::{compiler, folder, library, root, run, simulated};

#[test]
fn it_exports_the_functions_of_the_header_and_nothing_else() {
    let header = fs::read_to_string(root().join("include/gpreempt_poc_v2.h")).unwrap();
    let mut declared: Vec<&str> = header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#', '}']) && !line.starts_with("typedef"))
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("gpreempt_"))
        .collect();
    declared.sort_unstable();
    let symbols = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let mut exported: Vec<&str> = symbols.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    exported.sort_unstable();
    assert_eq!(exported, declared);
    assert_eq!(exported.len(), 23);
}

#[test]
fn its_soname_is_its_file_name_and_it_is_never_unloaded() {
    let dynamic = run(Command::new("readelf").arg("-dW").arg(library()));
    assert!(dynamic.contains("Library soname: [libgpreempt_poc_v2.so]"), "{dynamic}");
    let flags = dynamic.lines().find(|line| line.contains("(FLAGS_1)")).unwrap_or_default();
    assert!(flags.contains("NODELETE"), "{dynamic}");
    let needed = dynamic.lines().filter(|line| line.contains("(NEEDED)"));
    for line in needed {
        let system = ["libgcc_s.so.1", "libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];
        assert!(system.iter().any(|name| line.contains(name)), "an unexpected dependency: {line}");
    }
}

#[test]
fn a_program_builds_with_what_pkg_config_says_of_an_installed_tree() {
    let prefix = folder("prefix");
    for name in ["lib/pkgconfig", "include"] {
        fs::create_dir_all(prefix.join(name)).unwrap();
    }
    fs::copy(library(), prefix.join("lib/libgpreempt_poc_v2.so")).unwrap();
    fs::copy(root().join("include/gpreempt_poc_v2.h"), prefix.join("include/gpreempt_poc_v2.h")).unwrap();
    let template = fs::read_to_string(root().join("include/gpreempt_poc_v2.pc.in")).unwrap();
    let filled = template.replace("@prefix@", prefix.to_str().unwrap()).replace("@version@", env!("CARGO_PKG_VERSION"));
    assert!(!filled.contains('@'), "{filled}");
    fs::write(prefix.join("lib/pkgconfig/gpreempt_poc_v2.pc"), &filled).unwrap();

    let binary = prefix.join("smoke");
    let mut build = compiler("cc", "gnu11");
    build.arg(root().join("tests/c/smoke.c")).args(pkg_config(&filled, "Cflags")).args(pkg_config(&filled, "Libs"));
    run(build.arg("-o").arg(&binary));
    run(simulated(&binary).env("LD_LIBRARY_PATH", prefix.join("lib")));
}

/// The words of one field, with its variables filled in: what the pkg-config program does, which not every machine has.
fn pkg_config(text: &str, field: &str) -> Vec<String> {
    let mut value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
        .expect("the field is there")
        .to_owned();
    let variables: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    while value.contains("${") {
        for (name, replacement) in &variables {
            value = value.replace(&format!("${{{name}}}"), replacement);
        }
    }
    value.split_whitespace().map(str::to_owned).collect()
}
