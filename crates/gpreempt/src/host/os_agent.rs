//! UNIX sockets of agents.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use gpreempt_agent_core::protocol::{FOLDER_VARIABLE, folders, parse_socket_name};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, send, socket, sockopt,
};

use super::{AgentAddress, AgentLink, SysResult};

/// All sockets in the folders where agents may listen; some may be of processes that are gone.
pub(super) fn addresses(uid: u32) -> Vec<AgentAddress> {
    let variable = |name| std::env::var(name).ok();
    let (chosen, runtime) = (variable(FOLDER_VARIABLE), variable("XDG_RUNTIME_DIR"));
    addresses_in(&folders(chosen.as_deref(), runtime.as_deref(), uid), uid)
}

/// As [`addresses`] in these folders.
pub(super) fn addresses_in(folders: &[String], uid: u32) -> Vec<AgentAddress> {
    let mut found = Vec::new();
    for folder in folders {
        // In a folder that others can write a socket may be anybody's.
        let ours = std::fs::symlink_metadata(folder)
            .is_ok_and(|folder| folder.is_dir() && folder.uid() == uid && folder.mode() & 0o022 == 0);
        let Some(entries) = ours.then(|| std::fs::read_dir(folder).ok()).flatten() else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((job, pid)) = parse_socket_name(&name) {
                found.push(AgentAddress { job, pid, path: format!("{folder}/{name}") });
            }
        }
    }
    found.sort_unstable();
    found
}

/// A connected socket.
#[derive(Debug)]
struct Socket(OwnedFd);

/// Connects to the agent behind an address, if it is what the address says.
pub(super) fn open(address: &AgentAddress, uid: u32) -> SysResult<Box<dyn AgentLink>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    match connect(fd.as_raw_fd(), &UnixAddr::new(Path::new(&address.path))?) {
        // A process that does not get to run has all its places for new connections taken.
        Err(Errno::EAGAIN) => return Err(Errno::ETIME),
        connected => connected?,
    }
    let peer = getsockopt(&fd, sockopt::PeerCredentials)?;
    if peer.uid() != uid {
        return Err(Errno::EPERM);
    }
    // 0: a process of another pid namespace. A name that was left over may be in another process's use by now.
    if peer.pid() != 0 && peer.pid().cast_unsigned() != address.pid {
        return Err(Errno::ECONNREFUSED);
    }
    Ok(Box::new(Socket(fd)))
}

impl AgentLink for Socket {
    fn send(&self, message: &[u8]) -> SysResult<()> {
        send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    fn receive(&self, buffer: &mut [u8], patience: Duration) -> SysResult<usize> {
        let end = Instant::now() + patience;
        loop {
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EAGAIN) => {}
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => return Ok(0),
                got => return got,
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::ETIME);
            }
            let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            match poll(&mut polled, PollTimeout::from(millis)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}
