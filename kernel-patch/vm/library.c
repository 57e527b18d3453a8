// SPDX-License-Identifier: MIT
/*
 * Loads libgpreempt_poc_v2.so as a runtime does, on a machine that has a /dev/kfd and no GPU.
 *
 * usage: library patched|stock LIBRARY
 *   what is expected of the driver. Prints TAP.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "gpreempt_poc_v2.h"

static int number, failures;
static __typeof__(gpreempt_poc_init) *init;
static __typeof__(gpreempt_poc_cleanup) *cleanup;
static __typeof__(gpreempt_poc_last_error) *last_error;
static __typeof__(gpreempt_get_hqd_status) *get_status;
static __typeof__(gpreempt_get_hqd_status_ex) *get_status_ex;
static __typeof__(gpreempt_register_queue) *register_queue;
static __typeof__(gpreempt_batch_unmap_queues) *batch_unmap;

static void check(int good, const char *what)
{
	failures += !good;
	printf("%sok %d library: %s\n", good ? "" : "not ", ++number, what);
	if (!good)
		printf("# %s\n", last_error ? last_error() : dlerror());
	fflush(stdout);
}

/* ISO C has no cast from what dlsym returns to a function. */
static int load(void *library, const char *name, void *function)
{
	void *symbol = dlsym(library, name);

	memcpy(function, &symbol, sizeof(symbol));
	return symbol != NULL;
}

/* How many leases this process has open. */
static int leases(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	char link[64];
	int count = 0;

	while ((entry = readdir(dir))) {
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

		link[length > 0 ? length : 0] = 0;
		count += !strcmp(link, "anon_inode:[kfd-gpreempt]");
	}
	closedir(dir);
	return count;
}

static int in_a_child(int (*test)(void))
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(!test());
	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status);
}

static int a_child_has_no_lease(void)
{
	struct gpreempt_hqd_status status;

	return get_status(&status) == -EBADF && leases() == 0;
}

static int a_child_opens_its_own(void)
{
	return init() == 0 && leases() == 1 && cleanup() == 0 && leases() == 0;
}

static void on_the_patched_driver(void)
{
	struct gpreempt_hqd_status_ex more;
	struct gpreempt_hqd_status status;
	unsigned int handle = 4711;

	check(init() == 0, "it opens the machine");
	check(leases() == 1, "it holds one lease of the driver, so the tier is patched");
	check(get_status(&status) == -ENODEV && strstr(last_error(), "no GPU in the topology"),
	      "it sees zero nodes, and says so where slots are asked for");
	check(get_status_ex(4711, &more, sizeof(more)) == -ENOENT, "it knows no GPU by a made-up gpu_id");
	check(register_queue(getppid(), 0, GPREEMPT_ALL_GPUS, &handle) == -ENOENT && handle == 4711,
	      "it registers no queue of a process that has none");
	check(register_queue(4194303, 0, GPREEMPT_ALL_GPUS, &handle) == -ESRCH, "it says that a process is gone");
	handle = GPREEMPT_FIRST_HANDLE;
	check(batch_unmap(&handle, 1, 0) < 0, "it unmaps nothing by an unknown handle");
	check(in_a_child(a_child_has_no_lease), "a forked child has neither session nor lease");
	check(in_a_child(a_child_opens_its_own), "a forked child can open a lease of its own");
	check(leases() == 1, "what children do leaves the parent's lease alone");
	check(cleanup() == 0 && leases() == 0, "cleanup closes the lease");
	check(init() == 0 && leases() == 1 && cleanup() == 0, "it opens again after cleanup");
}

static void on_the_stock_driver(void)
{
	struct gpreempt_hqd_status status;

	check(init() == -EOPNOTSUPP, "it does not open a stock driver");
	check(strstr(last_error(), "it answers ENOTTY") != NULL, "it says that the driver answers ENOTTY");
	check(strstr(last_error(), "kernel-patch/") != NULL, "it names the remedy");
	check(leases() == 0, "it leaves no file open");
	check(get_status(&status) == -ENODEV, "there is no session afterwards");
}

int main(int argc, char **argv)
{
	void *library = argc == 3 ? dlopen(argv[2], RTLD_NOW | RTLD_LOCAL) : NULL;

	check(library != NULL, "a program loads it with dlopen");
	if (!library)
		return 1;
	if (!load(library, "gpreempt_poc_init", &init) || !load(library, "gpreempt_poc_cleanup", &cleanup) ||
	    !load(library, "gpreempt_poc_last_error", &last_error) ||
	    !load(library, "gpreempt_get_hqd_status", &get_status) ||
	    !load(library, "gpreempt_get_hqd_status_ex", &get_status_ex) ||
	    !load(library, "gpreempt_register_queue", &register_queue) ||
	    !load(library, "gpreempt_batch_unmap_queues", &batch_unmap)) {
		check(0, "its functions have their names");
		return 1;
	}
	if (!strcmp(argv[1], "patched"))
		on_the_patched_driver();
	else
		on_the_stock_driver();
	return failures != 0;
}
