/* SPDX-License-Identifier: MIT */
/*
 * Queues on the GPUs of the VM, as a runtime makes them: what the tests of user programs share.
 *
 * Work is packets of kfd_fake_packet.h. Each leaves its number in the trail of its queue, so that a
 * test sees whether one was lost or has run twice. What a test looks at lies in shared memory, which
 * outlives the process that has the queue.
 */
#ifndef GPU_H
#define GPU_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/kfd_ioctl.h>
#include "harness.h"
#include "kfd_fake_packet.h"

#define GPU_MAX 64
#define GPU_PAGE 4096
#define GPU_RING (64 * 1024)
#define GPU_PACKET sizeof(struct kfd_fake_packet)
#define GPU_TRAIL (64 * 1024)
#define GPU_TRAIL_ROOM ((GPU_TRAIL - sizeof(struct kfd_fake_trail)) / 8)
#define GPU_SLOWEST_S 120

/* One GPU, as topology and /dev/kfd tell it. */
struct gpu {
	int kfd;
	uint32_t id;
	uint32_t xccs;
	uint32_t cwsr_size, ctl_stack_size, debug_size;
};

/* What a queue shares with its observers. */
struct gpu_area {
	_Alignas(GPU_PAGE) volatile uint64_t rptr;
	volatile uint64_t wptr;
	volatile uint64_t submitted; /* packets */
	volatile uint32_t queue_id;
	volatile uint32_t gpu_id;
	_Alignas(GPU_PAGE) unsigned char trail[GPU_TRAIL];
};

struct gpu_queue {
	struct gpu *gpu;
	uint32_t type; /* KFD_IOC_QUEUE_TYPE_* */
	uint32_t id;
	unsigned char *ring;
	void *save_area;
	size_t save_size;
	volatile uint64_t *doorbell;
	void *doorbells;
	struct gpu_area *area;
	uint64_t handles[4];
	int num_handles;
};

static inline double gpu_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Waits until a condition holds, for as long as a loaded machine may need; 0 if it never does. */
#define GPU_WAIT(condition)                                           \
	({                                                            \
		double end_ = gpu_now() + GPU_SLOWEST_S;              \
		int holds_;                                           \
		while (!(holds_ = !!(condition)) && gpu_now() < end_) \
			usleep(500);                                  \
		holds_;                                               \
	})

/* Shared, zeroed memory. */
static inline void *gpu_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static inline uint32_t gpu_property(const char *properties, const char *name)
{
	const char *at = properties;
	size_t length = strlen(name);

	for (; at; at = strchr(at, '\n')) {
		at += *at == '\n';
		if (!strncmp(at, name, length) && at[length] == ' ')
			return strtoul(at + length, NULL, 10);
	}
	return 0;
}

static inline int gpu_read_file(const char *path, char *text, size_t room)
{
	int fd = open(path, O_RDONLY);
	size_t size = 0;
	ssize_t got;

	if (fd < 0)
		return -1;
	while (size + 1 < room && (got = read(fd, text + size, room - 1 - size)) > 0)
		size += got;
	text[size] = 0;
	close(fd);
	return 0;
}

static inline int gpu_write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), failed;

	if (fd < 0)
		return -1;
	failed = write(fd, text, strlen(text)) < 0;
	close(fd);
	return failed ? -1 : 0;
}

