# Runs the KUnit suites of the module, then takes the fake GPUs down. The results are in the log of the kernel.
# kunit_fakes=PARAMETER,... on the command line of the kernel are the parameters of the module.
fakes=$(sed -n 's/.*kunit_fakes=\([^ ]*\).*/\1/p' /proc/cmdline | sed 's/,/ /g')
# shellcheck disable=SC2086
/amdgpu ${fakes:-fake_nodes=2} || exit 1
ls -l /dev/kfd || exit 1
rmmod amdgpu
