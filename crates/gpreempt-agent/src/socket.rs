//! The thread that listens to schedulers.

use std::ffi::{CString, c_int};
use std::mem::{MaybeUninit, offset_of};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::Builder;

use gpreempt_agent_core::Connection;
use gpreempt_agent_core::protocol::{MAX_REQUEST, folders, socket_name};
use nix::errno::Errno;

use crate::kfd::OwnKfd;
use crate::process::{self, Agent, environment};
use crate::system::{self, OwnFile};

/// Schedulers at a time; more are turned away.
pub const CONNECTIONS: usize = 16;

const STACK: usize = 256 * 1024;

/// Starts the thread. All signals are blocked, and stay so in it.
pub fn spawn(agent: &'static Agent) {
    // A bug of the agent prints nothing into the program's output, and stays in this thread.
    std::panic::set_hook(Box::new(|_| {}));
    let run = move || {
        let _ = catch_unwind(AssertUnwindSafe(|| serve(agent)));
        process::disable();
        let _ = catch_unwind(AssertUnwindSafe(|| agent.lock().give_up(system::now(), &mut OwnKfd(agent))));
        agent.listener.close();
        agent.connections.iter().for_each(OwnFile::close);
    };
    // Without a thread the program runs as if it had no agent.
    let _ = Builder::new().name("gpreempt-agent".into()).stack_size(STACK).spawn(run);
}

/// When this process started, ns since boot.
pub fn started() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name is in parentheses and may contain anything; field 22 is the 20th after it.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split_ascii_whitespace().nth(19).and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
    // SAFETY: a plain library call.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    ticks * (1_000_000_000 / per_second)
}

/// Until the agent fails.
fn serve(agent: &'static Agent) {
    listen(agent);
    let mut kfd = OwnKfd(agent);
    let mut ids: [Connection; CONNECTIONS] = [0; CONNECTIONS];
    let mut next_id: Connection = 1;
    while !process::is_disabled() {
        let mut polled = [const { libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 } }; CONNECTIONS + 1];
        for (entry, file) in polled.iter_mut().zip(agent.connections.iter().chain([&agent.listener])) {
            entry.fd = file.get().unwrap_or(-1);
        }
        // The lock goes before the wait: the program's queue commands take it, too.
        let deadline = agent.lock().next();
        wait(&mut polled, deadline);
        agent.lock().tick(system::now(), &mut kfd);
        for (index, connection) in agent.connections.iter().enumerate() {
            if connection.is_set() && (polled[index].revents != 0 || connection.get().is_none()) {
                let open = answer(agent, connection, ids[index], &mut kfd);
                if !open {
                    agent.lock().closed(ids[index], system::now(), &mut kfd);
                    connection.close();
                }
            }
        }
        if agent.listener.get().is_none() {
            // The program has closed it. Nobody can connect any more, unless it is made anew.
            listen(agent);
        } else if polled[CONNECTIONS].revents != 0
            && let Some(slot) = accept(agent)
        {
            ids[slot] = next_id;
            next_id += 1;
        }
    }
}

/// Waits for a scheduler or for the agent's own deadline.
fn wait(polled: &mut [libc::pollfd], deadline: Option<u64>) {
    // Rounded up, or it would spin through the last millisecond. A program that closes the agent's files wakes nobody: look
    // now and then.
    let left = deadline.map_or(u64::MAX, |deadline| deadline.saturating_sub(system::now()).div_ceil(1_000_000));
    let timeout = left.min(5_000) as c_int;
    // SAFETY: the slice is writable for as many entries as it has.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
}

/// Answers what a scheduler has asked. False: it has gone.
fn answer(agent: &'static Agent, connection: &OwnFile, id: Connection, kfd: &mut OwnKfd) -> bool {
    let mut buffer = [0; MAX_REQUEST + 1];
    loop {
        let Some(fd) = connection.get() else { return false };
        // SAFETY: the buffer is writable for as many bytes as it has.
        let got = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
        match (got, Errno::last()) {
            (1.., _) => {
                let reply = agent.lock().message(id, &buffer[..got as usize], system::now(), kfd);
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: the reply is readable for as many bytes as it has.
                let sent = unsafe { libc::send(fd, reply.as_ptr().cast(), reply.len(), flags) };
                // Who does not read its replies is given up.
                if sent < 0 {
                    return false;
                }
            }
            (0, _) => return false,
            (_, Errno::EAGAIN) => return true,
            (_, Errno::EINTR) => {}
            _ => return false,
        }
    }
}

/// Lets a scheduler in that runs as the same user. Returns its place.
fn accept(agent: &'static Agent) -> Option<usize> {
    let listener = agent.listener.get()?;
    // SAFETY: no address is asked for.
    let fd = unsafe {
        libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
    };
    if fd < 0 {
        return None;
    }
    let fd = system::move_up(fd);
    // SAFETY: plain system calls.
    let place = (peer_uid(fd) == Some(unsafe { libc::geteuid() }))
        .then(|| agent.connections.iter().position(|connection| !connection.is_set()))
        .flatten();
    match place {
        Some(place) => agent.connections[place].set(fd),
        // SAFETY: it is the agent's and nobody else has seen it.
        None => drop(unsafe { libc::close(fd) }),
    }
    place
}

fn peer_uid(fd: c_int) -> Option<libc::uid_t> {
    let mut peer = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `peer` is writable for `length` bytes.
    let answer =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length) };
    (answer == 0).then_some(peer.uid)
}

/// Makes the socket in the first folder that can be had. Without one the program runs as if it had no agent.
fn listen(agent: &'static Agent) {
    let it = environment();
    // SAFETY: a plain system call.
    let uid = unsafe { libc::geteuid() };
    let name = socket_name(it.job.unwrap_or(agent.pid), agent.pid);
    for folder in folders(it.folder.as_deref(), it.runtime.as_deref(), uid) {
        if let Some((fd, path)) = listen_in(&PathBuf::from(folder), &name, uid) {
            agent.listener.set(system::move_up(fd));
            let _ = agent.path.set(path);
            return;
        }
    }
}

fn listen_in(folder: &Path, name: &str, uid: libc::uid_t) -> Option<(c_int, CString)> {
    let _ = std::fs::DirBuilder::new().mode(0o700).create(folder);
    // In a folder that others can write they could put a socket of theirs in this one's place.
    let made = std::fs::symlink_metadata(folder).ok()?;
    if !made.is_dir() || made.uid() != uid || made.mode() & 0o022 != 0 {
        return None;
    }
    let path = folder.join(name);
    let bytes = path.as_os_str().as_bytes();
    let mut address = MaybeUninit::<libc::sockaddr_un>::zeroed();
    // SAFETY: all-zero is a valid address.
    let address = unsafe { address.assume_init_mut() };
    if bytes.len() >= address.sun_path.len() {
        return None;
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let length = offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    // Left over by another program with this pid, or by this one before it called exec.
    let _ = std::fs::remove_file(&path);
    // SAFETY: `address` is readable for `length` bytes; the rest are plain descriptor calls.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 {
            return None;
        }
        // A socket's file gets the mode that the socket has when it is bound.
        let ready = libc::fchmod(fd, 0o600) == 0
            && libc::bind(fd, (&raw const *address).cast(), length as libc::socklen_t) == 0
            && libc::listen(fd, CONNECTIONS as c_int) == 0;
        if !ready {
            libc::close(fd);
            return None;
        }
        Some((fd, CString::new(bytes).ok()?))
    }
}
