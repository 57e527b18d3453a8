//! The connections to agents, and one exchange with many of them at once.

use std::collections::BTreeMap;
use std::time::Duration;

use gpreempt_agent_core::protocol::*;
use nix::errno::Errno;

use crate::host::{AgentAddress, AgentLink, Host};
use crate::queue::Pid;

/// An agent that says nothing for so long sits in a process that does not run. A batch of 1024 queues takes less.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an agent answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub reply: Reply,
    /// After STOP and RESTORE.
    pub outcomes: Vec<OutcomeEntry>,
    /// After LIST.
    pub queues: Vec<QueueEntry>,
}

fn hello(rank: Pid) -> (Pid, Request, Vec<u32>) {
    (rank, Request { operation: HELLO, ..Request::default() }, Vec::new())
}

#[derive(Debug)]
struct Peer {
    link: Box<dyn AgentLink>,
    sequence: u32,
    /// As of its last answer.
    queues: u32,
}

/// For one that said nothing before.
const SECOND_CHANCE: Duration = Duration::from_millis(100);

/// Connections by process.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: BTreeMap<Pid, Peer>,
    /// Processes that have an agent which cannot be asked, and why.
    lost: BTreeMap<Pid, Errno>,
}

impl Peers {
    pub fn has(&self, rank: Pid) -> bool {
        self.peers.contains_key(&rank)
    }

    pub fn queues(&self, rank: Pid) -> Option<u32> {
        self.peers.get(&rank).map(|peer| peer.queues)
    }

    /// Whether a process has an agent, one that answers or not.
    pub fn knows(&self, rank: Pid) -> bool {
        self.has(rank) || self.lost.contains_key(&rank)
    }

    pub fn drop(&mut self, rank: Pid) {
        self.peers.remove(&rank);
        self.lost.remove(&rank);
    }

    /// Connects to those that are not connected. Returns why some could not be.
    pub fn connect(&mut self, host: &dyn Host, addresses: &[&AgentAddress]) -> Vec<(Pid, Errno)> {
        let mut refused = Vec::new();
        let mut new = Vec::new();
        let missing: Vec<&&AgentAddress> = addresses.iter().filter(|address| !self.has(address.pid)).collect();
        for address in missing {
            match host.connect_agent(address) {
                Ok(link) => {
                    self.peers.insert(address.pid, Peer { link, sequence: 0, queues: 0 });
                    new.push(hello(address.pid));
                }
                Err(errno) => refused.push((address.pid, errno)),
            }
        }
        for ((rank, ..), answer) in new.iter().zip(self.ask(&new)) {
            match answer {
                Ok(_) => drop(self.lost.remove(rank)),
                // An agent closes the connection of a user that is not its own.
                Err(Errno::ESRCH) => refused.push((*rank, Errno::EPERM)),
                Err(errno) => refused.push((*rank, errno)),
            }
        }
        for &(rank, errno) in &refused {
            match errno {
                Errno::ECONNREFUSED | Errno::ENOENT => drop(self.lost.remove(&rank)),
                _ => drop(self.lost.insert(rank, errno)),
            }
        }
        refused
    }

    /// Asks those that are connected how many queues they have.
    pub fn refresh(&mut self, ranks: impl Iterator<Item = Pid>) {
        let requests: Vec<_> = ranks.filter(|&rank| self.has(rank)).map(hello).collect();
        self.ask(&requests);
    }

    /// Sends every request before it waits for the first answer. ESRCH: the process, or its program, has gone.
    pub fn ask(&mut self, requests: &[(Pid, Request, Vec<u32>)]) -> Vec<Result<Answer, Errno>> {
        let sent: Vec<Result<u32, Errno>> =
            requests.iter().map(|(rank, request, ids)| self.send(*rank, request, ids)).collect();
        let answers = requests.iter().zip(sent).map(|((rank, request, _), sent)| {
            let answer = sent.and_then(|sequence| self.receive(*rank, request.operation, sequence));
            if let Err(errno @ (Errno::ESRCH | Errno::ETIME | Errno::EPROTO)) = &answer {
                tracing::debug!(rank, %errno, "an agent is lost");
                // Whatever it still does for us it undoes when it sees the connection closed.
                self.peers.remove(rank);
                if *errno != Errno::ESRCH {
                    self.lost.insert(*rank, *errno);
                }
            }
            answer
        });
        answers.collect()
    }

    fn send(&mut self, rank: Pid, request: &Request, ids: &[u32]) -> Result<u32, Errno> {
        let lost = self.lost.get(&rank).copied();
        let peer = self.peers.get_mut(&rank).ok_or(lost.unwrap_or(Errno::ESRCH))?;
        peer.sequence += 1;
        let head = Request { version: VERSION, sequence: peer.sequence, num_ids: ids.len() as u32, ..*request };
        match peer.link.send(&message(&head, ids)) {
            Ok(()) => Ok(peer.sequence),
            // Its queue of messages is full: it reads none.
            Err(Errno::EAGAIN) => Err(Errno::ETIME),
            Err(_) => Err(Errno::ESRCH),
        }
    }

    fn receive(&mut self, rank: Pid, operation: u32, sequence: u32) -> Result<Answer, Errno> {
        let patience = if self.lost.contains_key(&rank) { SECOND_CHANCE } else { PATIENCE };
        let peer = self.peers.get_mut(&rank).ok_or(Errno::ESRCH)?;
        let mut buffer = vec![0; MAX_REPLY];
        let got = match peer.link.receive(&mut buffer, patience) {
            Ok(0) => return Err(Errno::ESRCH),
            Ok(got) => got,
            Err(Errno::ETIME) => return Err(Errno::ETIME),
            Err(_) => return Err(Errno::ESRCH),
        };
        let (reply, rest) = parse_reply(&buffer[..got]).ok_or(Errno::EPROTO)?;
        if (reply.version, reply.sequence) != (VERSION, sequence) {
            return Err(Errno::EPROTO);
        }
        if reply.errno != 0 {
            return Err(Errno::from_raw(reply.errno.cast_signed()));
        }
        peer.queues = reply.num_queues;
        let (mut outcomes, mut queues) = (Vec::new(), Vec::new());
        match operation {
            STOP | RESTORE => {
                outcomes = parse_entries(rest, reply.num_entries, reply.entry_size).ok_or(Errno::EPROTO)?;
            }
            LIST => queues = parse_entries(rest, reply.num_entries, reply.entry_size).ok_or(Errno::EPROTO)?,
            _ => {}
        }
        Ok(Answer { reply, outcomes, queues })
    }
}
