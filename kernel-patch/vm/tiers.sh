# The command line looks at a machine with the patched driver, and no GPU.
/amdgpu || exit 1
/gpreempt doctor --json >/tmp/doctor || exit 1
cat /tmp/doctor
grep -q '"chosen": "patched"' /tmp/doctor || exit 1
/gpreempt queues
