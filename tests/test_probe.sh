#!/bin/bash
# test_probe.sh BUILD - few-shot probes of embeddings against scikit-learn by hand, and baselines, probe and report from end to
# end on the OMOP and Synthea samples, whose few patients make numbers but no sense.
. "$(dirname "$0")/shell.sh"
python=$root/.venv/bin/python
[ -x "$python" ] || skip_all "probe of embeddings" "no .venv"
cd "$work" || exit 1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 EHR_BUILD=$build

"$python" "$root/scripts/check_probe.py" > check.log 2>&1
rc=$?
grep -E -A1 '^(ok|not ok) - ' check.log
[ $rc = 0 ] || failed=1
grep -q '^ok - ' check.log
verdict $? "check_probe.py runs" check.log

# end_to_end NAME FORMAT SOURCE CODE...: from records to a report with baselines and probes
end_to_end() {
    local name=$1 codes
    codes=$(printf '"%s", ' "${@:4}")
    echo '{"name": "visit_1y", "kind": "event", "index": "visit-end", "horizon": "365d", "outcome": {"codes": ['"${codes%, }"']}}' > "$name.json"
    {
        "$build/ehr-data" import "$2" "$3" --out "$name.h5" --quiet && "$build/ehr-data" tokenize "$name.h5" --out "$name" &&
            "$build/ehr-data" label "$name.h5" --data "$name" --task "$name.json" --out "$name-labels.h5" &&
            "$build/ehr-train" --data "$name" --layers 1 --seq-len 256 --batch 2 --steps 8 --eval-tokens 0 --out "$name-run" &&
            sh "$root/scripts/evaluate.sh" "$name-run" "$name" --suite quick --labels "$name-labels.h5" --limit 30 --samples 1 --estimator next \
                --bootstrap 20 --out "$name-report"
    } > "$name.log" 2>&1 && [ -s "$name-report/report.html" ]
    verdict $? "$name: from records to a report" "$name.log"
    "$python" - "$name" > figures.log 2>&1 << 'END'
import json, sys
import h5py, numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler
name = sys.argv[1]
r = json.load(open(f"{name}-report/report.json"))
o = r["outcomes"][0]
assert len(o["baselines"]) == 4 and all(0 <= b["brier"] <= 1 for b in o["baselines"]), o["baselines"]
p = o["probe"]
assert p and [c["k"] for c in p["curve"]][:2] == [1, 2] and p["curve"][-1]["k"] is None, (p, r["notes"])
assert p["curve"][-1]["positives"] + p["curve"][-1]["negatives"] == p["train_rows"] > 50
x, y = [], []
for split in ("train", "tuning", "held_out"):
    with h5py.File(f"{name}-report/work/{name}-labels-{split}-embedding.h5") as f:
        told = np.asarray(f["outcome"]) >= 0
        x.append(np.hstack([f["last"], f["mean"]])[told].astype(float))
        y.append(np.asarray(f["outcome"])[told])
scale = StandardScaler().fit(x[0])
x = [scale.transform(a) for a in x]
fits = [LogisticRegression(C=c, max_iter=200).fit(x[0], y[0]) for c in (0.001, 0.03, 1.0)]
best = min(fits, key=lambda m: log_loss(y[1], m.predict_proba(x[1])[:, 1], labels=[0, 1]) if len(set(y[1])) > 1 else log_loss(y[0], m.predict_proba(x[0])[:, 1]))
direct = roc_auc_score(y[2], best.decision_function(x[2]))
assert abs(p["curve"][-1]["embedding"]["auroc"] - direct) < 0.02, (p["curve"][-1], direct)
assert "What a few labels are worth" in open(f"{name}-report/report.html").read()
assert r["tokens"]["all"]["n"] > 0 and r["tokens"]["kinds"] and r["tokens"]["gaps"]["gaps"] > 0
END
    verdict $? "$name: baselines, and probes that scikit-learn confirms from the embeddings" figures.log
}

end_to_end omop omop "$root/tests/fixtures/omop-synthea27nj.zip" VISIT//OP
synthea=${EHR_SAMPLE_DATA:-$root/../shared/data}/synthea-csv-27
if [ -d "$synthea" ]; then
    end_to_end synthea synthea "$synthea" VISIT//WELLNESS VISIT//AMBULATORY VISIT//OUT VISIT//OP
else
    echo "skip - synthea: from records to a report: no sample data at $synthea (EHR_SAMPLE_DATA)"
fi

# ---- rows that nothing can be learnt from --------------------------------------------------------------------------------
"$build/ehr-data" label omop.h5 --data omop --outcome never_1y=MEDS_DEATH --horizon 1d --index last-year --out rare.h5 > rare.log 2>&1
sh "$root/scripts/evaluate.sh" omop-run omop --suite quick --labels rare.h5 --limit 30 --samples 1 --estimator next --bootstrap 9 \
    --out rare-report > rare.log 2>&1 && grep -q 'no probe of embeddings' rare-report/report.json
verdict $? "an outcome that nobody has: a report, and a note why there is no probe" rare.log
exit $failed
