#!/bin/bash
# test_risk_cli.sh BUILD - ehr-infer risk, merge and suggest from the outside: several outcomes from one pool, ranks that share out parts, runs
# that are killed and go on, curves, sampling that ends by itself, events that are given.
. "$(dirname "$0")/shell.sh"
local_ranks
data=$build/ehr-data infer=$build/ehr-infer python=$PWD/.venv/bin/python
cd "$work" || exit 1

verdict() { # verdict RC NAME [LOG]
    if [ "$1" = 0 ]; then
        echo "ok - $2"
    else
        echo "not ok - $2"
        failed=1
        [ -n "$3" ] && tail -n 12 "$3" | sed 's/^/    /'
    fi
}
column() { awk -F, -v name="$2" '/^#/ { next } !at { for (i = 1; i <= NF; i++) if ($i == name) at = i; next } { print $at }' "$1"; }

{
    "$data" synth --patients 300 --risk-samples 16 --out events &&
        "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$data" label events/events.h5 --data d --outcome admission_1y=VISIT//IN --horizon 365d &&
        "$data" label events/events.h5 --data d --outcome visit_30d=VISIT//OUT --horizon 30d &&
        "$data" label events/events.h5 --data d --outcome death_5y=MEDS_DEATH --horizon 5y &&
        "$data" label events/events.h5 --data d --outcome heart_failure_1y=ICD10CM//I50 --horizon 365d &&
        "$build/ehr-train" --data d --layers 1 --seq-len 256 --batch 4 --steps 24 --eval-tokens 0 --out r
} > made.log 2>&1
verdict $? "make a dataset and a checkpoint" made.log
[ $failed = 0 ] || exit 1
names="admission_1y visit_30d death_5y heart_failure_1y"
labels=()
for n in $names; do labels+=(--labels d/labels/$n.h5); done
risk() { "$infer" risk r --data d "$@" > risk.log 2>&1; }

# ---- one pool ------------------------------------------------------------------------------------------------------------
for e in mc scope; do
    mkdir alone-$e pool-$e
    rc=0
    for n in $names; do risk --labels d/labels/$n.h5 --estimator $e --samples 6 --curve 5 --out alone-$e || rc=1; done
    risk "${labels[@]}" --estimator $e --samples 6 --curve 5 --out pool-$e || rc=1
    [ $rc = 0 ] && [ "$(ls pool-$e | wc -l)" = 8 ] && diff -r alone-$e pool-$e > diff.log 2>&1
    verdict $? "$e: four outcomes from one pool are, byte for byte, those of four pools" risk.log
done
mkdir reach
risk "${labels[@]}" --samples 4 --limit 5 --out reach && [ "$(grep -c '20 futures' risk.log)" = 4 ]
verdict $? "reach: a pool an outcome" risk.log
paste -d, <(column pool-mc/admission_1y-risk.csv risk) <(column pool-mc/admission_1y-risk-curve.csv risk | awk 'NR % 5 == 0') \
    <(column pool-mc/admission_1y-risk.csv competing_risk) <(column pool-mc/admission_1y-risk-curve.csv competing | awk 'NR % 5 == 0') |
    awk -F, '{ d = $1 - $2; e = $3 - $4; if (d * d > 1e-12 || e * e > 1e-12 || $1 + $3 > 1 + 1e-6) bad = 1; s += $1 } END { exit bad || NR < 10 || s == 0 }'
verdict $? "a curve ends at the risk, beside deaths that come first" pool-mc/admission_1y-risk-curve.csv
paste -d, <(column pool-scope/admission_1y-risk-curve.csv patient_key) <(column pool-scope/admission_1y-risk-curve.csv days) \
    <(column pool-scope/admission_1y-risk-curve.csv risk) |
    awk -F, '$1 == key && ($2 <= day || $3 < last) { bad = 1 } { key = $1; day = $2; last = $3 } END { exit bad || day != 365 }'
verdict $? "curves do not fall"
column pool-mc/visit_30d-risk.csv lead_days | awk '$1 != "" { n++; if ($1 < 0 || $1 > 30) bad = 1 } END { exit bad || !n }'
verdict $? "lead times lie within the horizon"

