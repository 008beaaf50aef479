#!/bin/bash
# test_explain_cli.sh BUILD - ehr-infer explain and embed from the outside; explain with the oracle's law as its model finds
# the law's own changes.
. "$(dirname "$0")/shell.sh"
export OMP_NUM_THREADS=1
data=$build/ehr-data infer=$build/ehr-infer python=$PWD/.venv/bin/python
cd "$work" || exit 1

{
    "$data" synth --patients 300 --risk-samples 16 --out events &&
        "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$data" label events/events.h5 --data d --outcome admission_1y=VISIT//IN --horizon 365d &&
        "$build/ehr-train" --data d --layers 1 --seq-len 256 --batch 4 --steps 24 --eval-tokens 0 --out r
} > made.log 2>&1
verdict $? "make a dataset and a checkpoint" made.log
[ $failed = 0 ] || exit 1

# ---- explain ---------------------------------------------------------------------------------------------------------------
"$build/tests/check_explain" d - 2 64 20 MEDS_DEATH > law.log 2>&1
verdict $? "by the oracle's law, leaving an event out changes risks as the law says" law.log
explain() { "$infer" explain r --data d --patient 2 --events 12 --samples 16 "$@"; }
explain > one.txt 2> explain.log && explain --batch 3 > two.txt 2>> explain.log && cmp one.txt two.txt && grep -q "change *s.e." one.txt && grep -q '^What moved the forecast' one.txt &&
    ! grep -qi 'because\|effect of' one.txt && grep -q 'were shared' explain.log
verdict $? "explain: the same text twice, and no word of causes" explain.log
if [ -x "$python" ]; then
    explain --outcome VISIT//IN,VISIT//OUT --gradient 16 --json > x.json 2> explain.log && "$python" - x.json > json.log 2>&1 << 'END'
import json, sys
x = json.load(open(sys.argv[1]))
e = x["events"]
assert len(e) == 12 and "not a cause" in x["note"] and 0 < x["risk"] < 1
assert [abs(q["change"]) for q in e] == sorted((abs(q["change"]) for q in e), reverse=True) and any(q["change"] for q in e)
assert all(q["days"] <= 0 and 20 <= q["age_years"] < 130 and q["lo"] <= q["change"] <= q["hi"] for q in e)
assert any(q["gradient_x_input"] for q in e) and all(q["samples"] == 16 and q["se"] >= 0 for q in e)
# Of the same futures; the model itself also gives a little to ids that are never drawn.
assert abs(x["risk_along_gradient"] / x["risk"] - 1) < 0.05, (x["risk_along_gradient"], x["risk"])
END
    verdict $? "explain as JSON, with gradient x input along the same futures" json.log
else
    echo "skip - explain as JSON: no .venv"
fi

# ---- embed -----------------------------------------------------------------------------------------------------------------
embed() { "$infer" embed r --data d "$@" > embed.log 2>&1; }
embed --what events --out events.h5 && embed --out both.h5 && embed --what last --limit 5 --out last.npy && embed --what mean --out mean.csv &&
    embed --labels d/labels/admission_1y.h5 --out labelled.h5 && [ -e last.csv ]
verdict $? "embed: events, index times, HDF5, NumPy, CSV" embed.log
"$infer" score r --data d --tokens tokens.csv > score.log 2>&1
if [ -x "$python" ]; then
    "$python" - > embed.log 2>&1 << 'END'
import csv, json
import h5py, numpy as np

def read(path):
    with h5py.File(path) as f:
        return {k: f[k][:] for k in f}

events, both, labelled = read("events.h5"), read("both.h5"), read("labelled.h5")
raw = open("r/latest/model.safetensors", "rb").read()
n = int.from_bytes(raw[:8], "little")
head = json.loads(raw[8:8 + n])
t = head.get("lm_head.weight") or head["model.embed_tokens.weight"]
lo, hi = t["data_offsets"]
W = np.frombuffer(raw[8 + n + lo:8 + n + hi], "<f4").reshape(t["shape"]).astype("f8")
loss = {(int(r["patient_key"]), int(r["index"])): float(r["loss"]) for r in csv.DictReader(open("tokens.csv")) if r["loss"]}
key, index = events["patient_key"], events["index"]
longest = {k: index[key == k].max() for k in set(key)}
checked, worst = 0, 0
for i in range(len(key) - 1):
    at = int(key[i]), int(index[i]) + 1
    if key[i + 1] != key[i] or longest[key[i]] > 200 or at not in loss:
        continue
    z = W @ events["embedding"][i].astype("f8")
    z -= z.max()
    worst, checked = max(worst, abs(np.log(np.exp(z).sum()) - z[events["token"][i + 1]] - loss[at])), checked + 1
assert checked > 500 and worst < 1e-4, (checked, worst)
last = np.load("last.npy")
assert last.shape == (5, W.shape[1]) and last.dtype == np.float32 and np.array_equal(last, both["last"][:5])
assert [int(r["patient_key"]) for r in csv.DictReader(open("last.csv"))] == list(both["patient_key"][:5])
rows = [r for r in csv.reader(l for l in open("mean.csv") if l[0] != "#")]
assert len(rows) - 1 == len(both["mean"]) and np.allclose(np.array(rows[1:], "f8")[:, -W.shape[1]:], both["mean"], rtol=1e-6)
k = next(i for i, p in enumerate(both["patient_key"]) if 20 < longest[p] < 200)
assert np.allclose(events["embedding"][key == both["patient_key"][k]].mean(0), both["mean"][k], atol=1e-5)
with h5py.File("d/labels/admission_1y.h5") as f:
    held = f["split"][:] == 2
    for name in "patient_key", "index_minutes", "outcome":
        assert np.array_equal(f[name][:][held], labelled[name]), name
END
    verdict $? "an event's embedding gives the loss that score tells of the next; files agree" embed.log
else
    echo "skip - an event's embedding gives the loss that score tells of the next: no .venv"
fi

# ---- bad input -------------------------------------------------------------------------------------------------------------
while IFS='|' read -r name code words command; do
    eval "set -- $command"
    "$infer" "$@" > usage.log 2>&1
    rc=$?
    [ $rc = "$code" ] && grep -q -i -e "$words" usage.log
    verdict $? "$name: exit $code" usage.log
done << 'END'
explain what no token says|2|nearest|explain r --data d --outcome ICD10CM//I5000
explain an outcome with a misspelt code|2|matches MEDS_DEAD; nearest.*MEDS_DEATH|explain r --data d --outcome VISIT//IN,MEDS_DEAD
explain one future|2|--samples|explain r --data d --samples 1
explain nobody|2|has patients 0 to|explain r --data d --patient 99999
two matrices in one npy|2|one matrix|embed r --data d --out x.npy
embeddings to no known kind|2|.csv or .h5|embed r --data d --out x.txt
embeddings to no folder|1|no folder|embed r --data d --out nowhere/x.h5
embeddings at labels that are none|1|d/vocabulary.json|embed r --data d --labels d/vocabulary.json
END
exit $failed
