/*
 * scheduler SOCKET HOLD_MS: stops every queue of the process behind the socket, those to come too, says "held" and
 * sleeps for ever. What happens to it then, and to the queues, is the test's business.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct request {
	uint32_t version, operation, sequence, flags, gpu_id, hold_ms, num_ids, pad;
};

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct request stop = { .version = 1, .operation = 3, .sequence = 1, .flags = 1 | 2 };
	uint32_t reply[4096];
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (argc != 3)
		return 2;
	stop.hold_ms = atoi(argv[2]);
	strncpy(address.sun_path, argv[1], sizeof(address.sun_path) - 1);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
		perror("connect");
		return 1;
	}
	if (send(fd, &stop, sizeof(stop), 0) != sizeof(stop) || recv(fd, reply, sizeof(reply), 0) < 64 || reply[3]) {
		puts("refused");
		return 1;
	}
	puts("held");
	fflush(stdout);
	for (;;)
		pause();
}
