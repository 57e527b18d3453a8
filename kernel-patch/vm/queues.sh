# User programs with queues on two fake GPUs, and again after the module was taken out and put in.
for time in 1 2; do
    /amdgpu fake_nodes=2 || exit 1
    /queues || exit 1
    rmmod amdgpu || exit 1
done
