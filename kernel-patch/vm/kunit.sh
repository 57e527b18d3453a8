# Runs the KUnit suites of the module, then takes the fake GPUs down. The results are in the log of the kernel.
dmesg -c >/dev/null
/amdgpu fake_nodes=2 || exit 1
dmesg | sed 's/^\[ *[0-9.]*\] //'
ls -l /dev/kfd || exit 1
rmmod amdgpu
