#!/bin/bash
# train_oracle.sh [OUT] - the longer recipe of the quickstart: more synthetic patients, more steps, to come close to the
# loss floor and to the AUROC of the true risks.  An hour or two on two cores; resumes where it was stopped.
#   PATIENTS (60000), STEPS (12000), RANKS (2), LIMIT (1000 held-out patients), SAMPLES (32) override the recipe.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
out=${1:-build/oracle}
mkdir -p "$out"
[ -e "$out/vocabulary.json" ] || build/ehr-data synth --patients "${PATIENTS:-60000}" --seed 1 --out "$out"
[ -d "$out/dataset" ] || build/ehr-data tokenize "$out/events.h5" --vocabulary "$out/vocabulary.json" --out "$out/dataset"
mpirun -np "${RANKS:-2}" build/ehr-train --data "$out/dataset" --model nano --out "$out/run" --resume auto \
    --steps "${STEPS:-12000}" --batch 8 --warmup-steps 100 --eval-every 1000 --checkpoint-every 1000 --eval-tokens 0
risks=()
for o in death_1y=MEDS_DEATH admission_1y=VISIT//IN heart_failure_1y=ICD10CM//I50; do
    name=${o%%=*}
    build/ehr-data label "$out/events.h5" --data "$out/dataset" --outcome "$o" --horizon 365d
    build/ehr-infer risk "$out/run/best" --data "$out/dataset" --labels "$out/dataset/labels/$name.h5" --estimator reach \
        --samples "${SAMPLES:-32}" --limit "${LIMIT:-1000}" --out "$out/$name.csv"
    risks+=("$out/$name.csv")
done
scripts/evaluate.sh "$out/run" "$out/dataset" "$out/report" "${risks[@]}"