for after in '' ', "after": "7d"'; do
    echo '{"name": "out'${after:+_later}'", "index": "oracle", "outcome": {"codes": ["VISIT//OUT"]}, "horizon": "60d"'"$after"'}' > task.json
    "$data" label events/events.h5 --data d --task task.json > label.log 2>&1 && risk --labels d/labels/out${after:+_later}.h5 --estimator mc --samples 8
done
paste -d, <(column out-risk.csv risk) <(column out_later-risk.csv risk) |
    awk -F, '{ n++; if ($2 > $1) bad = 1; less += $2 < $1; some += $2 > 0 } END { exit bad || !n || !less || !some }'
verdict $? "outcomes that come too early are none in futures either" risk.log

# ---- ranks, killing, merging ---------------------------------------------------------------------------------------------
if command -v mpirun > /dev/null; then
    for n in 1 2 3; do
        mkdir ranks-$n
        mpirun -np $n "$infer" risk r --data d "${labels[@]}" --estimator mc --samples 6 --curve 5 --out ranks-$n > ranks.log 2>&1 &&
            diff -r ranks-$n pool-mc >> ranks.log 2>&1
        verdict $? "the same bytes by $n ranks" ranks.log
    done
else
    echo "skip - the same bytes by several ranks: no mpirun"
fi
as_rank() { # as_rank RANK WORLD FLAGS...: without a launcher, by what a launcher would tell
    local rank=$1 world=$2
    shift 2
    OMPI_COMM_WORLD_RANK=$rank OMPI_COMM_WORLD_SIZE=$world risk "$@"
}
flags=("${labels[@]}" --estimator mc --samples 6 --curve 5)
mkdir again
as_rank 1 3 "${flags[@]}" --out again && [ -d again/admission_1y-risk.csv.parts ] && [ ! -e again/admission_1y-risk.csv ] &&
    grep -q 'parts of others are not' risk.log
verdict $? "a rank alone leaves its parts and says that others are missing" risk.log
"$infer" merge again/admission_1y-risk.csv > merge.log 2>&1
[ $? = 1 ] && grep -q 'parts are not there yet' merge.log && [ ! -e again/admission_1y-risk.csv ]
verdict $? "merge joins nothing before all are there" merge.log
risk "${flags[@]}" --seed 2 --out again
[ $? = 2 ] && grep -q 'other settings' risk.log
verdict $? "parts of other settings are refused" risk.log
risk "${labels[@]}" --estimator mc --samples 6 --curve 4 --out again
[ $? = 2 ] && grep -q 'other settings' risk.log
verdict $? "and those without the curve that is asked for" risk.log
cp d/labels/admission_1y.h5 admission_1y.kept
"$python" -c 'import h5py, sys; f = h5py.File(sys.argv[1], "r+"); f["outcome"][...] = 1 - abs(f["outcome"][...])' d/labels/admission_1y.h5
risk "${flags[@]}" --out again
[ $? = 2 ] && grep -q 'labels or weights' risk.log
verdict $? "and those of labels that have changed since" risk.log
cp admission_1y.kept d/labels/admission_1y.h5
risk "${flags[@]}" --out again && grep -q 'parts were there already' risk.log && diff -r again pool-mc > diff.log 2>&1
verdict $? "another number of ranks does the rest, with the same bytes" diff.log
mkdir killed
long=("${labels[@]}" --estimator mc --curve 5 --samples 100 --limit 30)
"$infer" risk r --data d "${long[@]}" --batch 8 --out killed > killed.log 2>&1 &
pid=$!
for _ in $(seq 400); do
    [ -e killed/death_5y-risk.csv.parts/00001.h5 ] && break
    sleep 0.05
done
kill -9 $pid
wait $pid 2> /dev/null
done_before=$(ls killed/death_5y-risk.csv.parts/ 2> /dev/null | grep -c '^0.*[0-9].h5$')
mkdir whole
risk "${long[@]}" --out whole && risk "${long[@]}" --out killed && grep -q 'parts were there already' risk.log &&
    [ "${done_before:-0}" -gt 0 ] && diff -r killed whole > diff.log 2>&1
verdict $? "killed after $done_before parts and run again: the same bytes" risk.log
mkdir parts-kept two
as_rank 0 2 "${flags[@]}" --out two && cp -r two/death_5y-risk.csv.parts parts-kept && as_rank 1 2 "${flags[@]}" --out two &&
    diff -r two pool-mc > diff.log 2>&1
