//! The agent of this process: made at its first command to KFD, forgotten by its forked children.

use std::ffi::{CString, c_int};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use gpreempt_agent_core::Server;
use gpreempt_agent_core::protocol::{FOLDER_VARIABLE, JOB_VARIABLE};

use crate::socket::{self, CONNECTIONS};
use crate::system::{self, BlockSignals, OwnFile};

/// The agent, once the process has sent a command to KFD.
static AGENT: AtomicPtr<Agent> = AtomicPtr::new(null_mut());

/// The agent has failed and keeps out of everything.
static DISABLED: AtomicBool = AtomicBool::new(false);

/// What the launcher said.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

/// The environment as it was when the program started.
#[derive(Debug, Default)]
pub struct Environment {
    /// [`FOLDER_VARIABLE`].
    pub folder: Option<String>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<String>,
    /// [`JOB_VARIABLE`].
    pub job: Option<u32>,
}

/// Everything the agent knows. Never freed: calls and the thread may be in the middle of it at any time.
#[derive(Debug)]
pub struct Agent {
    /// The process that it was made in; another one is a copy that no fork handler has seen.
    pub pid: u32,
    server: Mutex<Server>,
    /// A copy of a descriptor of the program's, so that the program may close its own.
    kfd: OwnFile,
    /// The last descriptor that a queue command came with.
    seen: AtomicI32,
    /// The listening socket.
    pub listener: OwnFile,
    /// The schedulers.
    pub connections: [OwnFile; CONNECTIONS],
    /// Where the socket is.
    pub path: OnceLock<CString>,
}

/// Reads the environment; the program has no thread yet that could change it.
pub fn read_environment() {
    let name = |name: &str| CString::new(name).ok().and_then(|name| system::variable(&name));
    let folder = name(FOLDER_VARIABLE);
    let job = name(JOB_VARIABLE).and_then(|job| job.parse().ok());
    let _ = ENVIRONMENT.set(Environment { folder, runtime: name("XDG_RUNTIME_DIR"), job });
}

/// The environment.
pub fn environment() -> &'static Environment {
    ENVIRONMENT.get_or_init(Environment::default)
}

/// Whether there is an agent, or can be none.
pub fn is_running() -> bool {
    !AGENT.load(Ordering::Relaxed).is_null() || DISABLED.load(Ordering::Relaxed)
}

/// Whether the agent keeps out of everything.
pub fn is_disabled() -> bool {
    DISABLED.load(Ordering::Relaxed)
}

/// From now on the program's calls go straight to the kernel.
pub fn disable() {
    DISABLED.store(true, Ordering::Relaxed);
}

/// The agent, which is made here if there is none. `kfd`: an open `/dev/kfd`.
pub fn start(kfd: c_int) -> Option<&'static Agent> {
    if DISABLED.load(Ordering::Relaxed) {
        return None;
    }
    // SAFETY: a plain system call.
    let pid = unsafe { libc::getpid() }.cast_unsigned();
    let found = AGENT.load(Ordering::Acquire);
    if !found.is_null() {
        // SAFETY: whatever was stored there is never freed.
        let agent = unsafe { &*found };
        return (agent.pid == pid).then_some(agent);
    }
    let agent = Box::into_raw(Box::new(Agent {
        pid,
        server: Mutex::new(Server::new(pid, socket::started())),
        kfd: OwnFile::none(),
        seen: AtomicI32::new(kfd),
        listener: OwnFile::none(),
        connections: [const { OwnFile::none() }; CONNECTIONS],
        path: OnceLock::new(),
    }));
    if let Err(other) = AGENT.compare_exchange(null_mut(), agent, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: `agent` was made just now and nobody else has seen it; `other` is never freed.
        unsafe {
            drop(Box::from_raw(agent));
            return Some(&*other);
        }
    }
    // SAFETY: it is never freed.
    let agent = unsafe { &*agent };
    // SAFETY: a plain descriptor call.
    let copy = unsafe { libc::fcntl(kfd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy >= 0 {
        agent.kfd.set(system::move_up(copy));
    }
    register_handlers();
    let _signals = BlockSignals::new();
    socket::spawn(agent);
    Some(agent)
}

impl Agent {
    /// Queues and schedulers. Take it with all signals blocked.
    pub fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program has used this descriptor.
    pub fn kfd_seen(&self, fd: c_int) {
        self.seen.store(fd, Ordering::Relaxed);
    }

    /// A descriptor for the agent's own commands. Any will do: KFD goes by the process, not by the file.
    pub fn kfd(&self) -> Option<c_int> {
        let good = |fd: &c_int| system::is_kfd(*fd);
        let known = self.kfd.get().filter(good).or_else(|| Some(self.seen.load(Ordering::Relaxed)).filter(good));
        known.or_else(|| {
            // The program has closed them all; its queues live on.
            // SAFETY: the path ends in NUL.
            let fd = unsafe { libc::open(system::KFD_PATH.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
            (fd >= 0).then(|| {
                self.kfd.set(system::move_up(fd));
                self.kfd.get()
            })?
        })
    }
}

fn register_handlers() {
    /// A child inherits the handlers.
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: both are functions of this library, which is never unloaded.
        unsafe {
            libc::pthread_atfork(None, None, Some(in_child));
            libc::atexit(at_exit);
        }
    }
}

/// In a forked child: its queues are none, the parent's lock may be taken for ever, and the parent's sockets must not be
/// kept open by it. Nothing is locked, allocated or freed.
extern "C" fn in_child() {
    let _errno = system::KeepErrno::new();
    let parents = AGENT.swap(null_mut(), Ordering::AcqRel);
    if !parents.is_null() {
        // SAFETY: it is never freed.
        let parents = unsafe { &*parents };
        parents.kfd.close();
        parents.listener.close();
        parents.connections.iter().for_each(OwnFile::close);
    }
}

/// A process that ends in the usual way takes its socket's name along.
extern "C" fn at_exit() {
    let found = AGENT.load(Ordering::Acquire);
    if !found.is_null() {
        // SAFETY: it is never freed.
        let agent = unsafe { &*found };
        // SAFETY: a plain system call, and a path that ends in NUL.
        unsafe {
            if agent.pid == libc::getpid().cast_unsigned()
                && let Some(path) = agent.path.get()
            {
                libc::unlink(path.as_ptr());
            }
        }
    }
}
