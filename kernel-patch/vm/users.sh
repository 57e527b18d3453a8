# What users of the project see on a machine without a GPU: the library, the wheel, the command. The first line of the
# script that runs sets $expect to patched, or to stock where tier patched is not there.
/amdgpu || exit 1
failed=0
# Without the series other tiers may be there: what is asked for is the one that is not.
[ "$expect" = patched ] || export GPREEMPT_BACKEND=patched
/library "$expect" /libgpreempt_poc_v2.so || failed=1
/python3 /user.py "$expect" || failed=1
unset GPREEMPT_BACKEND

number=0
check() { # check WHAT COMMAND...
    what=$1
    number=$((number + 1))
    shift
    if "$@" >/tmp/output 2>&1; then
        echo "ok $number gpreempt: $what"
    else
        failed=1
        sed 's/^/# /' /tmp/output /tmp/said
        echo "not ok $number gpreempt: $what"
    fi
}
says() {
    grep -qF "$1" /tmp/said
}
zero_queues() {
    /gpreempt queues --json >/tmp/said 2>&1 && says '"queues": []'
}
fails() {
    ! /gpreempt "$@" >/tmp/said 2>&1
}

if [ "$expect" = patched ]; then
    check "doctor fails where there is no GPU" fails doctor --json
    check "doctor chooses no tier" says '"chosen": null'
    check "doctor says that there is no GPU" says 'the topology has no node with a gpu_id'
    check "doctor says that tier patched is there" sh -c 'grep -A2 "\"name\": \"patched\"" /tmp/said | grep "\"yes\": true"'
    check "doctor has the lease for evidence" says 'a lease with a watchdog of'
    check "status fails" fails status
    check "status says that there are zero nodes" says 'no GPU in the topology'
    check "queues finds none" zero_queues
else
    /gpreempt doctor --json >/tmp/said 2>&1
    check "doctor does not choose tier patched" sh -c '! grep -F "\"chosen\": \"patched\"" /tmp/said'
    check "doctor says that tier patched is not there" sh -c 'grep -A2 "\"name\": \"patched\"" /tmp/said | grep "\"yes\": false"'
    check "doctor has ENOTTY for evidence" says 'this kernel has no gpreempt commands, it answers ENOTTY'
    check "doctor names the remedy" says 'apply the series in kernel-patch/'
    export GPREEMPT_BACKEND=patched
    check "status by tier patched fails" fails status
    check "status by tier patched says why" says 'it answers ENOTTY'
fi
rmmod amdgpu || failed=1
exit $failed
