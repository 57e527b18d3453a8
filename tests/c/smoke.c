/* SPDX-License-Identifier: MIT */
/* Every function once, on the default scenario of the simulated machine, in the order a scheduler calls them. */

#include <errno.h>
#include <string.h>

#include "check.h"

#define ROOM 64

static void versions(void)
{
	CHECK(gpreempt_poc_version() == ((GPREEMPT_POC_VERSION_MAJOR << 16) | GPREEMPT_POC_VERSION_MINOR));
	CHECK(gpreempt_poc_last_error()[0] == '\0');
}

static void discovery(void)
{
	struct gpreempt_queue_info *all = NULL, *some = NULL;
	int32_t count = -1, of_process = -1, i;
	uint32_t handle = 0;

	RETURNS(0, gpreempt_get_all_queues(&all, &count));
	CHECK(count > 0);
	RETURNS(0, gpreempt_find_queues_by_process(all[0].process_id, &some, &of_process));
	CHECK(of_process > 0 && of_process <= count);
	for (i = 0; i < of_process; i++)
		CHECK(some[i].process_id == all[0].process_id);
	CHECK(some[0].queue_id >= GPREEMPT_FIRST_HANDLE);

	/* The same queue has one handle, however it was found. */
	RETURNS(0, gpreempt_register_queue(some[0].process_id, some[0].kfd_queue_id, some[0].gpu_id, &handle));
	CHECK(handle == some[0].queue_id);
	gpreempt_free_queue_info(all);
	gpreempt_free_queue_info(some);
	gpreempt_free_queue_info(NULL);

	/* No such process: a list of none, which needs no freeing. */
	RETURNS(0, gpreempt_find_queues_by_process(4000000000u, &some, &of_process));
	CHECK(some == NULL && of_process == 0);
}

static void batch(void)
{
	struct gpreempt_hqd_status before, during, after;
	uint32_t queues[ROOM], count = queues_by_priority(0, 5, queues, ROOM), i;

	CHECK(count > 1);
	for (i = 0; i < count; i++)
		RETURNS(0, gpreempt_set_queue_policy(queues[i], GPREEMPT_QUEUE_PREEMPTIBLE));
	RETURNS(0, gpreempt_get_hqd_status(&before));
	CHECK(before.total > 0 && before.offline_used > 0 && before.active >= before.offline_used);

	RETURNS(0, gpreempt_batch_unmap_queues(queues, count, 100));
	RETURNS(0, gpreempt_batch_unmap_queues(queues, count, 100));
	RETURNS(0, gpreempt_is_queue_active(queues[0]));
	RETURNS(0, gpreempt_get_hqd_status(&during));
	CHECK(during.offline_used == 0 && during.active == before.active - before.offline_used);
	RETURNS(0, gpreempt_fast_remap_queues(queues, count));
	RETURNS(0, gpreempt_fast_remap_queues(queues, count));
	RETURNS(1, gpreempt_is_queue_active(queues[0]));
	RETURNS(0, gpreempt_get_hqd_status(&after));
	CHECK(memcmp(&after, &before, sizeof(after)) == 0);

	/* The same under the names of the first generation. */
	RETURNS(0, gpreempt_suspend_queues(queues, (int32_t)count, 0));
	RETURNS(0, gpreempt_is_queue_active(queues[count - 1]));
	RETURNS(0, gpreempt_resume_queues(queues, (int32_t)count));
	RETURNS(1, gpreempt_is_queue_active(queues[count - 1]));
}

