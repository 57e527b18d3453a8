// SPDX-License-Identifier: MIT
/*
 * Tests from user space, on a machine without a GPU, who may command a lease and for how long.
 *
 * Runs as root in the VM of kernel-patch/vm/run, with a 32-bit program beside it. Prints TAP.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include "harness.h"

/* Longest wait for something that happens at once. */
#define SOON 60000

/* Who uses the driver: open files of /dev/kfd, and leases. */
static int users_of_the_driver(void)
{
	FILE *file = fopen("/sys/module/amdgpu/refcnt", "r");
	int users = -1;

	if (!file || fscanf(file, "%d", &users) != 1)
		users = -1;
	if (file)
		fclose(file);
	return users;
}

/* Whether a lease ends; it hangs up then. */
static int hangs_up(int lease, int timeout)
{
	struct pollfd poll_fd = { .fd = lease, .events = POLLIN };

	return poll(&poll_fd, 1, timeout) == 1 && poll_fd.revents & POLLHUP;
}

static int commands_nothing(int lease)
{
	static const unsigned long commands[] = {
		AMDKFD_IOC_GPREEMPT_ATTACH, AMDKFD_IOC_GPREEMPT_DETACH, AMDKFD_IOC_BATCH_UNMAP_QUEUES,
		AMDKFD_IOC_FAST_REMAP, AMDKFD_IOC_SWAP_QUEUES, AMDKFD_IOC_SELECTIVE_UNMAP,
		AMDKFD_IOC_SET_QUEUE_STATE, AMDKFD_IOC_SET_QUEUE_POLICY, AMDKFD_IOC_SET_HQD_RESERVATION,
		AMDKFD_IOC_GET_HQD_STATUS, AMDKFD_IOC_GET_QUEUE_STATUS,
	};
	char event[40], args[128] = "";
	unsigned int i;

	for (i = 0; i < sizeof(commands) / sizeof(*commands); i++)
		if (error_of(lease, commands[i], args) != EBADF)
			return 1;
	return read(lease, event, sizeof(event)) < 0 && errno == EBADF ? 0 : 1;
}

/* --- close, dup, fork ------------------------------------------------------------------------------ */

static void the_last_close_ends_a_lease(void)
{
	int before = users_of_the_driver(), lease = open_lease(), copy;

	CHECK(before >= 0 && users_of_the_driver() == before + 1);
	copy = dup(lease);
	close(lease);
	CHECK(users_of_the_driver() == before + 1);
	close(copy);
	CHECK(users_of_the_driver() == before);
	CHECK(attach(copy, 0, NULL) == EBADF);
}

static void the_holder_commands_by_a_duplicate(void)
{
	int lease = open_lease(), copy = dup(lease);

	CHECK(attach(copy, 0, NULL) == 0);
	close(lease);
	CHECK(attach(copy, 0, NULL) == 0);
	close(copy);
}

static void *attach_in_a_thread(void *lease)
{
	return (void *)(long)attach(*(int *)lease, 0, NULL);
}

static void any_thread_of_the_holder_commands(void)
{
	int lease = open_lease();
	pthread_t thread;
	void *ret;

	CHECK(pthread_create(&thread, NULL, attach_in_a_thread, &lease) == 0);
	CHECK(pthread_join(thread, &ret) == 0 && ret == NULL);
	close(lease);
}

static void a_forked_child_commands_nothing(void)
{
	int lease = open_lease();

	CHECK(in_child(commands_nothing, lease) == 0);
	CHECK(attach(lease, 0, NULL) == 0);
	close(lease);
}

static int clone_child(void *lease)
{
	return commands_nothing(*(int *)lease);
}

