# serve.sh - what the tests of `ehr-infer serve` share, sourced after shell.sh: ends the test where this build cannot serve,
# stands in $work, and has infer, data, python, client and
#
#   start NAME FLAGS...   a server of the checkpoint $served (r unless set); sets url and pid, leaves NAME.out and NAME.err
#   stop                  asks it to end; its exit code
#   kill_server           kill -9
#   all_logged LOG FILE   every hash in FILE (an answer that a client has got, whole) is in a line of the audit log; else
#                         those that are not go to unlogged
export OMP_NUM_THREADS=1
infer=$build/ehr-infer data=$build/ehr-data python=$root/.venv/bin/python client=$root/tests/serve_client.py
grep -q 'libmicrohttpd *yes' "$build/detect.txt" || skip_all "ehr-infer serve" "no libmicrohttpd"
[ -x "$python" ] || skip_all "ehr-infer serve" "no Python packages"
cd "$work" || exit 1
pids="" served=r
trap 'for p in $pids; do kill -9 $p 2> /dev/null; done; rm -rf "$work"' EXIT
tiny="--layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 64 --seq-len 256 --batch 4 --eval-tokens 0"

start() {
    local name=$1 i
    shift
    rm -f "$name.out"
    "$infer" serve "$served" --port 0 "$@" > "$name.out" 2> "$name.err" &
    pid=$!
    pids="$pids $pid"
    for i in $(seq 200); do
        url=$(sed -n "s/^listening on //p" "$name.out" 2> /dev/null)
        [ -n "$url" ] && return 0
        kill -0 $pid 2> /dev/null || return 1
        sleep 0.05
    done
    return 1
}
stop() {
    kill -TERM $pid
    wait $pid
}
kill_server() {
    kill -9 $pid
    wait $pid 2> /dev/null
}
all_logged() {
    grep '"status":200' "$1" | sed 's/.*"output":"\([0-9a-f]*\)".*/\1/' | sort -u > logged
    sort -u "$2" | comm -23 - logged > unlogged
    [ -s "$2" ] && [ ! -s unlogged ]
}
