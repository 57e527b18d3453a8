// SPDX-License-Identifier: MIT
/*
 * Tests the fake GPU: that its knobs do what kernel-patch/fake-gpu.md says, so that tests which turn
 * them test something.
 *
 * usage: fake spx|cpx|eight
 *   as the module was loaded: two devices of one node, one of four, eight with 30 slots
 *
 * Runs as root in the VM of kernel-patch/vm/run. Prints TAP.
 */
#define _GNU_SOURCE
#include "gpu.h"

static const struct gpu_plan one = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .gpus = 1, .queues = 1, .waves = 4 };

/* A process that waits for its queues in vain should not wait long. */
static void hurry(const char *ms)
{
	CHECK(!gpu_write_file("/sys/module/amdgpu/parameters/queue_preemption_timeout_ms", ms));
}

static int works(void)
{
	struct gpu_worker worker = gpu_start(&one, 1);

	return worker.pid > 0 && gpu_runs(&worker.areas[0], 10) && !gpu_end(&worker);
}

static struct gpu_queue make(struct gpu *gpu, uint64_t packets)
{
	struct gpu_queue queue;

	CHECK(gpu_open(gpu, 1) == 1);
	CHECK(!gpu_create(gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, gpu_memory(sizeof(struct gpu_area)), &queue));
	gpu_feed(&queue, packets, 0, 1);
	return queue;
}

/* After it the process of the test has no working queue, but another one has. */
static void the_device_resets(uint64_t before)
{
	CHECK(GPU_WAIT(gpu_status(0, 0, "resets") > before));
	CHECK(works());
}

static void a_scheduler_that_hangs_is_reset(void)
{
	uint64_t resets = gpu_status(0, 0, "resets");
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 100);

	hurry("300");
	CHECK(!gpu_set(0, 0, "hang", "Y"));
	CHECK(gpu_update(&queue, 0) < 0);
	the_device_resets(resets);
}

static void a_scheduler_hangs_at_the_packet_that_it_is_told(void)
{
	uint64_t resets = gpu_status(0, 0, "resets"), unmaps;
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 100);

	hurry("300");
	unmaps = gpu_status(0, 0, "unmap");
	/* UNMAP_QUEUES, QUERY_STATUS, RUN_LIST, UNMAP_QUEUES, and not the fence of that. */
	CHECK(!gpu_set(0, 0, "hang_after", "5"));
	CHECK(!gpu_update(&queue, 0));
	CHECK(!gpu_update(&queue, 100));
	CHECK(gpu_status(0, 0, "unmap") == unmaps + 1);
	CHECK(gpu_update(&queue, 0) < 0);
	the_device_resets(resets);
}

static void a_fence_that_is_lost_is_a_hang(void)
{
	uint64_t resets = gpu_status(0, 0, "resets");
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 100);

	hurry("300");
	CHECK(!gpu_set(0, 0, "drop_fence", "1"));
	CHECK(gpu_update(&queue, 0) < 0);
	the_device_resets(resets);
}

static void a_late_fence_is_none(void)
{
	uint64_t resets = gpu_status(0, 0, "resets");
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 100);

	hurry("60000");
	CHECK(!gpu_set(0, 0, "late_fence_us", "300000"));
	CHECK(!gpu_update(&queue, 0));
	CHECK(!gpu_set(0, 0, "late_fence_us", "0"));
	CHECK(!gpu_update(&queue, 100));
	CHECK(gpu_status(0, 0, "resets") == resets);
	CHECK(GPU_WAIT(gpu_is_idle(queue.area)) && gpu_trail_is_whole(queue.area));
}

/* The doorbell of the only queue of a node, as packets name it. */
static uint32_t only_doorbell(void)
{
	static char text[64 * 1024];
	char *at;

	if (gpu_read_file(gpu_file(0, 0, "status"), text, sizeof(text)))
		return 0;
	at = strstr(text, "doorbell ");
	return at ? strtoul(at + strlen("doorbell "), NULL, 10) : 0;
}

