//! Plays a list of calls through the Rust API: one command per line in, one answer per command out, as
//! `tests/c/conformance.c` does through the C library. The commands are described there.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use gpreempt::{Error, GpuId, PolicyFlags, QueueInfo, Result, Session, SessionBuilder, UnmapFlags};

/// ENODEV: there is no session to call.
const NO_SESSION: &str = "-19";

fn main() -> io::Result<()> {
    let mut runner = Runner { session: None, last_error: String::new() };
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some((command, arguments)) = words.split_first().filter(|(command, _)| !command.starts_with('#')) {
            writeln!(out, "{}", runner.answer(command, arguments))?;
            out.flush()?;
        }
    }
    Ok(())
}

struct Runner {
    session: Option<Session>,
    last_error: String,
}

impl Runner {
    fn answer(&mut self, command: &str, arguments: &[&str]) -> String {
        let Some(numbers) = arguments.iter().map(|word| number(word)).collect::<Option<Vec<i64>>>() else {
            return format!("? not all numbers: {}", arguments.join(" "));
        };
        let unsigned: Vec<u32> = numbers.iter().map(|&number| number as u32).collect();
        let answer = match (command, &unsigned[..]) {
            ("init", []) => SessionBuilder::from_env().and_then(|builder| builder.open()).map(|session| {
                self.session = Some(session);
                "0".to_owned()
            }),
            ("error", []) => return self.last_error.clone(),
            _ => match &self.session {
                None => return NO_SESSION.to_owned(),
                Some(_) if command == "cleanup" => {
                    self.session = None;
                    Ok("0".to_owned())
                }
                Some(session) => call(session, command, &unsigned, &numbers),
            },
        };
        answer.unwrap_or_else(|error| {
            self.last_error = error.to_string();
            negative(&error)
        })
    }
}

fn call(session: &Session, command: &str, numbers: &[u32], signed: &[i64]) -> Result<String> {
    let done = Ok("0".to_owned());
    match (command, numbers) {
        ("unmap", [grace, queues @ ..]) => session.unmap(queues, Duration::from_micros((*grace).into())).and(done),
        ("remap", queues) => session.remap(queues).and(done),
        ("selective", [flags, queues @ ..]) => {
            session.selective_unmap(queues, UnmapFlags::from_bits_retain(*flags)).and(done)
        }
        ("remap_one", [queue, _]) => session.fast_remap(*queue, signed[1] as i32).and(done),
        ("reserve", [gpu, online, offline]) => session.set_reservation(GpuId(*gpu), *online, *offline).and(done),
        ("status", []) => {
            let s = session.status(GpuId::ALL)?;
            Ok(format!("0 {} {} {} {} {}", s.total, s.active, s.free, s.online_reserved, s.offline_used))
        }
        ("status_of", [gpu]) => {
            let s = session.status(GpuId(*gpu))?;
            let slots = format!("{} {} {} {}", s.total, s.active, s.free, s.online_reserved);
            let offline = format!("{} {}", s.offline_used, s.offline_max);
            Ok(format!(
                "0 {slots} {offline} {} {} {} {} {}",
                s.num_xcc, s.preempted, s.throttled, s.queues_total, s.nodes
            ))
        }
        ("policy", [queue, flags]) => session.set_policy(*queue, PolicyFlags::from_bits_retain(*flags)).and(done),
        ("state", [queue, state]) => session.set_state(*queue, *state).and(done),
        ("active", [queue]) => session.is_active(*queue).map(|active| u32::from(active).to_string()),
        ("idle", []) => session.idle_offline().map(|idle| joined(idle.len(), idle.iter().map(u32::to_string))),
        ("register", [pid, queue, gpu]) => {
            session.register(*pid, *queue, GpuId(*gpu)).map(|handle| format!("0 {handle}"))
        }
        ("find_all", []) => find(session, |_| true),
        ("find_priority", [min, max]) => {
            if min > max || *max > 15 {
                return Err(Error::new("finding queues by priority", nix::errno::Errno::EINVAL));
            }
            find(session, |info| info.priority.is_some_and(|priority| (*min..=*max).contains(&priority)))
        }
        ("find_process", [pid]) => find(session, |info| info.queue.pid == *pid),
        _ => Ok(format!("? no such command, or not with {} arguments: {command}", numbers.len())),
    }
}

fn find(session: &Session, wanted: impl Fn(&QueueInfo) -> bool) -> Result<String> {
    let mut found = session.queues()?;
    found.retain(|(_, info)| wanted(info));
    let texts = found.iter().map(|(handle, info)| {
        let priority = info.priority.map_or(-1, i64::from);
        let active = info.active.map_or(-1, i32::from);
        format!("{handle} {} {} {} {priority} {active}", info.queue.pid, info.queue.id, info.gpu.0)
    });
    Ok(joined(found.len(), texts))
}

fn joined(count: usize, texts: impl Iterator<Item = String>) -> String {
    std::iter::once(count.to_string()).chain(texts).collect::<Vec<_>>().join(" ")
}

fn number(word: &str) -> Option<i64> {
    match word.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn negative(error: &Error) -> String {
    (-(error.errno() as i32)).to_string()
}
