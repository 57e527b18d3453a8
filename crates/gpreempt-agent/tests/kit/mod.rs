//! Programs with the agent preloaded on a fake `/dev/kfd`, and a scheduler for them.
#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use gpreempt_agent_core::protocol::*;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use tempfile::TempDir;

/// Nothing here takes long; a machine under load may.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something that happens in another process.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The agent of this very build: cargo puts it beside the test programs (`target/<profile>/deps`).
pub fn agent() -> PathBuf {
    let library = std::env::current_exe().unwrap().with_file_name("libgpreempt_agent.so");
    assert!(library.exists(), "{} was not built", library.display());
    library
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/agent").canonicalize().unwrap()
}

/// Where the C programs of the tests are, built once.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test.file_name().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        let compile = |name: &str, output: &str, more: &[&str]| {
            let mut command = Command::new("cc");
            command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-o"]).arg(folder.join(output));
            command.arg(sources().join(name)).args(more).arg("-lpthread");
            let status = command.status().expect("a C compiler");
            assert!(status.success(), "{command:?}");
        };
        compile("fake_kfd.c", "fake_kfd.so", &["-shared", "-fPIC"]);
        compile("program.c", "program", &[]);
        compile("scheduler.c", "scheduler", &[]);
        folder
    })
}

/// How a program is started.
pub struct Start {
    /// With the agent.
    pub agent: bool,
    /// As another user.
    pub uid: Option<u32>,
    /// Job that its launcher names.
    pub job: Option<u32>,
    /// Folder for sockets that its launcher names; None: the program's `XDG_RUNTIME_DIR` decides.
    pub folder: Option<PathBuf>,
}

/// A program with its descriptors' ends.
pub struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Where it keeps its files.
    pub home: TempDir,
    folder: PathBuf,
}

pub fn start() -> Program {
    Start { agent: true, uid: None, job: None, folder: None }.program()
}

/// Processes of one job with some queues each and their sockets in one folder; the first is the job's leader.
pub fn job(folder: &Path, ranks: usize, queues: u32) -> Vec<Program> {
    let mut programs: Vec<Program> = Vec::new();
    for _ in 0..ranks {
        let job = programs.first().map(Program::pid);
        programs.push(Start { agent: true, uid: None, job, folder: Some(folder.to_owned()) }.program());
    }
    let leader = programs[0].pid();
    for program in &mut programs {
        program.folder = folder.to_owned();
        program.create(queues);
        drop(Scheduler::connect(&program.socket_of(leader, program.pid())));
    }
    programs
}

