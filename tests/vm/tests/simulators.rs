//! The differ judged on machines that need no kernel: two simulators agree, and one that is made to answer wrongly is found
//! out and its difference made small.

use gpreempt_sys::{AMDKFD_IOC_BATCH_UNMAP_QUEUES, AMDKFD_IOC_FAST_REMAP, AMDKFD_IOC_GET_HQD_STATUS};
use gpreempt_vm_tests::call::{Call, Sequence};
use gpreempt_vm_tests::coverage::Coverage;
use gpreempt_vm_tests::generate::{Abilities, generate};
use gpreempt_vm_tests::machine::{Buffers, Machine, Scratch, SysResult};
use gpreempt_vm_tests::player::Player;
use gpreempt_vm_tests::shrink::shrink;
use gpreempt_vm_tests::sim::SimMachine;
use gpreempt_vm_tests::{differ, list};
use nix::errno::Errno;

/// How a machine is made to differ.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// A batch unmap with a refused entry says that it was allowed.
    HidesRefusals,
    /// FAST_REMAP says 0 and does nothing.
    NeverRemaps,
    /// An eviction is forgotten.
    ForgetsEvictions,
    /// One slot too few.
    CountsWrong,
    /// A queue that is asked to be busy is not created on the second node.
    RefusesNodes,
}

/// A simulator that lies.
struct Liar {
    honest: SimMachine,
    lie: Lie,
}

impl Machine for Liar {
    fn name(&self) -> &'static str {
        "liar"
    }

    fn gpus(&self) -> Vec<u32> {
        self.honest.gpus()
    }

    fn begin(&mut self, uids: &[u32]) -> SysResult<()> {
        self.honest.begin(uids)
    }

    fn end(&mut self) -> SysResult<()> {
        self.honest.end()
    }

    fn pid(&self, actor: usize) -> u32 {
        self.honest.pid(actor)
    }

    fn open(&mut self, actor: usize, path: &str) -> SysResult<i32> {
        self.honest.open(actor, path)
    }

    fn ioctl(
        &mut self,
        actor: usize,
        file: i32,
        request: u32,
        argument: &mut [u8],
        memory: &mut Scratch,
    ) -> SysResult<i32> {
        if matches!(self.lie, Lie::NeverRemaps) && request == AMDKFD_IOC_FAST_REMAP {
            return Ok(0);
        }
        let answer = self.honest.ioctl(actor, file, request, argument, memory);
        match self.lie {
            Lie::HidesRefusals if request == AMDKFD_IOC_BATCH_UNMAP_QUEUES => {
                let eperm = (-(Errno::EPERM as i32)).to_le_bytes();
                // The result of the first entry.
                let result = 0x1000 + 16..0x1000 + 20;
                if memory.0[result.clone()] == eperm {
                    memory.0[result].fill(0);
                }
            }
            Lie::CountsWrong if request == AMDKFD_IOC_GET_HQD_STATUS && answer.is_ok() => argument[8] -= 1,
            _ => {}
        }
        answer
    }

    fn read(&mut self, actor: usize, file: i32, room: usize) -> SysResult<Vec<u8>> {
        self.honest.read(actor, file, room)
    }

    fn poll(&mut self, actor: usize, file: i32) -> SysResult<(bool, bool)> {
        self.honest.poll(actor, file)
    }

    fn close(&mut self, actor: usize, file: i32) -> SysResult<()> {
        self.honest.close(actor, file)
    }

    fn lend(&mut self, owner: usize, file: i32, to: usize) -> SysResult<i32> {
        self.honest.lend(owner, file, to)
    }

    fn take_back(&mut self, actor: usize, file: i32) -> SysResult<()> {
        self.honest.take_back(actor, file)
    }

    fn buffers(&mut self, actor: usize, gpu: u32, compute: bool) -> SysResult<Buffers> {
        if matches!(self.lie, Lie::RefusesNodes) && gpu == self.honest.gpus()[1] {
            return Err(Errno::ENOMEM);
        }
        self.honest.buffers(actor, gpu, compute)
    }

    fn fill(&mut self, actor: usize, kind: u32, queue: u32, buffers: &Buffers) -> SysResult<()> {
        self.honest.fill(actor, kind, queue, buffers)
    }

    fn recycle(&mut self, actor: usize, gpu: u32, compute: bool, buffers: Buffers) {
        self.honest.recycle(actor, gpu, compute, buffers);
    }

    fn set_uid(&mut self, actor: usize, uid: u32) -> SysResult<()> {
        self.honest.set_uid(actor, uid)
    }

    fn kill(&mut self, actor: usize) -> SysResult<()> {
        self.honest.kill(actor)
    }

    fn exec(&mut self, actor: usize) -> SysResult<bool> {
        self.honest.exec(actor)
    }

    fn evict(&mut self, actor: usize, evict: bool) -> SysResult<bool> {
        if matches!(self.lie, Lie::ForgetsEvictions) { Ok(true) } else { self.honest.evict(actor, evict) }
    }

    fn trace(&mut self, actor: usize, target: usize, on: bool) -> SysResult<()> {
        self.honest.trace(actor, target, on)
    }

    fn read_text(&mut self, actor: usize, path: &str) -> SysResult<String> {
        self.honest.read_text(actor, path)
    }

    fn list(&mut self, actor: usize, path: &str) -> SysResult<Vec<String>> {
        self.honest.list(actor, path)
    }

    fn sleep(&mut self, ms: u32) {
        self.honest.sleep(ms);
    }
}