/* The save area that a queue needs: the sizes of the topology, and what the kernel adds for a debugger. */
static inline int gpu_describe(struct gpu *gpu)
{
	char path[160], text[4096], id[32];
	uint32_t cus, waves, arrays;
	int node;

	for (node = 0; node < 2 * GPU_MAX; node++) {
		snprintf(path, sizeof(path), "/sys/class/kfd/kfd/topology/nodes/%d/gpu_id", node);
		if (gpu_read_file(path, id, sizeof(id)) || strtoul(id, NULL, 10) != gpu->id)
			continue;
		snprintf(path, sizeof(path), "/sys/class/kfd/kfd/topology/nodes/%d/properties", node);
		if (gpu_read_file(path, text, sizeof(text)))
			return -1;
		gpu->xccs = gpu_property(text, "num_xcc");
		gpu->cwsr_size = gpu_property(text, "cwsr_size");
		gpu->ctl_stack_size = gpu_property(text, "ctl_stack_size");
		cus = gpu_property(text, "simd_count") / gpu_property(text, "simd_per_cu") / gpu->xccs;
		arrays = gpu_property(text, "array_count") / gpu_property(text, "simd_arrays_per_engine");
		waves = cus * 40 < arrays * 512 ? cus * 40 : arrays * 512;
		gpu->debug_size = (waves * 32 + 63) & ~63u;
		return 0;
	}
	return -1;
}

/* Opens /dev/kfd and acquires a VM on each GPU. Returns how many there are, or -1. */
static inline int gpu_open(struct gpu *gpus, int room)
{
	struct kfd_process_device_apertures apertures[GPU_MAX] = {};
	struct kfd_ioctl_get_process_apertures_new_args args = { .num_of_nodes = 0 };
	int kfd = open("/dev/kfd", O_RDWR | O_CLOEXEC), drm = open("/dev/null", O_RDWR), i;

	if (kfd < 0 || drm < 0 || ioctl(kfd, AMDKFD_IOC_GET_PROCESS_APERTURES_NEW, &args))
		return -1;
	if (args.num_of_nodes > GPU_MAX)
		return -1;
	args.kfd_process_device_apertures_ptr = (uintptr_t)apertures;
	if (args.num_of_nodes && ioctl(kfd, AMDKFD_IOC_GET_PROCESS_APERTURES_NEW, &args))
		return -1;
	for (i = 0; i < (int)args.num_of_nodes && i < room; i++) {
		struct kfd_ioctl_acquire_vm_args acquire = { .drm_fd = drm,
							     .gpu_id = apertures[i].gpu_id };

		gpus[i] = (struct gpu) { .kfd = kfd, .id = apertures[i].gpu_id };
		if (gpu_describe(&gpus[i]) || ioctl(kfd, AMDKFD_IOC_ACQUIRE_VM, &acquire))
			return -1;
	}
	close(drm);
	return i;
}

/* Lets a GPU reach memory of this process. Returns its handle, 0 if that fails. */
static inline uint64_t gpu_map(struct gpu *gpu, volatile void *memory, size_t size)
{
	struct kfd_ioctl_alloc_memory_of_gpu_args alloc = {
		.va_addr = (uintptr_t)memory,
		.mmap_offset = (uintptr_t)memory,
		.size = size,
		.gpu_id = gpu->id,
		.flags = KFD_IOC_ALLOC_MEM_FLAGS_USERPTR | KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE |
			 KFD_IOC_ALLOC_MEM_FLAGS_EXECUTABLE | KFD_IOC_ALLOC_MEM_FLAGS_COHERENT,
	};
	struct kfd_ioctl_map_memory_to_gpu_args map = {
		.device_ids_array_ptr = (uintptr_t)&gpu->id,
		.n_devices = 1,
	};

	if (ioctl(gpu->kfd, AMDKFD_IOC_ALLOC_MEMORY_OF_GPU, &alloc))
		return 0;
	map.handle = alloc.handle;
	return ioctl(gpu->kfd, AMDKFD_IOC_MAP_MEMORY_TO_GPU, &map) ? 0 : alloc.handle;
}

static inline int gpu_unmap(struct gpu *gpu, uint64_t handle)
{
	struct kfd_ioctl_unmap_memory_from_gpu_args unmap = {
		.handle = handle,
		.device_ids_array_ptr = (uintptr_t)&gpu->id,
		.n_devices = 1,
	};
	struct kfd_ioctl_free_memory_of_gpu_args release = { .handle = handle };

	return ioctl(gpu->kfd, AMDKFD_IOC_UNMAP_MEMORY_FROM_GPU, &unmap) ?:
		ioctl(gpu->kfd, AMDKFD_IOC_FREE_MEMORY_OF_GPU, &release);
}

