#!/bin/bash
# train_oracle.sh [OUT] - the longer recipe of the quickstart: more and longer synthetic records, a wider model, more steps and
# a rate that falls over the last third, to come close to the loss floor and to the AUROC of the true risks.  The training
# took three hours of one busy core; resumes where it was stopped, and with more STEPS goes on from what there is (the rate rises again).
#   PATIENTS (500000), STEPS (40000), RANKS (2), LIMIT (1000 held-out patients), SAMPLES (128) override the recipe.
set -euo pipefail
[ "${1:-}" != --help ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; }
cd "$(dirname "$0")/.."
. scripts/env.sh
out=${1:-build/oracle}
mkdir -p "$out"
[ -e "$out/vocabulary.json" ] || build/ehr-data synth --patients "${PATIENTS:-500000}" --seed 1 --max-tokens 1000 --risk-samples 256 --out "$out"
[ -d "$out/dataset" ] || build/ehr-data tokenize "$out/events.h5" --vocabulary "$out/vocabulary.json" --out "$out/dataset"
# No decay and a long memory of squared gradients: both otherwise pull the odds of rare events up.
mpirun -np "${RANKS:-2}" build/ehr-train --data "$out/dataset" --model nano --layers 2 --d-model 192 --d-ff 576 --heads 8 \
    --kv-heads 4 --seq-len 1024 --out "$out/run" --resume auto --steps "${STEPS:-40000}" --batch 4 --schedule wsd \
    --warmup-steps 200 --decay-steps "$((${STEPS:-40000} / 3))" --min-lr-ratio 0.01 --weight-decay 0 --beta2 0.99 \
    --eval-every 2000 --eval-tokens 500000 --checkpoint-every 1000
risks=()
for o in death_1y=MEDS_DEATH admission_1y=VISIT//IN heart_failure_1y=ICD10CM//I50; do
    name=${o%%=*}
    build/ehr-data label "$out/events.h5" --data "$out/dataset" --outcome "$o" --horizon 365d
    build/ehr-infer risk "$out/run/best" --data "$out/dataset" --labels "$out/dataset/labels/$name.h5" --estimator reach \
        --samples "${SAMPLES:-128}" --limit "${LIMIT:-1000}" --out "$out/$name.csv"
    risks+=("$out/$name.csv")
done
scripts/evaluate.sh "$out/run" "$out/dataset" "$out/report" "${risks[@]}"
