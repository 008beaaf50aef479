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
exit $failed
