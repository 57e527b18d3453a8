// SPDX-License-Identifier: MIT
/*
 * Tests what becomes of unmapped queues when their scheduler dies, stops, execs, or forks.
 *
 * usage: faults-holder [TIMES]
 * Runs as root in the VM of kernel-patch/vm/run, with fake GPUs and a gpreempt_max_hold_ms that is longer than any
 * wait here, so that no watchdog hides what is not given back. Prints TAP.
 */
#define _GNU_SOURCE
#include "scene.h"

#define SHORT_HOLD_MS 200

static int lease_of(const struct scene *s, unsigned int max_hold_ms)
{
	struct kfd_gpreempt_entry entries[SCENE_OFFLINE];
	struct kfd_ioctl_batch_unmap_args args;
	int lease = open_lease_for(max_hold_ms), i;

	CHECK(lease >= 0);
	for (i = 0; i < SCENE_OFFLINE; i++)
		entries[i] = every_queue(adopt(lease, s->offline[i].pid));
	CHECK(!batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, entries, SCENE_OFFLINE, &args));
	for (i = 0; i < SCENE_OFFLINE; i++)
		CHECK(!entries[i].result && (int)entries[i].num_queues == queues_of_each(s));
	CHECK((int)args.num_rounds == s->gpus && (int)args.num_nodes == s->gpus);
	return lease;
}

static int both_stand(const struct scene *s)
{
	return stand(s, &s->offline[0]) && stand(s, &s->offline[1]);
}

static int unmap_and_wait(int socket, const struct scene *s)
{
	lease_of(s, 0);
	report(socket);
	wait_for_command(socket);
	return 0;
}

static void queues_run_again_when_their_scheduler_is_killed(void)
{
	struct scene s = scene_open();
	struct actor scheduler;
	int i;

	for (i = 0; i < times && !failures; i++) {
		scheduler = actor_start(unmap_and_wait, &s);
		CHECK(reports(&scheduler));
		CHECK(both_stand(&s));
		actor_kill(&scheduler);
		CHECK(is_well(&s));
	}
	scene_close(&s);
}

static int unmap_and_remap_for_ever(int socket, const struct scene *s)
{
	struct kfd_gpreempt_entry entries[SCENE_OFFLINE], one, other;
	struct kfd_ioctl_swap_queues_args swap = {
		.unmap_ptr = (uintptr_t)&one,
		.remap_ptr = (uintptr_t)&other,
		.num_unmap = 1,
		.num_remap = 1,
		.entry_size = sizeof(one),
	};
	int lease = open_lease(), i;

	for (i = 0; i < SCENE_OFFLINE; i++)
		entries[i] = every_queue(adopt(lease, s->offline[i].pid));
	report(socket);
	for (;;) {
		CHECK(!batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, entries, 1, NULL));
		one = entries[1];
		other = entries[0];
		CHECK(!ioctl(lease, AMDKFD_IOC_SWAP_QUEUES, &swap));
		CHECK(!batch(lease, AMDKFD_IOC_FAST_REMAP, entries, 2, NULL));
		CHECK(!batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, entries, 2, NULL));
		CHECK(!batch(lease, AMDKFD_IOC_FAST_REMAP, entries, 2, NULL));
		if (failures)
			return 1;
	}
}

static void queues_run_again_when_their_scheduler_is_killed_inside_a_call(void)
{
	struct scene s = scene_open();
	struct actor scheduler;
	int i;

	CHECK(!fake_set_all("unmap_us", "2000"));
	for (i = 0; i < times && !failures; i++) {
		scheduler = actor_start(unmap_and_remap_for_ever, &s);
		CHECK(reports(&scheduler));
		usleep(i * 7919 % 30000);
		CHECK(!waitpid(scheduler.pid, NULL, WNOHANG));
		actor_kill(&scheduler);
		CHECK(is_well(&s));
	}
	CHECK(!fake_set_all("unmap_us", "0"));
	scene_close(&s);
}

static int is_told_that_holds_expired(int lease, int queues)
{
	struct kfd_gpreempt_event event;
	int told = 0;

	fcntl(lease, F_SETFL, O_NONBLOCK);
	while (read(lease, &event, sizeof(event)) == sizeof(event))
		told += event.type == KFD_GPREEMPT_EVENT_HOLD_EXPIRED;
	return told == queues;
}

static int unmap_and_hang(int socket, const struct scene *s)
{
	int lease = lease_of(s, SHORT_HOLD_MS), i;

	report(socket);
	/* Is stopped here. */
	wait_for_command(socket);
	CHECK(is_told_that_holds_expired(lease, SCENE_OFFLINE * queues_of_each(s)));
	for (i = 0; i < SCENE_OFFLINE; i++) {
		uint32_t target = adopt(lease, s->offline[i].pid);

		all_of(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, target, queues_of_each(s));
	}
	return 0;
}

static void queues_run_again_when_their_scheduler_is_stopped(void)
{
	struct scene s = scene_open();
	struct actor scheduler;
	int i, status;

	for (i = 0; i < times && !failures; i++) {
		scheduler = actor_start(unmap_and_hang, &s);
		CHECK(reports(&scheduler));
		CHECK(!kill(scheduler.pid, SIGSTOP));
		CHECK(waitpid(scheduler.pid, &status, WUNTRACED) == scheduler.pid && WIFSTOPPED(status));
		CHECK(is_well(&s));
		CHECK(command(&scheduler));
		CHECK(!kill(scheduler.pid, SIGCONT));
		CHECK(actor_end(&scheduler) == 0);
		CHECK(is_well(&s));
	}
	scene_close(&s);
}

