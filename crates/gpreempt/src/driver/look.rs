//! What `/dev/kfd` says of itself: one open file, and no process attached.

use std::sync::Arc;
use std::time::Duration;

use gpreempt_sys::{AMDKFD_IOC_GET_VERSION, kfd_ioctl_get_version_args};

use super::call::call;
use super::patched::PatchedDriver;
use super::probe::open_kfd;
use super::{Capabilities, Driver};
use crate::error::Result;
use crate::host::Host;
use crate::queue::GpuId;

/// The KFD ioctl version that brought DBG_TRAP.
pub const DEBUG_VERSION: (u32, u32) = (1, 13);

/// What one open of `/dev/kfd` showed.
#[derive(Debug)]
pub struct Look {
    /// Major and minor version of the ioctls.
    pub version: Option<(u32, u32)>,
    /// What the series says of itself, or why it is not there.
    pub series: Result<Series>,
}

/// The gpreempt KFD series, as OPEN and the node status describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Longest hold without a heartbeat.
    pub max_hold: Duration,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Duration of each node's last unmap round, where it had one.
    pub last_unmap: Vec<(GpuId, Duration)>,
}

/// Opens `/dev/kfd` once and asks everything that can be asked without a target.
///
/// # Errors
/// ENODEV without amdkfd; EPERM where the user may not open `/dev/kfd`.
pub fn look(host: &Arc<dyn Host>, gpus: &[GpuId]) -> Result<Look> {
    let kfd = open_kfd(host)?;
    let mut version = kfd_ioctl_get_version_args::default();
    let answer = call(host.as_ref(), kfd.raw(), AMDKFD_IOC_GET_VERSION, &mut version, &mut []);
    let version = answer.ok().map(|_| (version.major_version, version.minor_version));
    let series = PatchedDriver::on(Arc::clone(host), kfd, Duration::ZERO).map(|driver| {
        let last = |&gpu: &GpuId| match driver.node_status(gpu).ok()?.last_unmap_ns {
            0 => None,
            nanos => Some((gpu, Duration::from_nanos(nanos))),
        };
        Series {
            max_hold: driver.max_hold().unwrap_or_default(),
            capabilities: driver.capabilities(),
            last_unmap: gpus.iter().filter_map(last).collect(),
        }
    });
    Ok(Look { version, series })
}
