// SPDX-License-Identifier: MIT
/*
 * Tests tier debugger: the library on the driver without the series, with real processes on fake GPUs.
 *
 * usage: stock LIBRARY
 * Runs as root in the VM of kernel-patch/vm/run, with fake_nodes=2 or more. Prints TAP.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/stat.h>
#include "gpu.h"
#include "gpreempt_poc_v2.h"

#define NODES 2

static __typeof__(gpreempt_poc_init) *init;
static __typeof__(gpreempt_poc_cleanup) *cleanup;
static __typeof__(gpreempt_poc_last_error) *last_error;
static __typeof__(gpreempt_get_hqd_status) *get_status;
static __typeof__(gpreempt_register_queue) *register_queue;
static __typeof__(gpreempt_set_queue_policy) *set_policy;
static __typeof__(gpreempt_batch_unmap_queues) *unmap_queues;
static __typeof__(gpreempt_fast_remap_queues) *remap_queues;
static __typeof__(gpreempt_is_queue_active) *is_active;

/* A queue on each node. */
static const struct gpu_plan plan = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .queues = 1, .waves = 4 };

/* What a scheduler stops. */
static struct gpu_worker start_job(const struct gpu_plan *of, int queues)
{
	struct gpu_worker job;

	gpu_enable_runtime = 1;
	job = gpu_start(of, queues);
	gpu_enable_runtime = 0;
	return job;
}

/* Registers each queue of a worker and puts it into the offline class. */
static void adopt(struct gpu_worker *worker, uint32_t *queues)
{
	int i;

	for (i = 0; i < worker->num; i++) {
		CHECK(!register_queue(worker->pid, worker->areas[i].queue_id, GPREEMPT_ALL_GPUS, &queues[i]));
		CHECK(!set_policy(queues[i], GPREEMPT_QUEUE_PREEMPTIBLE));
	}
}

static int all_stand(struct gpu_worker *worker, struct gpu_worker *others)
{
	int i, stand = 1;

	for (i = 0; i < worker->num; i++)
		stand &= gpu_stands(&worker->areas[i], &others->areas[i]);
	return stand;
}

static int all_run(struct gpu_worker *worker)
{
	int i, run = 1;

	for (i = 0; i < worker->num; i++)
		run &= gpu_runs(&worker->areas[i], 20);
	return run;
}

static void a_batch_stops_the_queues_of_another_process_and_starts_them_again(void)
{
	struct gpu_worker job = start_job(&plan, NODES), server = gpu_start(&plan, NODES);
	struct gpreempt_hqd_status status;
	uint32_t queues[NODES];
	int i;

	CHECK(job.pid > 0 && server.pid > 0);
	CHECK(!init());
	CHECK(!get_status(&status) && status.active == 2 * NODES);
	adopt(&job, queues);
	CHECK(all_run(&job));
	for (i = 0; i < 3; i++) {
		CHECK(!unmap_queues(queues, NODES, 0));
		CHECK(all_stand(&job, &server) && is_active(queues[0]) == 0);
		CHECK(gpu_trail_is_whole(&job.areas[0]));
		CHECK(!get_status(&status) && status.active == NODES);
		CHECK(!remap_queues(queues, NODES));
		CHECK(all_run(&job) && is_active(queues[0]) == 1);
	}
	CHECK(!cleanup());
	CHECK(!gpu_end(&job) && !gpu_end(&server));
}

static void what_is_not_of_the_offline_class_stays(void)
{
	struct gpu_worker job = start_job(&plan, NODES);
	uint32_t queue;

	CHECK(job.pid > 0 && !init());
	CHECK(!register_queue(job.pid, job.areas[0].queue_id, GPREEMPT_ALL_GPUS, &queue));
	CHECK(unmap_queues(&queue, 1, 0) == -EPERM);
	CHECK(all_run(&job));
	CHECK(!cleanup() && !gpu_end(&job));
}

static void a_queue_made_after_the_attach_is_stopped_too(void)
{
	struct gpu_area *areas = gpu_memory(2 * sizeof(*areas));
	struct kfd_ioctl_runtime_enable_args runtime = { .mode_mask = KFD_RUNTIME_ENABLE_MODE_ENABLE_MASK };
	struct gpu_queue first, second;
	struct gpu gpus[NODES];
	uint32_t ids[2];

	/* Of this process itself, which needs no mark. */
	CHECK(gpu_open(gpus, NODES) == NODES);
	CHECK(!ioctl(gpus[0].kfd, AMDKFD_IOC_RUNTIME_ENABLE, &runtime));
	CHECK(!gpu_create(&gpus[1], KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[0], &first));
	CHECK(!init());
	ids[0] = first.id;
	CHECK(!unmap_queues(ids, 1, 0) && !remap_queues(ids, 1));
	CHECK(!gpu_create(&gpus[1], KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[1], &second));
	ids[1] = second.id;
	CHECK(!unmap_queues(ids, 2, 0));
	gpu_feed(&second, 50, 0, 1);
	CHECK(is_active(second.id) == 0 && !gpu_is_idle(&areas[1]));
	CHECK(!remap_queues(ids, 2));
	CHECK(GPU_WAIT(gpu_is_idle(&areas[1])) && gpu_done(&areas[1]) == 50);
	CHECK(!cleanup());
	CHECK(!gpu_destroy(&first) && !gpu_destroy(&second));
}

