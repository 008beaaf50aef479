#!/bin/bash
# test_privacy.sh BUILD - the privacy suite's figures against slow definitions, and on models that remember on purpose: an
# overfitted one, one trained on canaries, one that saw everybody once.
. "$(dirname "$0")/shell.sh"
python=$root/.venv/bin/python
[ -x "$python" ] || skip_all "privacy suite" "no .venv"
cd "$work" || exit 1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 EHR_BUILD=$build

for c in check_privacy check_tokens; do
    "$python" "$root/scripts/$c.py" > $c.log 2>&1
    rc=$?
    grep -E -A1 '^(ok|not ok) - ' $c.log
    [ $rc = 0 ] || failed=1
    grep -q '^ok - ' $c.log
    verdict $? "$c.py runs" $c.log
done

privacy() { sh "$root/scripts/evaluate.sh" "$1" "$2" --suite privacy --bootstrap 200 "${@:3}"; }
holds() { # holds REPORT EXPRESSION: of p, the privacy suite's part, and a, its attacks by name
    "$python" -c 'import json, sys
r = json.load(open(sys.argv[1]))
p = r["privacy"]
a = {m["attack"]: m for m in p["membership"]}
assert eval(sys.argv[2]), (sys.argv[2], {k: v for k, v in p.items() if k != "attributes"}, r["notes"])' "$1/report.json" "$2" > holds.log 2>&1
}

# ---- models --------------------------------------------------------------------------------------------------------------
train() { # train DATA RUN STEPS
    "$build/ehr-train" --data "$1" --layers 1 --seq-len 256 --batch 4 --learning-rate 4e-3 --steps "$3" --eval-tokens 0 \
        --eval-every 100000 --out "$2"
}
{
    "$build/ehr-data" synth --patients 300 --seed 5 --risk-samples 0 --out few &&
        "$build/ehr-data" tokenize few/events.h5 --vocabulary few/vocabulary.json --out small &&
        "$build/ehr-data" tokenize few/events.h5 --vocabulary few/vocabulary.json --canaries 20 --canary-copies 8 --out seeded &&
        "$build/ehr-data" synth --patients 2000 --seed 6 --risk-samples 0 --out many &&
        "$build/ehr-data" tokenize many/events.h5 --vocabulary many/vocabulary.json --out large &&
        train small over 500 && train seeded canary 150 && train large once 200
} > made.log 2>&1
verdict $? "make three datasets and three checkpoints" made.log

# ---- what they give away ---------------------------------------------------------------------------------------------------
privacy over small --samples 1 --out o > o.log 2>&1 && [ -s o/report.html ]
verdict $? "the suite on an overfitted model" o.log
holds o 'a["loss"]["auc"] > 0.95 and a["min-k"]["auc"] > 0.9 and a["loss"]["alarm"] and "membership by loss" in p["alarms"]'
verdict $? "an overfitted model is caught by membership inference" holds.log
holds o 'a["loss"]["members"] == 240 and a["loss"]["others"] == 30 and p["canaries"] is None and p["copying"]["pool"] == 30 and p["identifiers"]["timelines"] == 30 and p["identifiers"]["clean"]'
verdict $? "members are the train split, others the tuning split; what is generated is searched" holds.log
holds o 'next(f for f in p["attributes"]["figures"] if f["figure"] == "surprise")["gap"] > 0.3 and any(f["alarm"] for f in p["attributes"]["figures"])'
verdict $? "it names withheld codes of its own patients better than of others" holds.log
"$python" - > direct.log 2>&1 << 'END'
import h5py, json, numpy as np
from sklearn.metrics import roc_auc_score
a = {m["attack"]: m for m in json.load(open("o/report.json"))["privacy"]["membership"]}
y, mean, tail = [], [], []
for member, split in ((1, "train"), (0, "tuning")):
    with h5py.File(f"o/work/members-{split}-tokens.h5") as f:
        k, i, x = (np.asarray(f[c]) for c in ("patient_key", "index", "loss"))
    for q in dict.fromkeys(k.tolist()):
        own = sorted(x[(k == q) & (i >= 0)], reverse=True)
        y.append(member)
        mean.append(-np.mean(own))
        tail.append(-np.mean(own[: int(np.ceil(len(own) / 5))]))
assert abs(a["loss"]["auc"] - roc_auc_score(y, mean)) < 1e-9
assert abs(a["min-k"]["auc"] - roc_auc_score(y, tail)) < 1e-9
END
verdict $? "both attacks are those computed from the token losses directly" direct.log

