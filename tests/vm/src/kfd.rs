//! The driver of the running kernel behind the seam. Every actor is a process of its own.

#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpreempt_sys::*;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use zerocopy::{FromBytes, IntoBytes};

use crate::actor::{self, MESSAGE, Op, Request};
use crate::machine::{Buffers, Machine, SCRATCH_BASE, SCRATCH_BYTES, Scratch, SysResult};
use crate::sim::RING_BYTES;

const NODES: &str = "/sys/class/kfd/kfd/topology/nodes";
const FAKE: &str = "/sys/kernel/debug/kfd_fake";
const PROC: &str = "/sys/class/kfd/kfd/proc";
/// What the machine gets to come to rest: it is slow, and emulated.
const PATIENCE: Duration = Duration::from_secs(60);
/// When a call is taken to wait for something that does not come.
const CALL_PATIENCE: u16 = 30_000;
const PAGE: u64 = 4096;
/// What the fake GPU takes for a packet (`kfd_fake_packet.h`), and its headers by queue type.
const PACKET_BYTES: u64 = 64;
const PACKET_MAGIC: u64 = 0x454b_4146;
const PACKET_WAVES: u64 = 64;
/// Microseconds that no test lives to see the end of.
const ENDLESS: u64 = 0xffff_ffff;

/// A GPU node of the topology.
#[derive(Clone, Debug)]
struct Node {
    gpu_id: u32,
    save_bytes: u32,
    stack_bytes: u32,
    /// The whole save area of a queue: every XCC, and the debugger's part.
    area_bytes: u64,
}

struct Child {
    pid: Pid,
    socket: OwnedFd,
    alive: bool,
    uid: u32,
    /// Who traces it.
    tracer: Option<usize>,
    /// Its `/dev/kfd`, for buffers.
    kfd: Option<i32>,
    /// GPUs whose VM it has acquired.
    acquired: HashSet<u32>,
    /// Buffers of queues that are gone, by GPU.
    spare: HashMap<(u32, bool), Vec<Buffers>>,
}

/// The running kernel.
pub struct KfdMachine {
    nodes: Vec<Node>,
    scratch: OwnedFd,
    children: Vec<Child>,
    /// One lease of this process, to see when the machine has come to rest.
    observer: Option<(OwnedFd, RawFd)>,
    buffer: Vec<u8>,
    /// The file of fake GPUs that takes commands.
    control: Option<PathBuf>,
}

impl KfdMachine {
    /// The machine that this program runs on. Call it before there are threads: actors are forked.
    ///
    /// # Errors
    /// Where there is no such driver.
    pub fn new() -> SysResult<KfdMachine> {
        // One call at a time is under way, so one CPU is enough, and nobody waits for another to wake up.
        let mut cpus = nix::sched::CpuSet::new();
        cpus.set(0)?;
        nix::sched::sched_setaffinity(Pid::from_raw(0), &cpus)?;
        let scratch = nix::sys::memfd::memfd_create(c"scratch", nix::sys::memfd::MFdFlags::empty())?;
        nix::unistd::ftruncate(&scratch, SCRATCH_BYTES as i64)?;
        actor::map_scratch(scratch.as_fd())?;
        let control = Some(Path::new(FAKE).join("ctl")).filter(|path| path.exists());
        let mut machine = KfdMachine {
            nodes: nodes()?,
            scratch,
            children: Vec::new(),
            observer: None,
            buffer: vec![0; MESSAGE],
            control,
        };
        machine.observe()?;
        Ok(machine)
    }

    fn observe(&mut self) -> SysResult<()> {
        let kfd = std::fs::File::options().read(true).write(true).open("/dev/kfd").map_err(errno_of)?;
        let kfd = OwnedFd::from(kfd);
        let mut args = kfd_ioctl_gpreempt_open_args { abi_version: 1, ..Default::default() };
        // SAFETY: the struct is the command's.
        Errno::result(unsafe {
            libc::ioctl(kfd.as_raw_fd(), AMDKFD_IOC_GPREEMPT_OPEN.into(), std::ptr::from_mut(&mut args))
        })?;
        self.observer = Some((kfd, args.lease_fd));
        Ok(())
    }

