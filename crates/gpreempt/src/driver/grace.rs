//! Grace periods: the hardware counts them in units of 1000 clocks of the GPU.

use std::sync::OnceLock;
use std::time::Duration;

use crate::discover::sysfs;
use crate::host::Host;

/// Converts durations to the units of one machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grace {
    /// Clock of the fastest node, so that no node gets less time than was asked for; 0 where the topology does not say.
    pub mhz: u32,
    /// Most units that the driver takes.
    pub max: u32,
}

impl Grace {
    /// As the topology says; read until it says something, then kept.
    pub(super) fn of(kept: &OnceLock<Grace>, host: &dyn Host, max: u32) -> Grace {
        if let Some(grace) = kept.get() {
            return *grace;
        }
        let nodes = sysfs::nodes(host).unwrap_or_default();
        let mhz = nodes.iter().map(|node| node.max_engine_clk_fcompute).max().unwrap_or(0);
        let grace = Grace { mhz, max };
        if mhz == 0 { grace } else { *kept.get_or_init(|| grace) }
    }

    /// Units for at least `grace`, but no more than the hardware can count; 0, the driver's default, for zero.
    pub(super) fn units(self, grace: Duration) -> u32 {
        // MHz are clocks per microsecond, so ns x MHz / 1e6 is in units of 1000 clocks.
        let units = (grace.as_nanos() * u128::from(self.mhz)).div_ceil(1_000_000);
        u32::try_from(units).unwrap_or(u32::MAX).min(self.max)
    }

    /// How long so many units take.
    pub(super) fn duration(self, units: u32) -> Duration {
        Duration::from_nanos((u64::from(units) * 1_000_000).checked_div(self.mhz.into()).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::os::OsHost;

    const MI308X: Grace = Grace { mhz: 1420, max: 255 };

    #[test]
    fn a_grace_period_is_rounded_up_to_whole_units() {
        assert_eq!(MI308X.units(Duration::from_nanos(1)), 1);
        assert_eq!(MI308X.units(Duration::from_micros(100)), 142);
        assert_eq!(MI308X.units(Duration::from_nanos(100_001)), 143);
        assert!(MI308X.duration(143) >= Duration::from_nanos(100_001));
    }

    #[test]
    fn a_clock_that_could_not_be_read_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let host = OsHost::with_root(root.path());
        let kept = OnceLock::new();
        assert_eq!(Grace::of(&kept, &host, 255).mhz, 0);
        let node = root.path().join("sys/class/kfd/kfd/topology/nodes/1");
        std::fs::create_dir_all(&node).unwrap();
        std::fs::write(node.join("gpu_id"), "7\n").unwrap();
        std::fs::write(node.join("properties"), "max_engine_clk_fcompute 1420\n").unwrap();
        assert_eq!(Grace::of(&kept, &host, 255).mhz, 1420);
        std::fs::remove_dir_all(&node).unwrap();
        assert_eq!(Grace::of(&kept, &host, 255).mhz, 1420, "it does not change, so once is enough");
    }

    #[test]
    fn a_grace_period_longer_than_the_hardware_counts_is_cut_and_zero_stays_the_default() {
        assert_eq!(MI308X.units(Duration::from_secs(1)), 255);
        assert_eq!(MI308X.units(Duration::MAX), 255);
        assert_eq!(MI308X.duration(255), Duration::from_nanos(179_577));
        assert_eq!(MI308X.units(Duration::ZERO), 0);
    }
}
