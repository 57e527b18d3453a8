//! The committed header is what the sources say, and every compiler takes it.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{compiler, folder, root, run};

fn generated() -> String {
    let package = root().join("crates/gpreempt-capi");
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).unwrap();
    let mut header = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        // Follows lib.rs into its modules; named here, too, they would be in the header twice.
        .with_src(package.join("src/lib.rs"))
        .generate()
        .unwrap()
        .write(&mut header);
    String::from_utf8(header).unwrap()
}

#[test]
fn the_committed_header_is_what_the_sources_say() {
    let path = root().join("include/gpreempt_poc_v2.h");
    let generated = generated();
    if std::env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == generated, "stale header; run UPDATE_HEADER=1 cargo test -p gpreempt-capi --test header");
}

#[test]
fn every_errno_that_a_function_documents_is_in_the_table() {
    let header = generated();
    let (head, functions) = header.split_once("#ifndef").unwrap();
    let table: BTreeSet<&str> =
        head.lines().filter_map(|line| line.strip_prefix(" *     ")).filter_map(errno).collect();
    assert!(table.contains("EINVAL"), "{table:?}");
    let missing: BTreeSet<&str> =
        functions.split_whitespace().filter_map(errno).filter(|errno| !table.contains(errno)).collect();
    assert_eq!(missing, BTreeSet::new());
}

/// The name at the start of `-EINVAL`, with whatever follows it.
fn errno(text: &str) -> Option<&str> {
    let name = text.strip_prefix('-')?.split(|c: char| !c.is_ascii_uppercase()).next()?;
    name.starts_with('E').then_some(name)
}

#[test]
fn every_standard_of_c_and_cplusplus_takes_the_header_without_a_warning() {
    let folder = folder("header");
    for (program, standards) in [("cc", ["c99", "c11", "c17"]), ("c++", ["c++11", "c++14", "c++17"])] {
        let source = folder.join(if program == "cc" { "twice.c" } else { "twice.cc" });
        fs::write(
            &source,
            "#include <gpreempt_poc_v2.h>\n#include <gpreempt_poc_v2.h>\nint main(void) { return 0; }\n",
        )
        .unwrap();
        for standard in standards {
            run(compiler(program, standard).arg("-fsyntax-only").arg(&source));
        }
    }
}