    /// What says whether the machine is at rest: counters of rounds and of queues, node by node.
    fn pulse(&self) -> Vec<(u64, u64, u32, u32)> {
        let Some((_, lease)) = &self.observer else { return Vec::new() };
        let look = |node: &Node| {
            let mut args = kfd_ioctl_hqd_status_args { gpu_id: node.gpu_id, ..Default::default() };
            // SAFETY: the struct is the command's.
            unsafe { libc::ioctl(*lease, AMDKFD_IOC_GET_HQD_STATUS.into(), std::ptr::from_mut(&mut args)) };
            (args.runlist_seq, args.unmap_seq, args.queues_total, args.preempted)
        };
        self.nodes.iter().map(look).collect()
    }

    /// Waits until nothing has happened on any node for a while.
    fn rest(&self) {
        let mut last = self.pulse();
        let mut quiet = 0;
        let end = Instant::now() + PATIENCE;
        while quiet < 3 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
            let now = self.pulse();
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
    }

    fn ask(&mut self, actor: usize, request: &Request) -> SysResult<(i64, Vec<u8>)> {
        let child = &self.children[actor];
        if !child.alive {
            return Err(Errno::ESRCH);
        }
        let (pid, socket) = (child.pid, child.socket.as_raw_fd());
        request.send(socket)?;
        let mut answers = [PollFd::new(child.socket.as_fd(), PollFlags::POLLIN)];
        while poll(&mut answers, CALL_PATIENCE)? == 0 {
            // A call that waits for another actor would wait for ever.
            kill(pid, Signal::SIGUSR1)?;
        }
        actor::answer(socket, &mut self.buffer)
    }

    /// An answer whose negative values are errnos.
    fn call(&mut self, actor: usize, request: &Request) -> SysResult<(i64, Vec<u8>)> {
        let (value, bytes) = self.ask(actor, request)?;
        if value < 0 && value > -4096 { Err(errno(value)) } else { Ok((value, bytes)) }
    }

    /// A `/dev/kfd` of the actor for buffers.
    fn kfd_of(&mut self, actor: usize) -> SysResult<i32> {
        if let Some(file) = self.children[actor].kfd {
            return Ok(file);
        }
        let file = self.call(actor, &Request::path(Op::Open, "/dev/kfd"))?.0 as i32;
        self.children[actor].kfd = Some(file);
        Ok(file)
    }

    fn on_kfd<T: IntoBytes + FromBytes + zerocopy::Immutable>(
        &mut self,
        actor: usize,
        request: u32,
        args: &mut T,
    ) -> SysResult<()> {
        let file = self.kfd_of(actor)?;
        let (value, bytes) = self.ask(actor, &Request::ioctl(file, request, args.as_bytes()))?;
        *args = T::read_from_bytes(&bytes).map_err(|_| Errno::EIO)?;
        if value < 0 { Err(errno(value)) } else { Ok(()) }
    }

    /// Memory of an actor that is mapped on a GPU, one piece for each size.
    fn map(&mut self, actor: usize, gpu: u32, sizes: &[u64]) -> SysResult<Vec<u64>> {
        let kfd = self.kfd_of(actor)?;
        let bytes = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let (_, addresses) = self.call(actor, &Request::with(Op::Map, [kfd as u64, gpu.into(), 0], bytes))?;
        let words = addresses.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        Ok(words.collect())
    }

    fn poke(&mut self, actor: usize, pairs: &[(u64, u64)]) -> SysResult<()> {
        let bytes = pairs.iter().flat_map(|(at, value)| [at.to_le_bytes(), value.to_le_bytes()].concat()).collect();
        self.call(actor, &Request::with(Op::Poke, [0; 3], bytes)).map(|_| ())
    }

    /// Writes to the memory of calls.
    fn share(&self, bytes: &[u8]) {
        // SAFETY: `map_scratch` mapped this many bytes there, and no reference to them lives longer than a copy; the
        // actors do not write while they wait to be told something.
        let memory = unsafe {
            std::slice::from_raw_parts_mut(
                std::ptr::with_exposed_provenance_mut::<u8>(SCRATCH_BASE as usize),
                SCRATCH_BYTES,
            )
        };
        memory[..bytes.len()].copy_from_slice(bytes);
    }