verdict $? "two ranks one after the other: the second joins" risk.log
head -c 3000 parts-kept/death_5y-risk.csv.parts/00000.h5 > cut.h5 && mkdir broken && cp -r parts-kept/death_5y-risk.csv.parts broken &&
    cp cut.h5 broken/death_5y-risk.csv.parts/00000.h5
risk --labels d/labels/death_5y.h5 --estimator mc --samples 6 --curve 5 --out broken
[ $? != 0 ] && grep -q '00000.h5' risk.log
verdict $? "a part cut short is named" risk.log

# ---- tasks in the box -------------------------------------------------------------------------------------------------------
for t in icu_transfer long_stay_7d hyperkalemia_1y anemia_1y in_hospital_mortality readmission_30d; do
    "$data" label events/events.h5 --data d --task "$root/scripts/tasks/$t.json" > label.log 2>&1 && risk --labels d/labels/$t.h5 --samples 4 --limit 8 --out $t.csv &&
        column $t.csv risk | awk '!($1 >= 0 && $1 <= 1) { bad = 1 } { s += $1 } END { exit bad || s == 0 || s == NR }'
    verdict $? "task $t" risk.log
done
risk --labels d/labels/long_stay_7d.h5 --samples 200 --limit 8 --estimator mc --out mc.csv && risk --labels d/labels/long_stay_7d.h5 --samples 200 --limit 8 --out reach.csv &&
    paste -d, <(column mc.csv risk) <(column reach.csv risk) <(column mc.csv mc_se) <(column reach.csv mc_se) |
    awk -F, '{ d += $1 - $2; v += $3 * $3 + $4 * $4 } END { exit !(d * d < 16 * v) || NR != 8 }'
verdict $? "length of stay: mc and reach agree" risk.log
sed 's/"below": 11/"below": 7.123/' "$root/scripts/tasks/anemia_1y.json" > odd.json
"$data" label events/events.h5 --data d --task odd.json > label.log 2>&1
[ $? = 2 ] && grep -q 'edges nearest to them: 8, 9.3' label.log
verdict $? "a bound below all levels: the error names the edges" label.log
sed 's/"ICU_IN"/"ICU_INN"/' "$root/scripts/tasks/icu_transfer.json" > odd.json
"$data" label events/events.h5 --data d --task odd.json > label.log 2>&1
[ $? = 2 ] && grep -q 'nearest codes: ICU_IN' label.log
verdict $? "a task of an unknown code: the error names the nearest" label.log

# ---- sampling that ends by itself ------------------------------------------------------------------------------------------
for e in mc reach; do
    risk --labels d/labels/admission_1y.h5 --estimator $e --target-se 0.03 --samples 512 --limit 12 --out se-$e.csv &&
        paste -d, <(column se-$e.csv n_samples) <(column se-$e.csv mc_se) | awk -F, '{ n[$1]++; if ($1 != 64 && $1 != 128 && $1 != 256 && $1 != 512) bad = 1;
            if ($1 < 512 && $2 > 0.03) bad = 1 } END { exit bad || NR != 12 }'
    verdict $? "$e: --target-se ends at 64, 128, 256 or 512 futures" se-$e.csv
done
total() { column "$1" n_samples | awk '{ s += $1 } END { print s }'; }
[ "$(total se-reach.csv)" -lt "$(total se-mc.csv)" ]
verdict $? "reach needs fewer futures ($(total se-reach.csv)) than mc ($(total se-mc.csv)) for the same standard error"
risk --labels d/labels/admission_1y.h5 --estimator mc --target-se 0.03 --samples 512 --limit 12 --batch 7 --out se.csv && cmp se.csv se-mc.csv > diff.log 2>&1
verdict $? "and the batch changes nothing" diff.log
kv=(--labels d/labels/admission_1y.h5 --estimator mc --samples 12 --limit 12 --kv-dtype bf16)
risk "${kv[@]}" --batch 1 --threads 1 --out kv-1.csv && risk "${kv[@]}" --batch 7 --threads 2 --out kv-7.csv && risk "${kv[@]}" --batch 64 --threads 2 --out kv-64.csv &&
    cmp kv-1.csv kv-7.csv > diff.log 2>&1 && cmp kv-1.csv kv-64.csv > diff.log 2>&1 && grep -q 'keys and values in BF16' risk.log
verdict $? "keys and values in bfloat16: the same bytes for batches of 1, 7 and 64, and 1 or 2 threads" diff.log

