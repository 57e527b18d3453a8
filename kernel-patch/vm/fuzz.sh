# Fuzzes leases, without a GPU and then with fake ones. $CALLS and $SEED come with the command line of the kernel.
CALLS=$(sed -n 's/.*gpreempt_calls=\([0-9]*\).*/\1/p' /proc/cmdline)
SEED=$(sed -n 's/.*gpreempt_seed=\([0-9]*\).*/\1/p' /proc/cmdline)
for nodes in 0 2; do
    /amdgpu fake_nodes=$nodes || exit 1
    /fuzz "${CALLS:-30000}" "${SEED:-1}" || exit 1
    rmmod amdgpu 2>/dev/null || { sleep 2; rmmod amdgpu; } || exit 1
done
