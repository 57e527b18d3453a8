/* SPDX-License-Identifier: MIT */
/* Every wrong argument has an answer and a text, and changes nothing. */

#include <errno.h>
#include <string.h>

#include "check.h"

/* The call failed with this errno, and the text speaks of it. */
#define FAILS(errno_, words, call)                                                                             \
	do {                                                                                                   \
		RETURNS(-(errno_), call);                                                                      \
		CHECK(strstr(gpreempt_poc_last_error(), words) != NULL);                                       \
	} while (0)

#define NONE ((uint32_t *)NULL)
#define TOO_MANY (GPREEMPT_MAX_QUEUES + 1)

static uint32_t many[TOO_MANY], queues[2];

/* Each call that takes an array of queues. */
static int32_t unmap(const uint32_t *array, uint32_t count)
{
	return gpreempt_batch_unmap_queues(array, count, 0);
}

static int32_t selective(const uint32_t *array, uint32_t count)
{
	return gpreempt_selective_unmap(array, count, 0);
}

static int32_t suspend(const uint32_t *array, uint32_t count)
{
	return gpreempt_suspend_queues(array, (int32_t)count, 0);
}

static int32_t resume(const uint32_t *array, uint32_t count)
{
	return gpreempt_resume_queues(array, (int32_t)count);
}

static void arrays(void)
{
	int32_t (*calls[])(const uint32_t *, uint32_t) = { unmap, gpreempt_fast_remap_queues, selective, suspend, resume };
	size_t i;

	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		uint32_t twice[2] = { queues[0], queues[0] }, unknown[2] = { queues[0], 0x7fff0000 };
		uint32_t no_such_number[1] = { 1024 };

		FAILS(EINVAL, "NULL", calls[i](NONE, 1));
		FAILS(EINVAL, "", calls[i](queues, 0));
		FAILS(EINVAL, "1025", calls[i](many, TOO_MANY));
		FAILS(EINVAL, "", calls[i](twice, 2));
		FAILS(ENOENT, "", calls[i](unknown, 2));
		FAILS(EINVAL, "1024", calls[i](no_such_number, 1));
		RETURNS(1, gpreempt_is_queue_active(queues[0]));
	}
	FAILS(EINVAL, "-1", gpreempt_suspend_queues(queues, -1, 0));
	FAILS(EINVAL, "-1", gpreempt_resume_queues(queues, -1));
	FAILS(EINVAL, "0x8", gpreempt_selective_unmap(queues, 1, 8));
}

static void one_queue(void)
{
	FAILS(EINVAL, "0x8", gpreempt_set_queue_policy(queues[0], 8));
	FAILS(ENOENT, "", gpreempt_set_queue_policy(0x7fff0000, 0));
	FAILS(EINVAL, "3", gpreempt_set_queue_state(queues[0], 3));
	FAILS(ENOENT, "", gpreempt_set_queue_state(0x7fff0000, GPREEMPT_STATE_ACTIVE));
	FAILS(ENOENT, "", gpreempt_is_queue_active(0x7fff0000));
	FAILS(EINVAL, "1024", gpreempt_is_queue_active(1024));
	FAILS(EINVAL, "65535", gpreempt_is_queue_active(GPREEMPT_FIRST_HANDLE - 1));
	FAILS(EINVAL, "-2", gpreempt_fast_remap(queues[0], -2));
	FAILS(EOPNOTSUPP, "-1", gpreempt_fast_remap(queues[0], 0));
	FAILS(ENOENT, "", gpreempt_fast_remap(0x7fff0000, GPREEMPT_HQD_ANY));
}

static void reservation(void)
{
	FAILS(EINVAL, "", gpreempt_set_hqd_reservation(0, 101, 0));
	FAILS(EINVAL, "", gpreempt_set_hqd_reservation(0, 0, 101));
	FAILS(EINVAL, "", gpreempt_set_hqd_reservation(0, 51, 50));
	FAILS(EINVAL, "", gpreempt_set_hqd_reservation(0, 0xffffffff, 2));
	FAILS(ENOENT, "", gpreempt_set_hqd_reservation(0xdead, 10, 80));
}

static void status(void)
{
	struct gpreempt_hqd_status_ex untouched, same;

	memset(&untouched, 0xa5, sizeof(untouched));
	same = untouched;
	FAILS(EINVAL, "NULL", gpreempt_get_hqd_status(NULL));
	FAILS(EINVAL, "NULL", gpreempt_get_hqd_status_ex(0, NULL, sizeof(same)));
	FAILS(EINVAL, "19", gpreempt_get_hqd_status_ex(0, &same, 19));
	FAILS(ENOENT, "", gpreempt_get_hqd_status_ex(0xdead, &same, sizeof(same)));
	CHECK(memcmp(&same, &untouched, sizeof(same)) == 0);
}

