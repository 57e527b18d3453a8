//! SMI events: one line of text each, to whoever asked for it.

use std::collections::VecDeque;

use gpreempt_sys::{
    KFD_SMI_EVENT_ALL_PROCESS, KFD_SMI_EVENT_GPU_PRE_RESET, KFD_SMI_EVENT_MASK_FROM_INDEX,
    KFD_SMI_EVENT_QUEUE_EVICTION, KFD_SMI_EVENT_QUEUE_RESTORE, kfd_ioctl_smi_events_args,
};
use nix::errno::Errno;

use crate::call::Call;
use crate::file::{File, SmiClient};
use crate::node::NodeIndex;
use crate::world::World;

/// AMDKFD_IOC_SMI_EVENTS.
pub(super) fn open(call: &mut Call<'_>, args: &mut kfd_ioctl_smi_events_args) -> Result<i32, Errno> {
    let node = call.node_by_gpu(args.gpuid).ok_or(Errno::EINVAL)?;
    let task = call.task;
    let root = call.process(task.pid)?.root;
    let client = SmiClient { node, pid: task.pid, root, mask: 0, fifo: VecDeque::new() };
    let file = call.files.insert(task, File::Smi(client));
    args.anon_fd = file.cast_unsigned();
    Ok(0)
}

impl World {
    /// Tells the readers of a node; `pid` 0 concerns everybody.
    fn smi_event(&mut self, node: NodeIndex, pid: u32, event: u32, rest: &str) {
        let all = KFD_SMI_EVENT_MASK_FROM_INDEX(KFD_SMI_EVENT_ALL_PROCESS);
        for client in self.files.smi_clients().filter(|c| c.node == node) {
            let concerns = pid == 0 || client.pid == pid || (client.root && client.mask & all != 0);
            if concerns && client.mask & KFD_SMI_EVENT_MASK_FROM_INDEX(event) != 0 {
                client.take(&format!("{event:x} {rest}"));
            }
        }
    }

    /// An eviction for one of `KFD_QUEUE_EVICTION_TRIGGER_*`, or a restore (None), nested ones too.
    pub(crate) fn smi_eviction(&mut self, pid: u32, node: NodeIndex, trigger: Option<u32>) {
        let (now, gpu_id) = (self.now, self.node(node).gpu_id);
        if let Some(trigger) = trigger {
            let rest = format!("{now} -{pid} {gpu_id:x} {trigger}\n");
            self.smi_event(node, pid, KFD_SMI_EVENT_QUEUE_EVICTION, &rest);
        } else {
            // The last field says whether the restore has to be tried again: it need not.
            let rest = format!("{now} -{pid} {gpu_id:x} 0\n");
            self.smi_event(node, pid, KFD_SMI_EVENT_QUEUE_RESTORE, &rest);
        }
    }

    /// A reset begins or has ended.
    pub(crate) fn smi_reset(&mut self, node: NodeIndex, event: u32) {
        let it = &mut self.nodes[node.0];
        it.resets += u32::from(event == KFD_SMI_EVENT_GPU_PRE_RESET);
        let rest = format!("{:x} \n", it.resets);
        self.smi_event(node, 0, event, &rest);
    }
}
