#!/bin/bash
# test_page.sh BUILD - the page of `ehr-infer serve` in a headless Chromium, with and without keys (page_browser.py).
. "$(dirname "$0")/shell.sh"
export OMP_NUM_THREADS=1
infer=$build/ehr-infer data=$build/ehr-data python=$root/.venv/bin/python
grep -q 'libmicrohttpd *yes' "$build/detect.txt" || skip_all "the page of ehr-infer serve" "no libmicrohttpd"
{ command -v chromedriver && "$python" -c 'import selenium'; } > /dev/null 2>&1 ||
    skip_all "the page of ehr-infer serve" "no browser: sh scripts/setup.sh browser"
cd "$work" || exit 1
pids=""
trap 'for p in $pids; do kill -9 $p 2> /dev/null; done; rm -rf "$work"' EXIT

{
    "$data" synth --patients 200 --risk-samples 0 --out events && "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$build/ehr-train" --data d --layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 64 --seq-len 256 --batch 4 --steps 40 --eval-tokens 0 --out r &&
        "$infer" key --keys keys --name alice --scopes all > alice
} > made.log 2>&1
verdict $? "make a checkpoint and a key" made.log

for form in "" "--keys keys"; do
    log=serve${form// /}.out
    # shellcheck disable=SC2086
    "$infer" serve r --port 0 --deadline 300 $form > "$log" 2> serve.err &
    pid=$! pids="$pids $!"
    for _ in $(seq 200); do
        url=$(sed -n "s/^listening on //p" "$log")
        [ -n "$url" ] && break
        sleep 0.05
    done
    # shellcheck disable=SC2046
    "$python" "$root/tests/page_browser.py" "$url" $([ -z "$form" ] || cat alice) > page.log 2>&1
    rc=$?
    [ $rc = 0 ] || cat page.log
    verdict $rc "the page${form:+ behind keys}: $(grep -c '^ok:' page.log) checks" serve.err
    kill -TERM $pid
    wait $pid || failed=1
done
exit $failed
