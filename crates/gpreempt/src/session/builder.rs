//! Which machine a session opens.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gpreempt_sim::config::{
    Caller, ClockKind, Config, ConfigError, CostModel, GpuModel, Hardware, Partition, Scenario,
};
use gpreempt_sim::topology::Topology;
use nix::errno::Errno;

use super::{Session, ladder};
use crate::discover::sysfs;
use crate::driver::patched::PatchedDriver;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::host::os::OsHost;
use crate::host::sim::SimHost;

/// GPUs of the simulated machine where no topology says otherwise.
const SIM_GPUS: u32 = 8;

/// Which machine to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// For each process the best tier of the real machine that reaches it; the simulated machine only where there is no
    /// `/dev/kfd` (said once on stderr).
    #[default]
    Auto,
    /// The gpreempt KFD series, or an error.
    Patched,
    /// Agents in programs that were started with `gpreempt offline`.
    Agent,
    /// The KFD debugger of a stock kernel, or an error.
    Debugger,
    /// The simulated machine.
    Sim,
}

impl Backend {
    /// All, by name.
    pub const NAMES: [(&str, Backend); 5] = [
        ("auto", Backend::Auto),
        ("patched", Backend::Patched),
        ("agent", Backend::Agent),
        ("debugger", Backend::Debugger),
        ("sim", Backend::Sim),
    ];

    /// # Errors
    /// EINVAL; says which names there are.
    pub fn named(name: &str) -> Result<Backend> {
        choice(name, &Backend::NAMES)
    }
}

/// What kernel the simulated machine has, and so which tier reaches its processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SimTier {
    /// A kernel with the series.
    #[default]
    Patched,
    /// A stock kernel, and for each process the best tier that reaches it.
    Auto,
    /// A stock kernel, and an agent in each process that is there at boot.
    Agent,
    /// A stock kernel, and its debugger alone.
    Debugger,
}

impl SimTier {
    /// All, by name.
    pub const NAMES: [(&str, SimTier); 4] = [
        ("patched", SimTier::Patched),
        ("auto", SimTier::Auto),
        ("agent", SimTier::Agent),
        ("debugger", SimTier::Debugger),
    ];

    /// # Errors
    /// EINVAL; says which names there are.
    pub fn named(name: &str) -> Result<SimTier> {
        choice(name, &SimTier::NAMES)
    }
}

fn choice<T: Copy>(name: &str, all: &[(&str, T)]) -> Result<T> {
    match all.iter().find(|(known, _)| *known == name) {
        Some(&(_, value)) => Ok(value),
        None => {
            let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            let (last, rest) = names.split_last().expect("a choice has choices");
            Err(Error::new("choosing", Errno::EINVAL)
                .on(name)
                .because(format!("it may be {} or {last}", rest.join(", "))))
        }
    }
}

/// Chooses and configures the machine of a [`Session`].
///
/// ```
/// use gpreempt::{Backend, GpuId, QueueClass, SessionBuilder};
///
/// let session = SessionBuilder { backend: Backend::Sim, sim_virtual_clock: true, ..Default::default() }.open()?;
/// let (offline, _) = session.queues()?.into_iter().find(|(_, queue)| queue.priority < Some(6)).expect("a guest");
/// session.classify(offline, QueueClass::Offline)?;
/// session.unmap(&[offline], std::time::Duration::ZERO)?;
/// assert!(!session.is_active(offline)?);
/// session.remap(&[offline])?;
/// assert_eq!(session.status(GpuId::ALL)?.nodes, 8);
/// # Ok::<(), gpreempt::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct SessionBuilder {
    /// Which machine.
    pub backend: Backend,
    /// Simulated machine: virtual clock (deterministic, as fast as it can be computed) instead of the wall's.
    pub sim_virtual_clock: bool,
    /// Simulated machine: cost model, by name or path; None = `design`.
    pub sim_cost_model: Option<String>,
    /// Simulated machine: scenario, by name or path; None = the built-in default.
    pub sim_scenario: Option<PathBuf>,
    /// Simulated machine: no processes at all.
    pub sim_empty: bool,
    /// Simulated machine: a recorded topology tree.
    pub sim_topology: Option<PathBuf>,
    /// Simulated machine: seed.
    pub sim_seed: u64,
    /// Simulated machine: its kernel.
    pub sim_tier: SimTier,
}

