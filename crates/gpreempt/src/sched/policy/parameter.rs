//! Policy parameters as text: `name=value`, durations with a unit, shares with a percent sign.

use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Error, Result};

/// No policy needs a longer time, and sums of shorter ones cannot overflow.
const LONGEST: Duration = Duration::from_secs(3600);

/// One parameter of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its default, as text.
    pub default: &'static str,
    /// What it does.
    pub summary: &'static str,
}

/// The parameters given for one policy.
#[derive(Debug)]
pub(super) struct Given<'a> {
    policy: &'static str,
    pairs: Vec<(&'a str, &'a str)>,
}

impl<'a> Given<'a> {
    /// Splits `text` and checks the names against `known`.
    pub(super) fn parse(policy: &'static str, known: &[Parameter], text: &'a str) -> Result<Given<'a>> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(wrong(policy, format!("`{part}` is not of the form name=value")));
            };
            let (name, value) = (name.trim(), value.trim());
            if !known.iter().any(|parameter| parameter.name == name) {
                let names: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
                return Err(wrong(policy, format!("there is no parameter `{name}`"))
                    .remedy(format!("parameters: {}", names.join(", "))));
            }
            if pairs.iter().any(|(given, _)| *given == name) {
                return Err(wrong(policy, format!("parameter `{name}` is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Given { policy, pairs })
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }

    /// A duration, or its default.
    pub(super) fn duration(&self, name: &str, default: Duration) -> Result<Duration> {
        let Some(value) = self.value(name) else { return Ok(default) };
        parse_duration(value).filter(|duration| *duration <= LONGEST).ok_or_else(|| {
            wrong(self.policy, format!("{name}: `{value}` is not a duration of at most an hour"))
                .remedy("write a whole number and a unit: 100us, 5ms or 1s")
        })
    }

    /// A duration that is not zero, or its default.
    pub(super) fn positive(&self, name: &str, default: Duration) -> Result<Duration> {
        let duration = self.duration(name, default)?;
        if duration.is_zero() {
            return Err(wrong(self.policy, format!("{name} must not be zero")));
        }
        Ok(duration)
    }

    /// A share in percent within `range`, or its default.
    pub(super) fn percent(&self, name: &str, default: u32, range: std::ops::RangeInclusive<u32>) -> Result<u32> {
        let Some(value) = self.value(name) else { return Ok(default) };
        let digits = value.strip_suffix('%').unwrap_or(value);
        digits.parse().ok().filter(|percent| range.contains(percent)).ok_or_else(|| {
            wrong(self.policy, format!("{name}: `{value}` is not a share")).remedy(format!(
                "write {}% to {}%",
                range.start(),
                range.end()
            ))
        })
    }

    /// An error of this policy as a whole.
    pub(super) fn wrong(&self, detail: impl Into<String>) -> Error {
        wrong(self.policy, detail)
    }
}

fn wrong(policy: &str, detail: impl Into<String>) -> Error {
    Error::new("choosing a policy", Errno::EINVAL).on(policy).because(detail)
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim_start() {
        "ns" => Some(Duration::from_nanos(number)),
        "us" | "µs" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

/// A duration as [`parse_duration`] reads it, in the largest unit that is exact.
pub(super) fn show(duration: Duration) -> String {
    let ns = duration.as_nanos();
    match ns {
        0 => "0".to_owned(),
        _ if ns.is_multiple_of(1_000_000_000) => format!("{}s", ns / 1_000_000_000),
        _ if ns.is_multiple_of(1_000_000) => format!("{}ms", ns / 1_000_000),
        _ if ns.is_multiple_of(1_000) => format!("{}us", ns / 1_000),
        _ => format!("{ns}ns"),
    }
}
