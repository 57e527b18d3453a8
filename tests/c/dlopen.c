/* SPDX-License-Identifier: MIT */
/* How a runtime loads the library: no link-time dependency, the path of the library as the only argument. */

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <gpreempt_poc_v2.h>

typedef int32_t (*call_fn)(void);
typedef int32_t (*status_fn)(struct gpreempt_hqd_status *);
typedef const char *(*text_fn)(void);

/* ISO C has no cast from what dlsym returns to a function. */
static int load(void *library, const char *name, void *function)
{
	void *symbol = dlsym(library, name);

	memcpy(function, &symbol, sizeof(symbol));
	return symbol != NULL;
}

int main(int argc, char **argv)
{
	void *library = dlopen(argc > 1 ? argv[1] : "libgpreempt_poc_v2.so", RTLD_NOW | RTLD_LOCAL);
	struct gpreempt_hqd_status status;
	call_fn init, cleanup;
	status_fn get_status;
	text_fn last_error;

	if (!library)
		return fprintf(stderr, "%s\n", dlerror()), 1;
	if (!load(library, "gpreempt_poc_init", &init) || !load(library, "gpreempt_poc_cleanup", &cleanup) ||
	    !load(library, "gpreempt_get_hqd_status", &get_status) ||
	    !load(library, "gpreempt_poc_last_error", &last_error))
		return fprintf(stderr, "%s\n", dlerror()), 1;

	if (init() != 0 || get_status(&status) != 0)
		return fprintf(stderr, "%s\n", last_error()), 1;
	printf("%u slots, %u active, %u free\n", status.total, status.active, status.free);
	if (cleanup() != 0)
		return fprintf(stderr, "%s\n", last_error()), 1;
	return dlclose(library);
}
