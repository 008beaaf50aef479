#!/bin/bash
# check_bias.sh BUILD [OUT] - the alarms for groups on models that were trained: one on a fair cohort, one on the same cohort
# whose train and tuning records of a group lost half of their admissions and deaths; both are tested on the same held-out
# records.  The second must raise an alarm for that group, the first none for it.  It takes a while (half an hour of a core),
# so `make test` runs it not; what is in OUT already is not made again.
#   INIT=CHECKPOINT   goes on from a model that knows the law: STEPS are then few.  From nothing the quickstart's 7,000 steps
#                     leave risks of groups that are wrong by a tenth or two on both cohorts, and alarms say so.
#   PATIENTS, STEPS, ROWS, SAMPLES change its size; ROWS=0 takes every held-out row for the risks.
# The cohort of the quickstart has 4,000 held-out patients, 700 of the group, with some 600 admissions in all their records.
# A ratio of recorded to expected 1.5 times the others' then stands 8 standard errors beyond the twentieth that is tolerated,
# one of 1.25 times 4; the first alarm of 80 tests needs 3.2.  Records that lost half of the group's admissions do not teach
# half of the risk: those that are left stand for two each, and whoever shows two of them has the risk of four.
# Seen (Zen 5, 2026-11-30, 1,500 steps at 2e-3 from a model 0.006 nats above the floor): fair, no alarm of 40 tests; biased,
# one, for the group: gap 0.23 of admissions over whole records, p after correction 0.003.
. "$(dirname "$0")/shell.sh"
python=$root/.venv/bin/python
out=$(realpath -m "${2:-$work}")
"$python" -c "import pyarrow" 2> /dev/null || skip_all "alarms of trained models" "no pyarrow: sh scripts/setup.sh meds"
group=RACE//BLACK
steps=${STEPS:-7000}
start=(--model nano --layers 2 --heads 4 --kv-heads 2 --learning-rate 4e-3)
[ -z "${INIT:-}" ] || start=(--init "$(realpath "$INIT")" --learning-rate 2e-3)
mkdir -p "$out" && cd "$out" || exit 1
cohort() { # cohort NAME: events of MEDS folder NAME -> dataset, model, report
    [ -s "$1-data/dataset.json" ] || {
        "$python" "$root/scripts/meds_to_events.py" "$1" --out "$1.h5" --ehr-data "$build/ehr-data" &&
            "$build/ehr-data" tokenize "$1.h5" --vocabulary synth/vocabulary.json --out "$1-data" || return 1
    }
    [ -s "$1-run/summary.json" ] ||
        "$build/ehr-train" --data "$1-data" "${start[@]}" --batch 4 --steps "$steps" --warmup-steps 100 --min-lr-ratio 0.02 --weight-decay 0 --beta2 0.99 --eval-every "$steps" --eval-tokens 100000 \
            --out "$1-run" || return 1
    EHR_BUILD=$build sh "$root/scripts/evaluate.sh" "$1-run" "$1-data" --suite quick --events "$1.h5" --samples "${SAMPLES:-4}" \
        --limit "${ROWS:-400}" --recorded 0 --bootstrap 200 --out "$1-report" \
        --tasks "$root/scripts/tasks/admission_1y.json" "$root/scripts/tasks/death_1y.json"
}
alarms() { # alarms NAME: subgroups with an alarm
    "$python" -c 'import json, sys
r = json.load(open(sys.argv[1]))
print(len(r["alarms"]), "alarms of", r["alarm_tests"], "tests", file=sys.stderr)
for a in r["alarms"]: print(a["outcome"], a["subgroup"], a["statistic"], "gap %.2f" % a["gap"], "p after correction %.1e" % a["p_adjusted"])' \
        "$1-report/report.json"
}
{
    { [ -s synth/vocabulary.json ] || "$build/ehr-data" synth --patients "${PATIENTS:-40000}" --seed 11 --risk-samples 0 --out synth; } &&
        { [ -d biased ] || {
            "$python" "$root/scripts/events_to_meds.py" synth/events.h5 --out fair && rm -rf biased-part && cp -r fair biased-part &&
                "$python" "$root/tests/bias_cohort.py" biased-part "$group" && mv biased-part biased
        }; }
} > made.log 2>&1
verdict $? "a cohort, fair and biased" made.log
grep lost made.log
for name in fair biased; do
    cohort $name > $name.log 2>&1
    verdict $? "$name: dataset, model, report" $name.log
    alarms $name | tee $name.alarms
done
[ -s fair-report/report.json ] && ! grep -q "$group" fair.alarms
verdict $? "the fair cohort raises no alarm for the group" fair.alarms
[ ! -s fair.alarms ]
verdict $? "nor for any other" fair.alarms
grep -q "$group [a-z_]*oe gap 0" biased.alarms
verdict $? "the biased one raises it for the group that lost its outcomes" biased.alarms
exit $failed
