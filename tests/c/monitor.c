/* SPDX-License-Identifier: MIT */
/* The monitor calls back until it is stopped, from wherever it is stopped. */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

struct watch {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int calls;
	uint32_t total;
	void (*body)(void);
};

#define WATCH(body) { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0, body }

static void called_back(const struct gpreempt_hqd_status *status, void *user)
{
	struct watch *watch = (struct watch *)user;

	if (watch->body)
		watch->body();
	pthread_mutex_lock(&watch->lock);
	watch->calls++;
	watch->total = status->total;
	pthread_cond_signal(&watch->changed);
	pthread_mutex_unlock(&watch->lock);
}

static unsigned int calls(struct watch *watch)
{
	unsigned int calls;

	pthread_mutex_lock(&watch->lock);
	calls = watch->calls;
	pthread_mutex_unlock(&watch->lock);
	return calls;
}

static void wait_for(struct watch *watch, unsigned int calls)
{
	pthread_mutex_lock(&watch->lock);
	while (watch->calls < calls)
		pthread_cond_wait(&watch->changed, &watch->lock);
	pthread_mutex_unlock(&watch->lock);
}

static void stop_inside(void)
{
	RETURNS(0, gpreempt_monitor_hqd_status(0, NULL, NULL));
}

static struct watch second = WATCH(NULL);

static void replace_inside(void)
{
	RETURNS(0, gpreempt_monitor_hqd_status(1, called_back, &second));
}

static void cleanup_inside(void)
{
	RETURNS(0, gpreempt_poc_cleanup());
}

static atomic_int stopping;
static pthread_t other;

static void *stop_outside(void *argument)
{
	(void)argument;
	atomic_store(&stopping, 1);
	RETURNS(0, gpreempt_monitor_hqd_status(0, NULL, NULL));
	return NULL;
}

/* While another thread waits for this callback to end, the callback does not wait for that thread. */
static void stop_from_both_sides(void)
{
	int calls;

	CHECK(pthread_create(&other, NULL, stop_outside, NULL) == 0);
	while (!atomic_load(&stopping))
		sched_yield();
	for (calls = 0; calls < 1000; calls++) {
		RETURNS(0, gpreempt_monitor_hqd_status(0, NULL, NULL));
		sched_yield();
	}
}

/* Neither a child that leaves at once nor one that returns from the callback hangs. */
static void fork_inside(void)
{
	int round, status;

	for (round = 0; round < 2; round++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid == 0) {
			struct gpreempt_hqd_status ignored;

			alarm(60);
			RETURNS(-EBADF, gpreempt_get_hqd_status(&ignored));
			RETURNS(-EBADF, gpreempt_monitor_hqd_status(0, NULL, NULL));
			if (round == 0)
				_exit(0);
			return;
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
}

int main(void)
{
	struct watch watch = WATCH(NULL), stopped = WATCH(stop_inside), replaced = WATCH(replace_inside);
	struct watch forked = WATCH(fork_inside), both = WATCH(stop_from_both_sides), last = WATCH(cleanup_inside);
	struct gpreempt_hqd_status status;
	unsigned int seen;

	alarm(120);
	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_get_hqd_status(&status));

	RETURNS(0, gpreempt_monitor_hqd_status(1, called_back, &watch));
	wait_for(&watch, 3);
	CHECK(watch.total == status.total);
	RETURNS(0, gpreempt_monitor_hqd_status(0, NULL, NULL));
	RETURNS(0, gpreempt_monitor_hqd_status(0, NULL, NULL));
	seen = calls(&watch);

	/* A second call replaces the first. */
	RETURNS(0, gpreempt_monitor_hqd_status(1, called_back, &replaced));
	wait_for(&second, 3);
	CHECK(calls(&replaced) == 1);
	RETURNS(0, gpreempt_monitor_hqd_status(1, called_back, &forked));
	wait_for(&forked, 1);
	RETURNS(0, gpreempt_monitor_hqd_status(1, called_back, &stopped));
	wait_for(&stopped, 1);
	RETURNS(0, gpreempt_monitor_hqd_status(0, NULL, NULL));
	CHECK(calls(&stopped) == 1);

	RETURNS(0, gpreempt_monitor_hqd_status(1, called_back, &both));
	wait_for(&both, 1);
	CHECK(pthread_join(other, NULL) == 0);
	CHECK(calls(&both) == 1);

	/* Cleanup stops it as well, from outside and from inside. */
	RETURNS(0, gpreempt_monitor_hqd_status(1, called_back, &second));
	RETURNS(0, gpreempt_poc_cleanup());
	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_monitor_hqd_status(1, called_back, &last));
	wait_for(&last, 1);
	RETURNS(-ENODEV, gpreempt_get_hqd_status(&status));
	CHECK(calls(&watch) == seen);
	return 0;
}
