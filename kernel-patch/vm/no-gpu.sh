# Runs the tests of leases on a machine without a GPU.
/amdgpu || exit 1
chmod 666 /dev/kfd
/lease || exit 1
/open32
test $? = 1 || {
    echo "not ok a 32-bit program opened /dev/kfd"
    exit 1
}
rmmod amdgpu
