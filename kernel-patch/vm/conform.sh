# Plays lists of calls, and random ones, to the simulator and to the driver with two fake GPUs. $SEQUENCES and $SEED come with
# the command line of the kernel.
number() { sed -n "s/.*$1=\([0-9]*\).*/\1/p" /proc/cmdline; }
/amdgpu fake_nodes=2 || exit 1
chmod 666 /dev/kfd
set -- --seed "$(number gpreempt_seed)" --sequences "$(number gpreempt_sequences)"
[ -z "$(number gpreempt_shrink)" ] || set -- "$@" --shrink "$(number gpreempt_shrink)"
/gpreempt-conform "$@" /*.toml || exit 1
rmmod amdgpu