static void one_queue(void)
{
	uint32_t queue, idle[4];
	int32_t found;

	CHECK(queues_by_priority(0, 5, &queue, 1) == 1);
	RETURNS(0, gpreempt_set_queue_state(queue, GPREEMPT_STATE_PREEMPTIBLE));
	RETURNS(1, gpreempt_is_queue_active(queue));
	RETURNS(0, gpreempt_set_queue_state(queue, GPREEMPT_STATE_INACTIVE));
	RETURNS(0, gpreempt_is_queue_active(queue));
	RETURNS(0, gpreempt_set_queue_state(queue, GPREEMPT_STATE_ACTIVE));
	RETURNS(1, gpreempt_is_queue_active(queue));

	RETURNS(0, gpreempt_selective_unmap(&queue, 1, GPREEMPT_UNMAP_KEEP_MQD | GPREEMPT_UNMAP_KEEP_STATE));
	RETURNS(0, gpreempt_is_queue_active(queue));
	RETURNS(0, gpreempt_selective_unmap(&queue, 1, GPREEMPT_UNMAP_NO_CWSR));
	RETURNS(-EOPNOTSUPP, gpreempt_fast_remap(queue, 3));
	RETURNS(0, gpreempt_is_queue_active(queue));
	RETURNS(0, gpreempt_fast_remap(queue, GPREEMPT_HQD_ANY));
	RETURNS(1, gpreempt_is_queue_active(queue));

	found = gpreempt_find_idle_offline_queues(NULL, 0);
	CHECK(found >= 0);
	CHECK(gpreempt_find_idle_offline_queues(idle, 4) >= 0);
}

static void reservation(void)
{
	struct gpreempt_hqd_status_ex status;

	RETURNS(0, gpreempt_set_hqd_reservation(GPREEMPT_ALL_GPUS, 10, 80));
	RETURNS(0, gpreempt_get_hqd_status_ex(GPREEMPT_ALL_GPUS, &status, sizeof(status)));
	CHECK(status.nodes > 0 && status.num_xcc > 0);
	CHECK(status.online_reserved == status.total / status.nodes * 10 / 100 * status.nodes);
	CHECK(status.offline_max == status.total / status.nodes * 80 / 100 * status.nodes);
	RETURNS(0, gpreempt_set_hqd_reservation(GPREEMPT_ALL_GPUS, 0, 100));
}

/* Not a byte beyond the struct, whatever version of it the caller has. */
static void canaries(void)
{
	uint32_t plain[5 + 2];
	unsigned char extended[sizeof(struct gpreempt_hqd_status_ex) + 16];
	struct gpreempt_hqd_status_ex whole;
	uint32_t size;
	size_t i;

	memset(plain, 0xa5, sizeof(plain));
	RETURNS(0, gpreempt_get_hqd_status((struct gpreempt_hqd_status *)plain));
	CHECK(plain[5] == 0xa5a5a5a5 && plain[6] == 0xa5a5a5a5);

	for (size = 20; size <= sizeof(extended) - 8; size++) {
		memset(extended, 0xa5, sizeof(extended));
		RETURNS(0, gpreempt_get_hqd_status_ex(0, extended, size));
		for (i = size; i < sizeof(extended); i++)
			CHECK(extended[i] == 0xa5);
		RETURNS(0, gpreempt_get_hqd_status_ex(0, &whole, sizeof(whole)));
		CHECK(memcmp(extended, &whole, size < sizeof(whole) ? size : sizeof(whole)) == 0);
		for (i = sizeof(whole); i < size; i++)
			CHECK(extended[i] == 0);
	}
}

int main(void)
{
	struct gpreempt_hqd_status status;

	versions();
	RETURNS(-ENODEV, gpreempt_get_hqd_status(&status));
	RETURNS(-ENODEV, gpreempt_poc_cleanup());

	/* Counted: the first of two cleanups leaves it open. */
	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_poc_cleanup());
	discovery();
	batch();
	one_queue();
	reservation();
	canaries();
	RETURNS(0, gpreempt_poc_cleanup());
	RETURNS(-ENODEV, gpreempt_get_hqd_status(&status));
	RETURNS(-ENODEV, gpreempt_poc_cleanup());

	/* And again from the start. */
	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_get_hqd_status(&status));
	RETURNS(0, gpreempt_poc_cleanup());
	return 0;
}