fn machine() -> SimMachine {
    SimMachine::of_model(2).unwrap()
}

/// The first difference that random lists find, made small.
fn find(lie: Lie) -> Option<(u64, Sequence)> {
    let (mut honest, mut liar) = (machine(), Liar { honest: machine(), lie });
    for seed in 1..200 {
        let (mut sequence, expected) = generate(&mut honest, seed, Abilities::default()).unwrap();
        let answers = Player::play(&mut liar, &sequence).unwrap();
        if let Some(at) = differ::first_difference(&expected, &answers) {
            sequence.calls.truncate(at + 1);
            let small = shrink(sequence, 2000, |candidate| {
                matches!(differ::compare(&mut honest, &mut liar, candidate), Ok(Err(_)))
            });
            return Some((seed, small));
        }
    }
    None
}

#[test]
fn two_simulators_never_differ_and_most_calls_get_past_the_check_of_their_arguments() {
    let (mut one, mut other) = (machine(), machine());
    let mut coverage = Coverage::default();
    for seed in 1..=300 {
        let (sequence, expected) = generate(&mut one, seed, Abilities::default()).unwrap();
        let answers = Player::play(&mut other, &sequence).unwrap();
        assert_eq!(differ::first_difference(&expected, &answers), None, "seed {seed}");
        sequence.calls.iter().zip(&answers).for_each(|(step, answer)| coverage.add(step, answer));
    }
    let (made, deep) = coverage.depth();
    assert!(deep * 100 > made * 60, "{deep} of {made}");
    let results: std::collections::BTreeSet<&str> = coverage.cells().map(|((_, errno, _), _)| errno.as_str()).collect();
    for errno in ["0", "EINVAL", "ENOENT", "ESRCH", "EPERM", "EBUSY", "EBADF", "EFAULT", "ENOTTY", "EAGAIN"] {
        assert!(results.contains(errno), "{errno} in {results:?}");
    }
}

#[test]
fn a_machine_that_answers_wrongly_is_found_out_and_the_list_made_small() {
    for (lie, most) in [
        (Lie::HidesRefusals, 7),
        (Lie::NeverRemaps, 7),
        (Lie::ForgetsEvictions, 7),
        (Lie::CountsWrong, 3),
        (Lie::RefusesNodes, 2),
    ] {
        let (seed, small) = find(lie).unwrap_or_else(|| panic!("{lie:?} was not found"));
        assert!(
            small.calls.len() <= most,
            "{lie:?}, seed {seed}, {} calls:\n{}",
            small.calls.len(),
            list::print(&small)
        );
    }
}

#[test]
fn a_list_that_was_printed_reads_back_as_itself() {
    let mut machine = machine();
    for seed in 1..50 {
        let (sequence, _) = generate(&mut machine, seed, Abilities::default()).unwrap();
        assert_eq!(list::parse(&list::print(&sequence)), Ok(sequence));
    }
}

#[test]
fn a_list_shrinks_to_the_calls_that_matter() {
    let mut machine = machine();
    let (sequence, _) = generate(&mut machine, 3, Abilities::default()).unwrap();
    let is_open = |call: &Call| matches!(call, Call::OpenLease { .. });
    assert!(sequence.calls.iter().any(|step| is_open(&step.call)));
    let small = shrink(sequence, 2000, |list| list.calls.iter().any(|step| is_open(&step.call)));
    assert_eq!(small.calls.len(), 1);
    assert!(is_open(&small.calls[0].call));
}

#[test]
fn every_list_of_the_folder_is_played_to_its_end() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut lists = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let sequence =
            list::parse(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let answers = differ::compare(&mut machine(), &mut machine(), &sequence).unwrap().unwrap();
        let made = answers.iter().filter(|answer| answer.made).count();
        assert_eq!(made, sequence.calls.len(), "{path:?}");
        lists += 1;
    }
    assert!(lists > 0, "no list in {folder}");
}
