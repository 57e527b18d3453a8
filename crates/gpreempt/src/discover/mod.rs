//! Who uses this machine: nodes, processes and queues, read from sysfs, debugfs and proc.

use crate::error::Result;
use crate::host::Host;
use crate::queue::QueueInfo;

/// All user queues of the machine whose owners this process can see, ordered by owner and queue id.
///
/// # Errors
/// ENODEV where there is no amdkfd; EIO where a file says what no amdkfd prints, with path and line.
#[expect(unused_variables, reason = "signatures first")]
pub fn scan(host: &dyn Host) -> Result<Vec<QueueInfo>> {
    todo!()
}
