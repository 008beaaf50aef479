#!/bin/bash
# test_cuda_serve.sh BUILD - ehr-infer serve --device cuda over emulated CUDA: clients at once get the numbers of `ehr-infer
# risk` on the same device.  On a machine with a GPU: EHR_PROGRAMS=DIR, as in test_cuda_cli.sh.
. "$(dirname "$0")/shell.sh"
export OMP_NUM_THREADS=1
infer=${EHR_PROGRAMS:-$build/emulator}/ehr-infer data=$build/ehr-data python=$root/.venv/bin/python
[ -x "$infer" ] || skip_all "ehr-infer serve on a GPU" "no $infer (no CUDA headers here)"
grep -q 'libmicrohttpd *yes' "$build/detect.txt" || skip_all "ehr-infer serve on a GPU" "no libmicrohttpd"
[ -x "$python" ] || skip_all "ehr-infer serve on a GPU" "no Python packages"
cd "$work" || exit 1
trap 'kill -9 $pid 2> /dev/null; rm -rf "$work"' EXIT
{
    "$data" synth --patients 60 --risk-samples 0 --out events && "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$data" label events/events.h5 --data d --outcome visit_30d=VISIT//OUT --horizon 30d --index last-year &&
        "$build/ehr-train" --data d --device cpu --layers 1 --d-model 64 --heads 1 --kv-heads 1 --head-dim 64 --d-ff 64 --seq-len 64 --batch 4 --steps 3 \
            --eval-tokens 0 --out r
} > made.log 2>&1 || { not_ok "make a checkpoint" made.log; exit 1; }
gpu="--device cuda --dtype f32"
"$infer" risk r --data d --labels d/labels/visit_30d.h5 $gpu --estimator mc --samples 4 --seed 5 --limit 3 --max-tokens 16 --out gpu.csv > gpu.log 2>&1
verdict $? "risks by ehr-infer risk on the GPU" gpu.log
"$infer" serve r $gpu --port 0 --batch 16 --max-tokens 16 --deadline 300 --shadow r > out 2> err &
pid=$!
for _ in $(seq 400); do
    url=$(sed -n 's/^listening on //p' out 2> /dev/null)
    [ -n "$url" ] && break
    sleep 0.05
done
grep -q 'on GPU 0' err
verdict $? "a server starts on the GPU" err
"$python" - "$url" "$root/tests" > asked.log 2>&1 << 'END'
import json, sys, threading, time
sys.path.insert(0, sys.argv[2])
import serve_same as c
url, patients, rows = sys.argv[1], c.dataset("d"), c.risks("gpu.csv")
results = [None] * len(rows)
body = {"outcomes": [{"codes": ["VISIT//OUT"], "horizon": "30d"}], "samples": 4, "seed": 5, "estimator": "mc", "max_tokens": 16}
def one(i): results[i] = c.ask(url, "/v1/risk", {**body, "patient": c.by_tokens(rows[i], patients)}, timeout=300)
threads = [threading.Thread(target=one, args=(i,)) for i in range(len(rows))]
[t.start() for t in threads]
[t.join() for t in threads]
bad = [(s, a) if s != 200 else c.compare(a, [rows[i]], i) for i, (s, a, _) in enumerate(results) if s != 200 or c.compare(a, [rows[i]], i)]
c.check(f"{len(rows)} clients at once get the numbers of ehr-infer risk on the GPU", not bad and len(rows) == 3, bad)
prompt = "SEX//F RACE//WHITE VISIT//OUT"
whole = c.ask(url, "/v1/completions", {"prompt": prompt, "n": 2, "max_tokens": 5}, timeout=300)
piece = c.ask(url, "/v1/completions", {"prompt": prompt, "n": 2, "max_tokens": 5, "stream": True}, timeout=300)
text = {}
for line in piece[1].splitlines():
    if line.startswith("data: {"):
        for x in json.loads(line[6:])["choices"]:
            text[x["index"]] = text.get(x["index"], "") + x["text"]
c.check("completions on the GPU, whole and streamed", whole[0] == 200 and [text.get(x["index"]) for x in whole[1]["choices"]] == [x["text"] for x in whole[1]["choices"]], (whole, piece))
kinds = [c.ask(url, p, b, timeout=300)[0] for p, b in [("/v1/score", {"prompt": prompt}), ("/v1/embeddings", {"input": prompt})]]
c.check("scores and embeddings on the GPU", kinds == [200, 200], kinds)
for _ in range(100):
    text = c.ask(url, "/metrics")[1]
    if "ehr_second_difference_count 3\n" in text:
        break
    time.sleep(0.1)
c.check("a shadow beside it computes on the CPU", "ehr_second_difference_count 3\n" in text and "ehr_second_failed_total 0\n" in text, text)
END
cat asked.log
grep -q '^not ok\|Traceback' asked.log && failed=1
[ "$(grep -c '^ok' asked.log)" = 4 ] || failed=1
kill -TERM $pid && wait $pid
verdict $? "SIGTERM ends it with exit code 0" err
exit $failed