static inline struct kfd_fake_trail *gpu_trail(struct gpu_area *area)
{
	return (struct kfd_fake_trail *)area->trail;
}

static inline size_t gpu_round(size_t size)
{
	return (size + GPU_PAGE - 1) & ~(size_t)(GPU_PAGE - 1);
}

static inline int gpu_add_mapping(struct gpu_queue *q, volatile void *memory, size_t size)
{
	uint64_t handle = gpu_map(q->gpu, memory, size);

	if (!handle)
		return -1;
	q->handles[q->num_handles++] = handle;
	return 0;
}

/* Makes a queue whose pointers and trail are in @area. Returns 0 or -1 with errno. */
static inline int gpu_create(struct gpu *gpu, uint32_t type, struct gpu_area *area, struct gpu_queue *q)
{
	struct kfd_ioctl_create_queue_args args = {
		.gpu_id = gpu->id,
		.ring_size = GPU_RING,
		.queue_type = type,
		.queue_percentage = 100,
		.queue_priority = 7,
	};
	int compute = type == KFD_IOC_QUEUE_TYPE_COMPUTE || type == KFD_IOC_QUEUE_TYPE_COMPUTE_AQL;

	*q = (struct gpu_queue) { .gpu = gpu, .type = type, .area = area };
	gpu_trail(area)->room = GPU_TRAIL_ROOM;
	q->ring = gpu_memory(GPU_RING);
	if (!q->ring || gpu_add_mapping(q, q->ring, GPU_RING) ||
	    gpu_add_mapping(q, &area->rptr, GPU_PAGE) ||
	    gpu_add_mapping(q, area->trail, GPU_TRAIL))
		return -1;
	if (compute) {
		q->save_size = gpu_round((size_t)(gpu->cwsr_size + gpu->debug_size) * gpu->xccs);
		q->save_area = mmap(NULL, q->save_size, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (q->save_area == MAP_FAILED || gpu_add_mapping(q, q->save_area, q->save_size))
			return -1;
		args.ctx_save_restore_address = (uintptr_t)q->save_area;
		args.ctx_save_restore_size = gpu->cwsr_size;
		args.ctl_stack_size = gpu->ctl_stack_size;
	}
	args.ring_base_address = (uintptr_t)q->ring;
	args.read_pointer_address = (uintptr_t)&area->rptr;
	args.write_pointer_address = (uintptr_t)&area->wptr;
	if (ioctl(gpu->kfd, AMDKFD_IOC_CREATE_QUEUE, &args))
		return -1;
	q->id = args.queue_id;
	q->doorbells = mmap(NULL, 2 * GPU_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, gpu->kfd,
			    args.doorbell_offset & ~(2ULL * GPU_PAGE - 1));
	if (q->doorbells == MAP_FAILED)
		return -1;
	q->doorbell = (volatile uint64_t *)((char *)q->doorbells +
					    (args.doorbell_offset & (2 * GPU_PAGE - 1)));
	area->queue_id = q->id;
	area->gpu_id = gpu->id;
	return 0;
}

/* Returns 0 or -1 with errno. */
static inline int gpu_update(struct gpu_queue *q, uint32_t percent)
{
	struct kfd_ioctl_update_queue_args args = {
		.queue_id = q->id,
		.ring_base_address = (uintptr_t)q->ring,
		.ring_size = GPU_RING,
		.queue_percentage = percent,
		.queue_priority = 7,
	};

	return ioctl(q->gpu->kfd, AMDKFD_IOC_UPDATE_QUEUE, &args);
}

static inline int gpu_allocate_gws(struct gpu_queue *q)
{
	struct kfd_ioctl_alloc_queue_gws_args args = { .queue_id = q->id, .num_gws = 64 };

	return ioctl(q->gpu->kfd, AMDKFD_IOC_ALLOC_QUEUE_GWS, &args);
}

static inline int gpu_destroy(struct gpu_queue *q)
{
	struct kfd_ioctl_destroy_queue_args args = { .queue_id = q->id };
	int ret = ioctl(q->gpu->kfd, AMDKFD_IOC_DESTROY_QUEUE, &args);

	while (!ret && q->num_handles)
		ret = gpu_unmap(q->gpu, q->handles[--q->num_handles]);
	munmap(q->doorbells, 2 * GPU_PAGE);
	munmap(q->ring, GPU_RING);
	if (q->save_area)
		munmap(q->save_area, q->save_size);
	return ret;
}

/* Units of the pointers: packets, dwords or bytes. */
static inline uint64_t gpu_units(const struct gpu_queue *q)
{
	switch (q->type) {
	case KFD_IOC_QUEUE_TYPE_COMPUTE_AQL:
		return 1;
	case KFD_IOC_QUEUE_TYPE_COMPUTE:
		return GPU_PACKET / 4;
	default:
		return GPU_PACKET;
	}
}

static inline int gpu_is_idle(const struct gpu_area *area)
{
	return area->rptr == area->wptr;
}

static inline int gpu_is_full(const struct gpu_queue *q)
{
	return q->area->wptr - q->area->rptr >= (GPU_RING / GPU_PACKET - 1) * gpu_units(q);
}

/* Puts a packet into the ring, numbered from 0, and rings. The ring must have room. */
static inline void gpu_submit(struct gpu_queue *q, uint32_t cost_us, uint32_t waves)
{
	struct kfd_fake_packet packet = {
		.header = q->type == KFD_IOC_QUEUE_TYPE_COMPUTE_AQL ? KFD_FAKE_PACKET_AQL :
			  q->type == KFD_IOC_QUEUE_TYPE_COMPUTE ? KFD_FAKE_PACKET_PM4 :
								  KFD_FAKE_PACKET_SDMA,
		.magic = KFD_FAKE_PACKET_MAGIC,
		.cost_us = cost_us,
		.waves = waves,
		.seq = q->area->submitted,
		.trail = (uintptr_t)q->area->trail,
	};

	memcpy(q->ring + q->area->submitted % (GPU_RING / GPU_PACKET) * GPU_PACKET, &packet, GPU_PACKET);
	q->area->submitted++;
	__sync_synchronize();
	q->area->wptr += gpu_units(q);
	*q->doorbell = q->area->wptr;
}

/* Fills the ring up to @depth packets. */
static inline void gpu_feed(struct gpu_queue *q, uint64_t depth, uint32_t cost_us, uint32_t waves)
{
	while (q->area->wptr - q->area->rptr < depth * gpu_units(q) && !gpu_is_full(q))
		gpu_submit(q, cost_us, waves);
}

/* Packets that have run, from the trail. */
static inline uint64_t gpu_done(struct gpu_area *area)
{
	return ((volatile struct kfd_fake_trail *)gpu_trail(area))->count;
}

/* Whether each packet up to now has run once, in order. Call while the queue is stopped or idle. */
static inline int gpu_trail_is_whole(struct gpu_area *area)
{
	struct kfd_fake_trail *trail = gpu_trail(area);
	uint64_t count = trail->count, i;

	if (count > area->submitted)
		return 0;
	for (i = count > trail->room ? count - trail->room : 0; i < count; i++)
		if (trail->seq[i % trail->room] != i)
			return 0;
	return 1;
}

/* What a runtime does before it makes its first queue. Returns 0 or -1 with errno. */
static inline int gpu_let_debuggers_in(struct gpu *gpu)
{
	struct kfd_ioctl_runtime_enable_args args = { .mode_mask = KFD_RUNTIME_ENABLE_MODE_ENABLE_MASK };

	return ioctl(gpu->kfd, AMDKFD_IOC_RUNTIME_ENABLE, &args);
}

/* A process with queues that it keeps busy until it is told to stop, or is killed. */
struct gpu_worker {
	pid_t pid;
	int socket;
	struct gpu_area *areas;
	int num;
};

struct gpu_plan {
	uint32_t type;
	int gpus; /* on so many GPUs, 0 = all */
	int queues; /* on each */
	uint32_t cost_us, waves;
	uid_t uid; /* 0 = as the test */
	int gws; /* the first queue of each GPU gets global wave sync */
};

/* Workers enable their runtime, so that a debugger can stop their queues. */
static int gpu_enable_runtime = 1;

static inline int gpu_work(const struct gpu_plan *plan, struct gpu_area *areas, int socket)
{
	struct gpu gpus[GPU_MAX];
	struct gpu_queue *queues;
	int num, count = 0, i, j;
	char byte;

	if (plan->uid && setresuid(plan->uid, plan->uid, plan->uid))
		return 2;
	num = gpu_open(gpus, plan->gpus ?: GPU_MAX);
	if (num > 0 && gpu_enable_runtime && gpu_let_debuggers_in(gpus))
		return 8;
	queues = calloc(num > 0 ? num * plan->queues : 1, sizeof(*queues));
	if (num <= 0 || !queues)
		return 3;
	for (i = 0; i < num; i++) {
		for (j = 0; j < plan->queues; j++, count++) {
			if (gpu_create(&gpus[i], plan->type, &areas[count], &queues[count]))
				return 4;
			if (plan->gws && !j && gpu_allocate_gws(&queues[count]))
				return 9;
		}
	}
	if (write(socket, "", 1) != 1)
		return 5;
	/* 's' stops the work, 'g' goes on, 'd' destroys the queues and ends. */
	fcntl(socket, F_SETFL, O_NONBLOCK);
	for (byte = 'g';;) {
		ssize_t got = read(socket, &byte, 1);

		if (byte == 'd')
			break;
		for (i = 0; i < count && byte == 'g'; i++)
			gpu_feed(&queues[i], 64, plan->cost_us, plan->waves);
		if (got > 0 && write(socket, "", 1) != 1)
			return 6;
		usleep(1000);
	}
	for (i = 0; i < count; i++)
		if (gpu_destroy(&queues[i]))
			return 7;
	return 0;
}

/* Starts one for @num queues in all; its pid is -1 if it cannot do as planned. */
static inline struct gpu_worker gpu_start(const struct gpu_plan *plan, int num)
{
	struct gpu_worker worker = { .pid = -1, .num = num };
	int pair[2];
	char byte;

	worker.areas = gpu_memory(num * sizeof(struct gpu_area));
	if (!worker.areas || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return worker;
	fflush(stdout);
	worker.pid = fork();
	if (!worker.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pair[0]);
		_exit(gpu_work(plan, worker.areas, pair[1]));
	}
	close(pair[1]);
	worker.socket = pair[0];
	if (read(worker.socket, &byte, 1) != 1) {
		int status = 0;

		waitpid(worker.pid, &status, 0);
		printf("# worker ends with %d\n", WEXITSTATUS(status));
		worker.pid = -1;
	}
	return worker;
}

/* Tells a worker to stop ('s') or go on ('g') making work; its queues stay as they are. */
static inline int gpu_tell(struct gpu_worker *worker, char what)
{
	char byte;

	return write(worker->socket, &what, 1) == 1 && read(worker->socket, &byte, 1) == 1 ? 0 : -1;
}

/* Ends a worker, which destroys its queues first. Returns its exit status. */
static inline int gpu_end(struct gpu_worker *worker)
{
	int status = -1;

	/* An end of file would not do: other workers have copies of the socket. */
	if (write(worker->socket, "d", 1) != 1)
		return -1;
	close(worker->socket);
	waitpid(worker->pid, &status, 0);
	munmap(worker->areas, worker->num * sizeof(struct gpu_area));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Kills a worker; its areas remain. */
static inline void gpu_kill(struct gpu_worker *worker)
{
	kill(worker->pid, SIGKILL);
	waitpid(worker->pid, NULL, 0);
	close(worker->socket);
}

/* Whether a queue does packets: waits until it did @more of them. */
static inline int gpu_runs(struct gpu_area *area, uint64_t more)
{
	uint64_t before = gpu_done(area);

	return GPU_WAIT(gpu_done(area) >= before + more);
}

/*
 * Whether a queue stands still: while @other, on the same node, does packets enough that it would have
 * done some too.
 */
static inline int gpu_stands(struct gpu_area *area, struct gpu_area *other)
{
	uint64_t before = area->rptr, done = gpu_done(area);

	return gpu_runs(other, 50) && area->rptr == before && gpu_done(area) == done;
}

/* Path of a file of a fake node. */
static inline const char *gpu_file(int device, int node, const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/debug/kfd_fake/%d/node%d/%s", device, node, name);
	return path;
}

/* Turns a knob of a fake node. Returns 0 or -1. */
static inline int gpu_set(int device, int node, const char *knob, const char *value)
{
	return gpu_write_file(gpu_file(device, node, knob), value);
}

/* A number of the status of a fake node; all ones if it has no such line. */
static inline uint64_t gpu_status(int device, int node, const char *key)
{
	static char text[256 * 1024];
	size_t length = strlen(key);
	char *line;

	if (gpu_read_file(gpu_file(device, node, "status"), text, sizeof(text)))
		return UINT64_MAX;
	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, length) && line[length] == ' ')
			return strtoull(line + length, NULL, 10);
	}
	return UINT64_MAX;
}

