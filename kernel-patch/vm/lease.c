// SPDX-License-Identifier: MIT
/*
 * Tests leases from user space on a machine without a GPU: the probe, what arguments are refused, who
 * may attach to whom, and who may command a lease and for how long.
 *
 * Runs as root in the VM of kernel-patch/vm/run. Prints TAP.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kfd_ioctl_gpreempt.h"

#define IOC_GET_VERSION _IOR('K', 0x01, char[8])

static int failures, checks;

#define CHECK(what)                                                                       \
	do {                                                                              \
		checks++;                                                                 \
		if (!(what)) {                                                            \
			failures++;                                                       \
			printf("# line %d: %s (errno %d)\n", __LINE__, #what, errno);     \
		}                                                                         \
	} while (0)

/* The error of a call, 0 if it succeeds. */
static int error_of(int fd, unsigned long cmd, void *data)
{
	return ioctl(fd, cmd, data) < 0 ? errno : 0;
}

static int open_kfd(void)
{
	return open("/dev/kfd", O_RDWR | O_CLOEXEC);
}

static struct kfd_ioctl_gpreempt_open_args open_args(void)
{
	return (struct kfd_ioctl_gpreempt_open_args) { .abi_version = KFD_GPREEMPT_ABI_VERSION };
}

static int open_lease(void)
{
	struct kfd_ioctl_gpreempt_open_args args = open_args();
	int kfd = open_kfd();
	int ret = error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args);

	close(kfd);
	return ret ? -ret : args.lease_fd;
}

static int attach(int lease, pid_t pid, unsigned int *target)
{
	struct kfd_ioctl_gpreempt_attach_args args = { .pid = pid };
	int ret = error_of(lease, AMDKFD_IOC_GPREEMPT_ATTACH, &args);

	if (!ret && target)
		*target = args.target;
	return ret;
}

/* Result of an unmap with one entry. */
static int unmap(int lease, struct kfd_gpreempt_entry *entry)
{
	struct kfd_ioctl_batch_unmap_args args = {
		.entries_ptr = (unsigned long)entry,
		.num_entries = 1,
		.entry_size = sizeof(*entry),
	};
	int ret = error_of(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, &args);

	return ret ? ret : entry->result;
}