static void a_child_that_shares_the_memory_commands_nothing(void)
{
	static char stack[65536];
	int lease = open_lease(), status;
	pid_t pid;

	pid = clone(clone_child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, &lease);
	waitpid(pid, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(lease);
}

/* --- another process's copy, and the end of the holder ----------------------------------------------- */

static void send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = "", byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	sendmsg(socket, &msg, 0);
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(socket, &msg, 0) == 1 && CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* A process that opens a lease, sends a copy of it, and then does what it is told: one byte, one deed. */
struct holder {
	pid_t pid;
	int socket;
	int copy;
};

static void obey(int socket, int lease)
{
	char byte;

	while (read(socket, &byte, 1) == 1) {
		if (byte == 'c')
			close(lease);
		if (byte == 'f' && !fork())
			pause();
		if (byte == 'e')
			execl("/proc/self/exe", "holder", "--sleep", NULL);
		if (write(socket, "", 1) != 1)
			break;
	}
	_exit(0);
}

static struct holder start_holder(void)
{
	struct holder holder = {};
	int pair[2], lease;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	holder.pid = fork();
	if (!holder.pid) {
		close(pair[0]);
		/* Its children go with it. */
		setpgid(0, 0);
		lease = open_lease();
		send_fd(pair[1], lease);
		obey(pair[1], lease);
	}
	close(pair[1]);
	holder.socket = pair[0];
	holder.copy = receive_fd(pair[0]);
	CHECK(holder.copy >= 0);
	return holder;
}

/* Returns when it is done, or when the other end of the socket is closed. */
static void tell(struct holder *holder, char deed)
{
	char byte;

	CHECK(write(holder->socket, &deed, 1) == 1);
	CHECK(read(holder->socket, &byte, 1) == (deed != 'e'));
}

static void end_holder(struct holder *holder)
{
	kill(-holder->pid, SIGKILL);
	waitpid(holder->pid, NULL, 0);
	close(holder->socket);
	close(holder->copy);
}

static void a_copy_passed_over_a_socket_commands_nothing(void)
{
	struct holder holder = start_holder();

	CHECK(commands_nothing(holder.copy) == 0);
	CHECK(!hangs_up(holder.copy, 0));
	tell(&holder, 'c');
	CHECK(commands_nothing(holder.copy) == 0);
	end_holder(&holder);
}

static void a_copy_passed_over_a_socket_does_not_prolong_a_lease(void)
{
	struct holder holder = start_holder();
	char event[40];

	kill(holder.pid, SIGKILL);
	CHECK(hangs_up(holder.copy, SOON));
	CHECK(commands_nothing(holder.copy) == 1 && attach(holder.copy, 0, NULL) == EBADF);
	CHECK(read(holder.copy, event, sizeof(event)) == 0);
	end_holder(&holder);
}

static void a_killed_holder_ends_its_lease_although_a_forked_child_lives(void)
{
	struct holder holder = start_holder();

	tell(&holder, 'f');
	kill(holder.pid, SIGKILL);
	CHECK(hangs_up(holder.copy, SOON));
	end_holder(&holder);
}

static void exec_of_the_holder_ends_its_lease(void)
{
	struct holder holder = start_holder();

	tell(&holder, 'e');
	CHECK(hangs_up(holder.copy, SOON));
	CHECK(waitpid(holder.pid, NULL, WNOHANG) == 0);
	end_holder(&holder);
}

/* What another image does with files that it was left: --after-exec KFD LEASE */
static int after_exec(int kfd, int lease)
{
	struct kfd_ioctl_gpreempt_open_args args = open_args();
	int failed;

	failed = error_of(kfd, AMDKFD_IOC_GPREEMPT_OPEN, &args) != EBADF;
	failed |= attach(lease, 0, NULL) != EBADF;
	lease = open_lease();
	failed |= lease < 0 || attach(lease, 0, NULL) != 0;
	return failed;
}

static int become_another_image(int arg)
{
	char kfd_text[16], lease_text[16];
	int kfd = open_kfd(), lease = open_lease();

	(void)arg;
	fcntl(kfd, F_SETFD, 0);
	fcntl(lease, F_SETFD, 0);
	snprintf(kfd_text, sizeof(kfd_text), "%d", kfd);
	snprintf(lease_text, sizeof(lease_text), "%d", lease);
	execl("/proc/self/exe", "holder", "--after-exec", kfd_text, lease_text, NULL);
	return 9;
}

static void another_image_commands_nothing_until_it_opens_its_own(void)
{
	CHECK(in_child(become_another_image, 0) == 0);
}

static int become_a_32_bit_program(int lease)
{
	char text[16];

	fcntl(lease, F_SETFD, 0);
	snprintf(text, sizeof(text), "%d", lease);
	execl("/open32", "open32", text, NULL);
	return 9;
}

static void a_32_bit_program_is_refused(void)
{
	int lease = open_lease();

	CHECK(in_child(become_a_32_bit_program, lease) == 0);
	close(lease);
}

/* --- watchdog and heartbeat, as far as they go without queues ------------------------------------------- */

static void heartbeats_of_nothing_cost_no_round(void)
{
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	struct kfd_ioctl_batch_unmap_args args = {
		.entries_ptr = (unsigned long)&entry,
		.num_entries = 1,
		.entry_size = sizeof(entry),
	};
	int lease = open_lease(), i;

	for (i = 0; i < 3; i++) {
		CHECK(error_of(lease, AMDKFD_IOC_BATCH_UNMAP_QUEUES, &args) == 0);
		CHECK(args.num_ok == 1 && !args.num_failed && !args.num_nodes && !args.num_rounds);
	}
	close(lease);
}

static void a_lease_lives_on_when_its_watchdog_finds_nothing(void)
{
	struct kfd_ioctl_queue_policy_args policy = {
		.queue.queue_id = KFD_GPREEMPT_ALL_QUEUES,
		.set_flags = KFD_GPREEMPT_POLICY_PREEMPTIBLE | KFD_GPREEMPT_POLICY_LAZY_ACTIVATION,
	};
	struct kfd_gpreempt_entry entry = { .queue_id = KFD_GPREEMPT_ALL_QUEUES };
	int lease = open_lease_for(1);
	struct pollfd poll_fd = { .fd = lease, .events = POLLIN };
	pid_t pid = sleeper(1, 0);

	CHECK(attach(lease, pid, &entry.target) == 0);
	policy.queue.target = entry.target;
	CHECK(error_of(lease, AMDKFD_IOC_SET_QUEUE_POLICY, &policy) == 0 && policy.queue.result == 0);
	CHECK(unmap(lease, &entry) == 0);
	/* A hundred times the hold. */
	CHECK(poll(&poll_fd, 1, 100) == 0);
	CHECK(unmap(lease, &entry) == 0 && attach(lease, 0, NULL) == 0);
	reap(pid);
	close(lease);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "--after-exec"))
		return after_exec(atoi(argv[2]), atoi(argv[3]));
	if (argc == 2 && !strcmp(argv[1], "--sleep"))
		return pause();

	RUN(the_last_close_ends_a_lease);
	RUN(the_holder_commands_by_a_duplicate);
	RUN(any_thread_of_the_holder_commands);
	RUN(a_forked_child_commands_nothing);
	RUN(a_child_that_shares_the_memory_commands_nothing);
	RUN(a_copy_passed_over_a_socket_commands_nothing);
	RUN(a_copy_passed_over_a_socket_does_not_prolong_a_lease);
	RUN(a_killed_holder_ends_its_lease_although_a_forked_child_lives);
	RUN(exec_of_the_holder_ends_its_lease);
	RUN(another_image_commands_nothing_until_it_opens_its_own);
	RUN(a_32_bit_program_is_refused);
	RUN(heartbeats_of_nothing_cost_no_round);
	RUN(a_lease_lives_on_when_its_watchdog_finds_nothing);
	printf("# %d checks, %d failed\n", checks, failures);
	return failures != 0;
}
