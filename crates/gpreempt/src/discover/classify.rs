//! Which queues are online, which offline: rules over what discovery finds.
//!
//! ROCr gives every queue NORMAL priority, so rules in earnest go by process, command or cgroup; priority serves queues
//! that were made with one.

use std::ops::RangeInclusive;

use crate::queue::{Pid, QueueClass, QueueInfo};

/// Chooses queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Of one process.
    Pid(Pid),
    /// Of processes whose `comm` matches a glob (the kernel cuts `comm` at 15 bytes).
    Command(String),
    /// Of processes in a cgroup or below it: `/kubepods.slice` takes `/kubepods.slice/besteffort` but not
    /// `/kubepods.slice2`.
    CgroupBelow(String),
    /// Of processes whose cgroup path matches a glob, `*` running over `/` too.
    Cgroup(String),
    /// With a KFD priority in a range; a queue of unknown priority is in none.
    Priority(RangeInclusive<u32>),
}

impl Selector {
    /// Whether it chooses this queue.
    pub fn matches(&self, queue: &QueueInfo) -> bool {
        match self {
            Selector::Pid(pid) => queue.queue.pid == *pid,
            Selector::Command(glob) => matches_glob(glob, &queue.command),
            Selector::CgroupBelow(prefix) => {
                let rest = queue.cgroup.strip_prefix(prefix.trim_end_matches('/'));
                !queue.cgroup.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Selector::Cgroup(glob) => matches_glob(glob, &queue.cgroup),
            Selector::Priority(range) => queue.priority.is_some_and(|priority| range.contains(&priority)),
        }
    }
}

/// Puts the queues of a selector into a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which queues.
    pub selector: Selector,
    /// What they are.
    pub class: QueueClass,
}

/// Rules in order; the first that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// Priorities 0 to 5 offline, 10 to 15 online, as the scan by priority has always meant it.
    pub fn by_priority() -> Rules {
        Rules(vec![
            Rule { selector: Selector::Priority(0..=5), class: QueueClass::Offline },
            Rule { selector: Selector::Priority(10..=15), class: QueueClass::Online },
        ])
    }

    /// What a queue is; [`QueueClass::Unclassified`] where no rule matches.
    pub fn classify(&self, queue: &QueueInfo) -> QueueClass {
        self.0.iter().find(|rule| rule.selector.matches(queue)).map_or(QueueClass::Unclassified, |rule| rule.class)
    }
}

/// `*` matches any run of characters, `?` any one; everything else itself.
fn matches_glob(glob: &str, text: &str) -> bool {
    let (glob, text): (Vec<char>, Vec<char>) = (glob.chars().collect(), text.chars().collect());
    let (mut g, mut t) = (0, 0);
    // Where to resume after the last star: its position, and the text position it gives back one character more from.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => {
                let Some((position, taken)) = star else { return false };
                star = Some((position, taken + 1));
                g = position + 1;
                t = taken + 1;
            }
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{GpuId, QueueId, QueueType};

    fn queue(command: &str, cgroup: &str, priority: Option<u32>) -> QueueInfo {
        QueueInfo {
            queue: QueueId { pid: 4711, id: 3 },
            gpu: GpuId(1),
            kind: QueueType::Compute,
            ring_bytes: 65536,
            priority,
            ring_base: None,
            active: None,
            idle: None,
            command: command.to_owned(),
            cgroup: cgroup.to_owned(),
        }
    }

    #[test]
    fn globs_match_runs_and_single_characters() {
        for (glob, text, matches) in [
            ("train*", "train_bert", true),
            ("*bert", "train_bert", true),
            ("*a*b*c", "xxaxxbxbxc", true),
            ("*a*b*c", "xxaxxbxbx", false),
            ("tr?in", "train", true),
            ("tr?in", "trin", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("?", "ü", true),
        ] {
            assert_eq!(matches_glob(glob, text), matches, "{glob} on {text}");
        }
    }

    #[test]
    fn a_cgroup_prefix_ends_at_a_path_component() {
        let below = |prefix: &str, path| Selector::CgroupBelow(prefix.to_owned()).matches(&queue("", path, None));
        assert!(below("/kubepods.slice", "/kubepods.slice"));
        assert!(below("/kubepods.slice/", "/kubepods.slice/besteffort/pod7"));
        assert!(!below("/kubepods.slice", "/kubepods.slice2/pod7"));
        assert!(below("/", "/anything"));
        assert!(!below("/", ""), "an unknown cgroup is below none");
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = Rules(vec![
            Rule { selector: Selector::Pid(1), class: QueueClass::Online },
            Rule { selector: Selector::Command("serve*".to_owned()), class: QueueClass::Online },
            Rule { selector: Selector::Cgroup("*besteffort*".to_owned()), class: QueueClass::Offline },
        ]);
        assert_eq!(rules.classify(&queue("serve", "/besteffort", None)), QueueClass::Online);
        assert_eq!(rules.classify(&queue("python3", "/kubepods/besteffort/x", None)), QueueClass::Offline);
        assert_eq!(rules.classify(&queue("python3", "/user.slice", None)), QueueClass::Unclassified);
    }

    #[test]
    fn an_unknown_priority_is_neither_high_nor_low() {
        let rules = Rules::by_priority();
        assert_eq!(rules.classify(&queue("", "", None)), QueueClass::Unclassified);
        assert_eq!(rules.classify(&queue("", "", Some(5))), QueueClass::Offline);
        assert_eq!(rules.classify(&queue("", "", Some(7))), QueueClass::Unclassified);
        assert_eq!(rules.classify(&queue("", "", Some(10))), QueueClass::Online);
    }
}
