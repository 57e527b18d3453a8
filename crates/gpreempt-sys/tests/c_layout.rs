//! Asks the C compiler for the layout and the numbers of both uapi headers and compares them with
//! the Rust mirror.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use gpreempt_sys::*;

mod list;
#[macro_use]
#[path = "../src/layout/gpreempt.rs"]
mod gpreempt_table;
#[macro_use]
#[path = "../src/layout/stock.rs"]
mod stock_table;

const GPREEMPT_HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel-patch/uapi/kfd_ioctl_gpreempt.h");

/// One thing that C and Rust must agree on.
struct Fact {
    /// An integer expression in C.
    expression: String,
    rust: u64,
}

fn fact(expression: String, rust: u64) -> Fact {
    Fact { expression, rust }
}

fn facts(abi: &list::Abi) -> Vec<Fact> {
    let mut facts = Vec::new();
    for item in &abi.structs {
        let name = item.name;
        facts.push(fact(format!("sizeof(struct {name})"), item.size));
        facts.push(fact(format!("_Alignof(struct {name})"), item.align));
        for field in &item.fields {
            let member = field.name;
            facts.push(fact(format!("offsetof(struct {name}, {member})"), field.offset));
            facts.push(fact(format!("sizeof(((struct {name} *)0)->{member})"), field.size));
        }
    }
    for request in &abi.requests {
        let list::Request { name, number, args } = request;
        facts.push(fact(name.to_string(), u64::from(*number)));
        facts.push(fact(format!("_IOC_SIZE({name}) == sizeof(struct {args})"), 1));
    }
    for constant in &abi.constants {
        // The cast undoes the sign extension of `1 << 31`.
        let c_type = if constant.bytes == 8 { "unsigned long long" } else { "unsigned int" };
        facts.push(fact(format!("({c_type})({})", constant.name), constant.value));
    }
    facts
}

/// Lets the C compiler evaluate every fact and returns what differs, one line each.
fn differences(header: &Path, options: &[&str], facts: &[Fact]) -> Vec<String> {
    let stem = header.file_stem().expect("a header has a name").to_string_lossy();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("c_layout_{stem}"));
    let source = program.with_extension("c");
    let mut text =
        format!("#include \"{}\"\n#include <stddef.h>\n#include <stdio.h>\nint main(void)\n{{\n", header.display());
    for Fact { expression, .. } in facts {
        text += &format!("\tprintf(\"%llu\\n\", (unsigned long long)({expression}));\n");
    }
    text += "\treturn 0;\n}\n";
    fs::write(&source, text).expect("the test directory is writable");

    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_string());
    let status = Command::new(&compiler)
        .args(["-Wall", "-Wextra", "-Werror"])
        .args(cfg!(target_arch = "x86_64").then_some("-m64"))
        .args(options)
        .arg("-o")
        .args([&program, &source])
        .status()
        .unwrap_or_else(|error| panic!("cannot run the C compiler {compiler}: {error}"));
    assert!(status.success(), "{compiler} does not compile {}", source.display());

    let output = Command::new(&program).output().expect("the compiled program runs");
    let output = String::from_utf8(output.stdout).expect("the program prints numbers");
    let values: Vec<u64> = output.lines().map(|line| line.parse().expect("a number on each line")).collect();
    assert_eq!(values.len(), facts.len(), "the program prints one line for each fact");
    facts
        .iter()
        .zip(values)
        .filter(|(fact, c)| fact.rust != *c)
        .map(|(fact, c)| format!("{}: C {c:#x}, Rust {:#x}", fact.expression, fact.rust))
        .collect()
}