/* A scheduler that stops a job and then lives on until it is killed. */
static pid_t start_scheduler(struct gpu_worker *job)
{
	int pair[2];
	pid_t pid;
	char byte;

	CHECK(!pipe(pair));
	fflush(stdout);
	pid = fork();
	if (!pid) {
		uint32_t queues[NODES];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		failures = 0;
		CHECK(!init());
		adopt(job, queues);
		CHECK(!unmap_queues(queues, NODES, 0));
		if (failures)
			_exit(1);
		if (write(pair[1], "", 1) != 1)
			_exit(2);
		for (;;)
			pause();
	}
	close(pair[1]);
	CHECK(read(pair[0], &byte, 1) == 1);
	close(pair[0]);
	return pid;
}

static void a_scheduler_that_is_killed_leaves_nothing_stopped(void)
{
	struct gpu_worker job = start_job(&plan, NODES), server = gpu_start(&plan, NODES);
	pid_t scheduler;
	int i;

	CHECK(job.pid > 0 && server.pid > 0);
	for (i = 0; i < 5; i++) {
		scheduler = start_scheduler(&job);
		CHECK(all_stand(&job, &server));
		CHECK(!kill(scheduler, SIGKILL) && waitpid(scheduler, NULL, 0) == scheduler);
		CHECK(all_run(&job));
	}
	CHECK(!gpu_end(&job) && !gpu_end(&server));
}

static void a_job_that_is_killed_while_it_is_stopped_goes(void)
{
	struct gpu_worker job = start_job(&plan, NODES), server = gpu_start(&plan, NODES);
	uint32_t queues[NODES];

	CHECK(job.pid > 0 && server.pid > 0 && !init());
	adopt(&job, queues);
	CHECK(!unmap_queues(queues, NODES, 0));
	gpu_kill(&job);
	CHECK(GPU_WAIT(is_active(queues[0]) == -ESRCH));
	CHECK(!remap_queues(queues, NODES));
	CHECK(all_run(&server));
	CHECK(!cleanup() && !gpu_end(&server));
}

static void a_process_without_a_vm_on_each_node_is_spared(void)
{
	/* A VM and a queue on the first node alone: suspending it makes this kernel dereference NULL. */
	struct gpu_plan first = plan;
	struct gpu_worker job;
	uint32_t queue;

	first.gpus = 1;
	job = start_job(&first, 1);
	CHECK(job.pid > 0 && !init());
	CHECK(!register_queue(job.pid, job.areas[0].queue_id, GPREEMPT_ALL_GPUS, &queue));
	CHECK(!set_policy(queue, GPREEMPT_QUEUE_PREEMPTIBLE));
	CHECK(unmap_queues(&queue, 1, 0) == -EOPNOTSUPP);
	CHECK(all_run(&job));
	CHECK(!cleanup() && !gpu_end(&job));
}

static void a_process_that_enabled_no_runtime_is_refused(void)
{
	struct gpu_worker job = gpu_start(&plan, NODES);
	uint32_t queue;

	CHECK(job.pid > 0 && !init());
	CHECK(register_queue(job.pid, job.areas[0].queue_id, GPREEMPT_ALL_GPUS, &queue) == -EOPNOTSUPP);
	CHECK(strstr(last_error(), "RUNTIME_ENABLE") != NULL);
	CHECK(all_run(&job));
	CHECK(!cleanup() && !gpu_end(&job));
}

static void a_user_without_the_right_is_told_which_rule_says_so(void)
{
	struct gpu_worker job = start_job(&plan, NODES);
	uint32_t queue;

	CHECK(job.pid > 0 && !chmod("/dev/kfd", 0666) && !setresuid(1000, 1000, 1000));
	CHECK(!init());
	CHECK(register_queue(job.pid, job.areas[0].queue_id, GPREEMPT_ALL_GPUS, &queue) == -EPERM);
	CHECK(strstr(last_error(), "belongs to uid 0, this process to uid 1000") != NULL);
	CHECK(!cleanup());
	CHECK(all_run(&job) && !gpu_end(&job));
}

/* ISO C has no cast from what dlsym returns to a function. */
static int load(void *library, const char *name, void *function)
{
	void *symbol = dlsym(library, name);

	memcpy(function, &symbol, sizeof(symbol));
	return symbol != NULL;
}

int main(int argc, char **argv)
{
	void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;

	/* Jobs alone let a debugger in. */
	gpu_enable_runtime = 0;
	if (!library || !load(library, "gpreempt_poc_init", &init) || !load(library, "gpreempt_poc_cleanup", &cleanup) ||
	    !load(library, "gpreempt_poc_last_error", &last_error) ||
	    !load(library, "gpreempt_get_hqd_status", &get_status) ||
	    !load(library, "gpreempt_register_queue", &register_queue) ||
	    !load(library, "gpreempt_set_queue_policy", &set_policy) ||
	    !load(library, "gpreempt_batch_unmap_queues", &unmap_queues) ||
	    !load(library, "gpreempt_fast_remap_queues", &remap_queues) ||
	    !load(library, "gpreempt_is_queue_active", &is_active)) {
		printf("not ok 1 the library loads\n# %s\n", dlerror());
		return 1;
	}
	RUN_ALONE(a_batch_stops_the_queues_of_another_process_and_starts_them_again);
	RUN_ALONE(what_is_not_of_the_offline_class_stays);
	RUN_ALONE(a_queue_made_after_the_attach_is_stopped_too);
	RUN_ALONE(a_scheduler_that_is_killed_leaves_nothing_stopped);
	RUN_ALONE(a_job_that_is_killed_while_it_is_stopped_goes);
	RUN_ALONE(a_process_without_a_vm_on_each_node_is_spared);
	RUN_ALONE(a_process_that_enabled_no_runtime_is_refused);
	RUN_ALONE(a_user_without_the_right_is_told_which_rule_says_so);
	CHECK(!gpu_errors());
	return failures != 0;
}
