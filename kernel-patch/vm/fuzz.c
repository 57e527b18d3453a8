// SPDX-License-Identifier: MIT
/*
 * Calls the commands of leases with arguments that are mostly right, from several processes that fork,
 * close and die meanwhile. Bounded, and the same for the same seed in each process.
 *
 * usage: fuzz CALLS SEED
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kfd_ioctl_gpreempt.h"

#define PROCESSES 3
#define FIRST 0x60
#define LAST 0x6c

struct counts {
	unsigned long calls[LAST - FIRST + 1];
	unsigned long passed[LAST - FIRST + 1];
};

static struct counts *counts;
static uint64_t state;
static char *area; /* one readable page, then none */
static int kfd, lease = -1;

static uint32_t draw(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % below;
}

static uint32_t odd_value(void)
{
	static const uint32_t values[] = { 0, 1, 2, 3, 4, 7, 8, 31, 32, 33, 255, 256, 1024, 1025,
					   0x7fffffff, 0x80000000, 0xffffffff };

	return draw(4) ? values[draw(sizeof(values) / sizeof(*values))] : (uint32_t)state;
}

static uint64_t odd_pointer(void)
{
	switch (draw(8)) {
	case 0:
		return 0;
	case 1:
		return 0xffff888000000000ull;
	case 2:
		return (uintptr_t)area + 4096 - draw(64); /* ends in the middle */
	default:
		return (uintptr_t)area + 1024;
	}
}

static void fill_entries(void)
{
	struct kfd_gpreempt_entry *entries = (void *)(area + 1024);
	int i;

	memset(entries, 0, 8 * sizeof(*entries));
	for (i = 0; i < 8; i++) {
		entries[i].target = draw(4);
		entries[i].queue_id = draw(2) ? KFD_GPREEMPT_ALL_QUEUES : draw(8);
		entries[i].flags = draw(4) ? 0 : draw(5);
		entries[i].pad = draw(50) == 0;
		entries[i].gpu_id = draw(3) ? 0 : odd_value();
	}
}

/* Most fields are right, and then one is not. */
static void fill(unsigned int nr, uint32_t *words, unsigned int size)
{
	struct kfd_gpreempt_entry one = { .target = draw(3), .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	uint64_t pointer = odd_pointer();

	memset(words, 0, size);
	switch (nr) {
	case 0x60:
		words[0] = 1;
		words[2] = 1 + draw(50);
		break;
	case 0x61:
		words[0] = draw(2) ? 0 : 1 + draw(200);
		break;
	case 0x62:
		words[2] = 1 + draw(4);
		break;
	case 0x63:
	case 0x64:
		memcpy(words, &pointer, sizeof(pointer));
		words[2] = 1 + draw(3);
		words[3] = 32;
		words[5] = draw(256);
		break;
	case 0x65:
		memcpy(words, &pointer, sizeof(pointer));
		pointer = (uintptr_t)area + 1024 + 128;
		memcpy(words + 2, &pointer, sizeof(pointer));
		words[4] = draw(3);
		words[5] = draw(3);
		words[6] = 32;
		break;
	case 0x66:
	case 0x67:
	case 0x68:
		memcpy(words, &one, sizeof(one));
		words[8] = draw(4);
		break;
	case 0x69:
		words[1] = draw(60);
		words[2] = draw(60);
		break;
	case 0x6b:
		memcpy(words, &pointer, sizeof(pointer));
		words[2] = draw(3);
		words[4] = KFD_GPREEMPT_ALL_QUEUES;
		words[5] = draw(4);
		words[6] = 96;
		words[7] = draw(4);
		break;
	}
	if (!draw(3))
		words[draw(size / 4)] = odd_value();
}

static void call(void)
{
	static const uint16_t sizes[] = { 64, 32, 32, 64, 64, 80, 56, 56, 56, 48, 128, 40, 64 };
	unsigned int nr = FIRST + draw(LAST - FIRST + 1), size = sizes[nr - FIRST];
	uint32_t *words = (void *)area;
	int ret, fd = nr == FIRST ? kfd : lease;
	void *argument = words;

	fill_entries();
	fill(nr, words, size);
	/* Not so for an open: we would not learn of its lease. */
	if (nr != FIRST && !draw(16))
		size = draw(256);
	if (nr != FIRST && !draw(32))
		argument = (void *)odd_pointer();
	errno = 0;
	ret = ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 'K', nr, size), argument);
	__atomic_add_fetch(&counts->calls[nr - FIRST], 1, __ATOMIC_RELAXED);
	if (!ret || (errno != EINVAL && errno != EFAULT && errno != ENOTTY && errno != EBADF))
		__atomic_add_fetch(&counts->passed[nr - FIRST], 1, __ATOMIC_RELAXED);
	if (!ret && nr == FIRST) {
		if (lease >= 0)
			close(lease);
		lease = ((struct kfd_ioctl_gpreempt_open_args *)words)->lease_fd;
	}
}

static void *closer(void *stop)
{
	char events[400];

	while (!__atomic_load_n((int *)stop, __ATOMIC_RELAXED)) {
		int copy = dup(lease);

		if (copy >= 0) {
			fcntl(copy, F_SETFL, O_NONBLOCK);
			if (read(copy, events, sizeof(events)) < 0)
				sched_yield();
			close(copy);
		}
		usleep(200);
	}
	return NULL;
}

static int one_process(unsigned long calls, uint64_t seed)
{
	pthread_t thread;
	int stop = 0;
	pid_t child;

	state = seed * 0x9e3779b97f4a7c15ull + 1;
	area = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(area + 4096, 4096, PROT_NONE);
	kfd = open("/dev/kfd", O_RDWR);
	if (kfd < 0)
		return 1;
	pthread_create(&thread, NULL, closer, &stop);
	while (calls--) {
		call();
		if (draw(500))
			continue;
		/* A child that keeps the files, commands nothing, and goes. */
		child = fork();
		if (!child) {
			ioctl(lease, AMDKFD_IOC_GPREEMPT_ATTACH, area);
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
	/* Some leave with their lease open, by a signal. */
	if (seed & 1)
		raise(SIGKILL);
	stop = 1;
	pthread_join(thread, NULL);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long calls = argc > 1 ? strtoul(argv[1], NULL, 0) : 10000, all = 0, passed = 0;
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
	int i;

	counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < PROCESSES; i++)
		if (!fork())
			_exit(one_process(calls / PROCESSES, seed + i));
	while (wait(NULL) > 0)
		;
	for (i = 0; i <= LAST - FIRST; i++) {
		printf("fuzz: command 0x%02x: %lu calls, %lu past validation\n", FIRST + i, counts->calls[i],
		       counts->passed[i]);
		all += counts->calls[i];
		passed += counts->passed[i];
	}
	printf("fuzz: %lu calls, %lu %% past validation\n", all, all ? 100 * passed / all : 0);
	return all < calls / 2;
}
