#!/bin/bash
# test_serve.sh BUILD - ehr-infer serve from the outside, on the loopback: its numbers are those of `ehr-infer risk`; who may
# ask what; what attacks come to; the audit log; stages; ending and being killed.
. "$(dirname "$0")/shell.sh"
export OMP_NUM_THREADS=1
infer=$build/ehr-infer data=$build/ehr-data python=$root/.venv/bin/python client=$root/tests/serve_client.py
grep -q 'libmicrohttpd *yes' "$build/detect.txt" || skip_all "ehr-infer serve" "no libmicrohttpd"
[ -x "$python" ] || skip_all "ehr-infer serve" "no Python packages"
cd "$work" || exit 1
pids=""
trap 'for p in $pids; do kill -9 $p 2> /dev/null; done; rm -rf "$work"' EXIT

{
    "$data" synth --patients 200 --risk-samples 0 --out events && "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$data" label events/events.h5 --data d --outcome admission_1y=VISIT//IN --horizon 365d &&
        "$data" label events/events.h5 --data d --outcome visit_30d=VISIT//OUT --horizon 30d &&
        "$build/ehr-train" --data d --layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 64 --seq-len 256 --batch 4 --steps 16 --eval-tokens 0 --out r &&
        "$infer" key --keys keys --name alice --scopes all > alice && "$infer" key --keys keys --name sue --scopes score > sue
} > made.log 2>&1
verdict $? "make a dataset, a checkpoint and two keys" made.log
[ $failed = 0 ] || exit 1
[ "$(stat -c %a keys)" = 600 ] && ! grep -qF "$(cut -c5- alice)" keys
verdict $? "the file of keys holds none of them"

start() { # start NAME FLAGS...: a server; sets url and pid
    local name=$1 i
    shift
    "$infer" serve r --port 0 "$@" > "$name.out" 2> "$name.err" &
    pid=$!
    pids="$pids $pid"
    for i in $(seq 200); do
        url=$(sed -n 's/^listening on //p' "$name.out")
        [ -n "$url" ] && return 0
        kill -0 $pid 2> /dev/null || return 1
        sleep 0.05
    done
    return 1
}
stop() { # stop: asks it to end; its exit code
    kill -TERM $pid
    wait $pid
}

# ---- the same numbers ------------------------------------------------------------------------------------------------
rc=0
for e in mc scope reach; do
    for n in admission_1y visit_30d; do
        "$infer" risk r --data d --labels d/labels/$n.h5 --estimator $e --samples 8 --seed 5 --limit 10 --out $n-$e.csv > risk.log 2>&1 || rc=1
    done
done
verdict $rc "risks by ehr-infer risk" risk.log
start main --keys keys --audit audit.log
verdict $? "a server starts" main.err
"$python" "$client" same "$url" "$(cat alice)" d events '[{"codes":["VISIT//IN"],"horizon":"365d"},{"codes":["VISIT//OUT"],"horizon":"30d"}]' admission_1y visit_30d
[ $? = 0 ] || failed=1
stop
verdict $? "SIGTERM ends it with exit code 0" main.err
"$infer" audit verify audit.log > verify.log 2>&1
verdict $? "the audit log's chain holds" verify.log
exit $failed