privacy once large --limit 200 --samples 1 --reference over --canaries seeded.canaries --out w > w.log 2>&1
verdict $? "the suite on a model that saw everybody once" w.log
holds w 'abs(a["loss"]["auc"] - 0.5) < 0.08 and abs(a["min-k"]["auc"] - 0.5) < 0.08 and abs(a["loss against the reference"]["auc"] - 0.5) < 0.08'
verdict $? "its members cannot be told from others" holds.log
holds w 'a["loss"]["members"] == a["loss"]["others"] == 200 and a["loss"]["interval"][0] < 0.5 < a["loss"]["interval"][1] and not p["alarms"]'
verdict $? "no alarm" holds.log
holds w 'not p["canaries"]["declared"] and p["canaries"]["interval"][0] < p["canaries"]["by_chance"] < p["canaries"]["interval"][1] + 1 and p["canaries"]["exposure"] < 3'
verdict $? "canaries that it never saw are not exposed" holds.log

grep -q '"canaries": true' canary/latest/trainer.json
verdict $? "a checkpoint trained on canaries says so"
privacy canary seeded --samples 1 --out c > c.log 2>&1
verdict $? "the suite on a model trained on canaries" c.log
holds c 'p["canaries"]["inserted"] == 20 and p["canaries"]["references"] == 1000 and p["canaries"]["exposure"] > 6 and p["canaries"]["interval"][0] > 4 and p["canaries"]["declared"] and "canaries" in p["alarms"]'
verdict $? "canaries put in eight times are exposed" holds.log
holds c 'a["loss"]["members"] == 240'
verdict $? "canaries are no members" holds.log
"$python" - > direct.log 2>&1 << 'END'
import h5py, json, math, numpy as np
c = json.load(open("c/report.json"))["privacy"]["canaries"]
with h5py.File("c/work/canaries-held_out-tokens.h5") as f:
    k, i, x = (np.asarray(f[n]) for n in ("patient_key", "index", "loss"))
loss = [x[(k == q) & (i >= 0)].sum() for q in range(1020)]
bits = [math.log2(1001) - math.log2(1 + sum(r < own for r in loss[20:])) for own in loss[:20]]
assert abs(c["exposure"] - np.mean(bits)) < 1e-9, (c, np.mean(bits))
END
verdict $? "exposure is that of the ranks counted one by one" direct.log
mv seeded.canaries elsewhere && privacy canary seeded --samples 1 --out c > c.log 2>&1
holds c 'p["canaries"] is None and any("seeded.canaries" in n and "--canaries" in n for n in r["notes"])'
verdict $? "canaries whose reference is not there: what to do is said" holds.log

# ---- what `score --detail` tells, against a softmax by hand -----------------------------------------------------------------
detail() { "$build/ehr-infer" score over --data small --split tuning --events 0 "$@"; }
detail --detail d.h5 --codes ICD10CM//F10,ICD10CM//F41 --codes ICD10CM//F32 > d.log 2>&1 && detail --detail d.csv --limit 2 >> d.log 2>&1 &&
    "$build/ehr-infer" embed over --data small --split tuning --what events --out e.h5 >> d.log 2>&1
verdict $? "score --detail" d.log
"$python" - > direct.log 2>&1 << 'END'
import csv, json
import h5py, numpy as np
def read(path):
    with h5py.File(path) as f:
        return {k: f[k][:] for k in f}, f.attrs.get("kinds")
d, kinds = read("d.h5")
kinds = kinds.decode().split(",")
e, _ = read("e.h5")
tokens = json.load(open("small/vocabulary.json"))["tokens"]
kind = np.array([kinds.index(t["kind"] if t["kind"] in ("gap", "value") else t["event_kind"]) if t["kind"] in ("gap", "value", "event", "unknown") else -1 for t in tokens])
asked = np.array([t["kind"] == "event" and t["code"].startswith(("ICD10CM//F10", "ICD10CM//F41", "ICD10CM//F32")) for t in tokens])
raw = open("over/latest/model.safetensors", "rb").read()
n = int.from_bytes(raw[:8], "little")
head = json.loads(raw[8 : 8 + n])
t = head.get("lm_head.weight") or head["model.embed_tokens.weight"]
lo, hi = t["data_offsets"]
W = np.frombuffer(raw[8 + n + lo : 8 + n + hi], "<f4").reshape(t["shape"]).astype("f8")[: len(tokens)]
row = {(int(k), int(i)): r for r, (k, i) in enumerate(zip(d["patient_key"], d["index"]))}
longest = {k: e["index"][e["patient_key"] == k].max() for k in set(e["patient_key"])}
worst, checked, first = 0, 0, 0
def near(a, b):
    global worst
    worst = max(worst, abs(a - b))
