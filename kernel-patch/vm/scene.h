/* SPDX-License-Identifier: MIT */
/*
 * What tests of queues and leases share: offline and online processes on all fake GPUs, the calls
 * of a scheduler, and what must hold after each scenario.
 */
#ifndef SCENE_H
#define SCENE_H

#include "gpu.h"

#define FAKE "/sys/kernel/debug/kfd_fake"
#define SCENE_OFFLINE 2 /* processes */
#define SCENE_QUEUES 3 /* of each on each GPU */

/* How often a scenario repeats its fault. */
static int times __attribute__((unused)) = 2;

/* Two offline processes and an online one, with queues on all GPUs. */
struct scene {
	struct gpu_worker offline[SCENE_OFFLINE], online;
	int gpus;
};

/* --- the fake GPUs ------------------------------------------------------------------------------- */

static inline int fake_nodes(void)
{
	char path[96];
	int count = 0;

	for (; count < 8; count++) {
		snprintf(path, sizeof(path), FAKE "/%d/node0/status", count);
		if (access(path, R_OK))
			break;
	}
	return count;
}

/* A counter of the status of a device's only node. */
static inline uint64_t fake_count(int device, const char *name)
{
	char path[96], text[16384];

	snprintf(path, sizeof(path), FAKE "/%d/node0/status", device);
	return gpu_read_file(path, text, sizeof(text)) ? 0 : gpu_property(text, name);
}

static inline int fake_set(int device, const char *knob, const char *value)
{
	char path[96];

	snprintf(path, sizeof(path), FAKE "/%d/node0/%s", device, knob);
	if (access(path, W_OK))
		snprintf(path, sizeof(path), FAKE "/%d/%s", device, knob);
	return gpu_write_file(path, value);
}

static inline int fake_set_all(const char *knob, const char *value)
{
	int device, failed = 0;

	for (device = 0; device < fake_nodes(); device++)
		failed |= fake_set(device, knob, value);
	return failed;
}

/* evict PID, restore PID, reset DEVICE ... */
static inline int fake_ctl(const char *command, int number)
{
	char text[32];

	snprintf(text, sizeof(text), "%s %d", command, number);
	return gpu_write_file(FAKE "/ctl", text);
}

/* --- calls of a scheduler ------------------------------------------------------------------------ */

/* Attaches to a process and makes its queues, also those to come, PREEMPTIBLE. Returns the target. */
static inline uint32_t adopt(int lease, pid_t pid)
{
	struct kfd_ioctl_queue_policy_args policy = {
		.queue.queue_id = KFD_GPREEMPT_ALL_QUEUES,
		.set_flags = KFD_GPREEMPT_POLICY_PREEMPTIBLE,
	};

	CHECK(!attach(lease, pid, &policy.queue.target));
	CHECK(!ioctl(lease, AMDKFD_IOC_SET_QUEUE_POLICY, &policy) && !policy.queue.result);
	return policy.queue.target;
}

static inline struct kfd_gpreempt_entry every_queue(uint32_t target)
{
	return (struct kfd_gpreempt_entry) { .target = target, .queue_id = KFD_GPREEMPT_ALL_QUEUES };
}

/* Unmaps or maps by @num entries; 0 or -errno of the call. */
static inline int batch(int lease, unsigned long command, struct kfd_gpreempt_entry *entries, int num,
			struct kfd_ioctl_batch_unmap_args *args)
{
	struct kfd_ioctl_batch_unmap_args here;

	args = args ?: &here;
	*args = (struct kfd_ioctl_batch_unmap_args) {
		.entries_ptr = (uintptr_t)entries,
		.num_entries = num,
		.entry_size = sizeof(*entries),
	};
	return ioctl(lease, command, args) ? -errno : 0;
}

/* Unmaps or maps all queues of a target, of which there must be @queues. Returns rounds. */
static inline int all_of(int lease, unsigned long command, uint32_t target, uint32_t queues)
{
	struct kfd_gpreempt_entry entry = every_queue(target);
	struct kfd_ioctl_batch_unmap_args args;

	CHECK(!batch(lease, command, &entry, 1, &args));
	CHECK(!entry.result && entry.num_queues == queues);
	return args.num_rounds;
}

/* --- the scene ----------------------------------------------------------------------------------- */

static inline int queues_of_each(const struct scene *s)
{
	return SCENE_QUEUES * s->gpus;
}

static inline struct gpu_worker start_offline(const struct scene *s)
{
	static const struct gpu_plan plan = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .queues = SCENE_QUEUES, .waves = 8 };

	return gpu_start(&plan, queues_of_each(s));
}

static inline struct gpu_worker start_online(const struct scene *s)
{
	static const struct gpu_plan plan = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .queues = 1, .waves = 1 };

	return gpu_start(&plan, s->gpus);
}

static inline struct scene scene_open(void)
{
	struct scene s = { .gpus = fake_nodes() };
	int i;

	for (i = 0; i < SCENE_OFFLINE; i++)
		s.offline[i] = start_offline(&s);
	s.online = start_online(&s);
	for (i = 0; i < SCENE_OFFLINE; i++)
		CHECK(s.offline[i].pid > 0);
	CHECK(s.online.pid > 0);
	return s;
}

static inline void scene_close(struct scene *s)
{
	int i;

	for (i = 0; i < SCENE_OFFLINE; i++)
		CHECK(gpu_end(&s->offline[i]) == 0);
	CHECK(gpu_end(&s->online) == 0);
}

