/* SPDX-License-Identifier: MIT */
/*
 * Plays a list of calls: one command per line on standard input, one line of answer per command on standard output.
 * Empty lines and lines that start with # have no answer. Numbers are decimal or, with 0x, hexadecimal; answers are
 * decimal. Queues are named by handle. The first word of an answer is what the function returned, negative for -errno;
 * the words after it are there only where it is not negative.
 *
 *   command                                         answer
 *   init                                            ret
 *   cleanup                                         ret
 *   unmap GRACE_US QUEUE...                         ret
 *   remap QUEUE...                                  ret
 *   selective FLAGS QUEUE...                        ret
 *   remap_one QUEUE SLOT                            ret
 *   reserve GPU ONLINE_PERCENT OFFLINE_PERCENT      ret
 *   status                                          ret total active free online_reserved offline_used
 *   status_of GPU                                   ret total active free online_reserved offline_used offline_max
 *                                                       num_xcc preempted throttled queues_total nodes
 *   policy QUEUE FLAGS                              ret
 *   state QUEUE STATE                               ret
 *   active QUEUE                                    ret (1 or 0)
 *   idle                                            count queue...
 *   register PID QUEUE_ID GPU                       ret handle
 *   find_all                                        count (handle pid queue_id gpu priority active)...
 *   find_priority MIN MAX                           as find_all
 *   find_process PID                                as find_all
 *   error                                           the text of the last error
 *
 * priority is -1 where it is not known, active is 1, 0 or, where it is not known, -1. A line that is none of these is
 * answered "? " and what is wrong, and makes the program exit with 1 at the end of the input.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <gpreempt_poc_v2.h>

#define MAX_WORDS 1100

static char *words[MAX_WORDS];
static int num_words, wrong;

/* Splits the line in place. */
static void split(char *line)
{
	char *rest = NULL, *word;

	num_words = 0;
	for (word = strtok_r(line, " \t\n", &rest); word && num_words < MAX_WORDS; word = strtok_r(NULL, " \t\n", &rest))
		words[num_words++] = word;
}

/* Word `index` as a number; what is not one is reported, and the command is not run. */
static int64_t number(int index)
{
	char *end = NULL;
	long long value = strtoll(words[index], &end, 0);

	if (*end != '\0' || value < INT32_MIN || value > (long long)UINT32_MAX) {
		if (!wrong)
			printf("? %s is not a number\n", words[index]);
		wrong = 1;
	}
	return value;
}

static uint32_t u32(int index)
{
	return (uint32_t)number(index);
}

/* The words from `first` on, as queues. */
static const uint32_t *queues(int first, uint32_t *count)
{
	static uint32_t array[MAX_WORDS];
	int i;

	*count = 0;
	for (i = first; i < num_words; i++)
		array[(*count)++] = u32(i);
	return array;
}

static void answer(int32_t result)
{
	printf("%" PRId32 "\n", result);
}

static void answer_infos(int32_t result, struct gpreempt_queue_info *infos, int32_t count)
{
	int32_t i;

	if (result < 0) {
		answer(result);
		return;
	}
	printf("%" PRId32, count);
	for (i = 0; i < count; i++) {
		int32_t priority = infos[i].priority == GPREEMPT_PRIORITY_UNKNOWN ? -1 : (int32_t)infos[i].priority;

		printf(" %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRId32 " %" PRId32, infos[i].queue_id,
		       infos[i].process_id, infos[i].kfd_queue_id, infos[i].gpu_id, priority, infos[i].is_active);
	}
	printf("\n");
	gpreempt_free_queue_info(infos);
}

static void answer_status(void)
{
	struct gpreempt_hqd_status s;
	int32_t result = gpreempt_get_hqd_status(&s);

	if (result < 0)
		answer(result);
	else
		printf("%" PRId32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 "\n", result, s.total, s.active,
		       s.free, s.online_reserved, s.offline_used);
}

static void answer_status_of(uint32_t gpu)
{
	struct gpreempt_hqd_status_ex s;
	int32_t result = gpreempt_get_hqd_status_ex(gpu, &s, sizeof(s));

	if (result < 0)
		answer(result);
	else
		printf("%" PRId32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32
		       " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 "\n",
		       result, s.total, s.active, s.free, s.online_reserved, s.offline_used, s.offline_max, s.num_xcc,
		       s.preempted, s.throttled, s.queues_total, s.nodes);
}

