/* SPDX-License-Identifier: MIT */
/* Eight threads call everything while another opens and closes the session under them. */

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "check.h"

#define CALLERS 8
#define ROUNDS 200

static atomic_int running = CALLERS;

/* What a call may answer here: what it answers in peace, or that there is no session. */
#define IN_PEACE_OR_CLOSED(condition, call)                                                                    \
	do {                                                                                                   \
		int32_t got = (call);                                                                          \
		if (!(condition) && got != -ENODEV) {                                                          \
			fprintf(stderr, "%s:%d: %s returned %d: %s\n", __FILE__, __LINE__, #call, got,         \
				gpreempt_poc_last_error());                                                    \
			exit(1);                                                                               \
		}                                                                                              \
	} while (0)

static void *call_everything(void *argument)
{
	uint32_t pid = *(uint32_t *)argument, round;

	for (round = 0; round < ROUNDS; round++) {
		struct gpreempt_queue_info *infos = NULL;
		struct gpreempt_hqd_status_ex status;
		uint32_t queue = 0;
		int32_t count = 0;

		IN_PEACE_OR_CLOSED(got == 0, gpreempt_register_queue(pid, round % 2, 0, &queue));
		if (queue == 0)
			continue;
		/* A later session may not have given this handle to anybody yet; nobody has marked the queue in it. */
		IN_PEACE_OR_CLOSED(got == 0 || got == -ENOENT, gpreempt_set_queue_policy(queue, 4));
		IN_PEACE_OR_CLOSED(got == 0 || got == -ENOENT || got == -EPERM, gpreempt_batch_unmap_queues(&queue, 1, 0));
		IN_PEACE_OR_CLOSED(got >= 0 || got == -ENOENT, gpreempt_is_queue_active(queue));
		IN_PEACE_OR_CLOSED(got == 0 || got == -ENOENT, gpreempt_fast_remap_queues(&queue, 1));
		IN_PEACE_OR_CLOSED(got == 0, gpreempt_set_hqd_reservation(0, round % 2 ? 10 : 0, 80));
		IN_PEACE_OR_CLOSED(got == 0, gpreempt_get_hqd_status_ex(0, &status, sizeof(status)));
		IN_PEACE_OR_CLOSED(got >= 0, gpreempt_find_idle_offline_queues(NULL, 0));
		IN_PEACE_OR_CLOSED(got == 0, gpreempt_find_queues_by_process(pid, &infos, &count));
		gpreempt_free_queue_info(infos);
	}
	atomic_fetch_sub(&running, 1);
	return NULL;
}

int main(void)
{
	pthread_t threads[CALLERS];
	struct gpreempt_queue_info *infos = NULL;
	int32_t count = 0;
	uint32_t pid;
	int i;

	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_find_queues_by_priority(0, 5, &infos, &count));
	CHECK(count > 0);
	pid = infos[0].process_id;
	gpreempt_free_queue_info(infos);

	for (i = 0; i < CALLERS; i++)
		CHECK(pthread_create(&threads[i], NULL, call_everything, &pid) == 0);
	while (atomic_load(&running) > 0) {
		RETURNS(0, gpreempt_poc_cleanup());
		RETURNS(0, gpreempt_poc_init());
	}
	for (i = 0; i < CALLERS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	RETURNS(0, gpreempt_poc_cleanup());
	RETURNS(-ENODEV, gpreempt_poc_cleanup());
	return 0;
}
