# What the ways to take queues off the hardware cost; gpreempt_cost="ARGUMENTS" on the command line of the kernel.
arguments=$(sed -n 's/.*gpreempt_cost="\{0,1\}\([^"]*\)"\{0,1\}.*/\1/p' /proc/cmdline)
/amdgpu fake_nodes=8 || exit 1
# shellcheck disable=SC2086 # arguments are words
/cost $arguments || exit 1
rmmod amdgpu
