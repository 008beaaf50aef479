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

"$python" "$root/scripts/check_metrics.py" > metrics.log 2>&1
rc=$?
grep -E -A1 '^(ok|not ok) - ' metrics.log
[ $rc = 0 ] || failed=1
grep -q '^ok - ' metrics.log
verdict $? "check_metrics.py runs" metrics.log

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
evaluate run data out truth.csv plain.csv --bootstrap 50 > evaluate.log 2>&1 && [ "$(grep -c '^by_hand' evaluate.log)" = 2 ]
verdict $? "a table with true risks beside one without" evaluate.log
holds out/report.json 'near(o["rmse"], (sum((x / 2) ** 2 for x in (.8, .3, .4, .3, .1, .9)) / 6) ** .5) and near(o["auroc"], o["auroc_true_risk"]) and o["auroc_interval"]'
verdict $? "RMSE to the truth; the order of the truth has the truth's AUROC" holds.log

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
evaluate run data out5 truth.h5 --bootstrap 50 > evaluate.log 2>&1 && evaluate run data outc truth.csv --bootstrap 50 >> evaluate.log 2>&1 &&
    diff <(grep -v '"seconds"' outc/report.json) <(grep -v '"seconds"' out5/report.json) > diff.log
verdict $? "HDF5 and CSV give the same report, twice the same" diff.log

grep -v '^#' plain.csv | awk -F, -v OFS=, 'NR > 1 { $3 = 0; $5 = "" } { print }' > nobody.csv
evaluate run data out nobody.csv --bootstrap 20 > evaluate.log 2>&1 &&
    holds out/report.json 'o["name"] == "nobody" and o["auroc"] is None and o["slope"] is None and o["auroc_interval"] is None and o["horizon_days"] is None and o["mean_mc_se"] is None'
verdict $? "nobody has the outcome, no attributes, no errors: undefined figures are null" holds.log
awk -F, -v OFS=, '/^#/ { print; next } !head { head = 1; print; next } { $3 = -1; print }' plain.csv > censored.csv
evaluate run data out censored.csv --bootstrap 20 > evaluate.log 2>&1 && holds out/report.json 'o["censored"] == o["n"] == 6 and o["auroc"] is None'
verdict $? "everybody censored" evaluate.log
evaluate nowhere data out plain.csv --bootstrap 20 > evaluate.log 2>&1 && [ -s out/report.html ] && holds out/report.json 'r["loss"] is None and near(o["auroc"], 0.75)'
verdict $? "no run log: the report is made, without losses" evaluate.log

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
exit $failed
