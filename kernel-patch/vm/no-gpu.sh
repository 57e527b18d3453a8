# Runs the tests of leases on a machine without a GPU.
/amdgpu || exit 1
chmod 666 /dev/kfd
failed=0
/lease || failed=1
/holder || failed=1
/rights || failed=1
rmmod amdgpu || failed=1
exit $failed
