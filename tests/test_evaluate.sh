#!/bin/bash
# test_evaluate.sh BUILD - scripts/metrics.py against slow definitions, scripts/evaluate.py on tables made by hand.
. "$(dirname "$0")/shell.sh"
python=$root/.venv/bin/python
if [ ! -x "$python" ]; then
    skip_all "evaluation" "no .venv"
fi
cd "$work" || exit 1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

evaluate() { sh "$root/scripts/evaluate.sh" "$@"; }
holds() { # holds REPORT EXPRESSION: of r, the report, and o, its first outcome
    "$python" -c 'import json, sys
def bad(x): raise ValueError(x)
r = json.load(open(sys.argv[1]), parse_constant=bad)
o = r["outcomes"][0]
near = lambda a, b: a is not None and abs(a - b) < 1e-6
assert eval(sys.argv[2]), (sys.argv[2], r)' "$1" "$2" > holds.log 2>&1
}

for c in check_metrics check_figures check_fairness check_evaluation; do
    "$python" "$root/scripts/$c.py" > $c.log 2>&1
    rc=$?
    grep -E -A1 '^(ok|not ok) - ' $c.log
    [ $rc = 0 ] || failed=1
    grep -q '^ok - ' $c.log
    verdict $? "$c.py runs" $c.log
done

