// SPDX-License-Identifier: MIT
/*
 * Tests queues of user programs on fake GPUs: that they run, that what takes them off the hardware
 * stops them at once, and that no packet is lost or runs twice.
 *
 * Runs as root in the VM of kernel-patch/vm/run, with fake_nodes=2 or more. Prints TAP.
 */
#define _GNU_SOURCE
#include "scene.h"

static const struct gpu_plan one_aql = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .gpus = 1, .queues = 1, .waves = 4 };

static void queues_of_every_type_run_their_packets(void)
{
	static const uint32_t types[] = { KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, KFD_IOC_QUEUE_TYPE_COMPUTE,
					  KFD_IOC_QUEUE_TYPE_SDMA };
	struct gpu_area *areas = gpu_memory(3 * sizeof(*areas));
	struct gpu_queue queues[3];
	struct gpu gpus[GPU_MAX];
	int i, num = gpu_open(gpus, GPU_MAX);

	CHECK(num >= 2);
	for (i = 0; i < 3; i++) {
		CHECK(!gpu_create(&gpus[i % 2], types[i], &areas[i], &queues[i]));
		gpu_feed(&queues[i], 300, 0, 1);
	}
	for (i = 0; i < 3; i++) {
		CHECK(GPU_WAIT(gpu_is_idle(&areas[i])));
		CHECK(gpu_done(&areas[i]) == 300 && gpu_trail_is_whole(&areas[i]));
		CHECK(!gpu_destroy(&queues[i]));
	}
	close(gpus[0].kfd);
}

static void an_update_to_0_percent_stops_a_queue_at_once(void)
{
	struct gpu_area *areas = gpu_memory(2 * sizeof(*areas));
	struct gpu_queue queue, other;
	struct gpu gpus[GPU_MAX];

	CHECK(gpu_open(gpus, 1) == 1);
	CHECK(!gpu_create(&gpus[0], KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[0], &queue));
	CHECK(!gpu_create(&gpus[0], KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[1], &other));
	gpu_feed(&queue, 900, 0, 1);
	gpu_feed(&other, 900, 0, 1);
	CHECK(gpu_runs(&areas[0], 20));
	CHECK(!gpu_update(&queue, 0));
	CHECK(!gpu_is_idle(&areas[0]));
	CHECK(gpu_stands(&areas[0], &areas[1]));
	CHECK(gpu_trail_is_whole(&areas[0]));
	CHECK(!gpu_update(&queue, 100));
	CHECK(GPU_WAIT(gpu_is_idle(&areas[0])));
	CHECK(gpu_done(&areas[0]) == 900 && gpu_trail_is_whole(&areas[0]));
	CHECK(!gpu_destroy(&queue) && !gpu_destroy(&other));
	close(gpus[0].kfd);
}

static void a_packet_that_was_interrupted_goes_on_and_does_not_start_again(void)
{
	struct gpu_area *area = gpu_memory(sizeof(*area));
	struct gpu_queue queue;
	struct gpu gpu;
	double start;
	int i;

	CHECK(gpu_open(&gpu, 1) == 1);
	CHECK(!gpu_create(&gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, area, &queue));
	/* Were its time lost at each preemption, it would never end. */
	gpu_submit(&queue, 300000, 64);
	for (start = gpu_now(), i = 0; !gpu_is_idle(area) && gpu_now() < start + GPU_SLOWEST_S; i++) {
		usleep(20000);
		CHECK(!gpu_update(&queue, 0) && !gpu_update(&queue, 100));
	}
	CHECK(gpu_is_idle(area) && i > 2);
	CHECK(gpu_done(area) == 1 && gpu_trail_is_whole(area));
	CHECK(!gpu_destroy(&queue));
	close(gpu.kfd);
}

