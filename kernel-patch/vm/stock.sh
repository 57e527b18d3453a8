# Tier debugger on fake GPUs of the driver without the series: what doctor says, and the library at work.
/amdgpu fake_nodes=2 || exit 1
failed=0
if /gpreempt doctor --json >/tmp/said && grep -qF '"chosen": "debugger"' /tmp/said; then
    echo "ok 1 doctor chooses tier debugger"
else
    sed 's/^/# /' /tmp/said
    echo "not ok 1 doctor chooses tier debugger"
    failed=1
fi
/stock /libgpreempt_poc_v2.so || failed=1
rmmod amdgpu || failed=1
exit $failed
