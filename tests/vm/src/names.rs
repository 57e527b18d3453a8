//! Names that are the same on every machine.
//!
//! | number | name | why it differs |
//! | --- | --- | --- |
//! | pid of an actor | `a0`, `a1`, .. | the kernel chooses pids |
//! | gpu_id | `n0`, `n1`, .. by topology order | readable; the simulator has those of the machine's own tree |
//! | lease id | `L1`, `L2`, .. in order of appearance | never reused, so counted on from sequence to sequence |
//! | PASID | that of its actor | as lease ids |
//! | addresses of rings and pointers | what they are of | each process has its own |
//! | moments, durations | `some` or 0 | a modelled time is no measured one |
//! | counters of rounds | what was added since the last look | as lease ids |

use std::collections::HashMap;

/// The names of one sequence on one machine.
#[derive(Clone, Debug, Default)]
pub struct Names {
    gpus: Vec<u32>,
    pids: HashMap<u32, usize>,
    leases: Vec<u64>,
    pasids: HashMap<u32, usize>,
    counters: HashMap<(u32, &'static str), u64>,
}

impl Names {
    /// Of a machine with these GPUs.
    pub fn new(gpus: Vec<u32>) -> Names {
        Names { gpus, ..Names::default() }
    }

    /// An actor has this pid.
    pub fn actor(&mut self, actor: usize, pid: u32) {
        self.pids.insert(pid, actor);
    }

    /// The actor with this pid.
    pub fn actor_of(&self, pid: u32) -> Option<usize> {
        self.pids.get(&pid).copied()
    }

    /// A pid.
    pub fn pid(&self, pid: u32) -> String {
        match self.pids.get(&pid) {
            Some(actor) => format!("a{actor}"),
            None => pid.to_string(),
        }
    }

    /// A gpu_id.
    pub fn gpu(&self, gpu_id: u32) -> String {
        match self.gpus.iter().position(|known| *known == gpu_id) {
            Some(node) => format!("n{node}"),
            None => gpu_id.to_string(),
        }
    }

    /// A lease id.
    pub fn lease(&mut self, id: u64) -> String {
        if id == 0 {
            return "0".to_owned();
        }
        let position = self.leases.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.leases.push(id);
            self.leases.len() - 1
        });
        format!("L{}", position + 1)
    }

    /// An actor has this PASID.
    pub fn learn_pasid(&mut self, pasid: u32, actor: usize) {
        self.pasids.insert(pasid, actor);
    }

    /// The actor with this PASID.
    pub fn actor_of_pasid(&self, pasid: u32) -> Option<usize> {
        self.pasids.get(&pasid).copied()
    }

    /// A counter of a node: what was added since the last look.
    pub fn counter(&mut self, gpu_id: u32, kind: &'static str, value: u64) -> String {
        match self.counters.insert((gpu_id, kind), value) {
            Some(before) => format!("+{}", value.wrapping_sub(before)),
            None => "first".to_owned(),
        }
    }

    /// A moment or a duration.
    pub fn time(value: u64) -> &'static str {
        if value == 0 { "0" } else { "some" }
    }
}