static void set_number(const char *knob, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	CHECK(!gpu_set(0, 0, knob, text));
}

static void a_queue_that_does_not_leave_is_reset_alone(void)
{
	uint64_t resets = gpu_status(0, 0, "resets");
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 100);
	uint32_t doorbell = only_doorbell();
	struct gpu_worker other = gpu_start(&one, 1);

	hurry("5000");
	set_number("stuck", doorbell);
	/* The worker ends in a round of its own, in which the queue is found. */
	CHECK(!gpu_end(&other));
	CHECK(gpu_update(&queue, 100) < 0 && errno == EACCES);
	CHECK(gpu_status(0, 0, "resets") == resets);
	CHECK(works());
}

static void a_slot_that_cannot_be_reset_resets_the_device(void)
{
	uint64_t resets = gpu_status(0, 0, "resets");
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 100);

	hurry("5000");
	CHECK(!gpu_set(0, 0, "hqd_reset_fail", "Y"));
	set_number("stuck", only_doorbell());
	gpu_update(&queue, 0);
	CHECK(GPU_WAIT(gpu_status(0, 0, "resets") > resets));
	CHECK(!gpu_set(0, 0, "hqd_reset_fail", "N"));
	the_device_resets(resets);
}

static void an_allocation_of_the_driver_fails(void)
{
	struct gpu_area *area = gpu_memory(sizeof(*area));
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 100), second;

	CHECK(!gpu_write_file("/sys/kernel/debug/kfd_fake/0/fail_gtt_after", "1"));
	CHECK(gpu_create(&gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, area, &second) < 0 && errno == ENOMEM);
	CHECK(GPU_WAIT(gpu_is_idle(queue.area)) && gpu_trail_is_whole(queue.area));
}

static int control(const char *command, int number)
{
	char text[32];

	snprintf(text, sizeof(text), "%s %d", command, number);
	return gpu_write_file("/sys/kernel/debug/kfd_fake/ctl", text);
}

static void a_process_is_evicted_and_restored(void)
{
	struct gpu_worker a = gpu_start(&one, 1), b = gpu_start(&one, 1);

	CHECK(!control("evict", a.pid));
	CHECK(gpu_stands(&a.areas[0], &b.areas[0]));
	CHECK(!control("restore", a.pid));
	CHECK(gpu_runs(&a.areas[0], 10));
	CHECK(gpu_trail_is_whole(&b.areas[0]));
	CHECK(!gpu_end(&a) && !gpu_end(&b));
	CHECK(control("evict", NO_PID) < 0 && errno == ESRCH);
	CHECK(control("no such", 1) < 0 && errno == EINVAL);
}

static void a_device_is_suspended_resumed_and_reset(void)
{
	static const struct gpu_plan two = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .gpus = 2, .queues = 1, .waves = 4 };
	uint64_t resets = gpu_status(0, 0, "resets");
	struct gpu_worker a = gpu_start(&two, 2);

	CHECK(!control("suspend", 0) && !control("suspend", 1));
	CHECK(gpu_status(0, 0, "mapped") == 0 && gpu_status(1, 0, "mapped") == 0);
	CHECK(!control("resume", 0) && !control("resume", 1));
	CHECK(gpu_runs(&a.areas[0], 10) && gpu_runs(&a.areas[1], 10));
	CHECK(!control("reset", 0));
	CHECK(gpu_status(0, 0, "resets") == resets + 1);
	CHECK(gpu_status(0, 0, "mapped") == 0);
	gpu_kill(&a);
	CHECK(works());
}

/* Slots of the first XCC that hold a queue, in debugfs. Registers follow "CP Pipe"; the third is CP_HQD_ACTIVE. */
static int active_slots(void)
{
	static char text[1 << 20];
	int active = 0;
	char *slot;

	CHECK(!gpu_read_file("/sys/kernel/debug/kfd/hqds", text, sizeof(text)));
	for (slot = strstr(text, " Inst 0,  CP Pipe"); slot; slot = strstr(slot + 1, " Inst 0,  CP Pipe")) {
		uint32_t mqd_lo, mqd_hi, is_active;

		if (sscanf(slot, " Inst 0, CP Pipe %*u, Queue %*u %*x: %x %x %x", &mqd_lo, &mqd_hi,
			   &is_active) == 3)
			active += is_active;
	}
	return active;
}