static void a_barrier_completes_its_signal_when_its_turn_comes(void)
{
	enum { BARRIER_AND = 3, SIGNAL_DW = 14 };
	struct gpu_area *area = gpu_memory(sizeof(*area));
	volatile int64_t *signal = (volatile int64_t *)((char *)area + GPU_PAGE / 2);
	struct gpu_queue queue;
	struct gpu gpu;
	uint32_t *packet;

	CHECK(gpu_open(&gpu, 1) == 1);
	CHECK(!gpu_create(&gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, area, &queue));
	gpu_feed(&queue, 100, 0, 1);
	packet = (uint32_t *)(queue.ring + 100 * GPU_PACKET);
	packet[0] = BARRIER_AND;
	memcpy(&packet[SIGNAL_DW], &(uint64_t){ (uintptr_t)signal }, sizeof(uint64_t));
	/* What a runtime waits for is the second u64 of a signal. */
	signal[1] = 1;
	__sync_synchronize();
	area->wptr = 101;
	CHECK(GPU_WAIT(signal[1] == 0));
	CHECK(gpu_done(area) == 100);
	CHECK(GPU_WAIT(gpu_is_idle(area)) && signal[1] == 0);
	CHECK(!gpu_destroy(&queue));
}

static void the_driver_checks_ring_and_save_area(void)
{
	struct kfd_ioctl_update_queue_args update;
	struct gpu_area *areas = gpu_memory(2 * sizeof(*areas));
	struct gpu_queue queue, bad;
	struct gpu gpu;

	CHECK(gpu_open(&gpu, 1) == 1);
	CHECK(!gpu_create(&gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[0], &queue));
	update = (struct kfd_ioctl_update_queue_args) {
		.queue_id = queue.id,
		.ring_base_address = (uintptr_t)queue.ring,
		.ring_size = GPU_RING / 2,
		.queue_percentage = 100,
		.queue_priority = 7,
	};
	CHECK(ioctl(gpu.kfd, AMDKFD_IOC_UPDATE_QUEUE, &update) < 0 && errno == EFAULT);
	CHECK(gpu_unmap(&gpu, queue.handles[0]) < 0 && errno == EBUSY);
	gpu.cwsr_size -= GPU_PAGE;
	CHECK(gpu_create(&gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[1], &bad) < 0 && errno == EINVAL);
	gpu_submit(&queue, 0, 1);
	CHECK(GPU_WAIT(gpu_is_idle(&areas[0])));
	close(gpu.kfd);
}

static void a_cu_mask_leaves_the_work_whole(void)
{
	uint32_t mask[4] = { 0xff, 0, 0, 0 };
	struct kfd_ioctl_set_cu_mask_args args = { .num_cu_mask = 128, .cu_mask_ptr = (uintptr_t)mask };
	struct gpu_area *area = gpu_memory(sizeof(*area));
	struct gpu_queue queue;
	struct gpu gpu;

	CHECK(gpu_open(&gpu, 1) == 1);
	CHECK(!gpu_create(&gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, area, &queue));
	gpu_feed(&queue, 500, 0, 1);
	args.queue_id = queue.id;
	CHECK(!ioctl(gpu.kfd, AMDKFD_IOC_SET_CU_MASK, &args));
	CHECK(GPU_WAIT(gpu_is_idle(area)));
	CHECK(gpu_done(area) == 500 && gpu_trail_is_whole(area));
	CHECK(!gpu_destroy(&queue));
	close(gpu.kfd);
}

