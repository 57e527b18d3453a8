# The wheel with real queues of other processes on two fake GPUs.
/amdgpu fake_nodes=2 || exit 1
failed=0
/python3 /end-to-end.py || failed=1
rmmod amdgpu || exit 1
exit $failed