for i in range(len(e["patient_key"]) - 1):
    k, at = e["patient_key"][i], e["index"][i] + 1
    if e["patient_key"][i + 1] != k or longest[k] > 200:
        continue
    r, came = row[int(k), int(at)], e["token"][i + 1]
    z = W @ e["embedding"][i].astype("f8")
    p = np.exp(z - z.max())
    p /= p.sum()
    assert d["token"][r] == came
    near(d["loss"][r], -np.log(p[came]))
    near(d["p_best"][r], p.max())
    near(d["p_asked"][r], p[asked].sum())
    for c in range(len(kinds)):
        near(d["kinds"][r][c], p[kind == c].sum())
    clear = np.abs(z - z[came]) > 1e-4
    clear[came] = True
    assert abs(d["rank"][r] - 1 - (p > p[came]).sum()) <= (~clear).sum()
    same = kind == kind[came]
    assert abs(d["rank_in_kind"][r] - 1 - (p[same] > p[came]).sum()) <= (~clear).sum()
    assert p[d["best"][r]] > p.max() - 1e-4
    gap = np.flatnonzero(kind == 0)
    if kind[came] == 0:
        near(d["gap_below"][r], p[gap[gap < came]].sum() / p[gap].sum())
        near(d["gap_at"][r], p[came] / p[gap].sum())
    else:
        assert np.isnan(d["gap_below"][r])
    had = np.unique(e["token"][(e["patient_key"] == k) & (e["index"] < at)])
    new = same & ~np.isin(np.arange(len(tokens)), had)
    if kind[came] > 1 and came not in had:
        first += 1
        assert abs(d["rank_new"][r] - 1 - (p[new] > p[came]).sum()) <= (~clear).sum()
        near(d["p_new"][r], p[new].sum())
        near(d["p_asked_new"][r], p[new & asked].sum())
    else:
        assert d["rank_new"][r] == 0
    checked += 1
assert checked > 500 and first > 100 and worst < 2e-4, (checked, first, worst)
order = [(list(dict.fromkeys(d["patient_key"].tolist())).index(k), i % 2**64) for k, i in zip(d["patient_key"].tolist(), d["index"].tolist())]
assert order == sorted(order)
rows = list(csv.DictReader(line for line in open("d.csv") if line[0] != "#"))
assert len(rows) > 20 and all(abs(float(x["loss"]) - d["loss"][i]) < 1e-5 for i, x in enumerate(rows)) and float(rows[0]["p_asked_new"]) == 0
END
verdict $? "ranks, likeliest tokens, chances of kinds, gaps and withheld codes are those of a softmax by hand" direct.log
refused 2 '--codes.*--detail' detail --codes ICD10CM//F10
verdict $? "codes without a table for their chance" refused.log
refused 2 'ICD10CM//F9' detail --codes ICD10CM//F9 --detail x.h5
verdict $? "codes that the vocabulary has not" refused.log

# ---- what is generated, and bad input ----------------------------------------------------------------------------------------
future=$(ls o/work/futures/*.jsonl | head -n 1)
sed -i 's/"name":"/"name":"call 617-555-0142, jane.doe@example.org /' "$future"
privacy over small --samples 1 --out o > o.log 2>&1
holds o 'not p["identifiers"]["clean"] and sum(p["identifiers"]["findings"].values()) > 0 and "identifiers in what is generated" in p["alarms"]'
verdict $? "an identifier in what is generated is found" holds.log
grep -q '617-555' o/report.html o/report.json
[ $? = 1 ]
verdict $? "and not shown"
cp -r small other && echo >> other/dataset.json
refused 1 'not the dataset that' privacy over other --out none
verdict $? "a dataset that the checkpoint was not trained on" refused.log
refused 1 'trained on small, too.*other patients' privacy over small --reference over --out none
verdict $? "a reference that was trained on the same patients is none" refused.log
refused 1 '10 patients of the [a-z]* split (--limit 10) are too few.*at least 15' privacy over small --limit 10 --out none
verdict $? "too few patients: how many, of which split, and how many it takes" refused.log
refused 2 'bootstrap takes a whole number from 2 on' privacy over small --bootstrap 1 --out none && refused 2 'limit takes' privacy over small --limit -3 --out none
verdict $? "one resample, or fewer patients than none" refused.log
refused 1 'no dataset there.*tokenize --canaries' privacy over small --samples 1 --canaries nowhere --out o
verdict $? "canaries that are not there" refused.log
refused 1 'no canaries.*tokenize --canaries' privacy over small --samples 1 --canaries small --out o
verdict $? "a dataset that is none of canaries" refused.log
echo '{"codes": 3}' > list.json
refused 1 'not a list of sensitive codes' privacy over small --sensitive list.json --out none
verdict $? "a list of sensitive codes that is none" refused.log
echo '{"codes": [{"name": "none", "patterns": ["ICD10CM//Z99"]}]}' > list.json
privacy over small --samples 1 --sensitive list.json --out l > l.log 2>&1
holds l 'p.get("attributes") is None and any("--sensitive" in n for n in r["notes"])'
verdict $? "a vocabulary without sensitive codes" holds.log
cp -rL over/latest nameless && rm nameless/trainer.json && privacy nameless small --samples 1 --sensitive list.json --out n > n.log 2>&1
holds n 'any("does not say which dataset it was trained on" in n for n in r["notes"])' && ! holds l 'any("does not say" in n for n in r["notes"])'
verdict $? "a checkpoint that does not say what it was trained on: members may be none, and that is told" n.log
exit $failed