/* A process that has ended is taken off the hardware a moment later. */
static int as_many_are_mapped(int queues)
{
	return GPU_WAIT(gpu_status(0, 0, "mapped") == (uint64_t)queues) && active_slots() == queues;
}

static void the_slots_in_debugfs_are_those_of_mapped_queues(void)
{
	static const struct gpu_plan five = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .gpus = 1, .queues = 5, .waves = 4 };
	struct gpu_worker a = gpu_start(&five, 5), b = gpu_start(&one, 1);

	CHECK(as_many_are_mapped(6));
	CHECK(!gpu_end(&b) && GPU_WAIT(gpu_processes() == 1));
	CHECK(as_many_are_mapped(5));
	CHECK(!gpu_end(&a) && GPU_WAIT(!gpu_processes()));
	CHECK(as_many_are_mapped(0));
}

static uint32_t occupancy(pid_t pid, uint32_t gpu)
{
	char path[96], text[32] = "";

	snprintf(path, sizeof(path), "/sys/class/kfd/kfd/proc/%d/stats_%u/cu_occupancy", pid, gpu);
	CHECK(!gpu_read_file(path, text, sizeof(text)));
	return strtoul(text, NULL, 10);
}

static void what_an_unfinished_packet_has_is_saved_and_shown(void)
{
	struct kfd_ioctl_get_queue_wave_state_args wave = {};
	uint64_t saved = gpu_status(0, 0, "saved"), restored = gpu_status(0, 0, "restored");
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 0);

	gpu_submit(&queue, 3600000000u, 320);
	CHECK(GPU_WAIT(occupancy(getpid(), gpu.id) == 320 / 32));
	CHECK(!gpu_update(&queue, 0));
	CHECK(occupancy(getpid(), gpu.id) == 0);
	CHECK(gpu_status(0, 0, "saved") == saved + 1);
	wave.ctl_stack_address = (uintptr_t)queue.save_area;
	wave.queue_id = queue.id;
	CHECK(!ioctl(gpu.kfd, AMDKFD_IOC_GET_QUEUE_WAVE_STATE, &wave));
	CHECK(wave.ctl_stack_used_size > 0 && wave.save_area_used_size > 0);
	CHECK(!gpu_update(&queue, 100));
	CHECK(gpu_status(0, 0, "restored") == restored + 1);
	CHECK(GPU_WAIT(occupancy(getpid(), gpu.id) == 320 / 32));
	CHECK(gpu_done(queue.area) == 0);
	CHECK(!gpu_destroy(&queue));
}

static void a_doorbell_must_be_rung_where_that_is_asked_for(void)
{
	struct gpu gpu;
	struct gpu_queue queue = make(&gpu, 10);
	uint64_t rung;

	CHECK(GPU_WAIT(gpu_is_idle(queue.area)));
	CHECK(!gpu_set(0, 0, "doorbell_mode", "Y"));
	rung = *queue.doorbell;
	gpu_submit(&queue, 0, 1);
	*queue.doorbell = rung;
	/* Seen all the same if it is mapped anew: work that came meanwhile is not lost. */
	CHECK(!gpu_update(&queue, 0) && !gpu_update(&queue, 100));
	CHECK(GPU_WAIT(gpu_done(queue.area) == 11));
	gpu_submit(&queue, 0, 1);
	CHECK(GPU_WAIT(gpu_done(queue.area) == 12));
	CHECK(!gpu_set(0, 0, "doorbell_mode", "N"));
	CHECK(!gpu_destroy(&queue));
}

