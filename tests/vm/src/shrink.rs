//! Leaves out of a list what does not matter for its difference.

use crate::call::{Call, Sequence};

/// The smallest list found that still makes `differs` true: calls and entries are left out as long as it does.
/// At most `tries` lists are tried.
pub fn shrink(mut sequence: Sequence, mut tries: u32, mut differs: impl FnMut(&Sequence) -> bool) -> Sequence {
    let mut attempt = |candidate: &Sequence, tries: &mut u32| {
        if *tries == 0 {
            return false;
        }
        *tries -= 1;
        differs(candidate)
    };
    let mut piece = sequence.calls.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        let mut smaller = false;
        while at < sequence.calls.len() {
            let mut candidate = sequence.clone();
            let end = (at + piece).min(candidate.calls.len());
            candidate.calls.drain(at..end);
            if attempt(&candidate, &mut tries) {
                sequence = candidate;
                smaller = true;
            } else {
                at += piece;
            }
        }
        if piece == 1 && !smaller {
            break;
        }
        piece = if piece > 1 { piece / 2 } else { 1 };
    }
    for at in 0..sequence.calls.len() {
        while let Some(candidate) = simpler(&sequence, at).into_iter().find(|it| attempt(it, &mut tries)) {
            sequence = candidate;
        }
    }
    sequence
}

/// The list with one call made a little simpler, in every way.
fn simpler(sequence: &Sequence, at: usize) -> Vec<Sequence> {
    let mut found = Vec::new();
    let mut offer = |edit: &dyn Fn(&mut crate::call::Step)| {
        let mut candidate = sequence.clone();
        edit(&mut candidate.calls[at]);
        if candidate != *sequence {
            found.push(candidate);
        }
    };
    offer(&|step| step.twist = None);
    let longest = match &sequence.calls[at].call {
        Call::Unmap { entries, .. } | Call::Remap { entries, .. } => entries.len(),
        Call::Swap { unmap, remap, .. } => unmap.len().max(remap.len()),
        Call::Suspend { queues, .. } => queues.len(),
        _ => 0,
    };
    for place in 0..longest {
        offer(&|step| match &mut step.call {
            Call::Unmap { entries, .. } | Call::Remap { entries, .. } if entries.len() > 1 => {
                entries.remove(place);
            }
            Call::Swap { unmap, remap, .. } if unmap.len() + remap.len() > 1 && place < unmap.len() => {
                unmap.remove(place);
            }
            Call::Suspend { queues, .. } if queues.len() > 1 => {
                queues.remove(place);
            }
            _ => {}
        });
        offer(&|step| {
            if let Call::Swap { unmap, remap, .. } = &mut step.call
                && unmap.len() + remap.len() > 1
                && place < remap.len()
            {
                remap.remove(place);
            }
        });
    }
    offer(&|step| match &mut step.call {
        Call::CreateQueue { busy, .. } => *busy = false,
        Call::Unmap { grace, .. }
        | Call::Remap { grace, .. }
        | Call::Swap { grace, .. }
        | Call::Selective { grace, .. }
        | Call::State { grace, .. } => *grace = 0,
        Call::QueueStatus { want, .. } => *want = 0,
        _ => {}
    });
    found
}
