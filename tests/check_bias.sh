#!/bin/bash
# check_bias.sh BUILD [OUT] - the alarms for groups on models that were trained: one on a fair cohort, one on the same cohort
# whose train and tuning records of a group lost half of their admissions and deaths; both are tested on the same held-out
# records.  The second must raise an alarm for that group, the first none.  PATIENTS, STEPS, ROWS and SAMPLES change its
# size, and it takes a while, so `make test` runs it not.  A small one says nothing: with 9,000 patients and 1,200 steps the
# model had hardly learnt what the group's records lack (142 of its people held out, gap of log observed/expected 0.35,
# p 0.035, no alarm; Zen 5, 2026-11-30).
. "$(dirname "$0")/shell.sh"
python=$root/.venv/bin/python
out=$(realpath -m "${2:-$work}")
"$python" -c "import pyarrow" 2> /dev/null || skip_all "alarms of trained models" "no pyarrow: sh scripts/setup.sh meds"
group=RACE//BLACK
mkdir -p "$out" && cd "$out" || exit 1
cohort() { # cohort NAME: events of MEDS folder NAME -> dataset, model, report
    "$python" "$root/scripts/meds_to_events.py" "$1" --out "$1.h5" --ehr-data "$build/ehr-data" &&
        "$build/ehr-data" tokenize "$1.h5" --vocabulary synth/vocabulary.json --out "$1-data" &&
        "$build/ehr-train" --data "$1-data" --model nano --layers 2 --seq-len 256 --batch 8 --steps "${STEPS:-6000}" --warmup-steps 100 \
            --learning-rate 2e-3 --eval-every "${STEPS:-6000}" --eval-tokens 20000 --out "$1-run" &&
        EHR_BUILD=$build sh "$root/scripts/evaluate.sh" "$1-run" "$1-data" --suite quick --events "$1.h5" --samples "${SAMPLES:-8}" \
            --limit "${ROWS:-0}" --bootstrap 200 --out "$1-report" --tasks "$root/scripts/tasks/admission_1y.json"
}
alarms() { # alarms NAME: subgroups with an alarm
    "$python" -c 'import json, sys
r = json.load(open(sys.argv[1]))
for a in r["alarms"]: print(a["outcome"], a["subgroup"], a["statistic"], round(a["gap"], 2))' "$1-report/report.json"
}
{
    "$build/ehr-data" synth --patients "${PATIENTS:-40000}" --seed 11 --risk-samples 0 --out synth &&
        "$python" "$root/scripts/events_to_meds.py" synth/events.h5 --out fair && rm -rf biased && cp -r fair biased &&
        "$python" "$root/tests/bias_cohort.py" biased "$group"
} > made.log 2>&1
verdict $? "a cohort, fair and biased" made.log
grep lost made.log
for name in fair biased; do
    cohort $name > $name.log 2>&1
    verdict $? "$name: dataset, model, report" $name.log
    alarms $name | tee $name.alarms
done
[ -s fair-report/report.json ] && [ ! -s fair.alarms ]
verdict $? "the fair cohort raises no alarm" fair.alarms
grep -q "$group log_oe" biased.alarms
verdict $? "the biased one raises it for the group that lost its outcomes" biased.alarms
exit $failed