/* 30 queues on 24 slots: which of them run in a slice is a matter of counting. */
static void in_exact_mode_turns_are_exact(void)
{
	enum { QUEUES = 30, SLOTS = 24 };
	static struct gpu_queue queues[QUEUES];
	struct gpu_area *areas = gpu_memory(QUEUES * sizeof(*areas));
	uint64_t done[QUEUES] = {};
	struct gpu gpu;
	int slice, i, first = 0;

	CHECK(!gpu_set(0, 0, "exact", "Y"));
	CHECK(gpu_open(&gpu, 1) == 1);
	/* The newest is the first of the runlist. */
	for (i = QUEUES; i--;)
		CHECK(!gpu_create(&gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[i], &queues[i]));
	CHECK(!gpu_update(&queues[0], 0));
	/* Whose turn it was is gone with the over-subscription. */
	for (i = 1; i < QUEUES; i++)
		CHECK(!gpu_update(&queues[i], 0));
	for (i = 0; i < QUEUES; i++)
		CHECK(!gpu_update(&queues[i], 100));
	first = -1;
	for (slice = 0; slice < 20; slice++) {
		int ran = 0;

		for (i = 0; i < QUEUES; i++)
			gpu_submit(&queues[i], 1000, 4);
		CHECK(occupancy(getpid(), gpu.id) == SLOTS * 4 / 32);
		CHECK(!gpu_set(0, 0, "step", "1"));
		for (i = 0; i < QUEUES; i++)
			ran += gpu_done(&areas[i]) != done[i];
		CHECK(ran == SLOTS);
		/* Those that run are neighbours, and the next slice begins where this one ends. */
		for (i = 0; i < QUEUES && first < 0; i++)
			if (gpu_done(&areas[i]) && !gpu_done(&areas[(i + QUEUES - 1) % QUEUES]))
				first = i;
		for (i = 0; i < SLOTS; i++) {
			int q = (first + i) % QUEUES;

			CHECK(gpu_done(&areas[q]) == areas[q].submitted);
		}
		first = (first + SLOTS) % QUEUES;
		for (i = 0; i < QUEUES; i++) {
			done[i] = gpu_done(&areas[i]);
			CHECK(gpu_trail_is_whole(&areas[i]));
		}
	}
	CHECK(!gpu_set(0, 0, "exact", "N"));
	for (i = 0; i < QUEUES; i++)
		CHECK(GPU_WAIT(gpu_is_idle(&areas[i])) && !gpu_destroy(&queues[i]));
}

struct round {
	uint64_t unmap, fence;
};

/* The last round in the log of a device. */
static struct round last_round(int device)
{
	static char text[256 * 1024], what[16];
	struct round round = {};
	unsigned long long ns;
	char *line;

	CHECK(!gpu_read_file(gpu_file(device, 0, "log"), text, sizeof(text)));
	for (line = text; line && *line; line = strchr(line, '\n'), line += !!line) {
		if (sscanf(line, "%*u %llu %15s", &ns, what) != 2)
			continue;
		if (!strcmp(what, "unmap"))
			round.unmap = ns;
		if (!strcmp(what, "fence"))
			round.fence = ns;
	}
	return round;
}

static void the_log_tells_which_rounds_were_in_flight_together(void)
{
	static const struct gpu_plan two = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .gpus = 2, .queues = 1, .waves = 4 };
	struct gpu_worker a = gpu_start(&two, 2);
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	struct kfd_ioctl_queue_policy_args policy = { .queue = entry,
						      .set_flags = KFD_GPREEMPT_POLICY_PREEMPTIBLE };
	struct round rounds[2];
	int lease = open_lease(), device;

	if (lease == -ENOTTY) {
		CHECK(!gpu_end(&a));
		gpu_skip("without leases rounds come one after the other");
	}
	CHECK(!attach(lease, a.pid, &entry.target));
	policy.queue.target = entry.target;
	CHECK(!ioctl(lease, AMDKFD_IOC_SET_QUEUE_POLICY, &policy));
	for (device = 0; device < 2; device++)
		CHECK(!gpu_set(device, 0, "unmap_us", "200000"));
	CHECK(unmap(lease, &entry) == 0 && entry.num_queues == 2);
	for (device = 0; device < 2; device++) {
		rounds[device] = last_round(device);
		CHECK(rounds[device].fence >= rounds[device].unmap + 200000000);
		CHECK(!gpu_set(device, 0, "unmap_us", "0"));
	}
	CHECK(rounds[0].unmap < rounds[1].fence && rounds[1].unmap < rounds[0].fence);
	close(lease);
	CHECK(gpu_runs(&a.areas[0], 5) && gpu_runs(&a.areas[1], 5));
	CHECK(!gpu_end(&a));
}