impl Start {
    pub fn program(self) -> Program {
        let home = tempfile::tempdir().unwrap();
        let device = home.path().join("kfd");
        std::fs::write(&device, "").unwrap();
        if let Some(uid) = self.uid {
            std::os::unix::fs::chown(home.path(), Some(uid), None).unwrap();
            std::os::unix::fs::chown(&device, Some(uid), None).unwrap();
        }
        let folder = home.path().join("gpreempt");
        let stub = built().join("fake_kfd.so");
        let preload =
            if self.agent { format!("{}:{}", agent().display(), stub.display()) } else { stub.display().to_string() };
        let mut command = Command::new(built().join("program"));
        command.env("LD_PRELOAD", preload).env("FAKE_KFD", &device).env("XDG_RUNTIME_DIR", home.path());
        command.env_remove(FOLDER_VARIABLE).env_remove(JOB_VARIABLE);
        if let Some(chosen) = &self.folder {
            command.env(FOLDER_VARIABLE, chosen);
        }
        if let Some(job) = self.job {
            command.env(JOB_VARIABLE, job.to_string());
        }
        if let Some(uid) = self.uid {
            command.uid(uid);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Program { child, input, output, home, folder }
    }
}

impl Program {
    /// Tells it one command and returns its answer.
    pub fn say(&mut self, command: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn number(&mut self, command: &str) -> i64 {
        let answer = self.say(command);
        answer.parse().unwrap_or_else(|_| panic!("{command}: {answer:?}"))
    }

    /// A command that has no answer.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    /// Opens `/dev/kfd` and creates queues.
    pub fn create(&mut self, queues: u32) {
        assert!(self.number("open") >= 0);
        for id in 0..queues {
            assert_eq!(self.say("create 100"), format!("{id} 100"));
        }
    }

    /// Percentages that the kernel has.
    pub fn percentages(&mut self, queues: u32) -> Vec<i32> {
        let percent = |state: String| state.split(' ').next().unwrap().parse().unwrap();
        (0..queues).map(|id| percent(self.say(&format!("state {id}")))).collect()
    }

    pub fn wait_for_percentages(&mut self, expected: &[i32]) {
        wait_for(&format!("{expected:?}"), || (self.percentages(expected.len() as u32) == expected).then_some(()));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The socket of a process of its.
    pub fn socket_of(&self, job: u32, pid: u32) -> PathBuf {
        self.folder.join(socket_name(job, pid))
    }

    pub fn socket(&self) -> PathBuf {
        self.socket_of(self.pid(), self.pid())
    }

    pub fn connect(&self) -> Scheduler {
        Scheduler::connect(&self.socket())
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    pub fn end(mut self) {
        self.tell("end");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A scheduler in a process of its own, which holds every queue of a program.
pub fn hold_from_outside(socket: &Path, hold_ms: u32) -> Child {
    let mut command = Command::new(built().join("scheduler"));
    let mut child = command.arg(socket).arg(hold_ms.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    child
}

/// A connection to an agent. While it holds something it says so every second: a machine under load may take longer for a
/// test than the agent waits.
pub struct Scheduler(Arc<Mutex<OwnedFd>>);

fn ask(fd: &OwnedFd, request: Request, ids: &[u32]) -> Option<Vec<u8>> {
    let request = Request { version: VERSION, num_ids: ids.len() as u32, ..request };
    match send(fd.as_raw_fd(), &message(&request, ids), MsgFlags::MSG_NOSIGNAL) {
        Err(Errno::EPIPE) => return None,
        sent => drop(sent.unwrap()),
    }
    let mut buffer = vec![0; MAX_REPLY];
    match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(0) | Err(Errno::ECONNRESET) => None,
        got => {
            buffer.truncate(got.unwrap());
            Some(buffer)
        }
    }
}

impl Scheduler {
    /// Waits for the socket to be there.
    pub fn connect(path: &Path) -> Scheduler {
        wait_for(&format!("{}", path.display()), || Scheduler::try_connect(path).ok())
    }

    pub fn try_connect(path: &Path) -> Result<Scheduler, Errno> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Scheduler(Arc::new(Mutex::new(fd))))
    }

    /// The reply with its outcomes, None where the agent has closed the connection.
    pub fn ask(&self, request: Request, ids: &[u32]) -> Option<(Reply, Vec<OutcomeEntry>, Vec<QueueEntry>)> {
        let answer = ask(&self.0.lock().unwrap(), request, ids)?;
        let (reply, rest) = parse_reply(&answer).unwrap();
        let outcomes = match request.operation {
            STOP | RESTORE => parse_entries(rest, reply.num_entries, reply.entry_size).unwrap(),
            _ => Vec::new(),
        };
        let queues = match request.operation {
            LIST => parse_entries(rest, reply.num_entries, reply.entry_size).unwrap(),
            _ => Vec::new(),
        };
        Some((reply, outcomes, queues))
    }

    pub fn hello(&self) -> Reply {
        self.ask(Request { operation: HELLO, ..Default::default() }, &[]).unwrap().0
    }

    /// Stops everything until it is dropped or restores; the errno of each queue.
    pub fn stop_all(&self, flags: u32) -> Vec<u32> {
        let request = Request { operation: STOP, flags: FLAG_ALL | flags, ..Default::default() };
        let (reply, outcomes, _) = self.ask(request, &[]).unwrap();
        assert_eq!(reply.errno, 0);
        let fd = Arc::downgrade(&self.0);
        let alive = move || {
            let fd = fd.upgrade()?;
            ask(&fd.lock().unwrap(), Request { operation: HEARTBEAT, ..Default::default() }, &[])
        };
        std::thread::spawn(move || {
            while alive().is_some() {
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        outcomes.iter().map(|outcome| outcome.errno).collect()
    }

    pub fn restore_all(&self) -> Vec<u32> {
        let request = Request { operation: RESTORE, flags: FLAG_ALL, ..Default::default() };
        self.ask(request, &[]).unwrap().1.iter().map(|outcome| outcome.errno).collect()
    }

    /// Waits until the agent closes the connection.
    pub fn wait_for_end(&self) {
        wait_for("the end of the connection", || {
            let fd = self.0.lock().unwrap();
            match recv(fd.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT) {
                Ok(0) | Err(Errno::ECONNRESET) => Some(()),
                Err(Errno::EAGAIN) => None,
                got => panic!("{got:?}"),
            }
        });
    }
}