static void a_debugger_suspends_and_resumes_queues(void)
{
	struct kfd_queue_snapshot_entry snapshot[4] = {};
	struct kfd_ioctl_runtime_enable_args runtime = { .mode_mask = KFD_RUNTIME_ENABLE_MODE_ENABLE_MASK };
	struct kfd_ioctl_dbg_trap_args args = { .pid = getpid(), .op = KFD_IOC_DBG_TRAP_ENABLE };
	struct kfd_runtime_info info;
	struct gpu_area *areas = gpu_memory(2 * sizeof(*areas));
	struct gpu_worker other = gpu_start(&one_aql, 1);
	struct gpu_queue queue;
	struct gpu gpu;
	uint32_t id;
	int events[2];

	CHECK(!pipe(events));
	CHECK(gpu_open(&gpu, 1) == 1);
	CHECK(!ioctl(gpu.kfd, AMDKFD_IOC_RUNTIME_ENABLE, &runtime));
	CHECK(!gpu_create(&gpu, KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[0], &queue));
	gpu_feed(&queue, 900, 0, 1);
	args.enable.rinfo_ptr = (uintptr_t)&info;
	args.enable.rinfo_size = sizeof(info);
	args.enable.dbg_fd = events[1];
	CHECK(!ioctl(gpu.kfd, AMDKFD_IOC_DBG_TRAP, &args));
	/* A debugger must have seen a queue before it can suspend it. */
	args = (struct kfd_ioctl_dbg_trap_args) { .pid = getpid(), .op = KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT };
	args.queue_snapshot.exception_mask = ~0ULL;
	args.queue_snapshot.snapshot_buf_ptr = (uintptr_t)snapshot;
	args.queue_snapshot.num_queues = 4;
	args.queue_snapshot.entry_size = sizeof(snapshot[0]);
	CHECK(!ioctl(gpu.kfd, AMDKFD_IOC_DBG_TRAP, &args) && args.queue_snapshot.num_queues == 1);
	id = queue.id;
	args = (struct kfd_ioctl_dbg_trap_args) { .pid = getpid(), .op = KFD_IOC_DBG_TRAP_SUSPEND_QUEUES };
	args.suspend_queues.queue_array_ptr = (uintptr_t)&id;
	args.suspend_queues.num_queues = 1;
	CHECK(ioctl(gpu.kfd, AMDKFD_IOC_DBG_TRAP, &args) == 1);
	CHECK(gpu_stands(&areas[0], &other.areas[0]));
	id = queue.id;
	args = (struct kfd_ioctl_dbg_trap_args) { .pid = getpid(), .op = KFD_IOC_DBG_TRAP_RESUME_QUEUES };
	args.resume_queues.queue_array_ptr = (uintptr_t)&id;
	args.resume_queues.num_queues = 1;
	CHECK(ioctl(gpu.kfd, AMDKFD_IOC_DBG_TRAP, &args) == 1);
	CHECK(GPU_WAIT(gpu_is_idle(&areas[0])));
	CHECK(gpu_done(&areas[0]) == 900 && gpu_trail_is_whole(&areas[0]));
	args = (struct kfd_ioctl_dbg_trap_args) { .pid = getpid(), .op = KFD_IOC_DBG_TRAP_DISABLE };
	CHECK(!ioctl(gpu.kfd, AMDKFD_IOC_DBG_TRAP, &args));
	CHECK(!gpu_destroy(&queue));
	CHECK(gpu_end(&other) == 0);
	close(gpu.kfd);
}

static void preempt_and_give_back(uint32_t type)
{
	const struct gpu_plan offline = { .type = type, .gpus = 2, .queues = 3, .waves = 8 };
	const struct gpu_plan online = { .type = type, .gpus = 2, .queues = 1, .waves = 1 };
	struct gpu_worker a = gpu_start(&offline, 6), b = gpu_start(&online, 2);
	int lease = open_lease(), round, i;
	uint32_t target;

	CHECK(a.pid > 0 && b.pid > 0 && lease >= 0);
	target = adopt(lease, a.pid);
	for (round = 0; round < 10; round++) {
		for (i = 0; i < 6; i++)
			CHECK(gpu_runs(&a.areas[i], 5));
		CHECK(all_of(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, target, 6) == 2);
		for (i = 0; i < 6; i++)
			CHECK(gpu_stands(&a.areas[i], &b.areas[i / 3]));
		for (i = 0; i < 6; i++)
			CHECK(gpu_trail_is_whole(&a.areas[i]));
		CHECK(all_of(lease, AMDKFD_IOC_FAST_REMAP, target, 6) == 2);
	}
	CHECK(!gpu_tell(&a, 's') && !gpu_tell(&b, 's'));
	for (i = 0; i < 6; i++) {
		CHECK(GPU_WAIT(gpu_is_idle(&a.areas[i])));
		CHECK(gpu_done(&a.areas[i]) == a.areas[i].submitted && gpu_trail_is_whole(&a.areas[i]));
	}
	for (i = 0; i < 2; i++) {
		CHECK(GPU_WAIT(gpu_is_idle(&b.areas[i])));
		CHECK(gpu_done(&b.areas[i]) == b.areas[i].submitted && gpu_trail_is_whole(&b.areas[i]));
	}
	CHECK(gpu_end(&a) == 0 && gpu_end(&b) == 0);
	close(lease);
}

