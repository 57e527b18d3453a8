# Plays lists of calls to the simulator and to the driver with fake GPUs. The options come with the command line of the kernel.
options=$(sed -n 's/.*gpreempt_conform="\{0,1\}\([^"]*\)"\{0,1\}.*/\1/p' /proc/cmdline)
for nodes in 2; do
    /amdgpu fake_nodes=$nodes $(sed -n "s/.*gpreempt_fake=\([^ ]*\).*/\1/p" /proc/cmdline) || exit 1
    chmod 666 /dev/kfd
    # shellcheck disable=SC2086 # options are words
    /gpreempt-conform $options $(ls /*.toml 2>/dev/null) || exit 1
done