impl SessionBuilder {
    /// As the environment says: `GPREEMPT_BACKEND` (auto, patched, agent, debugger, sim), `GPREEMPT_SIM_CLOCK` (real,
    /// virtual), `GPREEMPT_SIM_TIER` (patched, auto, agent, debugger), `GPREEMPT_SIM_COST_MODEL`, `GPREEMPT_SIM_SCENARIO` (a name or a file, or `empty`), `GPREEMPT_SIM_TOPOLOGY`,
    /// `GPREEMPT_SIM_SEED`. An empty variable counts as not set.
    ///
    /// # Errors
    /// EINVAL names the variable and what it may be.
    pub fn from_env() -> Result<SessionBuilder> {
        SessionBuilder::from_variables(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<SessionBuilder> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let wrong = |name: &str, value: &str, allowed: &str| {
            Error::new("reading the environment", Errno::EINVAL)
                .on(format_args!("{name}={value}"))
                .because(format!("it may be {allowed}"))
        };
        let named = |error: Error, name: &str, value: &str| {
            let detail = error.words().to_owned();
            Error::new("reading the environment", Errno::EINVAL).on(format_args!("{name}={value}")).because(detail)
        };
        let mut builder = SessionBuilder::default();
        if let Some(value) = variable("GPREEMPT_BACKEND") {
            builder.backend = Backend::named(&value).map_err(|error| named(error, "GPREEMPT_BACKEND", &value))?;
        }
        if let Some(value) = variable("GPREEMPT_SIM_TIER") {
            builder.sim_tier = SimTier::named(&value).map_err(|error| named(error, "GPREEMPT_SIM_TIER", &value))?;
        }
        if let Some(value) = variable("GPREEMPT_SIM_CLOCK") {
            builder.sim_virtual_clock = match value.as_str() {
                "real" => false,
                "virtual" => true,
                other => return Err(wrong("GPREEMPT_SIM_CLOCK", other, "real or virtual")),
            };
        }
        if let Some(value) = variable("GPREEMPT_SIM_SEED") {
            let seed = value.parse();
            builder.sim_seed = seed.map_err(|_| wrong("GPREEMPT_SIM_SEED", &value, "a number from 0 to 2^64 - 1"))?;
        }
        builder.sim_cost_model = variable("GPREEMPT_SIM_COST_MODEL");
        builder.sim_topology = variable("GPREEMPT_SIM_TOPOLOGY").map(PathBuf::from);
        match variable("GPREEMPT_SIM_SCENARIO") {
            Some(value) if value == "empty" => builder.sim_empty = true,
            value => builder.sim_scenario = value.map(PathBuf::from),
        }
        Ok(builder)
    }

    /// Opens the machine.
    ///
    /// # Errors
    /// ENODEV, EPERM or EOPNOTSUPP with a remedy where `/dev/kfd` is absent, closed to this user, or without the series;
    /// EINVAL with path and line for a bad file.
    pub fn open(&self) -> Result<Session> {
        match self.backend {
            Backend::Sim => self.open_sim(),
            Backend::Patched => open_patched(),
            Backend::Agent => ladder::open_agent(Arc::new(OsHost::new())),
            Backend::Debugger => ladder::open_debugger(Arc::new(OsHost::new()), false),
            Backend::Auto => match ladder::open_all(Arc::new(OsHost::new()), false) {
                Err(error) if error.kind() == ErrorKind::NoDevice => {
                    let session = self.open_sim()?;
                    say_simulated(session.host().as_ref());
                    Ok(session)
                }
                opened => opened,
            },
        }
    }

    /// The configuration of the simulated machine, with this process as its caller.
    ///
    /// # Errors
    /// EINVAL with path and line for a bad file.
    pub fn sim_config(&self) -> Result<Config> {
        self.configure()
            .map_err(|error| Error::new("configuring the simulated machine", Errno::EINVAL).because(error.to_string()))
    }

    fn configure(&self) -> Result<Config, ConfigError> {
        let model = GpuModel::named("mi308x")?;
        let (hardware, nodes) = match &self.sim_topology {
            Some(path) => {
                let tree = Topology::load(path, &model)?;
                let nodes = tree.nodes.iter().filter(|node| node.gpu_id != 0).count() as u32;
                (Hardware::Tree { path: path.clone(), model }, nodes)
            }
            None => (Hardware::Model { model, gpus: SIM_GPUS, partition: Partition::Spx }, SIM_GPUS),
        };
        let scenario = match &self.sim_scenario {
            _ if self.sim_empty => Scenario::empty(),
            None => Scenario::builtin_default(nodes),
            Some(name) => Scenario::named(&name.to_string_lossy(), nodes)?,
        };
        let os = OsHost::new();
        let name = os.read_text("/proc/self/comm").unwrap_or_default();
        let me = os.identity();
        Ok(Config {
            hardware,
            cost: CostModel::named(self.sim_cost_model.as_deref().unwrap_or("design"))?,
            scenario,
            clock: if self.sim_virtual_clock { ClockKind::Virtual } else { ClockKind::Real },
            seed: self.sim_seed,
            patched: self.sim_tier == SimTier::Patched,
            // On a machine of its own everybody is root: nothing here can disturb anybody else.
            caller: Caller {
                pid: me.pid,
                uid: me.euid,
                privileged: true,
                root: true,
                name: name.trim_end().to_owned(),
            },
        })
    }

    fn open_sim(&self) -> Result<Session> {
        let host = SimHost::boot(self.sim_config()?)
            .map_err(|error| Error::new("booting the simulated machine", Errno::EINVAL).because(error.to_string()))?;
        if self.sim_tier == SimTier::Agent {
            for pid in sysfs::processes(&host)? {
                host.start_agent(pid).map_err(|errno| Error::new("starting an agent", errno).on(pid))?;
            }
        }
        let host: Arc<dyn Host> = Arc::new(host);
        match self.sim_tier {
            SimTier::Patched => {
                let driver = PatchedDriver::open(Arc::clone(&host))?;
                Ok(Session::with(host, Arc::new(driver)))
            }
            SimTier::Auto => ladder::open_all(host, true),
            SimTier::Agent => ladder::open_agent(host),
            SimTier::Debugger => ladder::open_debugger(host, true),
        }
    }
}

fn open_patched() -> Result<Session> {
    let host: Arc<dyn Host> = Arc::new(OsHost::new());
    let driver = PatchedDriver::open(Arc::clone(&host))?;
    Ok(Session::with(host, Arc::new(driver)))
}

fn say_simulated(host: &dyn Host) {
    // Not a `Once`: a child forked in the middle of it would wait for ever.
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        eprintln!("gpreempt: no /dev/kfd here, using the {}", host.describe());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<SessionBuilder> {
        SessionBuilder::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_chooses_machine_clock_and_scenario() {
        let builder = with(&[
            ("GPREEMPT_BACKEND", "sim"),
            ("GPREEMPT_SIM_CLOCK", "virtual"),
            ("GPREEMPT_SIM_SCENARIO", "empty"),
            ("GPREEMPT_SIM_SEED", "7"),
            ("GPREEMPT_SIM_COST_MODEL", ""),
        ]);
        let builder = builder.unwrap();
        assert_eq!(builder.backend, Backend::Sim);
        assert!(builder.sim_virtual_clock && builder.sim_empty);
        assert_eq!((builder.sim_seed, builder.sim_cost_model, builder.sim_scenario), (7, None, None));
    }

    #[test]
    fn a_variable_with_a_wrong_value_is_named_with_what_it_may_be() {
        let error = with(&[("GPREEMPT_BACKEND", "kvm")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "reading the environment (GPREEMPT_BACKEND=kvm): it may be auto, patched, agent, debugger or sim (EINVAL)"
        );
        assert!(with(&[("GPREEMPT_SIM_SEED", "-1")]).is_err());
        assert!(with(&[("GPREEMPT_SIM_CLOCK", "fast")]).is_err());
    }
}