/* Sum of the error counters of all fake nodes; -1 if there are none. */
static inline long gpu_errors(void)
{
	char text[256];
	long sum = 0, nodes = 0;
	int device, node;

	for (device = 0; device < 8; device++) {
		for (node = 0; node < 8; node++) {
			if (gpu_read_file(gpu_file(device, node, "errors"), text, sizeof(text)))
				continue;
			nodes++;
			sum += strtol(text, NULL, 10);
			if (text[0] != '0')
				printf("# device %d node %d: %s", device, node, text);
		}
	}
	return nodes ? sum : -1;
}

/* Processes that the driver knows, those included whose teardown is under way. */
static inline int gpu_processes(void)
{
	DIR *dir = opendir("/sys/class/kfd/kfd/proc");
	struct dirent *entry;
	int count = 0;

	while (dir && (entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return count;
}

/* Why a test of its own process cannot run here; shared with it. */
static char *gpu_skipped;

static inline void gpu_skip(const char *why)
{
	snprintf(gpu_skipped, GPU_PAGE, "%s", why);
	fflush(stdout);
	_exit(0);
}

/* RUN of harness.h, in a process of its own: a process acquires a VM once. */
static inline void run_alone(const char *name, void (*test)(void))
{
	static int number;
	int status;
	double start = gpu_now();
	pid_t pid;

	gpu_skipped = gpu_skipped ?: gpu_memory(GPU_PAGE);
	*gpu_skipped = 0;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		failures = 0;
		test();
		fflush(stdout);
		_exit(!!failures);
	}
	waitpid(pid, &status, 0);
	/* What is left of a process costs its nodes rounds, which the next test must not see. */
	if (!GPU_WAIT(!gpu_processes()))
		printf("# processes remain\n");
	if (!status && *gpu_skipped) {
		printf("ok %d %s # SKIP %s\n", ++number, name, gpu_skipped);
	} else {
		failures += !!status;
		printf("%sok %d %s\n", status ? "not " : "", ++number, name);
		printf("# in %.1f s, status %x\n", gpu_now() - start, status);
	}
	fflush(stdout);
}

#define RUN_ALONE(test) run_alone(#test, test)

#endif /* GPU_H */
