// SPDX-License-Identifier: MIT
/*
 * Counts what it costs to take queues off fake GPUs and to give them back, in the ways that the stock driver has and in
 * that of a lease: rounds of the hardware scheduler, packets, system calls, time.
 *
 * usage: cost [REPEATS [quick]]
 *   quick     one shape alone, to see that the tests hold
 * Runs as root in the VM of kernel-patch/vm/run, with fake GPUs. Prints a table, and TAP for what must hold: a lease needs at
 * most one round for each GPU and call, a swap one where unmap and remap need two, and the rounds of the GPUs overlap.
 */
#define _GNU_SOURCE
#include <sys/ptrace.h>
#include "cost.h"

#define PROCESSES 4
#define QUEUES 64 /* most on a GPU */
#define REPEATS 5

enum way { UPDATE, SUSPEND_EACH, SUSPEND_ALL, LEASE, UNMAP_REMAP, SWAP, WAYS };

static const char *const names[WAYS] = {
	"(a) UPDATE_QUEUE, each queue",
	"(b) DBG_TRAP suspend, each queue",
	"(c) DBG_TRAP suspend, one array",
	"(d) lease, one batch",
	"    lease, unmap one, remap other",
	"(e) lease, swap them",
};

/* What a trial of the stock driver found before there was this program: ms for 0 and 1 ms a round; one GPU, one process. */
static const struct {
	int queues;
	double ms[3][2];
} earlier[] = {
	{ 1, { { 0.16, 1.42 }, { 0.65, 1.47 }, { 0.39, 1.49 } } },
	{ 10, { { 2.5, 16.2 }, { 2.6, 16.2 }, { 0.36, 1.58 } } },
};

struct shape {
	int gpus, processes, queues; /* queues on each GPU, of all processes */
};

struct offline {
	struct actor actor;
	uint32_t *ids; /* shared, of each queue */
	int num;
	uint32_t target;
};

static struct shape shape;
static struct offline offline[PROCESSES];
static int kfd, lease;
static uint32_t partner; /* target: an online process that is mapped where a lease swaps */
static int repeats = REPEATS;

/* --- processes ----------------------------------------------------------------------------------- */

static uint32_t *ids_of_next;

/* Has queues, and updates them to 0 or 100 percent when told; says how many calls that took. */
static int have_queues(int socket, const struct scene *s)
{
	int num = shape.gpus * (shape.queues / shape.processes), count, i;
	struct gpu_area *areas = gpu_memory(num * sizeof(*areas));
	struct gpu_queue *queues = calloc(num, sizeof(*queues));
	struct gpu gpus[GPU_MAX];
	char percent;

	(void)s;
	count = gpu_open(gpus, shape.gpus);
	CHECK(count == shape.gpus && !gpu_let_debuggers_in(gpus));
	for (i = 0; i < num && !failures; i++) {
		CHECK(!gpu_create(&gpus[i % count], KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, &areas[i], &queues[i]));
		ids_of_next[i] = queues[i].id;
	}
	report(socket);
	while (read(socket, &percent, 1) == 1) {
		struct calls c = {};

		for (i = 0; i < num; i++) {
			uint64_t start = now_ns();

			count_call(&c, start, gpu_update(&queues[i], percent));
		}
		if (write(socket, &c, sizeof(c)) != sizeof(c))
			return 1;
	}
	return 0;
}

static int trap(struct kfd_ioctl_dbg_trap_args *args)
{
	int ret = ioctl(kfd, AMDKFD_IOC_DBG_TRAP, args);

	return ret < 0 ? -errno : ret;
}

/* Becomes the debugger of a process, and looks at its queues, which it must have done before it suspends them. */
static void debug(pid_t pid)
{
	static struct kfd_queue_snapshot_entry snapshot[1024];
	struct kfd_ioctl_dbg_trap_args args = { .pid = pid, .op = KFD_IOC_DBG_TRAP_ENABLE };
	struct kfd_runtime_info info;
	int events[2];

	CHECK(!pipe(events) && !ptrace(PTRACE_SEIZE, pid, NULL, NULL));
	args.enable.rinfo_ptr = (uintptr_t)&info;
	args.enable.rinfo_size = sizeof(info);
	args.enable.dbg_fd = events[1];
	CHECK(!trap(&args));
	args = (struct kfd_ioctl_dbg_trap_args) { .pid = pid, .op = KFD_IOC_DBG_TRAP_GET_QUEUE_SNAPSHOT };
	args.queue_snapshot.exception_mask = ~0ULL;
	args.queue_snapshot.snapshot_buf_ptr = (uintptr_t)snapshot;
	args.queue_snapshot.num_queues = 1024;
	args.queue_snapshot.entry_size = sizeof(snapshot[0]);
	CHECK(!trap(&args));
}

/* --- the ways ------------------------------------------------------------------------------------ */

/* All processes at once, as nothing keeps them from it. */
static struct calls by_update(int stop)
{
	struct calls sum = {}, c;
	char percent = stop ? 0 : 100;
	int i;