/* Runs a function in a child and returns its exit status. */
static int in_child(int (*func)(int), int arg)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(func(arg));
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A process that sleeps until it is killed; its pid is known when it has opened /dev/kfd. */
static pid_t sleeper(int with_kfd, uid_t uid)
{
	int ready[2];
	char byte;
	pid_t pid;

	if (pipe(ready))
		return -1;
	pid = fork();
	if (!pid) {
		if (uid && setresuid(uid, uid, uid))
			_exit(1);
		if (with_kfd && open_kfd() < 0)
			_exit(1);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		pid = -1;
	close(ready[0]);
	return pid;
}

static void reap(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

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

static void entries_of_targets_without_queues(void)
{
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	struct kfd_ioctl_gpreempt_attach_args detach = {};
	int lease = open_lease();
	pid_t pid = sleeper(0, 0);
	unsigned int target;

	CHECK(attach(lease, pid, &target) == 0);
	entry.target = target;
	CHECK(unmap(lease, &entry) == 0 && entry.num_queues == 0);
	entry.queue_id = 0;
	CHECK(unmap(lease, &entry) == -ENOENT);
	entry.queue_id = KFD_GPREEMPT_ALL_QUEUES;
	entry.gpu_id = 4711;
	CHECK(unmap(lease, &entry) == -ENOENT);
	entry.gpu_id = 0;
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

static void attaching_finds_processes_and_no_others(void)
{
	int lease = open_lease();
	unsigned int self, again, target;
	pid_t pid = sleeper(1, 0), zombie;

	CHECK(attach(lease, 0, &self) == 0);
	CHECK(attach(lease, getpid(), &again) == 0 && again == self);
	CHECK(attach(lease, pid, &target) == 0 && target != self);
	CHECK(attach(lease, 4194303, NULL) == ESRCH);
	zombie = fork();
	if (!zombie)
		_exit(0);
	waitid(P_PID, zombie, NULL, WEXITED | WNOWAIT);
	CHECK(attach(lease, zombie, NULL) == ESRCH);
	waitpid(zombie, NULL, 0);
	reap(pid);
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

static int without_rights(int pid)
{
	struct kfd_ioctl_hqd_reservation_args res = { .offline_percent = 50 };
	int lease, failed;

	if (setresuid(1000, 1000, 1000))
		return 2;
	lease = open_lease();
	if (lease < 0)
		return 3;
	failed = attach(lease, 1, NULL) != EPERM;
	failed |= attach(lease, pid, NULL) != 0;
	failed |= attach(lease, getpid(), NULL) != 0;
	failed |= error_of(lease, AMDKFD_IOC_SET_HQD_RESERVATION, &res) != EPERM;
	return failed;
}

static void permission_is_that_of_sched_setaffinity(void)
{
	pid_t pid = sleeper(0, 1000);
	int lease = open_lease();

	CHECK(attach(lease, pid, NULL) == 0);
	CHECK(in_child(without_rights, pid) == 0);
	reap(pid);
	close(lease);
}

static int commands_nothing(int lease)
{
	char event[40];

	return attach(lease, 0, NULL) == EBADF && read(lease, event, sizeof(event)) < 0 &&
	       errno == EBADF ? 0 : 1;
}

static int vfork_child(void *lease)
{
	return commands_nothing(*(int *)lease);
}

static void send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = "", byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	sendmsg(socket, &msg, 0);
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(socket, &msg, 0) == 1 && CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static void copies_command_nothing(void)
{
	static char stack[65536];
	int lease = open_lease(), copy, status;
	pid_t pid;

	CHECK(in_child(commands_nothing, lease) == 0);
	pid = clone(vfork_child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, &lease);
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* The holder itself, on the other hand, may have as many as it likes. */
	copy = dup(lease);
	close(lease);
	CHECK(attach(copy, 0, NULL) == 0);
	close(copy);
}

static void a_copy_does_not_outlive_its_holder(void)
{
	int pair[2], copy, second;
	struct pollfd poll_fd;
	char event[40];
	pid_t pid;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	pid = fork();
	if (!pid) {
		send_fd(pair[1], open_lease());
		pause();
		_exit(0);
	}
	copy = receive_fd(pair[0]);
	CHECK(copy >= 0);
	CHECK(commands_nothing(copy) == 0);
	poll_fd = (struct pollfd) { .fd = copy, .events = POLLIN };
	CHECK(poll(&poll_fd, 1, 0) == 0);
	kill(pid, SIGKILL);
	CHECK(poll(&poll_fd, 1, 5000) == 1 && poll_fd.revents & POLLHUP);
	waitpid(pid, NULL, 0);
	CHECK(attach(copy, 0, NULL) == EBADF);
	CHECK(read(copy, event, sizeof(event)) == 0);
	second = open_lease();
	CHECK(second >= 0);
	close(second);
	close(copy);
	close(pair[0]);
	close(pair[1]);
}

/* argv of the image that exec_tests() becomes: --after-exec KFD LEASE */
static int after_exec(int kfd, int lease)
{
	struct kfd_ioctl_gpreempt_open_args args = open_args();
	int failed;

	failed = error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args) != EBADF;
	failed |= attach(lease, 0, NULL) != EBADF;
	lease = open_lease();
	failed |= lease < 0 || attach(lease, 0, NULL) != 0;
	return failed;
}

static int becomes_another_image(int lease)
{
	char kfd_text[16], lease_text[16];
	int kfd = open_kfd();

	(void)lease;
	lease = open_lease();
	fcntl(kfd, F_SETFD, 0);
	fcntl(lease, F_SETFD, 0);
	snprintf(kfd_text, sizeof(kfd_text), "%d", kfd);
	snprintf(lease_text, sizeof(lease_text), "%d", lease);
	execl("/proc/self/exe", "lease", "--after-exec", kfd_text, lease_text, NULL);
	return 9;
}

static void another_image_commands_nothing(void)
{
	CHECK(in_child(becomes_another_image, 0) == 0);
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

static void run(const char *name, void (*test)(void))
{
	static int number;
	int before = failures;

	test();
	printf("%sok %d %s\n", failures == before ? "" : "not ", ++number, name);
	fflush(stdout);
}

#define RUN(test) run(#test, test)

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "--after-exec"))
		return after_exec(atoi(argv[2]), atoi(argv[3]));

	RUN(the_probe_fills_in_what_the_driver_has);
	RUN(numbers_that_do_not_exist_answer_enotty);
	RUN(malformed_calls_are_refused);
	RUN(entries_of_targets_without_queues);
	RUN(attaching_finds_processes_and_no_others);
	RUN(a_reused_pid_is_another_process);
	RUN(permission_is_that_of_sched_setaffinity);
	RUN(copies_command_nothing);
	RUN(a_copy_does_not_outlive_its_holder);
	RUN(another_image_commands_nothing);
	RUN(the_exit_of_a_target_is_an_event);
	printf("# %d checks, %d failed\n", checks, failures);
	return failures != 0;
}
