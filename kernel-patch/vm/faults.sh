# Faults of schedulers, of processes and of GPUs, each several times; gpreempt_times=N on the command line of the kernel.
times=$(sed -n 's/.*gpreempt_times=\([0-9]*\).*/\1/p' /proc/cmdline)
failed=0
# No watchdog but those that a test asks for.
/amdgpu fake_nodes=2 gpreempt_max_hold_ms=600000 || exit 1
for part in holder target node storm; do
    "/faults-$part" "${times:-2}" || failed=1
done
rmmod amdgpu || exit 1
exit $failed