# ---- tables made by hand -----------------------------------------------------------------------------------------------
mkdir data run && echo '{"deidentification": {"level": "synthetic"}}' > data/dataset.json
cat > run/log.jsonl << 'EOF'
{"step":1,"loss":4.0,"targets":100}
{"step":2,"loss":3.0,"targets":100}
{"eval":"tuning","step":2,"loss":2.9,"loss_floor":2.0,"excess_loss":0.9,"excess_se":0.01,"loss_unigram":4.5,"loss_bigram":3.1}
{"step":3,"loss":2.
EOF
# 6 rows, one censored: of the 2 x 3 pairs one is lost and one tied, so AUROC = (4 + 0.5) / 6.
cat > plain.csv << 'EOF'
# name: by_hand
# horizon_minutes: 525600
# estimator: mc
patient_key,index_minutes,outcome,risk,mc_se
1,10,1,0.8,0.1
2,10,1,0.3,0.1
3,10,0,0.4,0.1
4,10,0,0.3,0.1
5,10,0,0.1,0.1
6,10,-1,0.9,0.1
EOF
evaluate run data out plain.csv --bootstrap 50 > evaluate.log 2>&1 && [ -s out/report.html ]
verdict $? "a table without true risks" evaluate.log
holds out/report.json 'o["name"] == "by_hand" and o["n"] == 6 and o["censored"] == 1 and o["positive"] == 2 and o["horizon_days"] == 365'
verdict $? "rows, positives and censored rows are counted" holds.log
holds out/report.json 'near(o["auroc"], 4.5 / 6) and near(o["observed"]["brier"], (0.04 + 0.49 + 0.16 + 0.09 + 0.01) / 5) and o["rmse"] is None and o["auroc_true_risk"] is None'
verdict $? "AUROC and Brier are those counted by hand" holds.log
holds out/report.json 'r["loss"] == 2.9 and r["loss_floor"] == 2.0 and r["excess_loss"] == 0.9 and r["steps"] == 2 and r["deidentification"] == "synthetic"'
verdict $? "losses come from the log, its torn last line left out" holds.log
holds out/report.json 'near(r["excess_loss_se"], 0.01)'
verdict $? "with the standard error of the excess" holds.log

awk -F, '/^#/ { print; next } !head { head = 1; print $0 ",true_risk"; next } { print $0 "," $4 / 2 }' plain.csv > truth.csv
"$python" - << 'EOF'
import csv, h5py, numpy as np
rows = list(csv.DictReader(l for l in open("truth.csv") if not l.startswith("#")))
with h5py.File("truth.h5", "w") as f:
    for k in rows[0]:
        f[k] = np.array([float(r[k]) for r in rows]).astype(np.uint64 if k == "patient_key" else float)
    f.attrs["name"] = np.bytes_("by_hand")
    f.attrs["horizon_minutes"] = np.bytes_("525600")
    f.attrs["estimator"] = np.bytes_("mc")
EOF
grep -v '^#' plain.csv | awk -F, -v OFS=, 'NR > 1 { $3 = 0; $5 = "" } { print }' > nobody.csv
awk -F, -v OFS=, '/^#/ { print; next } !head { head = 1; print; next } { $3 = -1; print }' plain.csv > censored.csv
mkdir -p earlier/step-1 between/step-1
ln -s step-1 earlier/latest
ln -s step-1 between/latest
sed '/"eval"/ { h; s/"step":2,"loss":2.9,"loss_floor":2.0,"excess_loss":0.9/"step":1,"loss":2.7,"loss_floor":2.0,"excess_loss":0.7/; p; g; }' run/log.jsonl > earlier/log.jsonl
cp run/log.jsonl between
sed 's/"loss":2.9,/"loss":null,/' run/log.jsonl | cat - run/log.jsonl > run/twice && mkdir diverged && mv run/twice diverged/log.jsonl
# One process for all: starting Python takes longer than any of them.
PYTHONPATH=$root/scripts "$python" - << 'EOF' > evaluate.log 2>&1
import sys
import evaluate
for run, out, tables in [
    ("run", "both", ["truth.csv", "plain.csv"]),
    ("run", "out5", ["truth.h5"]),
    ("run", "outc", ["truth.csv"]),
    ("run", "nobody", ["nobody.csv"]),
    ("run", "censored", ["censored.csv"]),
    ("nowhere", "nowhere", ["plain.csv"]),
    ("earlier", "out-earlier", ["plain.csv"]),
    ("between", "out-between", ["plain.csv"]),
    ("diverged", "out-diverged", ["plain.csv"]),
]:
    sys.argv = ["evaluate.py", "--run", run, "--data", "data", "--out", out, "--bootstrap", "50", *tables]
    evaluate.main()
EOF
[ "$(grep -c '^by_hand' evaluate.log)" = 9 ]
verdict $? "a table with true risks beside one without; tables of all sorts" evaluate.log
holds both/report.json 'near(o["rmse"], (sum((x / 2) ** 2 for x in (.8, .3, .4, .3, .1, .9)) / 6) ** .5) and near(o["auroc"], o["auroc_true_risk"]) and o["auroc_interval"]'
verdict $? "RMSE to the truth; the order of the truth has the truth's AUROC" holds.log
diff <(grep -v '"seconds"' outc/report.json) <(grep -v '"seconds"' out5/report.json) > diff.log
verdict $? "HDF5 and CSV give the same report, twice the same" diff.log
holds nobody/report.json 'o["name"] == "nobody" and o["auroc"] is None and o["slope"] is None and o["auroc_interval"] is None and o["horizon_days"] is None and o["mean_mc_se"] is None'
verdict $? "nobody has the outcome, no attributes, no errors: undefined figures are null" holds.log
holds censored/report.json 'o["censored"] == o["n"] == 6 and o["auroc"] is None'
verdict $? "everybody censored" holds.log
[ -s nowhere/report.html ] && holds nowhere/report.json 'r["loss"] is None and near(o["auroc"], 0.75)'
verdict $? "no run log: the report is made, without losses" holds.log

holds out-earlier/report.json 'r["checkpoint"] == "step-1" and r["loss"] == 2.7 and r["excess_loss"] == 0.7 and r["loss_floor"] == 2.0'
verdict $? "losses are those of the checkpoint, not the last ones of the run" holds.log
holds out-between/report.json 'r["loss"] is None and r["excess_loss"] is None and r["excess_loss_se"] is None and r["loss_bigram"] == 3.1'
verdict $? "a checkpoint without an evaluation of its own has no loss, whatever another step had" holds.log

[ -s out-diverged/report.html ]
verdict $? "an evaluation that was not finite is a gap in the picture" evaluate.log

# ---- bad input ---------------------------------------------------------------------------------------------------------
printf 'patient_key,index_minutes,outcome,mc_se\n1,2,0,0\n' > other.csv
sed 's/0\.4/much/' plain.csv > words.csv
sed 's/,0\.4,/,,/' plain.csv > gap.csv
sed 's/^3,.*/3,10/' plain.csv > short.csv
head -n 4 plain.csv > empty.csv
head -c 500 truth.h5 > cut.h5
head -c 3000 /dev/urandom > noise.csv
# One process for all: starting Python takes longer than any of them.
PYTHONPATH=$root/scripts "$python" - << 'EOF' > refusals.log 2>&1
import contextlib, io, sys
import evaluate
for name, words, data, table in [
    ("a CSV that is no risk table", "not a risk table: no column risk", "data", "other.csv"),
    ("a risk that is no number", "words.csv: not a risk table", "data", "words.csv"),
    ("a row without a risk", "gap.csv: row 2", "data", "gap.csv"),
    ("a row cut short", "short.csv: not a risk table", "data", "short.csv"),
    ("a table without rows", "empty.csv", "data", "empty.csv"),
    ("an HDF5 file cut short", "cut.h5: not a risk table", "data", "cut.h5"),
    ("bytes that are no text", "noise.csv: not a risk table", "data", "noise.csv"),
    ("no such table", "none.csv", "data", "none.csv"),
    ("no dataset", "run: not a dataset", "run", "plain.csv"),
]:
    sys.argv = ["evaluate.py", "--run", "run", "--data", data, "--out", "no", table]
    said, rc = io.StringIO(), 0
    try:
        with contextlib.redirect_stderr(said):
            evaluate.main()
    except SystemExit as e:
        rc = e.code
    except Exception as e:
        rc = repr(e)
    print(f"{'ok' if rc == 1 and words in said.getvalue() else 'not ok'} - {name}")
    if rc != 1 or words not in said.getvalue():
        print(f"    {rc}: {said.getvalue()}")
EOF
grep -E -A1 '^(ok|not ok) - ' refusals.log
[ "$(grep -c '^ok - ' refusals.log)" = 9 ]
verdict $? "nine bad inputs are refused" refusals.log
refused 2 'usage' evaluate run && refused 2 'usage' evaluate run data out && refused 2 'unrecognized' evaluate run data --sute quick
verdict $? "too few arguments, or unknown ones" refused.log
refused 1 "no checkpoint" evaluate run data --out no
verdict $? "a run without a checkpoint" refused.log
[ ! -e no ]
verdict $? "nothing is written for what was refused"

# ---- from a checkpoint --------------------------------------------------------------------------------------------------
{
    "$build/ehr-data" synth --patients 400 --seed 3 --risk-samples 16 --out events &&
        "$build/ehr-data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$build/ehr-train" --data d --layers 1 --seq-len 256 --batch 4 --steps 20 --eval-tokens 0 --out r
} > made.log 2>&1
verdict $? "make a dataset and a checkpoint" made.log
whole() { # whole OUT [FLAG...]: two tasks with their own labels
    evaluate r d --suite quick --events events/events.h5 --samples 2 --limit 40 --bootstrap 30 --out "$@" \
        --tasks "$root/scripts/tasks/admission_1y.json" "$root/scripts/tasks/readmission_30d.json"
}
EHR_BUILD=$build whole report > whole.log 2>&1 && [ -s report/report.html ] && [ -s report/model_card.md ] && [ -s report/recalibration.json ]
verdict $? "labels, risks, baselines and report from a checkpoint and events" whole.log
holds report/report.json 'len(r["outcomes"]) == 2 and len(o["baselines"]) == 4 and o["auroc_true_risk"] and o["recalibration"]["rows"] and len(o["budgets"]) == 5'
verdict $? "with truth, baselines, recalibration and alert budgets" holds.log
holds report/report.json 'sum(k["n"] for k in r["tokens"]["by_kind"]) == r["tokens"]["all"]["n"] == sum(k["n"] for k in r["tokens"]["by_place"]) and near(r["tokens"]["all"]["mean"], sum(k["n"] * k["mean"] for k in r["tokens"]["by_kind"]) / r["tokens"]["all"]["n"]) and r["tokens"]["excess"]["mean"] > 0'
verdict $? "token losses add up, above the floor" holds.log
holds report/report.json 'r["futures"]["patients"] == 20 and all(0 < t["p"] <= 1 for t in r["futures"]["tests"]) and r["futures"]["events_recorded"] > 5'
verdict $? "simulated years are set beside recorded ones" holds.log
"$python" - > recorded.log 2>&1 << 'EOF'
import h5py, json, numpy as np
r = json.load(open("report/report.json"))
(e,) = r["recorded"]  # both tasks have the same outcome
token = {t["id"]: t.get("base", t["code"]) for t in json.load(open("d/vocabulary.json"))["tokens"]}
with h5py.File("report/work/admission_1y-recorded.h5") as f:
    told = f["index"][:] >= 0
    came, chance, key = ([token[t] in e["codes"] for t in f["token"][:][told].tolist()], f["p_asked"][:][told], f["patient_key"][:][told])
assert e["observed"] == sum(came) > 0 and abs(e["expected"] - chance.sum()) < 1e-6 and e["patients"] == len(set(key.tolist())) == 40
for group in ("SEX", "RACE", "AGE"):
    mine = [g for g in e["groups"] if g["group"] == group]
    assert sum(g["patients"] for g in mine) == 40 and sum(g["observed"] for g in mine) == e["observed"], group
    assert abs(sum(g["expected"] for g in mine) - e["expected"]) < 1e-6
assert all(g["observed"] >= 20 for g in e["groups"] if "tests" in g)
assert r["alarm_tests"] == sum(len(g.get("tests", [])) for o in r["outcomes"] + r["recorded"] for g in o.get("groups", []) + o.get("subgroups", []))
EOF
verdict $? "events are set beside what the model expects, group by group" recorded.log
PYTHONPATH=$root/scripts "$python" - > features.log 2>&1 << 'EOF'
import csv, json, math
import h5py, numpy as np
import baselines, shards, suite
dataset = json.load(open("d/dataset.json"))
v = shards.Vocabulary("d", dataset)
with h5py.File("report/work/readmission_30d.h5") as f:
    labels = {k: f[k][:] for k in f}
    attributes = dict(f.attrs)
mark = v.outcome_tokens(json.loads(attributes["outcome_codes"]))
rows = baselines.Rows("d", dataset, v, labels, mark)
counts, levels = rows.counts.toarray(), 0
with h5py.File("d/train-00000.h5") as f:
    offsets, tokens, minutes = (f[k][:] for k in ("patient_offsets", "tokens", "minutes"))
mine = [i for i in range(labels["split"].size) if labels["split"][i] == 0]
for i in mine:
    a, b = (int(x) for x in offsets[labels["patient_row"][i] :][:2])
    known = [(int(t), int(m)) for t, m in zip(tokens[a:b], minutes[a:b]) if m <= labels["index_minutes"][i] and v.is_event[t]]
    last, since = {}, None
    for w, window in enumerate((30 * 1440, 365 * 1440, math.inf)):
        direct = np.zeros(v.n)
        for t, m in known:
            direct[t] += m > labels["index_minutes"][i] - window
        assert np.allclose(counts[i, w * v.n : (w + 1) * v.n], np.log(1 + direct)), (i, window)
    for t, m in known:
        last[v.base[t]] = v.level[t] if v.level[t] else last.get(v.base[t])
        since = (labels["index_minutes"][i] - m) / 1440 if mark[t] else since
    names = sorted({v.base[k] for k in range(v.n) if v.level[k] > 0})
    assert all((last.get(n) or None) == (None if np.isnan(x) else x) for n, x in zip(names, rows.levels[i])), i
    assert since == rows.since[i] or (since is None and np.isnan(rows.since[i])), i
assert len(mine) > 50
# Rows to test on of which none has the outcome's laboratory code are of the class of train rows without it.
three = [object.__new__(baselines.Rows) for _ in range(3)]
for x, (token, y) in zip(three, [([-1] * 8 + [5] * 8, [0] * 8 + [1] * 8), ([-1, 5], [0, 1]), ([-1, -1], [0, 0])]):
    x.last_outcome_token, x.since, x.outcome = np.array(token), np.full(len(token), np.nan), np.array(y)
    x.levels, x.about = np.full((len(y), 1), np.nan), np.zeros((len(y), 3))
    x.counts = x.statics = baselines.sparse.csr_matrix(np.eye(len(y), 3 * 4))
risk = baselines.fit_all(*three, [np.ones(16), np.ones(2)])["last value"][0]
assert np.allclose(risk, 10 * 0.5 / 18), risk
w = suite.label_weights({k: c[mine] for k, c in labels.items()}, float(attributes["horizon_minutes"]))  # of the censored: 0
rate = w @ np.maximum(labels["outcome"][mine], 0) / w.sum()
told = list(csv.DictReader(open("report/rows/readmission_30d.csv")))
assert all(abs(float(x["baseline_prevalence"]) - rate) < 1e-6 for x in told), rate
EOF
verdict $? "baselines: counts in windows, last levels, time since, prevalence, one by one" features.log
"$python" - > rows.log 2>&1 << 'EOF'
import csv, hashlib, json
r = json.load(open("report/report.json"))
maps = {m["outcome"]: m for m in json.load(open("report/recalibration.json"))["outcomes"]}
from sklearn.metrics import roc_auc_score, average_precision_score
for o in r["outcomes"]:
    rows = [x for x in csv.DictReader(open(f"report/rows/{o['name']}.csv")) if x["outcome"] != "-1"]
    y, p = [int(x["outcome"]) for x in rows], [float(x["risk"]) for x in rows]
    assert abs(roc_auc_score(y, p) - o["observed"]["auroc"]) < 1e-9
    for b in o["baselines"]:
        q = [float(x["baseline_" + b["name"]]) for x in rows]
        assert abs(average_precision_score(y, q) - b["auprc"]) < 1e-9, b["name"]
    for s in o["subgroups"]:
        assert sum(x["group_" + s["group"]] == s["label"] for x in rows) == s["n"]
    m = dict(maps[o["name"]])
    sha, hashed = m.pop("sha256"), m.pop("hashed")
    assert json.loads(hashed) == m and sha == hashlib.sha256(hashed.encode()).hexdigest() == o["recalibration"]["sha256"]
    assert m["model_sha256"] == r["provenance"]["model_sha256"] == hashlib.sha256(open("r/best/model.safetensors", "rb").read()).hexdigest()
EOF
verdict $? "figures are those of the rows kept beside them; maps carry their hash and the model's" rows.log
grep -Eq '^took [0-9]+ s, [0-9]+ s of CPU: .*risks [0-9]+ s \([0-9]+ s of CPU\)' whole.log
verdict $? "time and processor time are printed, part by part" whole.log
grep -v seconds report/report.json > first.json
mkdir first && cp report/report.html report/model_card.md report/recalibration.json first
touch marker
rm report/report.* report/work/admission_1y-held_out-risk.h5
cp report/rows/admission_1y.csv report/rows/of_another_evaluation.csv
EHR_BUILD=$build whole report > whole.log 2>&1 &&
    [ "$(find report/work -newer marker -name '*risk.h5')" = report/work/admission_1y-held_out-risk.h5 ] &&
    diff first.json <(grep -v seconds report/report.json) > diff.log
verdict $? "a stopped suite does only what is missing, to the same report" whole.log
for f in report.html model_card.md recalibration.json; do cmp "first/$f" "report/$f" || echo "$f differs"; done > diff.log 2>&1
[ ! -s diff.log ]
verdict $? "and to the same bytes of page, model card and maps" diff.log
[ "$(cd report/rows && echo *)" = 'admission_1y.csv readmission_30d.csv' ]
verdict $? "rows of an earlier evaluation are gone: compare.py would take them for this model's"
"$python" "$root/scripts/compare.py" report report --bootstrap 20 --out same.json > compare.log 2>&1 && grep -q ' 0 better, 0 worse' compare.log && [ -s same.json ]
verdict $? "compare.py: a report against itself" compare.log
mkdir -p twisted/rows && cp report/report.json twisted && cp report/rows/readmission_30d.csv twisted/rows &&
    awk -F, -v OFS=, 'NR > 1 { $4 = $3 == 1 ? 0.01 : 0.4 + NR / 1000 } { print }' report/rows/admission_1y.csv > twisted/rows/admission_1y.csv
refused 1 'everybody *brier.*worse' "$python" "$root/scripts/compare.py" report twisted --bootstrap 20
verdict $? "compare.py: a model that has everything upside down is worse" refused.log
mkdir -p partly/rows && cp report/report.json partly && head -n -5 report/rows/admission_1y.csv > partly/rows/admission_1y.csv
n=$(($(wc -l < report/rows/admission_1y.csv) - 1))
"$python" "$root/scripts/compare.py" report partly --bootstrap 20 --out partly.json > compare.log 2>&1
grep -q "^left out: admission_1y: 5 of $n rows of A and 0 of $((n - 5)) of B, which the other does not have" compare.log &&
    grep -q '^left out: readmission_30d: only A has it' compare.log && grep -q '"left_out": \[$' partly.json
verdict $? "compare.py: what one report does not have is told" compare.log
for one in a b; do
    mkdir -p $one/rows && cp report/report.json $one &&
        awk -F, -v OFS=, -v seed=$one 'NR > 1 { $3 = NR < 4; $1 = NR < 4 ? 7 : NR; $4 = (seed == "a" ? NR : 99 - NR) / 100 } { print }' report/rows/admission_1y.csv > $one/rows/admission_1y.csv
done
refused 3 'nothing could be judged' "$python" "$root/scripts/compare.py" a b --bootstrap 20
verdict $? "compare.py: a gate that could judge nothing is not passed" refused.log
refused 2 'at least 2' "$python" "$root/scripts/compare.py" report report --bootstrap 1
verdict $? "compare.py: a single resample has no spread" refused.log
mkdir -p strangers && cp -r report/rows strangers && sed 's/"events_sha256": "[0-9a-f]*"/"events_sha256": "0"/' report/report.json > strangers/report.json &&
    refused 1 'other events.*not the same people' "$python" "$root/scripts/compare.py" report strangers
verdict $? "compare.py: reports on other people, whatever their keys" refused.log
refused 1 'not a report' "$python" "$root/scripts/compare.py" report d
verdict $? "compare.py: a folder that is no report" refused.log
touch marker
EHR_BUILD=$build evaluate r d --suite quick --labels report/work/readmission_30d.h5 --samples 2 --limit 40 --bootstrap 9 --out report --seed 2 \
    > whole.log 2>&1 && [ "$(find report/work -newer marker -name '*risk.h5' | wc -l)" = 2 ]
verdict $? "another seed makes the risks again" whole.log
EHR_BUILD=$build evaluate r d --suite sequential --limit 15 --samples 4 --bootstrap 50 --out asked > asked.log 2>&1 &&
    "$python" - "$root" >> asked.log 2>&1 << 'EOF'
import h5py, json, math, sys
q = json.load(open("asked/report.json"))["sequential"]
prices = json.load(open(sys.argv[1] + "/scripts/tasks/test_prices.json"))
code = {t["id"]: t.get("base", t["code"]) for t in json.load(open("d/vocabulary.json"))["tokens"]}
price = {c: t["price"] for t in prices["tests"] for c in t["codes"]}
def walks(name):
    with h5py.File(f"asked/work/diagnose-{name}.h5") as f:
        columns = {k: f[k][:].tolist() for k in f}
    steps = [dict(zip(columns, row)) for row in zip(*columns.values())]
    return [[s for s in steps if s["patient_key"] == p] for p in dict.fromkeys(columns["patient_key"])]
model, usual, law = walks("model"), walks("usual order"), walks("generator")
near = lambda a, b: abs(a - b) < 1e-9
mean = lambda rows, k: sum(r[k] for r in rows) / len(rows)
assert len(model) == q["encounters"] == 15 and len(law) == q["ceiling"]["encounters"] == 15
for w in model + usual + law:
    cost = 0
    assert [s["step"] for s in w] == list(range(len(w))) and len({s["asked"] for s in w}) == len(w)
    for s in w[1:]:
        cost += price.get(code[s["asked"]], prices["default"]["price"])
        assert near(s["cost"], cost)
    assert sum(s["recorded"] for s in w) == w[0]["n_recorded"] and w[0]["n_new"] > 0
    assert all(s["truth_named"] <= s["truth_best"] + 1e-12 and 0 <= s["confidence"] <= 1 for s in w)
assert len({tuple(s["asked"] for s in w) for w in usual}) == 1  # one order for everybody
assert all(s["truth_named"] == s["truth_best"] for w in law for s in w)
def stop(w, sure):
    return next((s for s in w if sure(s)), w[-1])
own = [stop(w, lambda s: s["confidence"] >= (0 if math.isnan(s["next_p"]) else s["next_p"])) for w in model]
for name, rows in (("never", [w[0] for w in model]), ("own", own), ("everything", [w[-1] for w in model])):
    assert near(q[name]["right"]["mean"], mean(rows, "right")) and near(q[name]["cost"], mean(rows, "cost")), name
    assert near(q[name]["truly_right"]["mean"], mean(rows, "truth_named")) and near(q[name]["tests"], mean(rows, "step")), name
for w, curve in ((model, q["curve"]), (usual, q["usual_order"]["curve"])):
    for p in curve:
        rows = [stop(x, lambda s: s["confidence"] >= (p["threshold"] if p["threshold"] is not None else 2)) for x in w]
        assert near(p["cost"], mean(rows, "cost")) and near(p["right"]["mean"], mean(rows, "right")) and near(p["minutes"], mean(rows, "minutes"))
assert near(q["gain_of_everything"]["mean"], mean([w[-1] for w in model], "right") - mean([w[0] for w in model], "right"))
assert near(q["most_common_named"]["mean"], mean([w[0] for w in model], "common_right")) and near(q["new_diagnoses"], mean([w[0] for w in model], "n_new"))
single = [s for w, o in zip(model, own) for s in w if s["asked"] >= 0 and s["step"] <= o["step"]]
assert near(q["asked_in_vain"], sum(s["recorded"] == 0 for s in single) / max(len(single), 1))
for t in q["tests"]:
    ids = {k for k, c in code.items() if c == t["code"]}
    asked = [s for w, o in zip(model, own) for s in w if s["asked"] in ids and s["step"] <= o["step"]]
    assert near(t["asked"], len(asked) / 15) and near(t["asked_and_recorded"], sum(s["recorded"] > 0 for s in asked) / max(len(asked), 1))
assert near(q["ceiling"]["never"]["best"]["mean"], mean([w[0] for w in law], "truth_best"))
assert near(q["as_recorded"]["cost"], mean([w[0] for w in model], "recorded_cost")) and q["everything"]["minutes"] == 120
EOF
verdict $? "sequential: policies are those of the walks, walks pay the prices" asked.log
grep -v seconds asked/report.json > first.json
rm asked/report.* && touch marker && rm "asked/work/diagnose-usual order.h5" && EHR_BUILD=$build evaluate r d --suite sequential --limit 15 --samples 4 --bootstrap 50 \
    --out asked > asked.log 2>&1 && [ "$(find asked/work -newer marker -name '*.h5')" = "asked/work/diagnose-usual order.h5" ] &&
    diff first.json <(grep -v seconds asked/report.json) > diff.log
verdict $? "sequential: a stopped suite does only what is missing, to the same report" asked.log
grep -q 'changed that by\|cannot be shown by so few visits' asked/report.html
verdict $? "sequential: in short, whether tests made a difference" asked.log
EHR_BUILD=$build evaluate r d --suite sequential --limit 0 --samples 2 --bootstrap 20 --out all-asked > asked.log 2>&1 &&
    "$python" -c 'import json; q = json.load(open("all-asked/report.json"))["sequential"]; assert q["encounters"] > 15 and q["patients_looked_at"] == 40, q'
verdict $? "sequential: no limit is all patients" asked.log
EHR_BUILD=$build refused 2 'needs a CHECKPOINT' "$build/ehr-infer" diagnose --data d
verdict $? "diagnose: no checkpoint" refused.log
echo '{"tests": []}' > free.json && EHR_BUILD=$build refused 1 'free.json: expected "default"' "$build/ehr-infer" diagnose r --data d --prices free.json
verdict $? "diagnose: prices without a default" refused.log
EHR_BUILD=$build refused 1 'has no label file' evaluate r d --suite quick --out none
verdict $? "no labels and no events: what to do is said" refused.log
exit $failed
