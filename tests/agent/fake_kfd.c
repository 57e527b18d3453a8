/*
 * A /dev/kfd for programs on a machine without one: preloaded behind the agent, it answers the queue commands as the kernel
 * does. What a program has is in its own memory; the agent cannot tell it from a kernel.
 *
 * FAKE_KFD names a file that stands for the device. fake_kfd_percent(id) tells what the "kernel" has of a queue, -1 for no
 * queue; fake_kfd_fail(n, errno) makes the next n UPDATE_QUEUEs fail.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#define QUEUES 1024
#define KFD_DEVICE makedev(235, 0)

struct create {
	uint64_t ring, wptr, rptr, doorbell;
	uint32_t ring_size, gpu_id, type, percent, priority, queue_id;
	uint64_t rest[5];
};

struct update {
	uint64_t ring;
	uint32_t queue_id, ring_size, percent, priority;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { int used; uint64_t ring; uint32_t percent, priority; } queues[QUEUES];
/* The process that the queues belong to: a forked child has none. */
static pid_t owner;
static int failures, failure;

int fake_kfd_percent(unsigned int id)
{
	return id < QUEUES && queues[id].used && owner == getpid() ? (int)queues[id].percent : -1;
}

int fake_kfd_priority(unsigned int id)
{
	return id < QUEUES && queues[id].used ? (int)queues[id].priority : -1;
}

void fake_kfd_fail(int count, int error)
{
	failures = count;
	failure = error;
}

static int is_device(const struct stat *st)
{
	struct stat file;

	return getenv("FAKE_KFD") && syscall(SYS_newfstatat, AT_FDCWD, getenv("FAKE_KFD"), &file, 0) == 0 &&
	       file.st_ino == st->st_ino && file.st_dev == st->st_dev;
}

static void make_device(struct stat *st)
{
	st->st_mode = S_IFCHR | 0666;
	st->st_rdev = KFD_DEVICE;
}

int stat(const char *path, struct stat *st)
{
	int answer = syscall(SYS_newfstatat, AT_FDCWD, strcmp(path, "/dev/kfd") ? path : getenv("FAKE_KFD"), st, 0);

	if (!answer && !strcmp(path, "/dev/kfd"))
		make_device(st);
	return answer;
}

int fstat(int fd, struct stat *st)
{
	int answer = syscall(SYS_fstat, fd, st);

	if (!answer && is_device(st))
		make_device(st);
	return answer;
}

int open(const char *path, int flags, ...)
{
	va_list args;
	int fd;

	va_start(args, flags);
	fd = syscall(SYS_openat, AT_FDCWD, strcmp(path, "/dev/kfd") ? path : getenv("FAKE_KFD"), flags, va_arg(args, int));
	va_end(args);
	if (fd >= 0 && !strcmp(path, "/dev/kfd") && owner != getpid()) {
		memset(queues, 0, sizeof(queues));
		owner = getpid();
	}
	return fd;
}

static int fail(int error)
{
	errno = error;
	return -1;
}

static int command(unsigned int nr, void *arg)
{
	struct create *create = arg;
	struct update *update = arg;
	uint64_t word;
	struct iovec to = { &word, sizeof(word) }, from = { arg, sizeof(word) };
	unsigned int id = 0;

	if (owner != getpid())
		return fail(EBADF);
	if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != sizeof(word))
		return fail(EFAULT);
	switch (nr) {
	case 1:
		((uint32_t *)arg)[0] = 1;
		((uint32_t *)arg)[1] = 17;
		return 0;
	case 2:
		if ((create->percent & 0xff) > 100)
			return fail(EINVAL);
		while (id < QUEUES && queues[id].used)
			id++;
		if (id == QUEUES)
			return fail(ENOMEM);
		create->queue_id = id;
		queues[id].used = 1;
		queues[id].ring = create->ring;
		queues[id].percent = create->percent;
		queues[id].priority = create->priority;
		return 0;
	case 3:
		id = *(uint32_t *)arg;
		if (id >= QUEUES || !queues[id].used)
			return fail(EINVAL);
		queues[id].used = 0;
		return 0;
	case 7:
		id = update->queue_id;
		if ((update->percent & 0xff) > 100)
			return fail(EINVAL);
		if (id >= QUEUES || !queues[id].used || (update->ring && update->ring != queues[id].ring))
			return fail(EFAULT);
		if (failures > 0) {
			failures--;
			return fail(failure);
		}
		queues[id].percent = update->percent;
		queues[id].priority = update->priority;
		return 0;
	default:
		return 0;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	struct stat st;
	va_list args;
	void *arg;
	int answer;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (((request >> 8) & 0xff) != 'K' || fstat(fd, &st) || st.st_rdev != KFD_DEVICE)
		return syscall(SYS_ioctl, fd, request, arg);
	pthread_mutex_lock(&lock);
	answer = command(request & 0xff, arg);
	pthread_mutex_unlock(&lock);
	return answer;
}
