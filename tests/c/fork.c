/* SPDX-License-Identifier: MIT */
/* A forked child has nothing of its parent's session, may open its own, and never hangs on what other threads held. */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define FORKS 40

static atomic_int stop;
static uint32_t queue;

/* A child that hangs is killed by its alarm, and fails the test by its status. */
static void in_child(pid_t pid, void (*body)(void))
{
	int status;

	CHECK(pid >= 0);
	if (pid == 0) {
		alarm(60);
		body();
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "the child ended with wait status %#x\n", status);
		exit(1);
	}
}

static void everything_answers_ebadf(void)
{
	struct gpreempt_hqd_status_ex status;
	struct gpreempt_queue_info *infos;
	uint32_t handle;
	int32_t count;

	RETURNS(-EBADF, gpreempt_batch_unmap_queues(&queue, 1, 0));
	CHECK(strstr(gpreempt_poc_last_error(), "gpreempt_poc_init()") != NULL);
	RETURNS(-EBADF, gpreempt_fast_remap_queues(&queue, 1));
	RETURNS(-EBADF, gpreempt_set_hqd_reservation(0, 10, 80));
	RETURNS(-EBADF, gpreempt_get_hqd_status((struct gpreempt_hqd_status *)&status));
	RETURNS(-EBADF, gpreempt_get_hqd_status_ex(0, &status, sizeof(status)));
	RETURNS(-EBADF, gpreempt_set_queue_policy(queue, 0));
	RETURNS(-EBADF, gpreempt_set_queue_state(queue, 0));
	RETURNS(-EBADF, gpreempt_selective_unmap(&queue, 1, 0));
	RETURNS(-EBADF, gpreempt_fast_remap(queue, GPREEMPT_HQD_ANY));
	RETURNS(-EBADF, gpreempt_is_queue_active(queue));
	RETURNS(-EBADF, gpreempt_find_idle_offline_queues(NULL, 0));
	RETURNS(-EBADF, gpreempt_monitor_hqd_status(0, NULL, NULL));
	RETURNS(-EBADF, gpreempt_register_queue(1, 0, 0, &handle));
	RETURNS(-EBADF, gpreempt_suspend_queues(&queue, 1, 0));
	RETURNS(-EBADF, gpreempt_resume_queues(&queue, 1));
	RETURNS(-EBADF, gpreempt_get_all_queues(&infos, &count));
	RETURNS(-EBADF, gpreempt_find_queues_by_priority(0, 5, &infos, &count));
	RETURNS(-EBADF, gpreempt_find_queues_by_process(1, &infos, &count));
	RETURNS(-EBADF, gpreempt_poc_cleanup());
	gpreempt_free_queue_info(NULL);
}

static void opens_its_own(void)
{
	struct gpreempt_hqd_status status;

	everything_answers_ebadf();
	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_get_hqd_status(&status));
	RETURNS(0, gpreempt_poc_cleanup());
	RETURNS(-ENODEV, gpreempt_poc_cleanup());
}

/* The parent's handlers do not run for the child of a bare system call. */
static pid_t bare_fork(void)
{
	return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static void grandchild(void)
{
	opens_its_own();
	RETURNS(0, gpreempt_poc_init());
	in_child(fork(), opens_its_own);
	RETURNS(0, gpreempt_poc_cleanup());
}

static void *keep_calling(void *argument)
{
	(void)argument;
	while (!atomic_load(&stop)) {
		struct gpreempt_queue_info *infos = NULL;
		int32_t count;

		RETURNS(0, gpreempt_batch_unmap_queues(&queue, 1, 0));
		RETURNS(0, gpreempt_get_all_queues(&infos, &count));
		gpreempt_free_queue_info(infos);
		RETURNS(0, gpreempt_fast_remap_queues(&queue, 1));
	}
	return NULL;
}

static void *keep_opening(void *argument)
{
	(void)argument;
	while (!atomic_load(&stop)) {
		RETURNS(0, gpreempt_poc_init());
		RETURNS(0, gpreempt_poc_cleanup());
	}
	return NULL;
}

static void tick(const struct gpreempt_hqd_status *status, void *user)
{
	(void)status;
	(void)user;
}

static void never_initialised(void)
{
	RETURNS(-ENODEV, gpreempt_poc_cleanup());
	RETURNS(0, gpreempt_poc_init());
	RETURNS(0, gpreempt_poc_cleanup());
}

/* The parent's queue is where the parent left it, whatever children did. */
static void the_parent_goes_on(void)
{
	RETURNS(0, gpreempt_is_queue_active(queue));
	RETURNS(0, gpreempt_fast_remap_queues(&queue, 1));
	RETURNS(1, gpreempt_is_queue_active(queue));
	RETURNS(0, gpreempt_batch_unmap_queues(&queue, 1, 0));
}

int main(void)
{
	pthread_t thread;
	int i;

	in_child(fork(), never_initialised);

	RETURNS(0, gpreempt_poc_init());
	CHECK(queues_by_priority(0, 5, &queue, 1) == 1);
	RETURNS(0, gpreempt_set_queue_policy(queue, GPREEMPT_QUEUE_PREEMPTIBLE));
	RETURNS(0, gpreempt_batch_unmap_queues(&queue, 1, 0));
	in_child(fork(), opens_its_own);
	the_parent_goes_on();
	in_child(bare_fork(), opens_its_own);
	the_parent_goes_on();
	in_child(fork(), grandchild);
	the_parent_goes_on();

	/* While another thread is in the middle of a call, and a third is the monitor. */
	RETURNS(0, gpreempt_monitor_hqd_status(1, tick, NULL));
	CHECK(pthread_create(&thread, NULL, keep_calling, NULL) == 0);
	for (i = 0; i < FORKS; i++)
		in_child(fork(), opens_its_own);
	atomic_store(&stop, 1);
	CHECK(pthread_join(thread, NULL) == 0);
	RETURNS(0, gpreempt_poc_cleanup());

	/* While another thread is in the middle of opening or closing. */
	atomic_store(&stop, 0);
	CHECK(pthread_create(&thread, NULL, keep_opening, NULL) == 0);
	for (i = 0; i < FORKS; i++)
		in_child(fork(), opens_its_own);
	atomic_store(&stop, 1);
	CHECK(pthread_join(thread, NULL) == 0);
	return 0;
}
