// SPDX-License-Identifier: MIT
/*
 * A 32-bit program: opens /dev/kfd, which the driver refuses, and calls a command of a lease that it
 * inherited from a 64-bit one.
 *
 * usage: open32 LEASE
 *   number of the inherited file. Exit status: 1 if /dev/kfd opens or says another error than EPERM,
 *   2 if the lease answers anything but EBADF.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include "kfd_ioctl_gpreempt.h"

int main(int argc, char **argv)
{
	struct kfd_ioctl_gpreempt_attach_args args = {};

	if (open("/dev/kfd", O_RDWR) >= 0 || errno != EPERM)
		return 1;
	if (argc != 2 || ioctl(atoi(argv[1]), AMDKFD_IOC_GPREEMPT_ATTACH, &args) == 0 || errno != EBADF)
		return 2;
	return 0;
}