/* Whether none of @num queues of a process moves while each online queue does packets. */
static inline int stand(const struct scene *s, const struct gpu_worker *w)
{
	uint64_t rptr[64], done[64];
	int i;

	for (i = 0; i < w->num; i++) {
		rptr[i] = w->areas[i].rptr;
		done[i] = gpu_done(&w->areas[i]);
	}
	for (i = 0; i < s->online.num; i++)
		if (!gpu_runs(&s->online.areas[i], 20))
			return 0;
	for (i = 0; i < w->num; i++)
		if (w->areas[i].rptr != rptr[i] || gpu_done(&w->areas[i]) != done[i])
			return 0;
	return 1;
}

/* Whether each queue of a process does packets. */
static inline int run_all(const struct gpu_worker *w)
{
	int i;

	for (i = 0; i < w->num; i++) {
		if (gpu_runs(&w->areas[i], 3))
			continue;
		printf("# queue %u of process %d does not run\n", w->areas[i].queue_id, w->pid);
		return 0;
	}
	return 1;
}

/* Whether all that a process ever submitted has run once, and its queues go on after that. */
static inline int is_whole(struct gpu_worker *w)
{
	int i, good = 1;

	if (!run_all(w) || gpu_tell(w, 's'))
		return 0;
	for (i = 0; i < w->num; i++) {
		struct gpu_area *area = &w->areas[i];

		if (GPU_WAIT(gpu_is_idle(area)) && gpu_done(area) == area->submitted && gpu_trail_is_whole(area))
			continue;
		printf("# queue %u of process %d: %llu of %llu packets\n", area->queue_id, w->pid,
		       (unsigned long long)gpu_done(area), (unsigned long long)area->submitted);
		good = 0;
	}
	return !gpu_tell(w, 'g') && good;
}

/* Whether every queue makes progress and has lost nothing. */
static inline int is_well(struct scene *s)
{
	int i, good = is_whole(&s->online);

	for (i = 0; good && i < SCENE_OFFLINE; i++)
		good = is_whole(&s->offline[i]);
	return good;
}

/* --- another process of the test ----------------------------------------------------------------- */

struct actor {
	pid_t pid;
	int socket;
};

static inline struct actor actor_start(int (*job)(int socket, const struct scene *s), const struct scene *s)
{
	struct actor actor = { .pid = -1 };
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return actor;
	fflush(stdout);
	actor.pid = fork();
	if (!actor.pid) {
		int status;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pair[0]);
		failures = 0;
		status = job(pair[1], s);
		fflush(stdout);
		_exit(status ?: !!failures);
	}
	close(pair[1]);
	actor.socket = pair[0];
	return actor;
}

/* For the actor: says that it came so far, and whether all was well. */
static inline void report(int socket)
{
	fflush(stdout);
	if (write(socket, failures ? "f" : "w", 1) != 1)
		_exit(1);
}

/* Whether the actor came so far, well. */
static inline int reports(const struct actor *actor)
{
	char byte;

	return read(actor->socket, &byte, 1) == 1 && byte == 'w';
}

static inline int command(const struct actor *actor)
{
	return write(actor->socket, "", 1) == 1;
}

/* For the actor: waits for a command. */
static inline void wait_for_command(int socket)
{
	char byte;

	if (read(socket, &byte, 1) != 1)
		_exit(1);
}

static inline int actor_end(struct actor *actor)
{
	int status = -1;

	waitpid(actor->pid, &status, 0);
	close(actor->socket);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline void actor_kill(struct actor *actor)
{
	kill(actor->pid, SIGKILL);
	waitpid(actor->pid, NULL, 0);
	close(actor->socket);
}

/* --- scenarios ----------------------------------------------------------------------------------- */

/* Opens the kernel's log at its end. */
static inline int log_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	lseek(fd, 0, SEEK_END);
	return fd;
}

/* What a slow emulator makes the kernel say. */
static const char *const slow_machine[] = { "hrtimer: interrupt took", "clocksource: ", "hogged CPU for", "TSC found unstable", NULL };

static inline int has_one_of(const char *line, const char *const *texts)
{
	while (texts && *texts && !strstr(line, *texts))
		texts++;
	return texts && *texts;
}

/* Lines of warnings and worse since log_open(), but for those that have one of the texts in @expected. */
static inline int log_complaints(int fd, const char *const *expected)
{
	char line[2048], *end;
	int count = 0;
	ssize_t size;

	while ((size = read(fd, line, sizeof(line) - 1)) > 0) {
		line[size] = 0;
		end = strchr(line, '\n');
		if (end)
			*end = 0;
		if ((atoi(line) & 7) > 4 || has_one_of(line, expected) || has_one_of(line, slow_machine))
			continue;
		printf("# kernel: %s\n", strchr(line, ';') ?: line);
		count++;
	}
	close(fd);
	return count;
}

/*
 * Runs a scenario in a process of its own, and expects that neither the kernel nor a fake GPU complains,
 * but for lines of the kernel that have one of the texts in @expected.
 */
static inline void run_scenario(const char *name, void (*test)(void), const char *const *expected)
{
	static int number;
	int log = log_open(), status, complaints;
	double start = gpu_now();
	long errors;
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		failures = 0;
		test();
		fflush(stdout);
		_exit(!!failures);
	}
	waitpid(pid, &status, 0);
	complaints = log_complaints(log, expected);
	errors = gpu_errors();
	failures += status || complaints || errors;
	printf("%sok %d %s\n", status || complaints || errors ? "not " : "", ++number, name);
	printf("# in %.1f s, status %x, %d complaints of the kernel, %ld of the fake GPUs\n", gpu_now() - start, status,
	       complaints, errors);
	fflush(stdout);
}

#define RUN_SCENARIO(test) run_scenario(#test, test, NULL)

/* One whose faults the driver reports. */
#define RUN_REPORTED(test, ...) run_scenario(#test, test, (const char *const[]) { __VA_ARGS__, NULL })

#endif /* SCENE_H */
