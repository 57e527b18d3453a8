// SPDX-License-Identifier: MIT
/*
 * Tests leases from user space on a machine without a GPU: the probe, what arguments are refused, and
 * which process a pid names.
 *
 * Runs as root in the VM of kernel-patch/vm/run. Prints TAP.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>
#include "harness.h"

static void the_probe_fills_in_what_the_driver_has(void)
{
	struct kfd_ioctl_gpreempt_open_args args = open_args(), second = open_args();
	int kfd = open_kfd();

	CHECK(error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args) == 0);
	CHECK(args.abi_version == 1);
	CHECK(args.lease_fd > 2);
	CHECK(fcntl(args.lease_fd, F_GETFD) == FD_CLOEXEC);
	CHECK(args.max_hold_ms == 10000);
	CHECK(args.max_entries == 1024 && args.grace_max == 255);
	CHECK(args.entry_size == 32 && args.hqd_status_size == 128);
	CHECK(args.queue_status_size == 96 && args.event_size == 40);
	CHECK(args.caps & KFD_GPREEMPT_CAP_SWAP);
	second.max_hold_ms = 99999;
	CHECK(error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &second) == 0);
	CHECK(second.lease_id > args.lease_id);
	CHECK(second.max_hold_ms == 10000);
	close(second.lease_fd);
	second = open_args();
	second.max_hold_ms = 500;
	CHECK(error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &second) == 0);
	CHECK(second.max_hold_ms == 500);
	close(second.lease_fd);
	close(args.lease_fd);
	close(kfd);
}

static int wrong_process(int kfd)
{
	struct kfd_ioctl_gpreempt_open_args args = open_args();
	char version[8];

	return error_of(kfd, _IOWR('K', 0x5f, long), &args) == ENOTTY &&
	       error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args) == EBADF &&
	       error_of(kfd, IOC_GET_VERSION, version) == EBADF ? 0 : 1;
}

static void numbers_that_do_not_exist_answer_enotty(void)
{
	static const int numbers[] = { 0x00, 0x27, 0x28, 0x5f, 0x61, 0x6b, 0x80, 0xff };
	int kfd = open_kfd(), lease = open_lease();
	char data[128] = "";
	unsigned int i;

	for (i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		CHECK(error_of(kfd, _IOWR('K', numbers[i], data), data) == ENOTTY);
	CHECK(error_of(kfd, IOC_GET_VERSION, data) == 0);
	CHECK(in_child(wrong_process, kfd) == 0);
	CHECK(error_of(lease, AMDKFD_IOC_GPREEMPT_OPEN, data) == ENOTTY);
	CHECK(error_of(lease, _IOWR('K', 0x6c, data), data) == ENOTTY);
	CHECK(error_of(lease, _IOWR('D', 0x61, data), data) == ENOTTY);
	close(lease);
	close(kfd);
}

static void malformed_calls_are_refused(void)
{
	struct longer {
		struct kfd_ioctl_gpreempt_open_args args;
		unsigned long long tail;
	} longer = { .args = open_args(), .tail = 1 };
	struct kfd_ioctl_gpreempt_open_args args = open_args();
	struct kfd_ioctl_gpreempt_attach_args att = { .flags = 1 };
	struct kfd_ioctl_hqd_status_args status = { .gpu_id = 1 };
	struct kfd_ioctl_queue_policy_args policy = { .set_flags = 8 };
	struct kfd_ioctl_hqd_reservation_args res = { .online_percent = 60, .offline_percent = 41 };
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES, .pad = 1 };
	struct kfd_ioctl_swap_queues_args swap = { .entry_size = 32 };
	int kfd = open_kfd(), lease = open_lease();

	args.abi_version = 0;
	CHECK(error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args) == EINVAL);
	args = open_args();
	args.flags = 1;
	CHECK(error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args) == EINVAL);
	args = open_args();
	args.reserved = 1;
	CHECK(error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args) == EINVAL);
	CHECK(error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, (void *)8) == EFAULT);
	CHECK(error_of(kfd, _IOWR('K', 0x60, struct longer), &longer) == EINVAL);
	longer.tail = 0;
	CHECK(error_of(kfd, _IOWR('K', 0x60, struct longer), &longer) == 0);
	close(longer.args.lease_fd);

	CHECK(error_of(lease, AMDKFD_IOC_GPREEMPT_ATTACH, &att) == EINVAL);
	CHECK(error_of(lease, AMDKFD_IOC_GPREEMPT_ATTACH, NULL) == EFAULT);
	CHECK(error_of(lease, _IO('K', 0x61), &att) == EINVAL);
	CHECK(error_of(lease, AMDKFD_IOC_SET_QUEUE_POLICY, &policy) == EINVAL);
	CHECK(error_of(lease, AMDKFD_IOC_SET_HQD_RESERVATION, &res) == EINVAL);
	CHECK(error_of(lease, AMDKFD_IOC_GET_HQD_STATUS, &status) == ENOENT);
	CHECK(unmap(lease, &entry) == EINVAL);
	CHECK(error_of(lease, AMDKFD_IOC_SWAP_QUEUES, &swap) == EINVAL);
	close(lease);
	close(kfd);
}

static void a_target_without_queues_has_none_to_unmap(void)
{
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	int lease = open_lease();
	pid_t pid = sleeper(0, 0);

	CHECK(attach(lease, pid, &entry.target) == 0);
	CHECK(unmap(lease, &entry) == 0 && entry.num_queues == 0);
	entry.queue_id = 0;
	CHECK(unmap(lease, &entry) == -ENOENT);
	entry.queue_id = KFD_GPREEMPT_ALL_QUEUES;
	entry.gpu_id = 4711;
	CHECK(unmap(lease, &entry) == -ENOENT);
	reap(pid);
	close(lease);
}

static void a_handle_that_names_no_target_answers_esrch(void)
{
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	struct kfd_ioctl_gpreempt_attach_args detach = {};
	int lease = open_lease();
	pid_t pid = sleeper(0, 0);
	unsigned int target;

	CHECK(attach(lease, pid, &target) == 0);
	entry.target = target + 1;
	CHECK(unmap(lease, &entry) == -ESRCH);
	detach.target = target;
	CHECK(error_of(lease, AMDKFD_IOC_GPREEMPT_DETACH, &detach) == 0);
	CHECK(error_of(lease, AMDKFD_IOC_GPREEMPT_DETACH, &detach) == ESRCH);
	entry.target = target;
	CHECK(unmap(lease, &entry) == -ESRCH);
	reap(pid);
	close(lease);
}

static void attaching_twice_gives_the_same_handle(void)
{
	int lease = open_lease();
	unsigned int self, again, target, other;
	pid_t pid = sleeper(1, 0);

	CHECK(attach(lease, 0, &self) == 0);
	CHECK(attach(lease, getpid(), &again) == 0 && again == self);
	CHECK(attach(lease, pid, &target) == 0 && target != self);
	CHECK(attach(lease, pid, &other) == 0 && other == target);
	reap(pid);
	close(lease);
}

static void a_pid_without_a_process_answers_esrch(void)
{
	int lease = open_lease();
	pid_t zombie;

	CHECK(attach(lease, NO_PID, NULL) == ESRCH);
	zombie = fork();
	if (!zombie)
		_exit(0);
	waitid(P_PID, zombie, NULL, WEXITED | WNOWAIT);
	CHECK(attach(lease, zombie, NULL) == ESRCH);
	waitpid(zombie, NULL, 0);
	CHECK(attach(lease, zombie, NULL) == ESRCH);
	close(lease);
}

static void *attach_to_this_thread(void *lease)
{
	return (void *)(long)attach(*(int *)lease, syscall(SYS_gettid), NULL);
}

static void the_id_of_a_thread_answers_esrch(void)
{
	int lease = open_lease();
	pthread_t thread;
	void *ret;

	CHECK(pthread_create(&thread, NULL, attach_to_this_thread, &lease) == 0);
	CHECK(pthread_join(thread, &ret) == 0 && (long)ret == ESRCH);
	close(lease);
}

static void a_dead_target_answers_esrch(void)
{
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	int lease = open_lease();
	pid_t pid = sleeper(1, 0);

	CHECK(attach(lease, pid, &entry.target) == 0);
	CHECK(unmap(lease, &entry) == 0);
	reap(pid);
	CHECK(unmap(lease, &entry) == -ESRCH);
	close(lease);
}

static void a_reused_pid_is_another_process(void)
{
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	int lease = open_lease(), fd;
	pid_t pid = sleeper(1, 0), again;
	unsigned int target, other;
	char text[16];

	CHECK(attach(lease, pid, &target) == 0);
	reap(pid);
	entry.target = target;
	CHECK(unmap(lease, &entry) == -ESRCH);
	fd = open("/proc/sys/kernel/ns_last_pid", O_RDWR);
	CHECK(fd >= 0);
	snprintf(text, sizeof(text), "%d", pid - 1);
	CHECK(write(fd, text, strlen(text)) > 0);
	close(fd);
	again = sleeper(1, 0);
	CHECK(again == pid);
	CHECK(unmap(lease, &entry) == -ESRCH);
	CHECK(attach(lease, again, &other) == 0 && other != target);
	reap(again);
	close(lease);
}

static void the_exit_of_a_target_is_an_event(void)
{
	struct kfd_gpreempt_event event;
	int lease = open_lease();
	struct pollfd poll_fd = { .fd = lease, .events = POLLIN };
	pid_t pid = sleeper(1, 0);
	unsigned int target = 0;

	fcntl(lease, F_SETFL, O_NONBLOCK);
	CHECK(read(lease, &event, sizeof(event)) < 0 && errno == EAGAIN);
	CHECK(read(lease, &event, sizeof(event) - 1) < 0 && errno == EINVAL);
	CHECK(attach(lease, pid, &target) == 0);
	kill(pid, SIGKILL);
	CHECK(poll(&poll_fd, 1, 5000) == 1 && poll_fd.revents == POLLIN);
	CHECK(read(lease, &event, sizeof(event)) == sizeof(event));
	CHECK(event.type == KFD_GPREEMPT_EVENT_TARGET_EXITED && event.target == target);
	waitpid(pid, NULL, 0);
	close(lease);
}

int main(void)
{
	RUN(the_probe_fills_in_what_the_driver_has);
	RUN(numbers_that_do_not_exist_answer_enotty);
	RUN(malformed_calls_are_refused);
	RUN(a_target_without_queues_has_none_to_unmap);
	RUN(a_handle_that_names_no_target_answers_esrch);
	RUN(attaching_twice_gives_the_same_handle);
	RUN(a_pid_without_a_process_answers_esrch);
	RUN(the_id_of_a_thread_answers_esrch);
	RUN(a_dead_target_answers_esrch);
	RUN(a_reused_pid_is_another_process);
	RUN(the_exit_of_a_target_is_an_event);
	printf("# %d checks, %d failed\n", checks, failures);
	return failures != 0;
}