static void each_node_runs_the_queues_of_a_process(void)
{
	struct gpu_plan plan = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .queues = 2, .waves = 4 };
	struct gpu_worker a, b;
	struct gpu gpus[GPU_MAX];
	int num = gpu_open(gpus, GPU_MAX), i;

	CHECK(num > 1);
	a = gpu_start(&plan, 2 * num);
	b = gpu_start(&plan, 2 * num);
	for (i = 0; i < 2 * num; i++)
		CHECK(gpu_runs(&a.areas[i], 5) && gpu_runs(&b.areas[i], 5));
	CHECK(!gpu_tell(&a, 's') && !gpu_tell(&b, 's'));
	for (i = 0; i < 2 * num; i++) {
		CHECK(GPU_WAIT(gpu_is_idle(&a.areas[i])) && gpu_trail_is_whole(&a.areas[i]));
		CHECK(GPU_WAIT(gpu_is_idle(&b.areas[i])) && gpu_trail_is_whole(&b.areas[i]));
	}
	CHECK(!gpu_end(&a) && !gpu_end(&b));
}

static void a_node_of_cpx_is_one_xcc(void)
{
	struct gpu gpus[GPU_MAX];
	int num = gpu_open(gpus, GPU_MAX), i;

	CHECK(num == 4);
	for (i = 0; i < num; i++) {
		CHECK(gpus[i].xccs == 1);
		CHECK(gpu_status(0, i, "gpu_id") == gpus[i].id);
		CHECK(gpu_status(0, i, "slots") == 24 && gpu_status(0, i, "vmids") == 6);
	}
}

static void eight_devices_have_thirty_slots_each(void)
{
	struct gpu gpus[GPU_MAX];
	int num = gpu_open(gpus, GPU_MAX), i;

	CHECK(num == 8);
	for (i = 0; i < num; i++)
		CHECK(gpus[i].xccs == 4 && gpu_status(i, 0, "slots") == 30);
}

static void nothing_happened_that_must_not(void)
{
	CHECK(gpu_errors() == 0);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	RUN_ALONE(each_node_runs_the_queues_of_a_process);
	if (!strcmp(argv[1], "cpx")) {
		RUN_ALONE(a_node_of_cpx_is_one_xcc);
	} else if (!strcmp(argv[1], "eight")) {
		RUN_ALONE(eight_devices_have_thirty_slots_each);
	} else {
		RUN_ALONE(the_slots_in_debugfs_are_those_of_mapped_queues);
		RUN_ALONE(what_an_unfinished_packet_has_is_saved_and_shown);
		RUN_ALONE(a_doorbell_must_be_rung_where_that_is_asked_for);
		RUN_ALONE(in_exact_mode_turns_are_exact);
		RUN_ALONE(the_log_tells_which_rounds_were_in_flight_together);
		RUN_ALONE(a_process_is_evicted_and_restored);
		RUN_ALONE(an_allocation_of_the_driver_fails);
		RUN_ALONE(a_late_fence_is_none);
		RUN_ALONE(a_queue_that_does_not_leave_is_reset_alone);
		RUN_ALONE(a_slot_that_cannot_be_reset_resets_the_device);
		RUN_ALONE(a_device_is_suspended_resumed_and_reset);
		RUN_ALONE(a_scheduler_that_hangs_is_reset);
		RUN_ALONE(a_scheduler_hangs_at_the_packet_that_it_is_told);
		RUN_ALONE(a_fence_that_is_lost_is_a_hang);
	}
	RUN_ALONE(nothing_happened_that_must_not);
	return failures != 0;
}
