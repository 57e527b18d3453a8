//! Two machines, one list, and the first difference.

use crate::call::Sequence;
use crate::list;
use crate::machine::{Machine, SysResult};
use crate::player::{Answer, Player};

/// Where two transcripts part.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The list.
    pub sequence: Sequence,
    /// The call that is answered differently.
    pub at: usize,
    /// What each machine said, in order.
    pub answers: [Vec<Answer>; 2],
    /// Their names.
    pub machines: [&'static str; 2],
}

/// The first call that was answered differently.
pub fn first_difference(one: &[Answer], other: &[Answer]) -> Option<usize> {
    one.iter().zip(other).position(|(a, b)| a.text != b.text)
}

/// Plays a list to both.
///
/// # Errors
/// Where a machine cannot begin or end.
pub fn compare(
    one: &mut dyn Machine,
    other: &mut dyn Machine,
    sequence: &Sequence,
) -> SysResult<Result<Vec<Answer>, Box<Difference>>> {
    let answers = [Player::play(one, sequence)?, Player::play(other, sequence)?];
    Ok(match first_difference(&answers[0], &answers[1]) {
        None => Ok(answers.into_iter().next().expect("two")),
        Some(at) => {
            let machines = [one.name(), other.name()];
            Err(Box::new(Difference { sequence: sequence.clone(), at, answers, machines }))
        }
    })
}

impl Difference {
    /// Both transcripts up to the difference, and the list to play again.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for (number, step) in self.sequence.calls.iter().enumerate().take(self.at + 1) {
            let value = serde_json::to_string(step).expect("a step is plain data");
            text += &format!("{number:3} {value}\n");
            if number < self.at {
                text += &format!("      => {}\n", self.answers[0][number].text);
            } else {
                for (machine, answers) in self.machines.iter().zip(&self.answers) {
                    text += &format!("      {machine} => {}\n", answers[number].text);
                }
            }
        }
        text + &list::print(&self.sequence)
    }
}
