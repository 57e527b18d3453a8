//! Orion's `inter-arrival-times.json`: a JSON list of the gaps between requests, in seconds.

use serde::Deserialize;

use super::{Arrivals, Fault, MAX_REQUESTS, MAX_TIME_NS, Request, ServiceModel, ns_of};

/// A gap that has been checked while its line is still known.
struct Gap(u64);

impl<'de> Deserialize<'de> for Gap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Gap, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if seconds.is_finite() && (0.0..=1e6).contains(&seconds) {
            Ok(Gap(ns_of(seconds * 1e9)))
        } else {
            Err(serde::de::Error::custom(format!("a gap of {seconds} s is not between 0 and 1,000,000 s")))
        }
    }
}

pub(super) fn parse(text: &str, service: &ServiceModel) -> Result<Arrivals, Fault> {
    let gaps: Vec<Gap> = serde_json::from_str(text.trim_start_matches('\u{feff}'))?;
    if gaps.len() > MAX_REQUESTS {
        return Err(Fault::whole(format!("holds {} requests; at most {MAX_REQUESTS} can be replayed", gaps.len())));
    }
    let mut now = 0u64;
    let mut requests = Vec::with_capacity(gaps.len());
    for Gap(gap) in gaps {
        now += gap;
        if now > MAX_TIME_NS {
            return Err(Fault::whole("spans more than 30 days"));
        }
        requests.push(Request { at_ns: now, work: service.request() });
    }
    Ok(Arrivals {
        source: "Orion gaps".into(),
        assumptions: vec![service.request_assumption()],
        requests,
        span_ns: now,
        ..Arrivals::default()
    })
}
