/* SPDX-License-Identifier: MIT */
/* What the test programs of leases share: checks, TAP, and short forms of the commands. */
#ifndef HARNESS_H
#define HARNESS_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kfd_ioctl_gpreempt.h"

#define IOC_GET_VERSION _IOR('K', 0x01, char[8])
/* No process has it: pid_max is 32768 on a machine with so few CPUs. */
#define NO_PID 4194303

static int failures, checks;

#define CHECK(what)                                                                       \
	do {                                                                              \
		checks++;                                                                 \
		if (!(what)) {                                                            \
			failures++;                                                       \
			printf("# line %d: %s (errno %d)\n", __LINE__, #what, errno);     \
		}                                                                         \
	} while (0)

static inline void run(const char *name, void (*test)(void))
{
	static int number;
	int before = failures;

	test();
	printf("%sok %d %s\n", failures == before ? "" : "not ", ++number, name);
	fflush(stdout);
}

#define RUN(test) run(#test, test)

/* The error of a call, 0 if it succeeds. */
static inline int error_of(int fd, unsigned long cmd, void *data)
{
	return ioctl(fd, cmd, data) < 0 ? errno : 0;
}

static inline int open_kfd(void)
{
	return open("/dev/kfd", O_RDWR | O_CLOEXEC);
}

static inline struct kfd_ioctl_gpreempt_open_args open_args(void)
{
	return (struct kfd_ioctl_gpreempt_open_args) { .abi_version = KFD_GPREEMPT_ABI_VERSION };
}

static inline int open_lease_for(unsigned int max_hold_ms)
{
	struct kfd_ioctl_gpreempt_open_args args = open_args();
	int kfd = open_kfd();
	int ret;

	args.max_hold_ms = max_hold_ms;
	ret = error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args);
	close(kfd);
	return ret ? -ret : args.lease_fd;
}

static inline int open_lease(void)
{
	return open_lease_for(0);
}

static inline int attach(int lease, pid_t pid, unsigned int *target)
{
	struct kfd_ioctl_gpreempt_attach_args args = { .pid = pid };
	int ret = error_of(lease, AMDKFD_IOC_GPREEMPT_ATTACH, &args);

	if (target)
		*target = ret ? 0 : args.target;
	return ret;
}

/* Result of an unmap with one entry. */
static inline int unmap(int lease, struct kfd_gpreempt_entry *entry)
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
static inline int in_child(int (*func)(int), int arg)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(func(arg));
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A process that sleeps until it is killed; its pid is known when it has opened /dev/kfd. */
static inline pid_t sleeper(int with_kfd, uid_t uid)
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

static inline void reap(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

#endif
