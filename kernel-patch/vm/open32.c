// SPDX-License-Identifier: MIT
/* Opens /dev/kfd as a 32-bit program, which the driver refuses: exit status 1 then. */
#include <fcntl.h>

int main(void)
{
	return open("/dev/kfd", O_RDWR) < 0;
}
