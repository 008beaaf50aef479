#!/bin/bash
# test_rollout_law.sh BUILD - the oracle's law in place of a model: the three estimators give the true risks.
. "$(dirname "$0")/shell.sh"
"$build/ehr-data" synth --patients 400 --seed 9 --risk-samples 256 --out "$work" > "$work/log" 2>&1 &&
    "$build/ehr-data" tokenize "$work/events.h5" --vocabulary "$work/vocabulary.json" --out "$work/d" >> "$work/log" 2>&1 || {
    not_ok "a cohort to test on" "$work/log"
    exit 1
}
for o in death_1y=MEDS_DEATH admission_1y=VISIT//IN heart_failure_1y=ICD10CM//I50; do
    name=${o%%=*}
    if "$build/ehr-data" label "$work/events.h5" --data "$work/d" --outcome "$o" --horizon 365d >> "$work/log" 2>&1 &&
        "$build/tests/check_rollout_law" "$work/d" "$work/d/labels/$name.h5" 12 8; then
        ok "mc, scope and reach give the true risk of $name"
    else
        not_ok "mc, scope and reach give the true risk of $name"
    fi
done
exit $failed
