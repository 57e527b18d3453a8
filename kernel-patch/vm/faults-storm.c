// SPDX-License-Identifier: MIT
/*
 * Tests queues that are created and destroyed while schedulers unmap and map them and memory management evicts and restores
 * them, all at once.
 *
 * usage: faults-storm [TIMES]
 * Runs as root in the VM of kernel-patch/vm/run, with fake GPUs. Prints TAP.
 */
#define _GNU_SOURCE
#include "scene.h"

#define CHURNERS 3
#define MOST_QUEUES 4
#define ROUNDS 4 /* of a churner for each of TIMES */

static pid_t *churning; /* their pids, in shared memory */

/* Makes queues, gives them work, destroys them: after it, or in the middle of it. */
static int churn(int socket, const struct scene *s)
{
	struct gpu_area *areas = gpu_memory(MOST_QUEUES * sizeof(*areas));
	struct gpu_queue queues[MOST_QUEUES];
	struct gpu gpus[GPU_MAX];
	int round, num, i;

	srandom(getpid());
	CHECK(gpu_open(gpus, GPU_MAX) == s->gpus);
	report(socket);
	wait_for_command(socket);
	for (round = 0; round < times * ROUNDS && !failures; round++) {
		num = 1 + random() % MOST_QUEUES;
		memset(areas, 0, MOST_QUEUES * sizeof(*areas));
		for (i = 0; i < num; i++) {
			CHECK(!gpu_create(&gpus[random() % s->gpus], KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[i], &queues[i]));
			gpu_feed(&queues[i], 1 + random() % 100, 0, 8);
		}
		for (i = 0; i < num; i++) {
			if (random() % 4)
				CHECK(GPU_WAIT(gpu_is_idle(&areas[i])) && gpu_done(&areas[i]) == areas[i].submitted);
			CHECK(!gpu_destroy(&queues[i]));
			CHECK(gpu_trail_is_whole(&areas[i]));
		}
	}
	return 0;
}

/* Unmaps, maps and swaps what it may, until it is told to stop; ids are guessed. */
static int preempt(int socket, const struct scene *s)
{
	struct kfd_ioctl_swap_queues_args swap = { .num_unmap = 1, .num_remap = 1, .entry_size = sizeof(struct kfd_gpreempt_entry) };
	struct kfd_gpreempt_entry entries[CHURNERS];
	int lease = open_lease(), i, error;
	uint32_t targets[CHURNERS];

	(void)s;
	srandom(getpid());
	for (i = 0; i < CHURNERS; i++)
		targets[i] = adopt(lease, churning[i]);
	report(socket);
	while (!failures && recv(socket, &i, 1, MSG_DONTWAIT) != 1) {
		for (i = 0; i < CHURNERS; i++) {
			entries[i] = every_queue(targets[i]);
			if (random() % 3 == 0)
				entries[i].queue_id = random() % MOST_QUEUES;
		}
		switch (random() % 4) {
		case 0:
			CHECK(!batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, entries, CHURNERS, NULL));
			break;
		case 1:
			swap.unmap_ptr = (uintptr_t)&entries[0];
			swap.remap_ptr = (uintptr_t)&entries[1];
			CHECK(!ioctl(lease, AMDKFD_IOC_SWAP_QUEUES, &swap));
			break;
		default:
			for (i = 0; i < CHURNERS; i++)
				entries[i] = every_queue(targets[i]);
			CHECK(!batch(lease, AMDKFD_IOC_FAST_REMAP, entries, CHURNERS, NULL));
		}
		for (i = 0; i < CHURNERS; i++) {
			error = -entries[i].result;
			CHECK(!error || error == ENOENT || error == EBUSY || error == ESRCH);
		}
	}
	return 0;
}

/* Evicts and restores the churners, each time both. */
static int evict(int socket, const struct scene *s)
{
	int i, evicted;

	(void)s;
	report(socket);
	while (!failures && recv(socket, &i, 1, MSG_DONTWAIT) != 1) {
		for (i = 0; i < CHURNERS; i++) {
			evicted = !fake_ctl("evict", churning[i]);
			usleep(random() % 3000);
			CHECK(!evicted || !fake_ctl("restore", churning[i]) || kill(churning[i], 0) || errno == ESRCH);
		}
	}
	return 0;
}

static void storm(int (*more)(int socket, const struct scene *s), int with_kills)
{
	struct scene s = scene_open();
	struct actor churners[CHURNERS], scheduler, other = {};
	int i, kills = 0;

	churning = gpu_memory(CHURNERS * sizeof(*churning));
	for (i = 0; i < CHURNERS; i++) {
		churners[i] = actor_start(churn, &s);
		churning[i] = churners[i].pid;
		CHECK(reports(&churners[i]));
	}
	scheduler = actor_start(preempt, &s);
	CHECK(reports(&scheduler));
	if (more) {
		other = actor_start(more, &s);
		CHECK(reports(&other));
	}
	for (i = 0; i < CHURNERS; i++)
		CHECK(command(&churners[i]));
	for (; with_kills && kills < times && !waitpid(churners[0].pid, NULL, WNOHANG | WNOWAIT); kills++) {
		usleep(random() % 50000);
		actor_kill(&scheduler);
		scheduler = actor_start(preempt, &s);
		CHECK(reports(&scheduler));
	}
	for (i = 0; i < CHURNERS; i++)
		CHECK(actor_end(&churners[i]) == 0);
	CHECK(command(&scheduler) && actor_end(&scheduler) == 0);
	if (more)
		CHECK(command(&other) && actor_end(&other) == 0);
	CHECK(is_well(&s));
	scene_close(&s);
}

static void storms_of_creation_and_preemption_lose_nothing(void)
{
	storm(NULL, 0);
}

static void storms_of_creation_preemption_and_eviction_lose_nothing(void)
{
	storm(evict, 0);
}

static void storms_of_creation_while_schedulers_are_killed_lose_nothing(void)
{
	storm(NULL, 1);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		times = atoi(argv[1]);
	RUN_SCENARIO(storms_of_creation_and_preemption_lose_nothing);
	RUN_SCENARIO(storms_of_creation_preemption_and_eviction_lose_nothing);
	RUN_SCENARIO(storms_of_creation_while_schedulers_are_killed_lose_nothing);
	return failures != 0;
}
