# Runs the KUnit suites of the module, then takes the fake GPUs down. The results are in the log of the kernel.
/amdgpu fake_nodes=2 || exit 1
ls -l /dev/kfd || exit 1
rmmod amdgpu