	for (i = 0; i < shape.processes; i++)
		sum.failed |= write(offline[i].actor.socket, &percent, 1) != 1;
	for (i = 0; i < shape.processes; i++) {
		sum.failed |= read(offline[i].actor.socket, &c, sizeof(c)) != sizeof(c);
		add_calls(&sum, &c);
	}
	return sum;
}

static void suspend_some(struct calls *c, const struct offline *o, int first, int num, int stop)
{
	struct kfd_ioctl_dbg_trap_args args = { .pid = o->actor.pid };
	uint64_t start = now_ns();
	uint32_t ids[1024];

	memcpy(ids, o->ids + first, num * sizeof(*ids));
	args.op = stop ? KFD_IOC_DBG_TRAP_SUSPEND_QUEUES : KFD_IOC_DBG_TRAP_RESUME_QUEUES;
	if (stop) {
		args.suspend_queues.queue_array_ptr = (uintptr_t)ids;
		args.suspend_queues.num_queues = num;
	} else {
		args.resume_queues.queue_array_ptr = (uintptr_t)ids;
		args.resume_queues.num_queues = num;
	}
	count_call(c, start, trap(&args) != num);
}

static struct calls by_debugger(int stop, int at_once)
{
	struct calls c = {};
	int i, j;

	for (i = 0; i < shape.processes; i++) {
		if (at_once)
			suspend_some(&c, &offline[i], 0, offline[i].num, stop);
		else
			for (j = 0; j < offline[i].num; j++)
				suspend_some(&c, &offline[i], j, 1, stop);
	}
	return c;
}

static void call_batch(struct calls *c, unsigned long command, struct kfd_gpreempt_entry *entries, int num)
{
	struct kfd_ioctl_batch_unmap_args args;
	uint64_t start = now_ns();
	int ret = batch(lease, command, entries, num, &args);

	count_call(c, start, ret || args.num_failed);
}

static struct calls by_lease(enum way way, int stop)
{
	struct kfd_gpreempt_entry entries[PROCESSES], other = every_queue(partner);
	struct calls c = {};
	int i;

	for (i = 0; i < shape.processes; i++)
		entries[i] = every_queue(offline[i].target);
	if (way == SWAP) {
		struct kfd_ioctl_swap_queues_args swap = {
			.unmap_ptr = (uintptr_t)(stop ? entries : &other),
			.remap_ptr = (uintptr_t)(stop ? &other : entries),
			.num_unmap = stop ? shape.processes : 1,
			.num_remap = stop ? 1 : shape.processes,
			.entry_size = sizeof(other),
		};
		uint64_t start = now_ns();
		int ret = ioctl(lease, AMDKFD_IOC_SWAP_QUEUES, &swap);

		count_call(&c, start, ret || swap.num_failed);
		return c;
	}
	if (way == UNMAP_REMAP && !stop)
		call_batch(&c, AMDKFD_IOC_BATCH_UNMAP_QUEUES, &other, 1);
	call_batch(&c, stop ? AMDKFD_IOC_BATCH_UNMAP_QUEUES : AMDKFD_IOC_FAST_REMAP, entries, shape.processes);
	if (way == UNMAP_REMAP && stop)
		call_batch(&c, AMDKFD_IOC_FAST_REMAP, &other, 1);
	return c;
}

static struct calls perform(enum way way, int stop)
{
	switch (way) {
	case UPDATE:
		return by_update(stop);
	case SUSPEND_EACH:
	case SUSPEND_ALL:
		return by_debugger(stop, way == SUSPEND_ALL);
	default:
		return by_lease(way, stop);
	}
}

/* --- the table ----------------------------------------------------------------------------------- */

struct figures {
	struct packets packets;
	struct calls calls;
	double stop_ms, start_ms, longest_ms;
	int in_flight;
};

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static double median(double *values)
{
	qsort(values, repeats, sizeof(*values), by_value);
	return values[repeats / 2];
}

static struct figures measure(enum way way)
{
	double stop[64], start[64], longest[64];
	struct figures f = {};
	uint64_t before[8][2], began;
	struct calls c;
	int i, in_flight;

	for (i = 0; i < repeats; i++) {
		read_packets(before, shape.gpus);
		began = now_ns();
		f.calls = perform(way, 1);
		stop[i] = (now_ns() - began) / 1e6;
		longest[i] = f.calls.longest_ns / 1e6;
		f.packets = packets_since(before, shape.gpus);
		in_flight = most_in_flight(began, shape.gpus);
		if (in_flight > f.in_flight)
			f.in_flight = in_flight;
		CHECK(!f.calls.failed);
		began = now_ns();
		c = perform(way, 0);
		start[i] = (now_ns() - began) / 1e6;
		CHECK(!c.failed);
		read_packets(before, shape.gpus);
	}
	f.stop_ms = median(stop);
	f.start_ms = median(start);
	f.longest_ms = median(longest);
	return f;
}