    fn shared(&self, into: &mut [u8]) {
        // SAFETY: as for `share`.
        let memory = unsafe {
            std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(SCRATCH_BASE as usize), SCRATCH_BYTES)
        };
        into.copy_from_slice(memory);
    }

    /// Waits until KFD has forgotten a process.
    fn forgotten(&self, pid: Pid) -> SysResult<()> {
        let end = Instant::now() + PATIENCE;
        let folder = format!("{PROC}/{pid}");
        while Path::new(&folder).exists() {
            if Instant::now() > end {
                return Err(Errno::ETIMEDOUT);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    fn start(&mut self, uid: u32) -> SysResult<()> {
        let (mine, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: this program has no threads, so that the child may do anything.
        match unsafe { fork()? } {
            ForkResult::Parent { child } => {
                let (kfd, acquired, spare) = (None, HashSet::new(), HashMap::new());
                self.children.push(Child {
                    pid: child,
                    socket: mine,
                    alive: true,
                    uid: 0,
                    tracer: None,
                    kfd,
                    acquired,
                    spare,
                });
                let actor = self.children.len() - 1;
                if uid != 0 {
                    self.set_uid(actor, uid)?;
                }
                Ok(())
            }
            ForkResult::Child => become_actor(theirs.as_raw_fd(), self.scratch.as_raw_fd()),
        }
    }
}

/// The child of a fork becomes an actor: it keeps its socket and the memory of calls, and no other file.
fn become_actor(socket: RawFd, scratch: RawFd) -> ! {
    let keep = [0, 1, 2, socket, scratch];
    let last = keep.iter().copied().max().unwrap_or(2);
    for file in (3..=last).filter(|file| !keep.contains(file)) {
        // SAFETY: nothing of the parent's is used any more.
        unsafe { libc::close(file) };
    }
    // SAFETY: as above; and the socket survives exec.
    unsafe {
        libc::syscall(libc::SYS_close_range, last + 1, u32::MAX, 0);
        libc::fcntl(socket, libc::F_SETFD, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    actor::serve(socket, scratch)
}

/// What a negative answer means. The driver lets the kernel's own ENOTSUPP out, which has no name in user space.
fn errno(value: i64) -> Errno {
    const ENOTSUPP: i64 = 524;
    if value == -ENOTSUPP { Errno::EOPNOTSUPP } else { Errno::from_raw(-value as i32) }
}

/// A copy of a file of another process.
fn copy_file(pid: Pid, file: i32) -> SysResult<OwnedFd> {
    // SAFETY: plain numbers; the results are new files, which nobody else has.
    unsafe {
        let process = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0))?;
        let process = OwnedFd::from_raw_fd(process as RawFd);
        let copy = Errno::result(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), file, 0))?;
        Ok(OwnedFd::from_raw_fd(copy as RawFd))
    }
}

fn errno_of(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn nodes() -> SysResult<Vec<Node>> {
    let mut nodes = Vec::new();
    for index in 0.. {
        let read = |file: &str| std::fs::read_to_string(format!("{NODES}/{index}/{file}"));
        let Ok(gpu_id) = read("gpu_id") else { break };
        let gpu_id: u32 = gpu_id.trim().parse().map_err(|_| Errno::EINVAL)?;
        if gpu_id == 0 {
            continue;
        }
        let text = read("properties").map_err(errno_of)?;
        let property = |name: &str| -> u64 {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        // As kfd_queue_ctx_save_restore_size() computes it.
        let xccs = property("num_xcc").max(1);
        let cus = property("simd_count") / property("simd_per_cu").max(1) / xccs;
        let arrays = property("array_count") / xccs / property("simd_arrays_per_engine").max(1);
        let waves = (cus * 40).min(arrays * 512);
        let debug = (waves * 32).next_multiple_of(64);
        let save_bytes = property("cwsr_size");
        nodes.push(Node {
            gpu_id,
            save_bytes: save_bytes as u32,
            stack_bytes: property("ctl_stack_size") as u32,
            area_bytes: ((save_bytes + debug) * xccs).next_multiple_of(PAGE),
        });
    }
    Ok(nodes)
}

impl Machine for KfdMachine {
    fn name(&self) -> &'static str {
        "driver"
    }

    fn gpus(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.gpu_id).collect()
    }

    fn begin(&mut self, uids: &[u32]) -> SysResult<()> {
        self.children.clear();
        uids.iter().try_for_each(|uid| self.start(*uid))
    }

    fn end(&mut self) -> SysResult<()> {
        for child in self.children.iter().filter(|child| child.alive) {
            kill(child.pid, Signal::SIGKILL)?;
        }
        for child in self.children.iter_mut().filter(|child| child.alive) {
            waitpid(child.pid, None)?;
            child.alive = false;
        }
        let pids: Vec<Pid> = self.children.iter().map(|child| child.pid).collect();
        pids.into_iter().try_for_each(|pid| self.forgotten(pid))?;
        self.rest();
        Ok(())
    }

    fn complaints(&mut self) -> Vec<String> {
        let folders = |path: &Path| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
        };
        let nodes = folders(Path::new(FAKE)).into_iter().flat_map(|gpu| folders(&gpu));
        let texts = nodes.filter_map(|node| std::fs::read_to_string(node.join("errors")).ok());
        texts.map(|text| text.trim().to_owned()).filter(|text| text != "0").collect()
    }

    fn pid(&self, actor: usize) -> u32 {
        self.children[actor].pid.as_raw().cast_unsigned()
    }

    fn open(&mut self, actor: usize, path: &str) -> SysResult<i32> {
        Ok(self.call(actor, &Request::path(Op::Open, path))?.0 as i32)
    }

    fn ioctl(
        &mut self,
        actor: usize,
        file: i32,
        request: u32,
        argument: &mut [u8],
        memory: &mut Scratch,
    ) -> SysResult<i32> {
        self.share(&memory.0);
        let (value, bytes) = self.ask(actor, &Request::ioctl(file, request, argument))?;
        self.shared(&mut memory.0);
        argument.copy_from_slice(&bytes);
        if value < 0 { Err(errno(value)) } else { Ok(value as i32) }
    }

    fn read(&mut self, actor: usize, file: i32, room: usize) -> SysResult<Vec<u8>> {
        self.call(actor, &Request::of(Op::Read, [file as u64, room as u64, 0])).map(|(_, bytes)| bytes)
    }

    fn poll(&mut self, actor: usize, file: i32) -> SysResult<(bool, bool)> {
        let events = self.call(actor, &Request::of(Op::Poll, [file as u64, 0, 0]))?.0 as i16;
        Ok((events & libc::POLLIN != 0, events & (libc::POLLHUP | libc::POLLERR) != 0))
    }

    fn close(&mut self, actor: usize, file: i32) -> SysResult<()> {
        self.call(actor, &Request::of(Op::Close, [file as u64, 0, 0]))?;
        Ok(())
    }

    fn lend(&mut self, owner: usize, file: i32, to: usize) -> SysResult<i32> {
        let copy = copy_file(self.children[owner].pid, file)?;
        Ok(self.call(to, &Request::give(copy))?.0 as i32)
    }

    fn take_back(&mut self, actor: usize, file: i32) -> SysResult<()> {
        self.close(actor, file)
    }

    fn buffers(&mut self, actor: usize, gpu: u32, compute: bool) -> SysResult<Buffers> {
        if let Some(spare) = self.children[actor].spare.get_mut(&(gpu, compute)).and_then(Vec::pop) {
            self.poke(actor, &[(spare.read, 0), (spare.write, 0)])?;
            return Ok(spare);
        }
        let node = self.nodes.iter().find(|node| node.gpu_id == gpu).cloned().ok_or(Errno::ENOENT)?;
        if self.children[actor].acquired.insert(gpu) {
            let null = self.call(actor, &Request::path(Op::Open, "/dev/null"))?.0;
            let mut acquire = kfd_ioctl_acquire_vm_args { drm_fd: null as u32, gpu_id: gpu };
            self.on_kfd(actor, AMDKFD_IOC_ACQUIRE_VM, &mut acquire)?;
        }
        let mut buffers = Buffers { ring_bytes: RING_BYTES, ..Buffers::default() };
        let area = if compute { Some(node.area_bytes) } else { None };
        let sizes: Vec<u64> = [u64::from(RING_BYTES), PAGE].into_iter().chain(area).collect();
        let mapped = self.map(actor, gpu, &sizes)?;
        (buffers.ring, buffers.read, buffers.write) = (mapped[0], mapped[1], mapped[1] + 64);
        if compute {
            buffers.save = mapped[2];
            (buffers.save_bytes, buffers.stack_bytes) = (node.save_bytes, node.stack_bytes);
        }
        Ok(buffers)
    }

    fn fill(&mut self, actor: usize, kind: u32, _queue: u32, buffers: &Buffers) -> SysResult<()> {
        // One packet without an end; the write pointer counts packets, dwords or bytes.
        let (header, written) = match kind {
            KFD_IOC_QUEUE_TYPE_COMPUTE_AQL => (0, 1),
            KFD_IOC_QUEUE_TYPE_COMPUTE => (0xc00e_1000, PACKET_BYTES / 4),
            _ => (0x000f_0000, PACKET_BYTES),
        };
        let ring = buffers.ring;
        let packet = [(ring, PACKET_MAGIC << 32 | header), (ring + 8, PACKET_WAVES << 32 | ENDLESS)];
        self.poke(actor, &[packet[0], packet[1], (ring + 16, 0), (ring + 24, 0), (buffers.write, written)])
    }

    fn recycle(&mut self, actor: usize, gpu: u32, compute: bool, buffers: Buffers) {
        self.children[actor].spare.entry((gpu, compute)).or_default().push(buffers);
    }

    fn set_uid(&mut self, actor: usize, uid: u32) -> SysResult<()> {
        self.call(actor, &Request::of(Op::SetUid, [uid.into(), 0, 0]))?;
        self.children[actor].uid = uid;
        Ok(())
    }

    fn kill(&mut self, actor: usize) -> SysResult<()> {
        let pid = self.children[actor].pid;
        kill(pid, Signal::SIGKILL)?;
        if let Some(tracer) = self.children[actor].tracer
            && self.children[tracer].alive
        {
            self.call(tracer, &Request::of(Op::Reap, [pid.as_raw() as u64, 0, 0]))?;
        }
        waitpid(pid, None)?;
        self.children[actor].alive = false;
        self.forgotten(pid)?;
        self.rest();
        Ok(())
    }

    fn exec(&mut self, actor: usize) -> SysResult<bool> {
        let socket = self.children[actor].socket.as_raw_fd();
        Request::of(Op::Exec, [0; 3]).send(socket)?;
        // The new image says that it is there.
        let (value, _) = actor::answer(socket, &mut self.buffer)?;
        if value < 0 {
            return Err(errno(value));
        }
        let child = &mut self.children[actor];
        (child.kfd, child.acquired, child.spare) = (None, HashSet::new(), HashMap::new());
        let pid = child.pid;
        self.forgotten(pid)?;
        self.rest();
        Ok(true)
    }

    fn evict(&mut self, actor: usize, evict: bool) -> SysResult<bool> {
        let Some(control) = &self.control else { return Ok(false) };
        let command = format!("{} {}\n", if evict { "evict" } else { "restore" }, self.children[actor].pid);
        std::fs::write(control, command).map_err(errno_of)?;
        self.rest();
        Ok(true)
    }

    fn trace(&mut self, actor: usize, target: usize, on: bool) -> SysResult<()> {
        let pid = self.children[target].pid;
        self.call(actor, &Request::of(Op::Trace, [pid.as_raw() as u64, on.into(), 0]))?;
        self.children[target].tracer = on.then_some(actor);
        Ok(())
    }

    fn read_text(&mut self, actor: usize, path: &str) -> SysResult<String> {
        if self.children[actor].uid == 0 {
            // Who has the same rights reads the same.
            let text = std::fs::read(path).map_err(errno_of)?;
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        // The actor opens it with its own rights; the text may be longer than an answer.
        let file = self.call(actor, &Request::path(Op::OpenText, path))?.0 as i32;
        let mut text = Vec::new();
        let mut copy = std::fs::File::from(copy_file(self.children[actor].pid, file)?);
        let read = copy.read_to_end(&mut text).map_err(errno_of);
        self.close(actor, file)?;
        read?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn list(&mut self, actor: usize, path: &str) -> SysResult<Vec<String>> {
        if self.children[actor].uid == 0 {
            let entries = std::fs::read_dir(path).map_err(errno_of)?;
            let mut names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            return Ok(names);
        }
        let (_, text) = self.call(actor, &Request::path(Op::List, path))?;
        Ok(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    fn sleep(&mut self, ms: u32) {
        std::thread::sleep(Duration::from_millis(ms.into()));
    }
}