static void one_process_preempts_another_and_gives_back(void)
{
	preempt_and_give_back(KFD_IOC_QUEUE_TYPE_COMPUTE_AQL);
}

static void so_it_does_with_pm4_queues(void)
{
	preempt_and_give_back(KFD_IOC_QUEUE_TYPE_COMPUTE);
}

static void so_it_does_with_sdma_queues(void)
{
	preempt_and_give_back(KFD_IOC_QUEUE_TYPE_SDMA);
}

static void a_killed_process_leaves_the_others_running(void)
{
	struct gpu_worker a = gpu_start(&one_aql, 1), b = gpu_start(&one_aql, 1);

	CHECK(gpu_runs(&a.areas[0], 5) && gpu_runs(&b.areas[0], 5));
	gpu_kill(&a);
	CHECK(gpu_runs(&b.areas[0], 50));
	CHECK(gpu_trail_is_whole(&b.areas[0]));
	CHECK(gpu_end(&b) == 0);
}

static void more_queues_than_slots_take_turns(void)
{
	static const struct gpu_plan many = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .gpus = 1, .queues = 30, .waves = 1 };
	struct gpu_worker a = gpu_start(&many, 30);
	int i;

	CHECK(a.pid > 0);
	for (i = 0; i < 30; i++)
		CHECK(gpu_runs(&a.areas[i], 5));
	CHECK(!gpu_tell(&a, 's'));
	for (i = 0; i < 30; i++) {
		CHECK(GPU_WAIT(gpu_is_idle(&a.areas[i])));
		CHECK(gpu_done(&a.areas[i]) == a.areas[i].submitted && gpu_trail_is_whole(&a.areas[i]));
	}
	CHECK(gpu_end(&a) == 0);
}

static void more_processes_than_vmids_take_turns(void)
{
	struct gpu_worker workers[16];
	int i;

	for (i = 0; i < 16; i++)
		workers[i] = gpu_start(&one_aql, 1);
	for (i = 0; i < 16; i++)
		CHECK(gpu_runs(&workers[i].areas[0], 5));
	for (i = 0; i < 16; i++)
		CHECK(gpu_end(&workers[i]) == 0);
}

static void global_wave_sync_is_for_one_process_at_a_time(void)
{
	struct gpu_plan plan = one_aql;
	struct gpu_worker workers[3];
	int i;

	plan.gws = 1;
	for (i = 0; i < 3; i++)
		workers[i] = gpu_start(&plan, 1);
	CHECK(gpu_status(0, 0, "oversubscribed") == 1 && gpu_status(0, 0, "mapped") == 1);
	for (i = 0; i < 3; i++)
		CHECK(gpu_runs(&workers[i].areas[0], 20));
	for (i = 0; i < 3; i++)
		CHECK(gpu_trail_is_whole(&workers[i].areas[0]) && gpu_end(&workers[i]) == 0);
}

static void nothing_happened_that_must_not(void)
{
	CHECK(gpu_errors() == 0);
}

int main(void)
{
	RUN_ALONE(queues_of_every_type_run_their_packets);
	RUN_ALONE(an_update_to_0_percent_stops_a_queue_at_once);
	RUN_ALONE(a_packet_that_was_interrupted_goes_on_and_does_not_start_again);
	RUN_ALONE(a_barrier_completes_its_signal_when_its_turn_comes);
	RUN_ALONE(the_driver_checks_ring_and_save_area);
	RUN_ALONE(a_cu_mask_leaves_the_work_whole);
	RUN_ALONE(a_debugger_suspends_and_resumes_queues);
	RUN_ALONE(one_process_preempts_another_and_gives_back);
	RUN_ALONE(so_it_does_with_pm4_queues);
	RUN_ALONE(so_it_does_with_sdma_queues);
	RUN_ALONE(a_killed_process_leaves_the_others_running);
	RUN_ALONE(more_queues_than_slots_take_turns);
	RUN_ALONE(more_processes_than_vmids_take_turns);
	RUN_ALONE(global_wave_sync_is_for_one_process_at_a_time);
	RUN_ALONE(nothing_happened_that_must_not);
	return failures != 0;
}
