// SPDX-License-Identifier: MIT
/*
 * Tests what becomes of queues and leases when a GPU hangs, is reset, or cannot preempt a queue.
 *
 * usage: faults-node [TIMES]
 * Runs as root in the VM of kernel-patch/vm/run, with two fake GPUs or more. The first one has the faults. Prints TAP.
 *
 * After a reset the driver leaves all processes that were there evicted, those without a queue on that GPU, too; so each
 * time new processes show that all is well.
 */
#define _GNU_SOURCE
#include "scene.h"

#define TIMEOUT "/sys/module/amdgpu/parameters/queue_preemption_timeout_ms"

/* What the driver says of these faults. */
#define HANGS "fence wait loop timeout expired", "unrecoverable state due to an unsuccessful queues preemption"
#define RESETS "Queue preemption failed for queue", "is reset"

static uint32_t id_of_gpu(int device)
{
	return fake_count(device, "gpu_id");
}

/* An entry for each process and GPU. */
static int entry_for_each(const struct scene *s, const uint32_t *targets, struct kfd_gpreempt_entry *entries)
{
	int gpu, i, num = 0;

	for (gpu = 0; gpu < s->gpus; gpu++) {
		for (i = 0; i < SCENE_OFFLINE; i++, num++) {
			entries[num] = every_queue(targets[i]);
			entries[num].gpu_id = id_of_gpu(gpu);
		}
	}
	return num;
}

/* Whether all entries of the first GPU have the one result, and all others another. */
static int results(const struct kfd_gpreempt_entry *entries, int num, int of_first, int of_others)
{
	int i, good = 1;

	for (i = 0; i < num; i++) {
		if (entries[i].result == (i < SCENE_OFFLINE ? of_first : of_others))
			continue;
		printf("# entry %d: %d\n", i, entries[i].result);
		good = 0;
	}
	return good;
}

static int is_told_of_a_reset(int lease)
{
	struct kfd_gpreempt_event event;
	int told = 0;

	fcntl(lease, F_SETFL, O_NONBLOCK);
	while (read(lease, &event, sizeof(event)) == sizeof(event))
		told += event.type == KFD_GPREEMPT_EVENT_NODE_RESET && event.gpu_id == id_of_gpu(0);
	return told == 1;
}

static void scene_kill(struct scene *s)
{
	int i;

	for (i = 0; i < SCENE_OFFLINE; i++)
		gpu_kill(&s->offline[i]);
	gpu_kill(&s->online);
}

/* A fault at the first GPU that lets the next preemption of it time out. */
static void time_out(const char *knob, const char *value)
{
	struct kfd_gpreempt_entry entries[SCENE_OFFLINE * GPU_MAX];
	struct kfd_ioctl_batch_unmap_args args;
	uint32_t targets[SCENE_OFFLINE];
	int i, j, num;

	CHECK(!gpu_write_file(TIMEOUT, "1000"));
	for (i = 0; i < times && !failures; i++) {
		struct scene s = scene_open();
		uint64_t resets = fake_count(0, "resets");
		int lease = open_lease();

		for (j = 0; j < SCENE_OFFLINE; j++)
			targets[j] = adopt(lease, s.offline[j].pid);
		num = entry_for_each(&s, targets, entries);
		CHECK(is_well(&s));
		CHECK(!fake_set(0, knob, value));
		CHECK(!batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, entries, num, &args));
		CHECK(results(entries, num, -ETIME, 0));
		CHECK((int)args.num_failed == SCENE_OFFLINE && (int)args.num_ok == num - SCENE_OFFLINE);
		CHECK(GPU_WAIT(fake_count(0, "resets") > resets));
		CHECK(fake_count(0, "resets") == resets + 1);
		CHECK(is_told_of_a_reset(lease));
		CHECK(!batch(lease, AMDKFD_IOC_FAST_REMAP, entries, num, NULL));
		CHECK(results(entries, num, -EACCES, 0));
		CHECK(fake_count(0, "resets") == resets + 1);
		close(lease);
		scene_kill(&s);
		s = scene_open();
		CHECK(is_well(&s));
		scene_close(&s);
	}
	CHECK(!gpu_write_file(TIMEOUT, "9000"));
}

static void a_gpu_that_hangs_fails_its_own_queues_and_is_reset_once(void)
{
	time_out("hang", "Y");
}

static void a_lost_fence_is_a_hang(void)
{
	time_out("drop_fence", "1");
}