static int unmap_and_exec(int socket, const struct scene *s)
{
	char fds[2][16];
	int lease = lease_of(s, 0);

	snprintf(fds[0], sizeof(fds[0]), "%d", lease);
	snprintf(fds[1], sizeof(fds[1]), "%d", socket);
	fcntl(lease, F_SETFD, 0);
	fcntl(socket, F_SETFD, 0);
	report(socket);
	wait_for_command(socket);
	execl("/proc/self/exe", "faults-holder", "copy", fds[0], fds[1], NULL);
	return 1;
}

/* A lease whose holder is gone commands nothing and reads as ended. */
static int has_a_dead_copy(int lease)
{
	struct kfd_gpreempt_entry entry = every_queue(0);
	struct kfd_gpreempt_event event;

	CHECK(batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, &entry, 1, NULL) == -EBADF);
	fcntl(lease, F_SETFL, O_NONBLOCK);
	CHECK(read(lease, &event, sizeof(event)) <= 0);
	return !failures;
}

static int keep_the_copy(int lease, int socket)
{
	has_a_dead_copy(lease);
	report(socket);
	wait_for_command(socket);
	return !!failures;
}

static void queues_run_again_when_their_scheduler_execs_and_keeps_the_fd(void)
{
	struct scene s = scene_open();
	struct actor scheduler;
	int i;

	for (i = 0; i < times && !failures; i++) {
		scheduler = actor_start(unmap_and_exec, &s);
		CHECK(reports(&scheduler));
		CHECK(both_stand(&s));
		CHECK(command(&scheduler));
		CHECK(reports(&scheduler));
		CHECK(is_well(&s));
		CHECK(command(&scheduler));
		CHECK(actor_end(&scheduler) == 0);
	}
	scene_close(&s);
}

static int unmap_and_fork(int socket, const struct scene *s)
{
	int lease = lease_of(s, 0);

	if (fork()) {
		pause();
		return 0;
	}
	report(socket);
	wait_for_command(socket);
	_exit(keep_the_copy(lease, socket));
}

static void queues_run_again_when_their_scheduler_is_killed_and_a_child_keeps_the_fd(void)
{
	struct scene s = scene_open();
	struct actor scheduler;
	int i;

	for (i = 0; i < times && !failures; i++) {
		scheduler = actor_start(unmap_and_fork, &s);
		CHECK(reports(&scheduler));
		CHECK(both_stand(&s));
		kill(scheduler.pid, SIGKILL);
		waitpid(scheduler.pid, NULL, 0);
		CHECK(is_well(&s));
		CHECK(command(&scheduler) && reports(&scheduler));
		CHECK(is_well(&s));
		CHECK(command(&scheduler));
		close(scheduler.socket);
	}
	scene_close(&s);
}

static int fork_and_close(int socket, const struct scene *s)
{
	int lease = lease_of(s, SHORT_HOLD_MS);
	pid_t child = fork();

	if (!child) {
		pause();
		_exit(0);
	}
	close(lease);
	report(socket);
	wait_for_command(socket);
	reap(child);
	return 0;
}

static void the_watchdog_ends_holds_of_a_closed_lease_that_a_child_keeps_open(void)
{
	struct scene s = scene_open();
	struct actor scheduler;
	int i;

	for (i = 0; i < times && !failures; i++) {
		scheduler = actor_start(fork_and_close, &s);
		CHECK(reports(&scheduler));
		CHECK(is_well(&s));
		CHECK(command(&scheduler));
		CHECK(actor_end(&scheduler) == 0);
		CHECK(is_well(&s));
	}
	scene_close(&s);
}

static volatile pid_t *sharer;

static int share_the_memory(int socket, const struct scene *s)
{
	lease_of(s, SHORT_HOLD_MS);
	report(socket);
	if (!vfork()) {
		*sharer = getpid();
		for (;;)
			pause();
	}
	return 0;
}

static void the_watchdog_ends_holds_of_a_killed_scheduler_whose_memory_lives_on(void)
{
	struct scene s = scene_open();
	struct actor scheduler;
	int i;

	/* The lease lives as long as the memory, so the next turn begins when the child is gone. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sharer = gpu_memory(sizeof(*sharer));
	for (i = 0; i < times && !failures; i++) {
		*sharer = 0;
		scheduler = actor_start(share_the_memory, &s);
		CHECK(reports(&scheduler));
		CHECK(GPU_WAIT(*sharer));
		actor_kill(&scheduler);
		CHECK(is_well(&s));
		CHECK(!kill(*sharer, SIGKILL));
		CHECK(waitpid(*sharer, NULL, 0) == *sharer);
	}
	scene_close(&s);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "copy"))
		return keep_the_copy(atoi(argv[2]), atoi(argv[3]));
	if (argc > 1)
		times = atoi(argv[1]);
	RUN_SCENARIO(queues_run_again_when_their_scheduler_is_killed);
	RUN_SCENARIO(queues_run_again_when_their_scheduler_is_killed_inside_a_call);
	RUN_SCENARIO(queues_run_again_when_their_scheduler_is_stopped);
	RUN_SCENARIO(queues_run_again_when_their_scheduler_execs_and_keeps_the_fd);
	RUN_SCENARIO(queues_run_again_when_their_scheduler_is_killed_and_a_child_keeps_the_fd);
	RUN_SCENARIO(the_watchdog_ends_holds_of_a_closed_lease_that_a_child_keeps_open);
	RUN_SCENARIO(the_watchdog_ends_holds_of_a_killed_scheduler_whose_memory_lives_on);
	return failures != 0;
}
