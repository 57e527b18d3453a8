// SPDX-License-Identifier: MIT
/*
 * Tests what may happen to a process while a scheduler has its queues unmapped: it dies, execs, forks, is
 * debugged, is evicted.
 *
 * usage: faults-target [TIMES]
 * Runs as root in the VM of kernel-patch/vm/run, with fake GPUs. Prints TAP.
 */
#define _GNU_SOURCE
#include <sys/ptrace.h>
#include "scene.h"

static int unmap_all(int lease, const struct scene *s, uint32_t target)
{
	return all_of(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, target, queues_of_each(s));
}

static int remap_all(int lease, const struct scene *s, uint32_t target)
{
	return all_of(lease, AMDKFD_IOC_FAST_REMAP, target, queues_of_each(s));
}

/* --- death --------------------------------------------------------------------------------------- */

static void the_death_of_a_process_whose_queues_are_unmapped_costs_the_others_nothing(void)
{
	struct scene s = scene_open();
	int lease = open_lease(), i;
	uint32_t survivor = adopt(lease, s.offline[1].pid);

	for (i = 0; i < times && !failures; i++) {
		struct kfd_gpreempt_entry entry = every_queue(adopt(lease, s.offline[0].pid));

		unmap_all(lease, &s, entry.target);
		unmap_all(lease, &s, survivor);
		CHECK(stand(&s, &s.offline[0]));
		gpu_kill(&s.offline[0]);
		CHECK(!batch(lease, AMDKFD_IOC_FAST_REMAP, &entry, 1, NULL) && entry.result == -ESRCH);
		CHECK(stand(&s, &s.offline[1]));
		remap_all(lease, &s, survivor);
		s.offline[0] = start_offline(&s);
		CHECK(is_well(&s));
	}
	close(lease);
	scene_close(&s);
}

/* Kills the first offline process a moment after it was told to. */
static int kill_soon(int socket, const struct scene *s)
{
	wait_for_command(socket);
	usleep(random() % 9000);
	kill(s->offline[0].pid, SIGKILL);
	report(socket);
	return 0;
}

static void a_process_may_be_killed_inside_a_batch_that_names_it(void)
{
	struct scene s = scene_open();
	struct kfd_gpreempt_entry entries[2];
	struct actor killer;
	int lease = open_lease(), i, round;

	CHECK(!fake_set_all("unmap_us", "2000"));
	entries[1] = every_queue(adopt(lease, s.offline[1].pid));
	for (i = 0; i < times && !failures; i++) {
		random();
		killer = actor_start(kill_soon, &s);
		entries[0] = every_queue(adopt(lease, s.offline[0].pid));
		CHECK(command(&killer));
		for (round = 0; !round || entries[0].result != -ESRCH; round++) {
			CHECK(!batch(lease, round % 2 ? AMDKFD_IOC_FAST_REMAP : AMDKFD_IOC_BATCH_UNMAP_QUEUES, entries, 2, NULL));
			CHECK(!entries[0].result || entries[0].result == -ESRCH);
			CHECK(!entries[1].result && (int)entries[1].num_queues == queues_of_each(&s));
		}
		if (round % 2)
			CHECK(stand(&s, &s.offline[1]));
		remap_all(lease, &s, entries[1].target);
		CHECK(reports(&killer));
		CHECK(actor_end(&killer) == 0);
		gpu_kill(&s.offline[0]);
		s.offline[0] = start_offline(&s);
		CHECK(is_well(&s));
	}
	CHECK(!fake_set_all("unmap_us", "0"));
	close(lease);
	scene_close(&s);
}

static void queues_that_are_destroyed_while_unmapped_leave_room_for_new_ones(void)
{
	struct scene s = scene_open();
	int lease = open_lease(), i;

	for (i = 0; i < times && !failures; i++) {
		uint32_t target = adopt(lease, s.offline[0].pid);

		unmap_all(lease, &s, target);
		CHECK(gpu_end(&s.offline[0]) == 0);
		s.offline[0] = start_offline(&s);
		CHECK(is_well(&s));
	}
	close(lease);
	scene_close(&s);
}

/* --- exec and fork of a target ------------------------------------------------------------------- */

