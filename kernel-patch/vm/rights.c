// SPDX-License-Identifier: MIT
/*
 * Tests from user space, on a machine without a GPU, whose processes a lease may have for targets.
 *
 * Runs as root in the VM of kernel-patch/vm/run. Prints TAP.
 */
#define _GNU_SOURCE
#include <linux/capability.h>
#include <sched.h>
#include <sys/syscall.h>
#include "harness.h"

static int another_user(int pid)
{
	int lease, failed;

	if (setresuid(1000, 1000, 1000))
		return 2;
	lease = open_lease();
	if (lease < 0)
		return 3;
	failed = attach(lease, 1, NULL) != EPERM;
	failed |= attach(lease, pid, NULL) != 0;
	failed |= attach(lease, getpid(), NULL) != 0;
	return failed;
}

static void a_user_attaches_to_own_processes_alone(void)
{
	pid_t pid = sleeper(0, 1000);

	CHECK(in_child(another_user, pid) == 0);
	reap(pid);
}

static void root_attaches_to_processes_of_others(void)
{
	pid_t pid = sleeper(0, 1000);
	int lease = open_lease();

	CHECK(attach(lease, pid, NULL) == 0);
	reap(pid);
	close(lease);
}

static int drop_cap_sys_nice(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data))
		return -1;
	data[0].effective &= ~(1u << CAP_SYS_NICE);
	data[0].permitted &= ~(1u << CAP_SYS_NICE);
	return syscall(SYS_capset, &header, data);
}

static int reserve(int lease)
{
	struct kfd_ioctl_hqd_reservation_args args = { .offline_percent = 50 };

	return error_of(lease, AMDKFD_IOC_SET_HQD_RESERVATION, &args);
}

static int root_without_cap_sys_nice(int pid)
{
	int lease, failed;

	if (drop_cap_sys_nice())
		return 2;
	lease = open_lease();
	failed = attach(lease, pid, NULL) != EPERM;
	failed |= attach(lease, 1, NULL) != 0;
	failed |= reserve(lease) != EPERM;
	return failed;
}

static void root_without_cap_sys_nice_is_a_user_like_others(void)
{
	pid_t pid = sleeper(0, 1000);

	CHECK(in_child(root_without_cap_sys_nice, pid) == 0);
	reap(pid);
}

static void a_reservation_needs_cap_sys_nice(void)
{
	int lease = open_lease();

	CHECK(reserve(lease) != EPERM);
	close(lease);
}

static int root_of_a_user_namespace(int pid)
{
	int lease, failed;

	if (setresuid(1000, 1000, 1000) || unshare(CLONE_NEWUSER))
		return 2;
	lease = open_lease();
	failed = attach(lease, 1, NULL) != EPERM;
	failed |= attach(lease, pid, NULL) != 0;
	failed |= reserve(lease) != EPERM;
	return failed;
}

static void capabilities_in_a_user_namespace_reach_nobody_outside(void)
{
	pid_t pid = sleeper(0, 1000);

	CHECK(in_child(root_of_a_user_namespace, pid) == 0);
	reap(pid);
}

static int drop_rights_with_a_lease(int pid)
{
	struct kfd_ioctl_queue_policy_args policy = {
		.queue.queue_id = KFD_GPREEMPT_ALL_QUEUES,
		.set_flags = KFD_GPREEMPT_POLICY_PREEMPTIBLE,
	};
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	struct kfd_ioctl_fast_remap_args remap = {
		.entries_ptr = (unsigned long)&entry,
		.num_entries = 1,
		.entry_size = sizeof(entry),
	};
	struct kfd_ioctl_gpreempt_attach_args detach = {};
	int lease = open_lease(), failed;

	failed = attach(lease, pid, &entry.target) != 0;
	policy.queue.target = entry.target;
	detach.target = entry.target;
	failed |= setresuid(1000, 1000, 1000) != 0;
	failed |= unmap(lease, &entry) != -EPERM;
	failed |= (error_of(lease, AMDKFD_IOC_SET_QUEUE_POLICY, &policy) == 0 && policy.queue.result != -EPERM) << 1;
	failed |= (error_of(lease, AMDKFD_IOC_FAST_REMAP, &remap) != 0 || entry.result != 0) << 2;
	failed |= (error_of(lease, AMDKFD_IOC_GPREEMPT_DETACH, &detach) != 0) << 3;
	return failed;
}

static void a_holder_that_dropped_its_uid_gives_back_and_holds_no_more(void)
{
	pid_t pid = sleeper(1, 0);

	CHECK(in_child(drop_rights_with_a_lease, pid) == 0);
	reap(pid);
}

static int first_of_a_pid_namespace(int arg)
{
	int lease = open_lease();
	unsigned int self, first;

	(void)arg;
	return getpid() != 1 || attach(lease, 0, &self) || attach(lease, 1, &first) || self != first;
}

static int in_a_pid_namespace(int arg)
{
	return unshare(CLONE_NEWPID) ? 2 : in_child(first_of_a_pid_namespace, arg);
}

static void a_pid_is_that_of_the_callers_namespace(void)
{
	CHECK(in_child(in_a_pid_namespace, 0) == 0);
}

int main(void)
{
	RUN(a_user_attaches_to_own_processes_alone);
	RUN(root_attaches_to_processes_of_others);
	RUN(root_without_cap_sys_nice_is_a_user_like_others);
	RUN(a_reservation_needs_cap_sys_nice);
	RUN(capabilities_in_a_user_namespace_reach_nobody_outside);
	RUN(a_holder_that_dropped_its_uid_gives_back_and_holds_no_more);
	RUN(a_pid_is_that_of_the_callers_namespace);
	printf("# %d checks, %d failed\n", checks, failures);
	return failures != 0;
}
