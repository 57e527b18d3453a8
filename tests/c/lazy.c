/* SPDX-License-Identifier: MIT */
/* The monitor keeps what gpreempt_set_queue_policy() promises, and gives queues back when it ends. Its machine has a
 * process 4185003 with one queue that has no work. */

#include <semaphore.h>
#include <unistd.h>

#include "check.h"

static void tick(const struct gpreempt_hqd_status *status, void *user)
{
	(void)status;
	sem_post((sem_t *)user);
}

int main(void)
{
	struct gpreempt_queue_info *infos = NULL;
	int32_t count = 0;
	uint32_t queue;
	sem_t ticks;

	alarm(120);
	CHECK(sem_init(&ticks, 0, 0) == 0);
	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_find_queues_by_process(4185003, &infos, &count));
	CHECK(count == 1);
	queue = infos[0].queue_id;
	gpreempt_free_queue_info(infos);
	RETURNS(0, gpreempt_set_queue_policy(queue, GPREEMPT_QUEUE_PREEMPTIBLE | GPREEMPT_QUEUE_LAZY_ACTIVATION));
	/* The driver unmaps what is idle now; the monitor, what idles later. */
	RETURNS(0, gpreempt_is_queue_active(queue));
	RETURNS(0, gpreempt_fast_remap_queues(&queue, 1));
	RETURNS(1, gpreempt_is_queue_active(queue));

	RETURNS(0, gpreempt_monitor_hqd_status(1, tick, &ticks));
	while (gpreempt_is_queue_active(queue) != 0)
		CHECK(sem_wait(&ticks) == 0);
	RETURNS(0, gpreempt_monitor_hqd_status(0, NULL, NULL));
	RETURNS(1, gpreempt_is_queue_active(queue));
	RETURNS(0, gpreempt_poc_cleanup());
	return 0;
}