/* The image that a target execs: queues on all GPUs, with areas that are shared through a file. */
static int image(int memory, int socket)
{
	static const struct gpu_plan plan = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .queues = SCENE_QUEUES, .waves = 8 };
	size_t size = lseek(memory, 0, SEEK_END);
	void *areas = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);

	return areas == MAP_FAILED ? 9 : gpu_work(&plan, areas, socket);
}

/* The image before it: has queues of its own, and execs when told. */
static int exec_soon(int socket, const struct scene *s)
{
	struct gpu_area *areas = gpu_memory(queues_of_each(s) * sizeof(*areas));
	struct gpu_queue queues[SCENE_QUEUES];
	struct gpu gpus[GPU_MAX];
	char fds[2][16];
	int memory, i;

	CHECK(gpu_open(gpus, GPU_MAX) == s->gpus);
	for (i = 0; i < SCENE_QUEUES; i++) {
		CHECK(!gpu_create(&gpus[0], KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[i], &queues[i]));
		gpu_feed(&queues[i], 900, 0, 8);
	}
	report(socket);
	wait_for_command(socket);
	/* The test opens it through /proc. */
	memory = memfd_create("areas", 0);
	CHECK(memory >= 0 && !ftruncate(memory, queues_of_each(s) * sizeof(*areas)));
	CHECK(dup2(memory, 100) == 100);
	snprintf(fds[0], sizeof(fds[0]), "%d", 100);
	snprintf(fds[1], sizeof(fds[1]), "%d", socket);
	fcntl(socket, F_SETFD, 0);
	execl("/proc/self/exe", "faults-target", "image", fds[0], fds[1], NULL);
	return 1;
}