static void answer_idle(void)
{
	uint32_t idle[1024];
	int32_t count = gpreempt_find_idle_offline_queues(idle, 1024), i;

	printf("%" PRId32, count);
	for (i = 0; i < count && i < 1024; i++)
		printf(" %" PRIu32, idle[i]);
	printf("\n");
}

static void answer_register(uint32_t pid, uint32_t queue_id, uint32_t gpu)
{
	uint32_t handle = 0;
	int32_t result = gpreempt_register_queue(pid, queue_id, gpu, &handle);

	if (result < 0)
		answer(result);
	else
		printf("%" PRId32 " %" PRIu32 "\n", result, handle);
}

/* Whether the command is `name` with that many words after it, or, where negative, with at least -1 - that many. */
static int is(const char *name, int arguments)
{
	int i, given = num_words - 1;

	if (strcmp(words[0], name) != 0 || (arguments >= 0 ? given != arguments : given < -1 - arguments))
		return 0;
	for (i = 1; i < num_words; i++)
		number(i);
	return 1;
}

#define AT_LEAST(n) (-1 - (n))

static void run(void)
{
	struct gpreempt_queue_info *infos = NULL;
	const uint32_t *array;
	uint32_t count;
	int32_t found = 0, result;
	int before = wrong;

	wrong = 0;
	if (is("init", 0)) {
		answer(gpreempt_poc_init());
	} else if (is("cleanup", 0)) {
		answer(gpreempt_poc_cleanup());
	} else if (is("unmap", AT_LEAST(1))) {
		array = queues(2, &count);
		if (!wrong)
			answer(gpreempt_batch_unmap_queues(array, count, u32(1)));
	} else if (is("remap", AT_LEAST(0))) {
		array = queues(1, &count);
		if (!wrong)
			answer(gpreempt_fast_remap_queues(array, count));
	} else if (is("selective", AT_LEAST(1))) {
		array = queues(2, &count);
		if (!wrong)
			answer(gpreempt_selective_unmap(array, count, u32(1)));
	} else if (is("remap_one", 2)) {
		if (!wrong)
			answer(gpreempt_fast_remap(u32(1), (int32_t)number(2)));
	} else if (is("reserve", 3)) {
		if (!wrong)
			answer(gpreempt_set_hqd_reservation(u32(1), u32(2), u32(3)));
	} else if (is("status", 0)) {
		answer_status();
	} else if (is("status_of", 1)) {
		if (!wrong)
			answer_status_of(u32(1));
	} else if (is("policy", 2)) {
		if (!wrong)
			answer(gpreempt_set_queue_policy(u32(1), u32(2)));
	} else if (is("state", 2)) {
		if (!wrong)
			answer(gpreempt_set_queue_state(u32(1), u32(2)));
	} else if (is("active", 1)) {
		if (!wrong)
			answer(gpreempt_is_queue_active(u32(1)));
	} else if (is("idle", 0)) {
		answer_idle();
	} else if (is("register", 3)) {
		if (!wrong)
			answer_register(u32(1), u32(2), u32(3));
	} else if (is("find_all", 0)) {
		result = gpreempt_get_all_queues(&infos, &found);
		answer_infos(result, infos, found);
	} else if (is("find_priority", 2)) {
		if (!wrong) {
			result = gpreempt_find_queues_by_priority(u32(1), u32(2), &infos, &found);
			answer_infos(result, infos, found);
		}
	} else if (is("find_process", 1)) {
		if (!wrong) {
			result = gpreempt_find_queues_by_process(u32(1), &infos, &found);
			answer_infos(result, infos, found);
		}
	} else if (is("error", 0)) {
		printf("%s\n", gpreempt_poc_last_error());
	} else {
		printf("? no such command, or not with %d arguments: %s\n", num_words - 1, words[0]);
		wrong = 1;
	}
	wrong |= before;
}

int main(void)
{
	char *line = NULL;
	size_t room = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (getline(&line, &room, stdin) >= 0) {
		split(line);
		if (num_words > 0 && words[0][0] != '#')
			run();
	}
	free(line);
	return wrong;
}