static void discovery(void)
{
	struct gpreempt_queue_info *infos = (struct gpreempt_queue_info *)queues;
	int32_t count = 7;
	uint32_t handle = 7, pid;

	FAILS(EINVAL, "NULL", gpreempt_get_all_queues(NULL, &count));
	FAILS(EINVAL, "NULL", gpreempt_get_all_queues(&infos, NULL));
	FAILS(EINVAL, "NULL", gpreempt_find_queues_by_process(1, NULL, &count));
	FAILS(EINVAL, "NULL", gpreempt_find_queues_by_process(1, &infos, NULL));
	FAILS(EINVAL, "NULL", gpreempt_find_queues_by_priority(0, 5, NULL, &count));
	FAILS(EINVAL, "5 to 4", gpreempt_find_queues_by_priority(5, 4, &infos, &count));
	FAILS(EINVAL, "0 to 16", gpreempt_find_queues_by_priority(0, 16, &infos, &count));
	CHECK(count == 7 && infos == (struct gpreempt_queue_info *)queues);
	FAILS(EINVAL, "NULL", gpreempt_find_idle_offline_queues(NULL, 1));

	RETURNS(0, gpreempt_get_all_queues(&infos, &count));
	pid = infos[0].process_id;
	gpreempt_free_queue_info(infos);
	FAILS(EINVAL, "NULL", gpreempt_register_queue(pid, 0, 0, NULL));
	FAILS(EINVAL, "1024", gpreempt_register_queue(pid, 1024, 0, &handle));
	FAILS(ENOENT, "", gpreempt_register_queue(pid, 1023, 0, &handle));
	FAILS(ENOENT, "", gpreempt_register_queue(pid, 0, 0xdead, &handle));
	FAILS(ESRCH, "", gpreempt_register_queue(4000000000u, 0, 0, &handle));
	CHECK(handle == 7);
}

static void monitor(void)
{
	FAILS(EINVAL, "NULL", gpreempt_monitor_hqd_status(10, NULL, NULL));
	RETURNS(0, gpreempt_monitor_hqd_status(0, NULL, NULL));
}

/* Before init and after cleanup: the same answer, from every function that needs a session. */
static void without_session(int32_t answer)
{
	struct gpreempt_hqd_status plain;
	struct gpreempt_queue_info *infos;
	int32_t count;
	uint32_t queue = 0;

	RETURNS(answer, gpreempt_batch_unmap_queues(&queue, 1, 0));
	RETURNS(answer, gpreempt_fast_remap_queues(&queue, 1));
	RETURNS(answer, gpreempt_set_hqd_reservation(0, 10, 80));
	RETURNS(answer, gpreempt_get_hqd_status(&plain));
	RETURNS(answer, gpreempt_get_hqd_status_ex(0, &plain, sizeof(plain)));
	RETURNS(answer, gpreempt_set_queue_policy(0, 0));
	RETURNS(answer, gpreempt_set_queue_state(0, 0));
	RETURNS(answer, gpreempt_selective_unmap(&queue, 1, 0));
	RETURNS(answer, gpreempt_fast_remap(0, GPREEMPT_HQD_ANY));
	RETURNS(answer, gpreempt_is_queue_active(0));
	RETURNS(answer, gpreempt_find_idle_offline_queues(NULL, 0));
	RETURNS(answer, gpreempt_monitor_hqd_status(0, NULL, NULL));
	RETURNS(answer, gpreempt_register_queue(1, 0, 0, &queue));
	RETURNS(answer, gpreempt_suspend_queues(&queue, 1, 0));
	RETURNS(answer, gpreempt_resume_queues(&queue, 1));
	RETURNS(answer, gpreempt_get_all_queues(&infos, &count));
	RETURNS(answer, gpreempt_find_queues_by_priority(0, 5, &infos, &count));
	RETURNS(answer, gpreempt_find_queues_by_process(1, &infos, &count));
	RETURNS(answer, gpreempt_poc_cleanup());
	CHECK(strstr(gpreempt_poc_last_error(), "gpreempt_poc_init()") != NULL);
}

static void environment(void)
{
	setenv("GPREEMPT_BACKEND", "cuda", 1);
	FAILS(EINVAL, "GPREEMPT_BACKEND", gpreempt_poc_init());
	without_session(-ENODEV);
	setenv("GPREEMPT_BACKEND", "sim", 1);
}

int main(void)
{
	uint32_t i;

	for (i = 0; i < TOO_MANY; i++)
		many[i] = GPREEMPT_FIRST_HANDLE + i;
	without_session(-ENODEV);
	environment();
	RETURNS(0, gpreempt_poc_init());
	CHECK(queues_by_priority(0, 5, queues, 2) == 2);
	RETURNS(0, gpreempt_set_queue_policy(queues[0], GPREEMPT_QUEUE_PREEMPTIBLE));
	arrays();
	one_queue();
	reservation();
	status();
	discovery();
	monitor();
	RETURNS(0, gpreempt_poc_cleanup());
	without_session(-ENODEV);
	return 0;
}
