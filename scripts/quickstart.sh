#!/bin/bash
# quickstart.sh - `make quickstart`: from records to forecasts and a report, on this machine.
#   QUICK=1          the short form, for a first look and for continuous checks
#   DATA=omop:PATH   the same from an OMOP export (folder or .zip) instead of the synthetic cohort
#   STEPS, PATIENTS, SAMPLES, RANKS, OUT override what the form chooses
# Without STEPS the full form trains for as many steps as 190 seconds allow at the speed that the machine shows in 60 of
# them, a multiple of 500 from 1000 to 10000; the same STEPS give the same run.
set -euo pipefail
[ "${1:-}" != --help ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; }
cd "$(dirname "$0")/.."
. scripts/env.sh
start=$(date +%s.%N)
out=${OUT:-build/quickstart}
dataset=$out/dataset run=$out/run report=$out/report events=$out/events
rm -rf "$dataset" "$run" "$report" "$events" "$out/risk" "$out/probe"
mkdir -p "$events" "$out/risk"

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { # prints the command a reader can type, then runs it
    printf '$ %s\n' "$*"
    "$@"
}

ranks=${RANKS:-2}
mpirun_or_plain() {
    if command -v mpirun > /dev/null 2>&1; then show mpirun -np "$ranks" "$@"; else show "$@"; fi
}

outcomes=()
if [ -z "${DATA:-}" ]; then
    if [ -n "${QUICK:-}" ]; then
        patients=${PATIENTS:-1500} steps=${STEPS:-80} samples=${SAMPLES:-4} limit=50 risk_samples=64 bootstrap=100
    else
        patients=${PATIENTS:-40000} steps=${STEPS:-} samples=${SAMPLES:-24} limit=250 risk_samples=256 bootstrap=300
    fi
    say "1/7 draw synthetic patients from a law whose true risks are known"
    show build/ehr-data synth --patients "$patients" --seed 1 --risk-samples "$risk_samples" --out "$events"
    say "2/7 tokenise: events -> HDF5 shards"
    show build/ehr-data tokenize "$events/events.h5" --vocabulary "$events/vocabulary.json" --out "$dataset"
    # Two layers learn this law as well as four in the time there is; few rows a step make many steps.  Weight decay and a
    # short memory of squared gradients both pull the odds of rare events up: no record is seen often enough to need either.
    train_flags=(--layers 2 --heads 4 --kv-heads 2 --batch 4 --learning-rate 4e-3 --min-lr-ratio 0.02
        --weight-decay 0 --beta2 0.99)
    index=()
    outcomes=(death_1y=MEDS_DEATH admission_1y=VISIT//IN heart_failure_1y=ICD10CM//I50)
else
    case $DATA in
    omop:*) ;;
    *) echo "quickstart: DATA=omop:PATH, not DATA=$DATA" >&2; exit 2 ;;
    esac
    samples=${SAMPLES:-16} limit=200 bootstrap=200
    say "1/7 import OMOP records"
    show build/ehr-data import omop "${DATA#omop:}" --out "$events/events.h5"
    say "2/7 tokenise: events -> HDF5 shards"
    show build/ehr-data tokenize "$events/events.h5" --out "$dataset"
    steps=${STEPS:-$([ -n "${QUICK:-}" ] && echo 30 || echo 200)}
    train_flags=()
    index=(--index last-year)
    outcomes=(death_1y=MEDS_DEATH)
fi

say "3/7 validate: formats, hashes, order, leaks"
show build/ehr-data validate "$dataset"

say "4/7 label: outcomes at index times, on the steward's side"
labels=()
for o in "${outcomes[@]}"; do
    if show build/ehr-data label "$events/events.h5" --data "$dataset" --outcome "$o" --horizon 365d "${index[@]}"; then
        labels+=("$dataset/labels/${o%%=*}.h5")
    fi
done

say "5/7 train on $ranks ranks"
if [ -z "$steps" ]; then
    mpirun_or_plain build/ehr-train --data "$dataset" --model nano --out "$out/probe" "${train_flags[@]}" --steps 60 \
        --eval-tokens 2000 > "$out/probe.log" 2>&1 || { cat "$out/probe.log"; exit 1; }
    speed=$(sed -n 's/.*"tokens_per_s": \([0-9]*\).*/\1/p' "$out/probe/summary.json" | head -n 1)
    steps=$((speed * 190 / 2048 / 500 * 500))
    steps=$((steps < 1000 ? 1000 : steps > 10000 ? 10000 : steps))
    echo "60 steps ran at $speed tokens/s: $steps steps take three minutes or so (STEPS=$steps repeats this very run)"
    rm -rf "$out/probe" "$out/probe.log"
fi
quarter=$(((steps + 3) / 4))
mpirun_or_plain build/ehr-train --data "$dataset" --model nano --out "$run" "${train_flags[@]}" --steps "$steps" \
    --warmup-steps "$((steps < 400 ? steps / 4 : 100))" --eval-every "$quarter" --checkpoint-every "$quarter"

say "6/7 simulate futures of one held-out patient"
show build/ehr-infer generate "$run/latest" --data "$dataset" --split held_out --patient 0 --samples 3

say "7/7 risks, and a report"
risks=()
for l in "${labels[@]}"; do
    table=$out/risk/$(basename "$l" .h5).csv
    show build/ehr-infer risk "$run/latest" --data "$dataset" --labels "$l" --split held_out --estimator reach \
        --samples "$samples" --limit "$limit" --out "$table"
    risks+=("$table")
done
if [ ${#risks[@]} -gt 0 ]; then
    show scripts/evaluate.sh "$run" "$dataset" "$report" "${risks[@]}" --bootstrap "$bootstrap" --started "$start"
fi

cat << END

Done in $(echo "$start $(date +%s.%N)" | awk '{printf "%.0f", $2 - $1}') s.  Here is what there is now:
  $dataset    tokenised timelines: shards, vocabulary, labels
  $run        checkpoints (each a Hugging Face model folder), log.jsonl
  $report     $([ -e "$report/report.html" ] && echo "report.html to read, report.json with every figure" || echo "not there: these records have no outcome to label (see 4/7)")
What to try next:
  build/ehr-data inspect $dataset --split held_out --patient 3
  build/ehr-infer generate $run/latest --data $dataset --patient 7 --samples 5 --outcome VISIT//IN
  build/ehr-infer score $run/latest --data $dataset
  make quickstart DATA=omop:tests/fixtures/omop-synthea27nj.zip
  scripts/train_oracle.sh          a longer training that comes close to the floor
END
