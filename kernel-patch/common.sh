# What the scripts of this directory share; sourced, with $here set to kernel-patch.
#
# Results: each thing that is tested prints one line, "ok WHAT", "not ok WHAT" or "skip WHAT: WHY", and
# appends it to the file $RESULTS if there is one; kernel-patch/test counts these lines.

# shellcheck shell=sh disable=SC2034,SC2154
export LC_ALL=C
package=linux-source-6.12
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gpreempt
jobs=${JOBS:-$(nproc)}
version=$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^  Candidate: //p')
base=$cache/kernel/$version
source=$base/source
tool=$(basename "$0")

say() {
    echo "$tool: $*"
}

fail() {
    echo "$tool: $*" >&2
    exit 1
}

result() { # result ok|'not ok'|skip WHAT
    echo "$1 $2"
    [ -z "${RESULTS:-}" ] || echo "$1 $2" >>"$RESULTS"
}

# For a run that failed before it could say anything itself.
flunk() {
    result 'not ok' "$1"
    shift
    [ $# = 0 ] || say "$*" >&2
}

# Passes lines of TAP on as results: "ok 3 what" and "not ok 3 what - why", any "# SKIP why" behind them.
tap() { # tap PREFIX <TAP
    while read -r line; do
        case $line in
        'not ok '[0-9]*) result 'not ok' "$1: $(echo "$line" | sed 's/^not ok [0-9]* *//')" ;;
        'ok '[0-9]*'# SKIP'*) result skip "$1: $(echo "$line" | sed 's/^ok [0-9]* *//; s/ *# SKIP */: /')" ;;
        'ok '[0-9]*) result ok "$1: $(echo "$line" | sed 's/^ok [0-9]* *//')" ;;
        esac
    done
}

# One user of the source tree and its builds at a time, whichever checkout it is of.
lock_cache() {
    mkdir -p "$cache"
    [ -z "${GPREEMPT_CACHE_LOCKED:-}" ] || return 0
    exec 8>"$cache/lock"
    flock -n 8 || {
        say "waiting for another run that uses $cache"
        flock 8
    }
    export GPREEMPT_CACHE_LOCKED=yes
}

in_order() { # the patches of a directory, without the cover letter
    find "$1" -name '*.patch' ! -name '0000-*' | sort
}

# Every n-th line, beginning with the k-th, of SHARD=k/n; all without it.
shard() {
    case ${SHARD:=1/1} in
    [1-9]*/[1-9]*) awk -v k="${SHARD%/*}" -v n="${SHARD#*/}" 'NF && (NR - k) % n == 0' ;;
    *) fail "SHARD is k/n, 1/1 for all, not '$SHARD'" ;;
    esac 3<&- <&0
}
