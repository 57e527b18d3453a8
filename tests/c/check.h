/* SPDX-License-Identifier: MIT */
/* CHECK ends a test program with the line, the condition and the library's own words where something is not so. */

#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include <gpreempt_poc_v2.h>

#define CHECK(condition)                                                                                          \
	do {                                                                                                      \
		if (!(condition)) {                                                                               \
			fprintf(stderr, "%s:%d: not so: %s\n    last error: %s\n", __FILE__, __LINE__, #condition, \
				gpreempt_poc_last_error());                                                       \
			exit(1);                                                                                  \
		}                                                                                                 \
	} while (0)

/* CHECK for a call: says what it returned instead. */
#define RETURNS(expected, call)                                                                                 \
	do {                                                                                                    \
		long long wanted_ = (expected), got_ = (call);                                                  \
		if (got_ != wanted_) {                                                                          \
			fprintf(stderr, "%s:%d: %s returned %lld, not %lld\n    last error: %s\n", __FILE__,    \
				__LINE__, #call, got_, wanted_, gpreempt_poc_last_error());                     \
			exit(1);                                                                                \
		}                                                                                               \
	} while (0)

/* Handles of at most `room` queues with a priority in the range; returns how many. */
static inline uint32_t queues_by_priority(uint32_t min, uint32_t max, uint32_t *queues, uint32_t room)
{
	struct gpreempt_queue_info *infos = NULL;
	int32_t count = 0, i;

	RETURNS(0, gpreempt_find_queues_by_priority(min, max, &infos, &count));
	for (i = 0; i < count && (uint32_t)i < room; i++)
		queues[i] = infos[i].queue_id;
	gpreempt_free_queue_info(infos);
	return (uint32_t)i;
}

#endif