# ---- what is given ---------------------------------------------------------------------------------------------------------
risk --labels d/labels/admission_1y.h5 --samples 16 --limit 20 --out plain.csv && cp plain.csv plain-16.csv &&
    risk --labels d/labels/admission_1y.h5 --samples 16 --limit 20 --given ICD10CM//I50.9 --out given.csv && grep -q 'association, not effect' risk.log &&
    [ "$(column plain.csv risk)" = "$(column given.csv risk)" ]
verdict $? "--given leaves the risk without it as it was, and says what it is not" risk.log
paste -d, <(column given.csv risk) <(column given.csv risk_given) <(column given.csv difference) <(column given.csv difference_se) |
    awk -F, '{ d = $2 - $1 - $3; if (d * d > 1e-12 || !($4 >= 0)) bad = 1; s += $3 * $3 } END { exit bad || s == 0 || NR != 20 }'
verdict $? "the difference is that of the pairs" given.csv

# ---- reasons not to rely on a risk -------------------------------------------------------------------------------------------
risk --labels d/labels/admission_1y.h5 --samples 2 --min-tokens 60 --max-strange 0.5 --out reason.csv && grep -q 'should not be relied on' risk.log &&
    paste -d, <(column reason.csv reason) <(column reason.csv known_tokens) <(column reason.csv strangeness) | awk -F, '
        { short = $2 < 60; strange = $3 != "" && $3 > 0.5; if ($1 != short + 4 * strange) bad = 1; a += short; b += strange; z += $3 }
        END { exit bad || !a || a == NR || !b || b == NR || z / NR > 1 || z / NR < -1 }'
verdict $? "short and strange records are told, by their columns" reason.csv
risk --labels d/labels/admission_1y.h5 --samples 2 --reference 0 --out plain.csv && [ "$(column plain.csv strangeness | sort -u)" = "" ] && [ "$(column plain.csv risk)" = "$(column reason.csv risk)" ]
verdict $? "without a reference nothing is strange, and no risk changes" risk.log
if [ -x "$python" ]; then
    "$infer" score r --data d --tokens tokens.csv > score.log 2>&1 && mkdir anew && cp events/events.h5 anew &&
        "$data" tokenize anew/events.h5 --min-patients 60 --out coarse > coarse.log 2>&1 &&
        "$data" label anew/events.h5 --data coarse --outcome visit_1y=VISIT//OUT --horizon 365d >> coarse.log 2>&1 &&
        "$build/ehr-train" --data coarse --layers 1 --seq-len 256 --batch 4 --steps 2 --eval-tokens 0 --out rc >> coarse.log 2>&1 &&
        "$infer" risk rc --data coarse --labels coarse/labels/visit_1y.h5 --samples 2 --max-unknown 0.05 --out coarse.csv >> coarse.log 2>&1 && "$python" - > reason.log 2>&1 << 'END'
import csv, json
import h5py, numpy as np
rows = lambda path: list(csv.DictReader(l for l in open(path) if l[0] != "#"))
loss = {}
for r in rows("tokens.csv"):
    if r["loss"]:
        loss.setdefault(int(r["patient_key"]), {})[int(r["index"])] = float(r["loss"])
checked = 0
for r in rows("reason.csv"):
    own = loss[int(r["patient_key"])]
    if max(own) > 240 or int(r["known_tokens"]) < 2:
        continue  # more than a window: other prefixes
    told = [own[i] for i in range(int(r["known_tokens"]))]
    assert abs(np.mean(told) - float(r["history_loss"])) < 1e-4, r
    checked += 1
assert checked > 5, checked
kind = {t["id"]: t["kind"] for t in json.load(open("coarse/vocabulary.json"))["tokens"]}
shard = h5py.File("coarse/held_out-00000.h5")
tokens, offsets, keys = shard["tokens"][:], shard["patient_offsets"][:], list(shard["patient_key"][:])
some = 0
for r in rows("coarse.csv"):
    at = keys.index(int(r["patient_key"]))
    kinds = [kind[t] for t in tokens[offsets[at]:offsets[at] + int(r["known_tokens"])]]
    share = kinds.count("unknown") / max(1, kinds.count("unknown") + kinds.count("event"))
    assert abs(share - float(r["unknown_share"])) < 1e-6 and bool(int(r["reason"]) & 2) == (share > 0.05), r
    some += share > 0.05
