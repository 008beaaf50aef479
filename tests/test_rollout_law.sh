#!/bin/bash
# test_rollout_law.sh BUILD - the oracle's law in place of a model: the three estimators give the true risks, reach's variance
# is the least, and an event that is given does what the law says it does.
# PATIENTS, ROWS, SAMPLES: sizes of the cohort, of its part that is looked at, and of each estimate.
build=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 1
case $build in *-san) : "${PATIENTS:=400}" "${ROWS:=12}" "${SAMPLES:=8}" ;; esac # ten times slower, and not about statistics
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$build/ehr-data" synth --patients "${PATIENTS:-700}" --seed 9 --risk-samples 512 --out "$work" > "$work/log" 2>&1 &&
    "$build/ehr-data" tokenize "$work/events.h5" --vocabulary "$work/vocabulary.json" --out "$work/d" >> "$work/log" 2>&1 || {
    echo "not ok - a cohort to test on"
    cat "$work/log"
    exit 1
}
check() { # check NAME LABELS FLAGS...
    local name=$1 labels=$work/d/labels/$2.h5
    shift 2
    local rows=${ROWS:-40}
    case $labels in *_30d.h5) rows=$((10 * rows)) ;; esac # few are at a discharge, and their futures are short
    if "$build/tests/check_rollout_law" "$work/d" "$labels" "$rows" "$@"; then echo "ok - $name"; else echo "not ok - $name"; fi
}
for o in death_1y=MEDS_DEATH admission_1y=VISIT//IN heart_failure_1y=ICD10CM//I50 diabetes_1y=ICD10CM//E11 readmission_30d=VISIT//IN; do
    name=${o%%=*}
    case $name in *_30d) horizon=30d ;; *) horizon=365d ;; esac
    "$build/ehr-data" label "$work/events.h5" --data "$work/d" --outcome "$o" --horizon $horizon >> "$work/log" 2>&1 ||
        { echo "not ok - labels of $name"; continue; }
    check "mc, scope and reach give the true risk of $name; reach with the least variance" "$name" "${SAMPLES:-32}"
done
check "given heart failure, the risk of admission is that of the law after it" admission_1y "${SAMPLES:-32}" ICD10CM//I50.9
check "intervals of a sampling that ends by itself hold" admission_1y 256 se=0.04
