//! A configuration text with its path, so that every complaint can name its line.

use std::fs;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;

use super::ConfigError;

/// Larger files are not configuration.
const MAX_BYTES: u64 = 4 << 20;

/// One text and where it is from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub path: &'a str,
    pub text: &'a str,
}

impl Source<'_> {
    /// Reads the text as TOML.
    pub fn parse<T: DeserializeOwned>(self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|e| ConfigError {
            path: self.path.to_owned(),
            line: e.span().map(|span| self.line(span.start)),
            message: e.message().replace('\n', "; "),
        })
    }

    /// A complaint about a part of the text.
    pub fn blame(self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        ConfigError { path: self.path.to_owned(), line: Some(self.line(span.start)), message: message.into() }
    }

    /// A complaint about the whole file.
    pub fn blame_file(self, message: impl Into<String>) -> ConfigError {
        ConfigError { path: self.path.to_owned(), line: None, message: message.into() }
    }

    /// The value where `right` holds for it, else a complaint about its place.
    pub fn check<T>(self, value: Spanned<T>, right: impl FnOnce(&T) -> bool, message: &str) -> Result<T, ConfigError> {
        if right(value.get_ref()) { Ok(value.into_inner()) } else { Err(self.blame(value.span(), message)) }
    }

    /// A finite duration of at least `least` and at most an hour, given in units of `unit_ns`, as nanoseconds.
    pub fn duration(self, value: Spanned<f64>, unit_ns: f64, least: u64) -> Result<u64, ConfigError> {
        const HOUR_NS: f64 = 3.6e12;
        let span = value.span();
        let ns = value.into_inner() * unit_ns;
        if !(0.0..=HOUR_NS).contains(&ns) {
            return Err(self.blame(span, "a duration is at least 0 and at most one hour"));
        }
        // In range, so the conversion is exact after rounding.
        let ns = ns.round() as u64;
        if ns < least {
            return Err(self.blame(span, format!("this duration is at least {least} ns")));
        }
        Ok(ns)
    }

    fn line(self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        1 + self.text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count()
    }
}

/// The text of a configuration file.
pub(super) fn read(path: &str) -> Result<String, ConfigError> {
    let fail = |message: String| ConfigError { path: path.to_owned(), line: None, message };
    let about = fs::metadata(path).map_err(|e| fail(e.to_string()))?;
    if !about.is_file() {
        return Err(fail("not a regular file".to_owned()));
    }
    if about.len() > MAX_BYTES {
        return Err(fail(format!("larger than {MAX_BYTES} bytes")));
    }
    fs::read_to_string(path).map_err(|e| fail(e.to_string()))
}

/// The text that a built-in name or a path stands for; `names` are all built-in ones, for the complaint.
pub(super) fn find(
    what: &str,
    name_or_path: &str,
    builtin: &[(&'static str, &'static str)],
    names: &[&str],
) -> Result<String, ConfigError> {
    if let Some((_, text)) = builtin.iter().find(|(name, _)| *name == name_or_path) {
        return Ok((*text).to_owned());
    }
    read(name_or_path).map_err(|mut e| {
        if !name_or_path.contains(['/', '.']) {
            e.message = format!("no built-in {what} of this name ({}) and no file: {}", names.join(", "), e.message);
        }
        e
    })
}