assert some > 0
END
    verdict $? "history losses are those that score tells, unknown shares those of the tokens" reason.log
fi

# ---- suggest ---------------------------------------------------------------------------------------------------------------
"$infer" suggest r --data d --split train --patient 3 --samples 64 > suggest.txt 2> suggest.log && "$infer" suggest r --data d --split train --patient 3 --samples 64 --batch 5 > again.txt 2>> suggest.log &&
    cmp suggest.txt again.txt && grep -q '^compared with [0-9]* patients' suggest.txt
verdict $? "suggest: the same text twice" suggest.log
"$infer" suggest r --data d --split train --patient 0 --samples 16 --reference 1 --json > alone.json 2> suggest.log &&
    "$infer" suggest r --data d --split train --patient 0 --samples 16 --reference 1 --top 3 > alone.txt 2>> suggest.log && "$python" - >> suggest.log 2>&1 << 'END'
import json
for line in open("alone.json"):
    for x in json.loads(line)["suggestions"]:
        assert (x["base_rate"] is None) == (x["lift"] is None) == (x["base_n"] == 0), x
rows = [line.split() for line in open("alone.txt") if line.startswith("  ") and "//" in line]
assert rows and all(r[2] == r[3] == "-" for r in rows), rows
END
verdict $? "suggest: nobody to compare with is no base rate of a half" suggest.log
if [ -x "$python" ]; then
    "$infer" suggest r --data d --split train --patient 3 --samples 64 --top 100 --json > suggest.json 2> suggest.log &&
        "$infer" generate r --data d --split train --patient 3 --samples 64 --json > futures.jsonl 2>> suggest.log && "$python" - suggest.json futures.jsonl > json.log 2>&1 << 'END'
import json, sys
said = json.load(open(sys.argv[1]))
lines = [json.loads(line) for line in open(sys.argv[2])]
codes = lambda line: {e["code"] for e in line["events"] if e["kind"] == "diagnosis" and not e["code"].startswith("UNKNOWN")}
history = codes(next(line for line in lines if line["kind"] == "history"))
futures = [codes(line) for line in lines if line["kind"] == "future"]
assert len(futures) == 64 and said["suggestions"]
risks = [s["risk"] for s in said["suggestions"]]
assert risks == sorted(risks, reverse=True)
for s in said["suggestions"]:
    assert s["code"] not in history
    assert abs(s["risk"] - sum(s["code"] in f for f in futures) / 64) < 1e-9, s
    assert s["lo"] <= s["risk"] <= s["hi"] and 0 <= s["median_days"] <= said["horizon_days"]
    assert abs(s["base_rate"] - (s["base_hits"] + .5) / (s["base_n"] + 1)) < 1e-9 and s["base_n"] <= said["compared_with"]
    assert abs(s["lift"] * s["base_rate"] - s["risk"]) < 1e-6
assert {c for f in futures for c in f} - history == {s["code"] for s in said["suggestions"]}
END
    verdict $? "suggest counts first diagnoses in the futures that generate shows" json.log
fi

# ---- bad input -------------------------------------------------------------------------------------------------------------
while IFS='|' read -r name code words command; do
    eval "set -- $command"
    "$infer" "$@" > usage.log 2>&1
    rc=$?
    [ $rc = "$code" ] && grep -q -i -e "$words" usage.log
    verdict $? "$name: exit $code" usage.log
done << 'END'
nothing to merge|1|nothing to merge|merge nowhere.csv
merge of no name|2|needs OUT|merge
given what is no token|2|nearest|risk r --data d --labels d/labels/visit_30d.h5 --given ICD10CM//I5000
given a gap|2|no event|risk r --data d --labels d/labels/visit_30d.h5 --given GAP//1d-2d
given a prefix|2|no event|risk r --data d --labels d/labels/visit_30d.h5 --given RECORD_START
one name for two files|2|names one file|risk r --data d --labels d/labels/visit_30d.h5 --labels d/labels/death_5y.h5 --out x.csv
the same labels twice|2|two label files|risk r --data d --labels d/labels/visit_30d.h5 --labels d/labels/visit_30d.h5 --estimator mc
standard error out of range|2|--target-se|risk r --data d --labels d/labels/visit_30d.h5 --target-se 2
no such estimator|2|--estimator|risk r --data d --labels d/labels/visit_30d.h5 --estimator best
END
exit $failed