static void a_target_that_execs_has_its_policy_and_no_queue_of_before(void)
{
	struct scene s = scene_open();
	int lease = open_lease(), i;

	for (i = 0; i < times && !failures; i++) {
		struct actor actor = actor_start(exec_soon, &s);
		struct gpu_worker worker = { .pid = actor.pid, .socket = actor.socket, .num = queues_of_each(&s) };
		uint32_t target;
		char path[64], byte;
		int fd;

		CHECK(reports(&actor));
		target = adopt(lease, actor.pid);
		all_of(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, target, SCENE_QUEUES);
		CHECK(command(&actor));
		CHECK(read(actor.socket, &byte, 1) == 1);
		snprintf(path, sizeof(path), "/proc/%d/fd/100", actor.pid);
		fd = open(path, O_RDWR);
		worker.areas = mmap(NULL, worker.num * sizeof(struct gpu_area), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		CHECK(worker.areas != MAP_FAILED);
		CHECK(is_whole(&worker));
		/* PREEMPTIBLE was inherited, or this is not allowed. */
		unmap_all(lease, &s, target);
		CHECK(stand(&s, &worker));
		remap_all(lease, &s, target);
		CHECK(is_whole(&worker));
		CHECK(gpu_end(&worker) == 0);
		CHECK(is_well(&s));
	}
	close(lease);
	scene_close(&s);
}

/* Has queues, and leaves a child that keeps /dev/kfd open. */
static int leave_a_child(int socket, const struct scene *s)
{
	struct gpu_area *area = gpu_memory(sizeof(*area));
	struct gpu_queue queue;
	struct gpu gpus[GPU_MAX];

	CHECK(gpu_open(gpus, GPU_MAX) == s->gpus);
	CHECK(!gpu_create(&gpus[0], KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, area, &queue));
	gpu_feed(&queue, 900, 0, 8);
	if (fork()) {
		pause();
		return 0;
	}
	report(socket);
	wait_for_command(socket);
	_exit(0);
}

static void the_queues_of_a_dead_target_go_though_its_child_keeps_the_driver_open(void)
{
	struct scene s = scene_open();
	int lease = open_lease(), i;

	for (i = 0; i < times && !failures; i++) {
		struct actor actor = actor_start(leave_a_child, &s);
		struct kfd_gpreempt_entry entry;

		CHECK(reports(&actor));
		entry = every_queue(adopt(lease, actor.pid));
		all_of(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, entry.target, 1);
		kill(actor.pid, SIGKILL);
		waitpid(actor.pid, NULL, 0);
		CHECK(!batch(lease, AMDKFD_IOC_FAST_REMAP, &entry, 1, NULL) && entry.result == -ESRCH);
		CHECK(is_well(&s));
		CHECK(command(&actor));
		close(actor.socket);
	}
	close(lease);
	scene_close(&s);
}

/* --- the debugger -------------------------------------------------------------------------------- */

static int trap(int kfd, struct kfd_ioctl_dbg_trap_args *args)
{
	int ret = ioctl(kfd, AMDKFD_IOC_DBG_TRAP, args);

	return ret < 0 ? -errno : ret;
}

/* Attaches to the first offline process, suspends all its queues when told, and resumes them when told again. */
static int debug(int socket, const struct scene *s)
{
	struct kfd_queue_snapshot_entry snapshot[64] = {};
	struct kfd_ioctl_dbg_trap_args args;
	struct kfd_runtime_info info;
	int kfd = open("/dev/kfd", O_RDWR | O_CLOEXEC), num = queues_of_each(s), events[2], i;
	pid_t pid = s->offline[0].pid;
	uint32_t ids[64];

	CHECK(!pipe(events) && num <= 64);
	CHECK(!ptrace(PTRACE_SEIZE, pid, NULL, NULL));
	args = (struct kfd_ioctl_dbg_trap_args) { .pid = pid, .op = KFD_IOC_DBG_TRAP_ENABLE };
	args.enable.rinfo_ptr = (uintptr_t)&info;
	args.enable.rinfo_size = sizeof(info);
	args.enable.dbg_fd = events[1];
	CHECK(!trap(kfd, &args));
	/* It must have seen a queue before it can suspend it. */
	args = (struct kfd_ioctl_dbg_trap_args) { .pid = pid, .op = KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT };
	args.queue_snapshot.exception_mask = ~0ULL;
	args.queue_snapshot.snapshot_buf_ptr = (uintptr_t)snapshot;
	args.queue_snapshot.num_queues = 64;
	args.queue_snapshot.entry_size = sizeof(snapshot[0]);
	CHECK(!trap(kfd, &args) && (int)args.queue_snapshot.num_queues == num);
	report(socket);
	while (!failures) {
		wait_for_command(socket);
		for (i = 0; i < num; i++)
			ids[i] = s->offline[0].areas[i].queue_id;
		args = (struct kfd_ioctl_dbg_trap_args) { .pid = pid, .op = KFD_IOC_DBG_TRAP_SUSPEND_QUEUES };
		args.suspend_queues.queue_array_ptr = (uintptr_t)ids;
		args.suspend_queues.num_queues = num;
		CHECK(trap(kfd, &args) == num);
		report(socket);
		wait_for_command(socket);
		args = (struct kfd_ioctl_dbg_trap_args) { .pid = pid, .op = KFD_IOC_DBG_TRAP_RESUME_QUEUES };
		args.resume_queues.queue_array_ptr = (uintptr_t)ids;
		args.resume_queues.num_queues = num;
		CHECK(trap(kfd, &args) == num);
		report(socket);
	}
	return 1;
}

static void queues_run_once_both_the_debugger_and_the_lease_let_them(void)
{
	struct scene s = scene_open();
	struct actor debugger = actor_start(debug, &s);
	int lease = open_lease(), i;
	uint32_t target = adopt(lease, s.offline[0].pid);

	CHECK(reports(&debugger));
	for (i = 0; i < times && !failures; i++) {
		unmap_all(lease, &s, target);
		CHECK(command(&debugger) && reports(&debugger));
		if (i % 2)
			CHECK(command(&debugger) && reports(&debugger));
		else
			remap_all(lease, &s, target);
		CHECK(stand(&s, &s.offline[0]));
		if (i % 2)
			remap_all(lease, &s, target);
		else
			CHECK(command(&debugger) && reports(&debugger));
		CHECK(is_well(&s));
	}
	actor_kill(&debugger);
	CHECK(is_well(&s));
	close(lease);
	scene_close(&s);
}

static void the_death_of_the_debugger_leaves_the_queues_to_the_lease(void)
{
	struct scene s = scene_open();
	int lease = open_lease(), i;
	uint32_t target = adopt(lease, s.offline[0].pid);

	for (i = 0; i < times && !failures; i++) {
		struct actor debugger = actor_start(debug, &s);

		CHECK(reports(&debugger));
		unmap_all(lease, &s, target);
		CHECK(command(&debugger) && reports(&debugger));
		actor_kill(&debugger);
		CHECK(stand(&s, &s.offline[0]));
		remap_all(lease, &s, target);
		CHECK(is_well(&s));
	}
	close(lease);
	scene_close(&s);
}

static void the_death_of_the_scheduler_leaves_the_queues_to_the_debugger(void)
{
	struct scene s = scene_open();
	struct actor debugger = actor_start(debug, &s);
	int i;

	CHECK(reports(&debugger));
	for (i = 0; i < times && !failures; i++) {
		int lease = open_lease();

		unmap_all(lease, &s, adopt(lease, s.offline[0].pid));
		CHECK(command(&debugger) && reports(&debugger));
		close(lease);
		CHECK(stand(&s, &s.offline[0]));
		CHECK(command(&debugger) && reports(&debugger));
		CHECK(is_well(&s));
	}
	actor_kill(&debugger);
	scene_close(&s);
}

/* --- eviction ------------------------------------------------------------------------------------ */

static void queues_run_once_memory_management_and_the_lease_let_them(void)
{
	struct scene s = scene_open();
	int lease = open_lease(), i;
	uint32_t target = adopt(lease, s.offline[0].pid);
	pid_t pid = s.offline[0].pid;

	for (i = 0; i < times && !failures; i++) {
		if (i % 2)
			unmap_all(lease, &s, target);
		CHECK(!fake_ctl("evict", pid));
		if (!(i % 2))
			unmap_all(lease, &s, target);
		CHECK(stand(&s, &s.offline[0]));
		if (i / 2 % 2)
			CHECK(!fake_ctl("restore", pid));
		else
			remap_all(lease, &s, target);
		CHECK(stand(&s, &s.offline[0]));
		CHECK(is_whole(&s.offline[1]));
		if (i / 2 % 2)
			remap_all(lease, &s, target);
		else
			CHECK(!fake_ctl("restore", pid));
		CHECK(is_well(&s));
	}
	close(lease);
	scene_close(&s);
}

static void the_end_of_a_lease_does_not_end_an_eviction(void)
{
	struct scene s = scene_open();
	pid_t pid = s.offline[0].pid;
	int i;

	for (i = 0; i < times && !failures; i++) {
		int lease = open_lease();

		unmap_all(lease, &s, adopt(lease, pid));
		CHECK(!fake_ctl("evict", pid));
		close(lease);
		CHECK(stand(&s, &s.offline[0]));
		CHECK(!fake_ctl("restore", pid));
		CHECK(is_well(&s));
	}
	scene_close(&s);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "image"))
		return image(atoi(argv[2]), atoi(argv[3]));
	if (argc > 1)
		times = atoi(argv[1]);
	RUN_SCENARIO(the_death_of_a_process_whose_queues_are_unmapped_costs_the_others_nothing);
	RUN_SCENARIO(a_process_may_be_killed_inside_a_batch_that_names_it);
	RUN_SCENARIO(queues_that_are_destroyed_while_unmapped_leave_room_for_new_ones);
	RUN_SCENARIO(a_target_that_execs_has_its_policy_and_no_queue_of_before);
	RUN_SCENARIO(the_queues_of_a_dead_target_go_though_its_child_keeps_the_driver_open);
	RUN_SCENARIO(queues_run_once_both_the_debugger_and_the_lease_let_them);
	RUN_SCENARIO(the_death_of_the_debugger_leaves_the_queues_to_the_lease);
	RUN_SCENARIO(the_death_of_the_scheduler_leaves_the_queues_to_the_debugger);
	RUN_SCENARIO(queues_run_once_memory_management_and_the_lease_let_them);
	RUN_SCENARIO(the_end_of_a_lease_does_not_end_an_eviction);
	return failures != 0;
}