static void print_earlier(enum way way)
{
	unsigned int i;

	for (i = 0; i < sizeof(earlier) / sizeof(*earlier); i++)
		if (shape.gpus == 1 && shape.processes == 1 && shape.queues == earlier[i].queues && way <= SUSPEND_ALL)
			printf("  %.2f / %.2f", earlier[i].ms[way][0], earlier[i].ms[way][1]);
}

static void compare(enum way way)
{
	struct figures none, one;

	CHECK(!fake_set_all("unmap_us", "0"));
	none = measure(way);
	CHECK(!fake_set_all("unmap_us", "1000"));
	one = measure(way);
	printf("%4d %5d %7d  %-34s %6llu %8llu %6llu %9.2f %9.2f %9.2f %9.2f %9.2f %7d", shape.gpus, shape.processes, shape.queues,
	       names[way], (unsigned long long)one.packets.rounds, (unsigned long long)one.packets.all,
	       (unsigned long long)one.calls.calls, none.stop_ms, none.start_ms, one.stop_ms, one.start_ms, one.longest_ms,
	       one.in_flight);
	print_earlier(way);
	printf("\n");
	fflush(stdout);
	if (way == LEASE || way == SWAP)
		CHECK(none.packets.most == 1 && one.packets.most == 1 && (int)one.packets.rounds == shape.gpus);
	if (way == UNMAP_REMAP)
		CHECK(none.packets.most == 2 && one.packets.most == 2);
	if (way >= LEASE && shape.gpus > 1)
		CHECK(one.in_flight > 1);
	if (way == SUSPEND_EACH || way == SUSPEND_ALL)
		CHECK(one.in_flight == 1);
}

static void measure_shape(void)
{
	static const struct gpu_plan one_on_each = { .type = KFD_IOC_QUEUE_TYPE_COMPUTE_AQL, .queues = 1, .waves = 1 };
	struct gpu_worker online, other;
	struct kfd_gpreempt_entry entry;
	enum way way;
	int i;

	online = gpu_start(&one_on_each, fake_nodes());
	other = gpu_start(&one_on_each, fake_nodes());
	CHECK(online.pid > 0 && other.pid > 0 && !gpu_tell(&online, 's') && !gpu_tell(&other, 's'));
	kfd = open("/dev/kfd", O_RDWR | O_CLOEXEC);
	for (i = 0; i < shape.processes; i++) {
		offline[i].num = shape.gpus * (shape.queues / shape.processes);
		offline[i].ids = gpu_memory(offline[i].num * sizeof(uint32_t));
		ids_of_next = offline[i].ids;
		offline[i].actor = actor_start(have_queues, NULL);
		CHECK(reports(&offline[i].actor));
		debug(offline[i].actor.pid);
	}
	for (way = UPDATE; way < LEASE; way++)
		compare(way);
	lease = open_lease();
	for (i = 0; i < shape.processes; i++)
		offline[i].target = adopt(lease, offline[i].actor.pid);
	compare(LEASE);
	/* The other online process waits for its turn. */
	partner = adopt(lease, other.pid);
	entry = every_queue(partner);
	CHECK(!batch(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, &entry, 1, NULL) && !entry.result);
	compare(UNMAP_REMAP);
	compare(SWAP);
	close(lease);
	for (i = 0; i < shape.processes; i++)
		actor_kill(&offline[i].actor);
	CHECK(gpu_end(&online) == 0 && gpu_end(&other) == 0);
	close(kfd);
}

int main(int argc, char **argv)
{
	static const int queues[] = { 1, 10, 64 }, processes[] = { 4, 1 };
	int gpus[] = { fake_nodes(), 1 }, number = 0, all_failed = 0, status;
	int g, p, q, quick = argc == 3 && !strcmp(argv[2], "quick");

	if (argc > 1)
		repeats = atoi(argv[1]);
	if (repeats < 1 || repeats > 64)
		return 2;
	printf("                                                        of one stop             no time / round     1 ms / round\n");
	printf("GPUs procs queues   way                                rounds  packets  calls      stop     start      stop     start"
	       "   longest  flying  earlier\n");
	for (g = quick ? 0 : 1; g >= 0; g--) {
		for (p = quick ? 0 : 1; p >= 0; p--) {
			for (q = 0; q < (quick ? 1 : 3); q++) {
				pid_t pid;

				/* Each process has as many of them, one at least. */
				shape = (struct shape) { gpus[g], processes[p], queues[quick ? 1 : q] / processes[p] * processes[p] };
				if (!shape.queues)
					shape.queues = processes[p];
				fflush(stdout);
				pid = fork();
				if (!pid) {
					measure_shape();
					fflush(stdout);
					_exit(!!failures);
				}
				waitpid(pid, &status, 0);
				all_failed |= status;
				printf("%sok %d %d queues of %d processes on each of %d GPUs cost what they may\n", status ? "not " : "",
				       ++number, shape.queues, shape.processes, shape.gpus);
			}
		}
	}
	printf("%sok %d no GPU complains\n", gpu_errors() ? "not " : "", ++number);
	return all_failed || gpu_errors();
}
