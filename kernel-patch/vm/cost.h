/* SPDX-License-Identifier: MIT */
/* What cost.c counts: packets and rounds of the fake GPUs, calls and their times. */
#ifndef COST_H
#define COST_H

#include "scene.h"

#define COST_LOG 400 /* rounds of one measurement that are looked at */

/* Sums over all GPUs. */
struct packets {
	uint64_t rounds, all;
	uint64_t most; /* rounds of one GPU */
};

/* What one process did: calls, and the longest of them. */
struct calls {
	uint64_t calls, longest_ns;
	int failed;
};

static inline uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static inline void count_call(struct calls *c, uint64_t start_ns, int failed)
{
	uint64_t took = now_ns() - start_ns;

	c->calls++;
	c->failed |= failed;
	if (took > c->longest_ns)
		c->longest_ns = took;
}

static inline void add_calls(struct calls *sum, const struct calls *c)
{
	sum->calls += c->calls;
	sum->failed |= c->failed;
	if (c->longest_ns > sum->longest_ns)
		sum->longest_ns = c->longest_ns;
}

/* Waits until the GPUs have executed all that the driver sent. */
static inline void read_packets(uint64_t (*of_gpu)[2], int gpus)
{
	static char text[1 << 18];
	char path[96];
	int i;

	for (i = 0; i < gpus; i++) {
		snprintf(path, sizeof(path), FAKE "/%d/node0/status", i);
		if (gpu_read_file(path, text, sizeof(text)))
			text[0] = 0;
		of_gpu[i][0] = gpu_property(text, "unmap");
		of_gpu[i][1] = of_gpu[i][0] + gpu_property(text, "query") + gpu_property(text, "runlist") +
			       gpu_property(text, "write_data");
	}
}

static inline struct packets packets_since(uint64_t (*before)[2], int gpus)
{
	uint64_t after[8][2];
	struct packets p = {};
	int i;

	read_packets(after, gpus);
	for (i = 0; i < gpus; i++) {
		uint64_t rounds = after[i][0] - before[i][0];

		p.rounds += rounds;
		p.all += after[i][1] - before[i][1];
		if (rounds > p.most)
			p.most = rounds;
	}
	return p;
}

struct edge {
	uint64_t ns;
	int step;
};

static inline int by_time(const void *a, const void *b)
{
	const struct edge *x = a, *y = b;

	return x->ns < y->ns ? -1 : x->ns > y->ns ? 1 : x->step - y->step;
}

/* Most preemptions that were in flight at once on different GPUs since @since, from "unmap" to "fence" of their logs. */
static inline int most_in_flight(uint64_t since, int gpus)
{
	static struct edge edges[8 * 2 * COST_LOG];
	static char text[1 << 17];
	int count = 0, flying = 0, most = 0, i;
	unsigned long long sequence, ns;
	char path[96], what[32], *line;

	for (i = 0; i < gpus; i++) {
		int of_gpu = 0;

		snprintf(path, sizeof(path), FAKE "/%d/node0/log", i);
		if (gpu_read_file(path, text, sizeof(text)))
			return -1;
		for (line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
			if (sscanf(line, "%llu %llu %31s", &sequence, &ns, what) != 3 || ns < since || of_gpu == 2 * COST_LOG)
				continue;
			if (of_gpu % 2 == 0 && !strcmp(what, "unmap"))
				edges[count++] = (struct edge) { ns, 1 }, of_gpu++;
			else if (of_gpu % 2 == 1 && !strcmp(what, "fence"))
				edges[count++] = (struct edge) { ns, -1 }, of_gpu++;
		}
	}
	qsort(edges, count, sizeof(*edges), by_time);
	for (i = 0; i < count; i++) {
		flying += edges[i].step;
		if (flying > most)
			most = flying;
	}
	return most;
}

#endif /* COST_H */
