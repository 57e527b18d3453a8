//! DISB workloads: a JSON object of tasks, each a DNN model with a load (periodic, poisson, trace or continuous).

use serde::Deserialize;

use super::synthetic::Gaps;
use super::{Arrivals, Burst, ClosedLoop, Fault, MAX_REQUESTS, MAX_TIME_NS, OfflineTask, Request, ServiceModel, ns_of};

/// Service time of one inference alone on one GPU. ResNet-152 is measured (29.12 ms, MI50: XSched's artifacts, Fig. 9);
/// the others are scaled from it by multiply-accumulates per inference (G), as their papers give them.
const MODELS: [(&str, f64); 6] =
    [("resnet152", 11.5), ("vgg", 19.6), ("densenet", 4.3), ("inception", 5.7), ("distilbert", 5.6), ("bert", 11.2)];
const RESNET152_MS: f64 = 29.12;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    time: f64,
    tasks: Vec<Task>,
}

#[derive(Deserialize)]
struct Task {
    id: Option<String>,
    load: Load,
    client: Client,
}

#[derive(Deserialize)]
#[serde(try_from = "RawLoad")]
struct Load {
    priority: Option<i64>,
    kind: Kind,
}

enum Kind {
    Periodic(f64),
    Poisson(f64),
    /// Arrivals, ns.
    Trace(Vec<u64>),
    Continuous,
}

#[derive(Deserialize)]
struct RawLoad {
    r#type: String,
    priority: Option<i64>,
    frequency: Option<f64>,
    trace: Option<Vec<f64>>,
}

impl TryFrom<RawLoad> for Load {
    type Error = String;

    fn try_from(raw: RawLoad) -> Result<Load, String> {
        let frequency = || match raw.frequency {
            Some(hz) if hz.is_finite() && (1e-6..=1e6).contains(&hz) => Ok(hz),
            Some(hz) => Err(format!("a frequency of {hz} Hz is not between 0.000001 and 1,000,000")),
            None => Err(format!("a `{}` load needs a frequency", raw.r#type)),
        };
        let kind = match raw.r#type.as_str() {
            "periodic" => Kind::Periodic(frequency()?),
            "poisson" => Kind::Poisson(frequency()?),
            "continuous" => Kind::Continuous,
            "trace" => {
                let trace = raw.trace.ok_or("a `trace` load needs a list of arrivals in ms")?;
                let valid = |ms: &f64| ms.is_finite() && (0.0..=MAX_TIME_NS as f64 / 1e6).contains(ms);
                if let Some(bad) = trace.iter().find(|ms| !valid(ms)) {
                    return Err(format!("an arrival at {bad} ms is not between 0 and 30 days"));
                }
                Kind::Trace(trace.into_iter().map(|ms| ns_of(ms * 1e6)).collect())
            }
            other => return Err(format!("load type `{other}` is not periodic, poisson, trace or continuous")),
        };
        Ok(Load { priority: raw.priority, kind })
    }
}

#[derive(Deserialize)]
#[serde(try_from = "RawClient")]
struct Client {
    name: Option<String>,
    model: String,
    service_ns: u64,
}

#[derive(Deserialize)]
struct RawClient {
    name: Option<String>,
    model_name: String,
}

impl TryFrom<RawClient> for Client {
    type Error = String;

    fn try_from(raw: RawClient) -> Result<Client, String> {
        let known = MODELS.iter().find(|(prefix, _)| raw.model_name.starts_with(prefix));
        let Some((_, macs)) = known else {
            let names: Vec<&str> = MODELS.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "no service time is known for model `{}`; known are {} and names that begin so",
                raw.model_name,
                names.join(", ")
            ));
        };
        Ok(Client { name: raw.name, model: raw.model_name, service_ns: ns_of(RESNET152_MS * 1e6 * macs / MODELS[0].1) })
    }
}

impl Task {
    fn name(&self) -> &str {
        self.id.as_deref().or(self.client.name.as_deref()).unwrap_or(&self.client.model)
    }

    /// DISB says real-time by priority 0, by the suffix `_rt`, or not at all; what is left and runs without a pause is
    /// best effort.
    fn online(&self) -> bool {
        match self.load.priority {
            Some(priority) => priority == 0,
            None => {
                self.name().ends_with("_rt")
                    || !(self.name().ends_with("_be") || matches!(self.load.kind, Kind::Continuous))
            }
        }
    }
}

pub(super) fn parse(text: &str, service: &ServiceModel, seed: u64) -> Result<Arrivals, Fault> {
    let file: File = serde_json::from_str(text.trim_start_matches('\u{feff}'))?;
    if !(file.time.is_finite() && (0.0..=MAX_TIME_NS as f64 / 1e9).contains(&file.time)) {
        return Err(Fault::whole(format!("a time of {} s is not between 0 and 30 days", file.time)));
    }
    let span = ns_of(file.time * 1e9);
    let mut out = Arrivals { source: "DISB workload".into(), span_ns: span, ..Arrivals::default() };
    for (index, task) in file.tasks.iter().enumerate() {
        let work = Burst::split(task.client.service_ns, service.packets, service.occupancy);
        if !task.online() {
            let period_ns = match &task.load.kind {
                Kind::Continuous => None,
                Kind::Periodic(hz) => Some(ns_of(1e9 / hz)),
                Kind::Poisson(_) | Kind::Trace(_) => {
                    return Err(Fault::whole(format!(
                        "best-effort task `{}`: only periodic and continuous loads can run offline",
                        task.name()
                    )));
                }
            };
            out.offline.push(OfflineTask { name: task.name().to_owned(), step: work, period_ns });
            continue;
        }
        let mut arrive = |at_ns: u64| -> Result<(), Fault> {
            if out.requests.len() == MAX_REQUESTS {
                return Err(Fault::whole(format!("holds more than {MAX_REQUESTS} requests")));
            }
            out.requests.push(Request { at_ns, work: vec![work] });
            Ok(())
        };
        match &task.load.kind {
            Kind::Continuous => out.closed.push(ClosedLoop { name: task.name().to_owned(), work: vec![work] }),
            Kind::Trace(trace) => trace.iter().try_for_each(|at| arrive(*at))?,
            Kind::Periodic(hz) => {
                let period = ns_of(1e9 / hz).max(1);
                (0..span.div_ceil(period)).try_for_each(|nth| arrive(nth * period))?;
            }
            Kind::Poisson(hz) => {
                let mut now = 0u64;
                for gap in Gaps::new(*hz, seed.wrapping_add(index as u64)) {
                    now = now.saturating_add(gap.max(1));
                    if now >= span {
                        break;
                    }
                    arrive(now)?;
                }
            }
        }
    }
    out.span_ns = out.requests.iter().map(|request| request.at_ns).max().unwrap_or(0).max(span);
    let seen: Vec<String> = MODELS
        .iter()
        .filter(|(prefix, _)| file.tasks.iter().any(|task| task.client.model.starts_with(prefix)))
        .map(|(name, macs)| format!("{name} {:.1} ms", RESNET152_MS * macs / MODELS[0].1))
        .collect();
    out.assumptions.push(format!(
        "each inference alone on one GPU: {} ({} packets each; ResNet-152 as measured on an MI50, the others scaled by multiply-accumulates)",
        seen.join(", "),
        service.packets
    ));
    Ok(out)
}