static void a_late_fence_is_waited_for(void)
{
	struct scene s = scene_open();
	int lease = open_lease(), i;
	uint32_t target = adopt(lease, s.offline[0].pid);

	CHECK(!fake_set(0, "late_fence_us", "20000"));
	for (i = 0; i < times && !failures; i++) {
		all_of(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, target, queues_of_each(&s));
		CHECK(stand(&s, &s.offline[0]));
		all_of(lease, AMDKFD_IOC_FAST_REMAP, target, queues_of_each(&s));
		CHECK(is_well(&s));
	}
	CHECK(!fake_set(0, "late_fence_us", "0"));
	close(lease);
	scene_close(&s);
}

static void holds_end_well_after_a_reset(void)
{
	int i;

	for (i = 0; i < times && !failures; i++) {
		struct scene s = scene_open();
		struct kfd_gpreempt_entry entry;
		int lease = open_lease();

		entry = every_queue(adopt(lease, s.offline[0].pid));
		CHECK(!batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, &entry, 1, NULL) && !entry.result);
		CHECK(!fake_ctl("reset", 0));
		CHECK(is_told_of_a_reset(lease));
		if (i % 2)
			CHECK(!batch(lease, AMDKFD_IOC_FAST_REMAP, &entry, 1, NULL) && !entry.result);
		if (i % 3)
			scene_kill(&s);
		close(lease);
		if (!(i % 3))
			scene_close(&s);
		s = scene_open();
		CHECK(is_well(&s));
		scene_close(&s);
	}
}

/* Doorbell of some queue of a process on the first GPU, as the hardware knows it; 0 if there is none. */
static uint32_t doorbell_of(pid_t pid)
{
	char path[64], text[16384], queue[32], *line;

	snprintf(path, sizeof(path), "/sys/class/kfd/kfd/proc/%d/pasid", pid);
	if (gpu_read_file(path, text, sizeof(text)))
		return 0;
	snprintf(queue, sizeof(queue), "pasid %d doorbell ", atoi(text));
	if (gpu_read_file(FAKE "/0/node0/status", text, sizeof(text)))
		return 0;
	line = strstr(text, queue);
	return line ? strtoul(line + strlen(queue), NULL, 10) : 0;
}

/* Which of the entries says that its queue was reset, if exactly one does and the others are well; else -1. */
static int reset_one(const struct kfd_gpreempt_entry *entries, int num)
{
	int i, found = -1;

	for (i = 0; i < num; i++) {
		if (!entries[i].result)
			continue;
		if (entries[i].result != -EACCES || found >= 0)
			return -1;
		found = i;
	}
	return found;
}

static void a_queue_that_cannot_be_preempted_is_reset_and_the_others_go_on(void)
{
	struct scene s = scene_open();
	struct gpu_worker *w = &s.offline[0];
	struct kfd_gpreempt_entry entries[64];
	int lease = open_lease(), i, j, bad;
	char doorbell[16];

	for (i = 0; i < times && !failures; i++) {
		uint64_t resets = fake_count(0, "resets");
		uint32_t target = adopt(lease, w->pid);

		for (j = 0; j < w->num; j++) {
			entries[j] = every_queue(target);
			entries[j].gpu_id = w->areas[j].gpu_id;
			entries[j].queue_id = w->areas[j].queue_id;
		}
		snprintf(doorbell, sizeof(doorbell), "%u", doorbell_of(w->pid));
		CHECK(!fake_set(0, "stuck", doorbell));
		CHECK(!batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, entries, w->num, NULL));
		bad = reset_one(entries, w->num);
		CHECK(bad >= 0 && entries[bad].gpu_id == id_of_gpu(0));
		CHECK(is_whole(&s.online) && is_whole(&s.offline[1]));
		CHECK(!batch(lease, AMDKFD_IOC_FAST_REMAP, entries, w->num, NULL));
		CHECK(reset_one(entries, w->num) == bad);
		for (j = 0; j < w->num; j++)
			CHECK(j == bad || gpu_runs(&w->areas[j], 20));
		CHECK(fake_count(0, "resets") == resets);
		CHECK(gpu_end(w) == 0);
		*w = start_offline(&s);
		CHECK(is_well(&s));
	}
	close(lease);
	scene_close(&s);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		times = atoi(argv[1]);
	RUN_REPORTED(a_gpu_that_hangs_fails_its_own_queues_and_is_reset_once, HANGS);
	RUN_REPORTED(a_lost_fence_is_a_hang, HANGS);
	RUN_SCENARIO(a_late_fence_is_waited_for);
	RUN_SCENARIO(holds_end_well_after_a_reset);
	RUN_REPORTED(a_queue_that_cannot_be_preempted_is_reset_and_the_others_go_on, RESETS);
	return failures != 0;
}
