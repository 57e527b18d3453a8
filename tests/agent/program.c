/*
 * An offline program that does what standard input says, one command per line, and answers one line each:
 *   open            opens /dev/kfd once more: the descriptor
 *   use FD          further commands go by this descriptor
 *   dup FD          a copy of it; close FD
 *   version         GET_VERSION: its answer
 *   create PERCENT  CREATE_QUEUE: the id and the percentage in the struct afterwards, or -errno
 *   set ID PERCENT PRIORITY   UPDATE_QUEUE; destroy ID   DESTROY_QUEUE: 0 or -errno
 *   bad NR          a queue command with an address that is not mapped: -errno
 *   state ID        percentage and priority that the "kernel" has, -1 for no queue
 *   fail N ERRNO    lets the next N UPDATE_QUEUEs fail
 *   tty             an ioctl that is none of KFD's business: -errno
 *   threads N M     N threads that each create and destroy a queue M times: number of failures
 *   fork            continues in a child, whose parent waits: the child's pid
 *   vfork           a vfork child closes every descriptor from 3 up: 0
 *   exec            starts itself anew
 *   closeall        closes every descriptor from 3 up: 0
 *   tasks           the number of this process's threads
 *   pid             its pid
 *   end             exits
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct create {
	uint64_t ring, wptr, rptr, doorbell;
	uint32_t ring_size, gpu_id, type, percent, priority, queue_id;
	uint64_t rest[5];
};

struct update {
	uint64_t ring;
	uint32_t queue_id, ring_size, percent, priority;
};

#define CREATE _IOWR('K', 0x02, struct create)
#define DESTROY _IOWR('K', 0x03, uint64_t)
#define UPDATE _IOW('K', 0x07, struct update)
#define VERSION _IOR('K', 0x01, uint64_t)

extern int fake_kfd_percent(unsigned int id) __attribute__((weak));
extern int fake_kfd_priority(unsigned int id) __attribute__((weak));
extern void fake_kfd_fail(int count, int error) __attribute__((weak));

static int kfd = -1;
static uint64_t ring_rptr = 5, ring_wptr = 9;

static int create(uint32_t percent, struct create *args)
{
	memset(args, 0, sizeof(*args));
	args->ring = 0x100000;
	args->ring_size = 4096;
	args->gpu_id = 10;
	args->type = 2;
	args->percent = percent;
	args->priority = 7;
	args->rptr = (uintptr_t)&ring_rptr;
	args->wptr = (uintptr_t)&ring_wptr;
	return ioctl(kfd, CREATE, args);
}

static int destroy(uint32_t id)
{
	uint64_t args = id;

	return ioctl(kfd, DESTROY, &args);
}

static int set(uint32_t id, uint32_t percent, uint32_t priority)
{
	struct update args = {
		.ring = 0x100000, .queue_id = id, .ring_size = 4096, .percent = percent, .priority = priority,
	};

	return ioctl(kfd, UPDATE, &args);
}

static void *churn(void *times)
{
	struct create args;
	long failed = 0;

	for (long i = 0; i < (long)times; i++)
		failed += create(100, &args) || args.percent != 100 || set(args.queue_id, 60, 3) || destroy(args.queue_id);
	return (void *)failed;
}

static long threads(int count, long times)
{
	pthread_t ids[64];
	long failed = 0;
	void *one;

	for (int i = 0; i < count && i < 64; i++)
		pthread_create(&ids[i], NULL, churn, (void *)times);
	for (int i = 0; i < count && i < 64; i++) {
		pthread_join(ids[i], &one);
		failed += (long)one;
	}
	return failed;
}

static void close_all_in_vfork(void)
{
	pid_t child = vfork();

	if (child == 0) {
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

static int tasks(void)
{
	DIR *folder = opendir("/proc/self/task");
	struct dirent *entry;
	int count = 0;

	while ((entry = readdir(folder)))
		count += entry->d_name[0] != '.';
	closedir(folder);
	return count;
}

int main(int argc, char **argv)
{
	char line[256], word[32];
	long a, b, c;

	(void)argc;
	setvbuf(stdin, NULL, _IONBF, 0);
	setvbuf(stdout, NULL, _IONBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		struct create args;
		long answer = 0;
		pid_t child;

		a = b = c = 0;
		if (sscanf(line, "%31s %ld %ld %ld", word, &a, &b, &c) < 1)
			continue;
		/* What the program had there before a call that succeeds. */
		errno = 4242;
		if (!strcmp(word, "open"))
			answer = kfd = open("/dev/kfd", O_RDWR | O_CLOEXEC);
		else if (!strcmp(word, "use"))
			answer = kfd = a;
		else if (!strcmp(word, "dup"))
			answer = dup(a);
		else if (!strcmp(word, "close"))
			answer = close(a);
		else if (!strcmp(word, "version"))
			answer = ioctl(kfd, VERSION, line) ? -errno : 0;
		else if (!strcmp(word, "create")) {
			answer = create(a, &args) ? -errno : (long)args.queue_id;
			if (answer >= 0 && errno != 4242)
				answer = 100000 + errno;
			printf("%ld %u\n", answer, args.percent);
			continue;
		} else if (!strcmp(word, "set"))
			answer = set(a, b, c) ? -errno : errno == 4242 ? 0 : errno;
		else if (!strcmp(word, "destroy"))
			answer = destroy(a) ? -errno : 0;
		else if (!strcmp(word, "bad"))
			answer = ioctl(kfd, _IOC(_IOC_READ | _IOC_WRITE, 'K', a, 24), (void *)16) ? -errno : 0;
		else if (!strcmp(word, "state")) {
			printf("%d %d\n", fake_kfd_percent(a), fake_kfd_priority(a));
			continue;
		} else if (!strcmp(word, "fail"))
			fake_kfd_fail(a, b);
		else if (!strcmp(word, "tty"))
			answer = ioctl(0, TIOCGWINSZ, line) ? -errno : 0;
		else if (!strcmp(word, "threads"))
			answer = threads(a, b);
		else if (!strcmp(word, "fork")) {
			child = fork();
			if (child > 0) {
				waitpid(child, NULL, 0);
				_exit(0);
			}
			answer = getpid();
		} else if (!strcmp(word, "vfork")) {
			close_all_in_vfork();
		} else if (!strcmp(word, "exec"))
			execv("/proc/self/exe", argv);
		else if (!strcmp(word, "closeall"))
			for (int fd = 3; fd < 1024; fd++)
				close(fd);
		else if (!strcmp(word, "tasks"))
			answer = tasks();
		else if (!strcmp(word, "pid"))
			answer = getpid();
		else if (!strcmp(word, "end"))
			return 0;
		else
			answer = -ENOSYS;
		printf("%ld\n", answer);
	}
	return 0;
}