/// Where `kernel-patch/fetch-uapi` puts the stock header, or where the environment says it is.
fn stock_header() -> PathBuf {
    if let Some(path) = env::var_os("GPREEMPT_KFD_UAPI_HEADER") {
        return path.into();
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .unwrap_or_default();
    cache.join("gpreempt/kfd_ioctl-6.12.h")
}

/// An include directory with a `drm/drm.h`: Debian's kernel headers for user space lack it, and
/// the KFD header takes nothing but integer types from it.
fn stand_in_for_drm() -> PathBuf {
    let include = Path::new(env!("CARGO_TARGET_TMPDIR")).join("include");
    fs::create_dir_all(include.join("drm")).expect("the test directory is writable");
    fs::write(include.join("drm/drm.h"), "#include <linux/types.h>\n").expect("the test directory is writable");
    include
}

#[test]
fn the_c_compiler_sees_the_lease_commands_as_rust_does() {
    let facts = facts(&gpreempt_abi!(list_abi));
    let options = ["-std=c11", "-Wpedantic"];
    let differences = differences(Path::new(GPREEMPT_HEADER), &options, &facts);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_c_compiler_sees_the_stock_commands_as_rust_does() {
    let header = stock_header();
    if !header.exists() {
        let skipped = "skipped: stock layout: no linux-source-6.12 header (kernel-patch/fetch-uapi)";
        let required = env::var_os("GPREEMPT_REQUIRE_KFD_UAPI").is_some();
        assert!(!required, "{skipped}: {} does not exist", header.display());
        // Not eprintln, which the test harness captures.
        writeln!(std::io::stderr(), "{skipped}").expect("stderr is open");
        return;
    }
    let mut facts = facts(&stock_abi!(list_abi));
    for (ecode, name) in [(EC_QUEUE_NEW, "EC_QUEUE_NEW"), (EC_PROCESS_RUNTIME, "EC_PROCESS_RUNTIME")] {
        facts.push(fact(format!("KFD_EC_MASK({name})"), KFD_EC_MASK(ecode)));
    }
    facts.push(fact(
        "KFD_SMI_EVENT_MASK_FROM_INDEX(KFD_SMI_EVENT_ALL_PROCESS)".to_string(),
        KFD_SMI_EVENT_MASK_FROM_INDEX(KFD_SMI_EVENT_ALL_PROCESS),
    ));
    // C has an anonymous union where Rust has `payload`; `enable` is one of its longest members.
    let include = format!("-I{}", stand_in_for_drm().display());
    let options = ["-std=gnu11", "-Dpayload=enable", &include];
    let differences = differences(&header, &options, &facts);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The names of structs, requests and constants in a list.
fn names(abi: &list::Abi) -> BTreeSet<String> {
    let structs = abi.structs.iter().map(|item| item.name);
    let requests = abi.requests.iter().map(|request| request.name);
    let constants = abi.constants.iter().map(|constant| constant.name);
    structs.chain(requests).chain(constants).map(str::to_string).collect()
}

/// The names that stand between one of the prefixes at the start of a line and `end`.
fn defined(text: &str, prefixes: &[&str], end: &[char]) -> BTreeSet<String> {
    let after_prefix = |line| prefixes.iter().find_map(|prefix| str::strip_prefix(line, prefix));
    let name = |rest: &str| rest.split(end).next().unwrap_or_default().to_string();
    text.lines().filter_map(after_prefix).map(name).collect()
}

#[test]
fn every_struct_and_constant_of_the_mirror_is_compared() {
    for (abi, source) in [
        (gpreempt_abi!(list_abi), include_str!("../src/gpreempt.rs")),
        (stock_abi!(list_abi), include_str!("../src/stock.rs")),
    ] {
        let mut defined = defined(source, &["pub struct ", "pub const "], &[':', ' ']);
        defined.remove("fn");
        assert_eq!(defined, names(&abi));
    }
}

#[test]
fn every_struct_and_constant_of_the_lease_header_is_mirrored() {
    let header = fs::read_to_string(GPREEMPT_HEADER).expect("the header is in the repository");
    let mut defined = defined(&header, &["struct ", "#define AMDKFD_", "#define KFD_"], &[' ', '\t', '(']);
    // What #define defines has lost its prefix; helper macros are no part of the ABI.
    for helper in ["IOCTL_GPREEMPT_H_INCLUDED", "GPREEMPT_IOWR"] {
        assert!(defined.remove(helper), "the header has no {helper} any more");
    }
    let strip = |name: String| name.trim_start_matches("AMDKFD_").trim_start_matches("KFD_").to_string();
    let mirrored: BTreeSet<String> = names(&gpreempt_abi!(list_abi)).into_iter().map(strip).collect();
    assert_eq!(defined, mirrored);
}
