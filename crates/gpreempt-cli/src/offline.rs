//! `gpreempt offline`: starts a program with the agent in it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpreempt::driver::agent;

use crate::Failure;
use crate::args::OfflineArgs;

/// Environment variable that tells the processes of a job whose they are.
const JOB: &str = "GPREEMPT_AGENT_JOB";
const PRELOAD: &str = "LD_PRELOAD";

/// Scripts that name scripts that name scripts.
const INTERPRETERS: usize = 4;

/// Becomes the program. Returns only where that cannot be.
pub(crate) fn run(args: &OfflineArgs) -> Result<(), Failure> {
    let (name, arguments) = args.command.split_first().expect("clap asks for one");
    let program = find(name, env::var_os("PATH").as_deref())
        .ok_or_else(|| Failure::Usage(format!("no program {} on PATH", name.display())))?;
    if let Some(why) = cannot_preload(&program, INTERPRETERS) {
        return Err(Failure::Failed(why));
    }
    let library = agent::library()?;
    let preload = preload(&library, env::var_os(PRELOAD))?;
    let mut command = Command::new(&program);
    // A job is known by the pid that this process has and the program will have.
    command.arg0(name).args(arguments).env(PRELOAD, preload).env(JOB, std::process::id().to_string());
    let error = command.exec();
    Err(Failure::Failed(format!("starting {}: {error}", program.display())))
}

/// What `LD_PRELOAD` is to be: the agent first, then what the caller preloads.
fn preload(library: &Path, existing: Option<OsString>) -> Result<OsString, Failure> {
    if library.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':')) {
        return Err(Failure::Failed(format!(
            "{} cannot be preloaded from a folder with a space or colon in its name: install it elsewhere",
            library.display()
        )));
    }
    let mut preload = library.as_os_str().as_bytes().to_vec();
    for other in existing.iter().flat_map(|existing| existing.as_bytes().split(|byte| matches!(byte, b' ' | b':'))) {
        // An outer `gpreempt offline` may have put it there.
        if !other.is_empty() && other != library.as_os_str().as_bytes() {
            preload.push(b':');
            preload.extend_from_slice(other);
        }
    }
    Ok(OsString::from_vec(preload))
}

/// The file that a command name stands for, as a shell would find it.
fn find(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        let file = PathBuf::from(name);
        return file.exists().then_some(file);
    }
    let runs = |file: &PathBuf| file.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0);
    env::split_paths(path?).map(|folder| folder.join(name)).find(runs)
}

/// Why a program would run without the agent: one line with the remedy.
fn cannot_preload(program: &Path, depth: usize) -> Option<String> {
    let refuse = |why: &str, remedy: &str| Some(format!("{} {why}: {remedy}", program.display()));
    let Ok(file) = File::open(program) else {
        // One may have the right to run what one cannot read.
        return None;
    };
    if file.metadata().is_ok_and(|it| it.mode() & 0o6000 != 0) {
        return refuse(
            "runs with its owner's rights, and so ignores what is preloaded",
            "use the tier debugger or patched for it",
        );
    }
    let mut head = Vec::new();
    let _ = file.take(1 << 16).read_to_end(&mut head);
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let interpreter = Path::new(OsStr::from_bytes(words.next()?));
        let wanted = match words.next() {
            Some(word) if interpreter.ends_with("env") => {
                find(OsStr::from_bytes(word), env::var_os("PATH").as_deref())?
            }
            _ => interpreter.to_owned(),
        };
        return (depth > 0).then(|| cannot_preload(&wanted, depth - 1)).flatten();
    }
    match interpreter(&head) {
        Elf::Static => refuse(
            "is statically linked, and so cannot be preloaded",
            "link it dynamically, or use the tier debugger or patched for it",
        ),
        Elf::Other => refuse("is not for this machine's C library", "start its 64-bit glibc build"),
        Elf::Dynamic | Elf::No => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Elf {
    /// No ELF file.
    No,
    /// No dynamic loader: nothing is preloaded.
    Static,
    /// A dynamic loader that cannot load the agent.
    Other,
    Dynamic,
}

/// Which loader an ELF file asks for.
fn interpreter(head: &[u8]) -> Elf {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let field = head.get(at..at + bytes)?;
        Some(field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    if !head.starts_with(b"\x7fELF") {
        return Elf::No;
    }
    // 64 bits, little endian.
    if head.get(4..6) != Some(&[2, 1]) {
        return Elf::Other;
    }
    let found = || -> Option<Option<&[u8]>> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for index in 0..count {
            let entry = usize::try_from(table + index * size).ok()?;
            if number(entry, 4)? == u64::from(PT_INTERP) {
                let (from, length) = (number(entry + 8, 8)? as usize, number(entry + 32, 8)? as usize);
                return Some(head.get(from..from.checked_add(length)?));
            }
        }
        Some(None)
    };
    match found() {
        // A table beyond what was read: let the loader judge.
        None => Elf::Dynamic,
        Some(None) => Elf::Static,
        Some(Some(loader)) if loader.windows(4).any(|part| part == b"musl") => Elf::Other,
        Some(Some(_)) => Elf::Dynamic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_preloaded_already_stays_behind_the_agent() {
        let with = |existing: Option<&str>| preload(Path::new("/a.so"), existing.map(OsString::from)).unwrap();
        assert_eq!(with(None), "/a.so");
        assert_eq!(with(Some("/b.so /c.so:/d.so")), "/a.so:/b.so:/c.so:/d.so");
        assert_eq!(with(Some("/a.so:/b.so")), "/a.so:/b.so", "the agent once");
        assert!(preload(Path::new("/my folder/a.so"), None).is_err());
    }

    /// An ELF file with one program header of this type; its interpreter, if any.
    fn elf(class: u8, header: u32, loader: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 120];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64..68].copy_from_slice(&header.to_le_bytes());
        file[72] = 120;
        file[96] = loader.len() as u8;
        file.extend_from_slice(loader);
        file
    }

    #[test]
    fn only_a_dynamically_linked_program_of_this_c_library_can_be_preloaded() {
        for (file, expected) in [
            (elf(2, 3, b"/lib64/ld-linux-x86-64.so.2\0"), Elf::Dynamic),
            (elf(2, 3, b"/lib/ld-musl-x86_64.so.1\0"), Elf::Other),
            (elf(1, 3, b"/lib/ld-linux.so.2\0"), Elf::Other),
            (elf(2, 1, b""), Elf::Static),
            (b"#!/bin/sh\n".to_vec(), Elf::No),
            (b"\x7fELF".to_vec(), Elf::Other),
        ] {
            assert_eq!(interpreter(&file), expected);
        }
    }

    #[test]
    fn a_script_is_judged_by_its_interpreter() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let program = file("static", &elf(2, 1, b""));
        let script = file("script", format!("#!{} -x\n", program.display()).as_bytes());
        let outer = file("outer", format!("#! {}\n", script.display()).as_bytes());
        let why = cannot_preload(&outer, INTERPRETERS).unwrap();
        assert!(why.contains("statically linked") && why.lines().count() == 1, "{why}");
        let own = file("loop", format!("#!{}\n", folder.path().join("loop").display()).as_bytes());
        assert_eq!(cannot_preload(&own, INTERPRETERS), None, "exec says what is wrong with it");
        assert_eq!(cannot_preload(Path::new("/bin/sh"), INTERPRETERS), None);
    }
}
