//! What the calls of a run have reached: command x errno x queue state.

use std::collections::BTreeMap;

use crate::call::Step;
use crate::player::Answer;
use crate::render;

/// Errnos that mean that a call got no further than its arguments.
const SHALLOW: [&str; 4] = ["EINVAL", "EFAULT", "ENOTTY", "EBADF"];

/// Counts of one run.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// By command, result, and the state that the queue was left in.
    cells: BTreeMap<(String, String, String), u64>,
    made: u64,
    deep: u64,
}

impl Coverage {
    /// Counts a call.
    pub fn add(&mut self, step: &Step, answer: &Answer) {
        if !answer.made {
            return;
        }
        let name = step.call.name();
        self.made += 1;
        let shallow = answer.outcomes.first().is_some_and(|(errno, _)| SHALLOW.contains(&errno.as_str()));
        self.deep += u64::from(!shallow);
        for (errno, state) in &answer.outcomes {
            let state = if *state == 0 { "-".to_owned() } else { render::state(*state) };
            *self.cells.entry((name.clone(), errno.clone(), state)).or_default() += 1;
        }
    }

    /// Calls that were made, and those that got past the check of their arguments.
    pub fn depth(&self) -> (u64, u64) {
        (self.made, self.deep)
    }

    /// Takes in the counts of another run.
    pub fn merge(&mut self, other: &Coverage) {
        self.made += other.made;
        self.deep += other.deep;
        for (cell, count) in &other.cells {
            *self.cells.entry(cell.clone()).or_default() += count;
        }
    }

    /// One line for every command and result: how often, and with how many states of queues.
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<(&str, &str), (u64, Vec<&str>)> = BTreeMap::new();
        for ((name, errno, state), count) in &self.cells {
            let row = rows.entry((name, errno)).or_default();
            row.0 += count;
            if state != "-" {
                row.1.push(state);
            }
        }
        let mut text = format!("{:<16} {:<12} {:>9} {:>7}\n", "command", "result", "calls", "states");
        for ((name, errno), (count, states)) in &rows {
            text += &format!("{name:<16} {errno:<12} {count:>9} {:>7}\n", states.len());
        }
        let states: std::collections::BTreeSet<&str> = self.cells.keys().map(|cell| cell.2.as_str()).collect();
        text + &format!(
            "{} cells of command x result x state, {} states; {} of {} calls past the check of their arguments\n",
            self.cells.len(),
            states.len(),
            self.deep,
            self.made
        )
    }

    /// Every cell.
    pub fn cells(&self) -> impl Iterator<Item = (&(String, String, String), &u64)> {
        self.cells.iter()
    }
}
