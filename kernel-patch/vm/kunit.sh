# Runs the KUnit suites of the module, then takes the fake GPUs down and puts them up again.
/amdgpu fake_nodes=2 || exit 1
dmesg | grep -oE '(KTAP|1\.\.|# |ok |not ok ).*' >/tmp/results
cat /tmp/results
ls -l /dev/kfd
rmmod amdgpu || exit 1
! grep -q 'not ok' /tmp/results && grep -q '^ok ' /tmp/results
