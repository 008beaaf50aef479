#!/bin/bash
# test_pipeline.sh BUILD - OMOP records to forecasts and a report, through the programs as a user types them, and what
# happens when a step gets another step's file, a damaged one or nothing.
. "$(dirname "$0")/shell.sh"
local_ranks
data=$build/ehr-data train=$build/ehr-train infer=$build/ehr-infer
zip=$root/tests/fixtures/omop-synthea27nj.zip
# Relative paths below; scripts/tasks is what the programs read from where they are started.
cd "$work" && ln -s "$root/scripts" scripts || exit 1

sums() { (cd "$1" && find . -type f | sort | xargs sha256sum); }
flip() { printf '\252\125\252' | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# ---- records to forecasts ----------------------------------------------------------------------------------------------
"$data" import omop "$zip" --out e.h5 > import.log 2>&1
verdict $? "import" import.log
"$data" tokenize e.h5 --out d > tokenize.log 2>&1
verdict $? "tokenize" tokenize.log
"$data" validate d --json findings.json > validate.log 2>&1 && "$data" validate e.h5 >> validate.log 2>&1 && [ -s findings.json ]
verdict $? "validate the dataset and the events" validate.log
"$data" inspect d > inspect.log 2>&1 && "$data" inspect d --split held_out --patient 0 >> inspect.log 2>&1 && "$data" inspect e.h5 >> inspect.log 2>&1
verdict $? "inspect" inspect.log
"$data" inspect e.h5 | grep -q ' 438 codes, 25 units$'
verdict $? "inspect counts the units that there are, not that of values without one" inspect.log
for task in scripts/tasks/*.json; do
    name=$(basename "$task" .json)
    [ "$name" = value_edges ] || [ "$name" = test_prices ] && continue
    "$data" label e.h5 --data d --task "$task" > label.log 2>&1
    rc=$?
    # The sample has 27 people: a task may find no index time or no token; then it says so and leaves no file.
    if [ $rc = 0 ]; then [ -s "d/labels/$name.h5" ] && grep -q 'rows' label.log
    else [ $rc -le 2 ] && grep -q '^ehr-data label: ' label.log && [ ! -e "d/labels/$name.h5" ]; fi
    verdict $? "label $name (exit $rc)" label.log
done
refused 1 'value_edges' "$data" label e.h5 --data d --task scripts/tasks/value_edges.json
verdict $? "a file of value edges is no task" refused.log
"$data" label e.h5 --data d --outcome visit_1y=VISIT --horizon 365d --index last-year > label.log 2>&1 && [ -s d/labels/visit_1y.h5 ]
verdict $? "label by --outcome" label.log

train_flags="--data d --model nano --layers 2 --seq-len 256 --steps 5"
ranks=1
if mpirun -np 2 "$train" $train_flags --dry-run > mpi.log 2>&1 && ! grep -q 'no MPI' mpi.log; then ranks=2; fi
if [ $ranks = 2 ]; then mpirun -np 2 "$train" $train_flags --out r > train.log 2>&1
else
    echo "skip - train on 2 ranks: no MPI here"
    "$train" $train_flags --out r > train.log 2>&1
fi
rc=$?
[ $rc = 0 ] && [ -e r/latest/model.safetensors ] && [ -e r/log.jsonl ]
verdict $? "train, ranks: $ranks" train.log
"$infer" generate r/latest --data d --split held_out --patient 0 --samples 3 > generate.log 2>&1 && [ "$(grep -c '^simulated future' generate.log)" = 3 ]
verdict $? "generate" generate.log
"$infer" score r --data d > score.log 2>&1
verdict $? "score" score.log
"$infer" risk r/latest --data d --labels d/labels/visit_1y.h5 --split all --samples 2 --out risk.csv > risk.log 2>&1 && [ "$(grep -vc '^#' risk.csv)" -gt 5 ]
verdict $? "risk" risk.log
if [ -x "$root/.venv/bin/python" ]; then
    sh "$root/scripts/evaluate.sh" r d report risk.csv --bootstrap 20 > evaluate.log 2>&1 && [ -s report/report.html ] &&
        grep -q '"name": "visit_1y"' report/report.json && grep -q '"loss": [0-9]' report/report.json && ! grep -q 'NaN' report/report.json
    verdict $? "evaluate" evaluate.log
else
    echo "skip - evaluate: no .venv"
fi

# ---- the wrong file ----------------------------------------------------------------------------------------------------
refused 1 'ehr-data tokenize' "$train" --data e.h5 --out x --steps 1
verdict $? "train on an events file names the missing step" refused.log
refused 1 'ehr-data tokenize' "$infer" generate r --data e.h5
verdict $? "generate from an events file names the missing step" refused.log
refused 1 'not an events file' "$data" tokenize d --out x && [ ! -e x ]
verdict $? "tokenize a dataset" refused.log
refused 1 'risk.csv' "$data" validate risk.csv
verdict $? "validate a text file" refused.log
refused 1 'not an events file' "$data" label d --data d --outcome a=VISIT
verdict $? "label from a dataset" refused.log
refused 1 'nowhere' "$data" import omop nowhere --out x.h5 && [ ! -e x.h5 ]
verdict $? "import from nowhere" refused.log
head -c 40000 "$zip" > cut.zip && refused 1 'cut.zip' "$data" import omop cut.zip --out x.h5 && [ ! -e x.h5 ]
verdict $? "import a zip cut short" refused.log
head -c 30000 e.h5 > cut.h5 && refused 1 'cut.h5' "$data" tokenize cut.h5 --out x && [ ! -e x ]
verdict $? "tokenize events cut short" refused.log

# ---- what exists stays -------------------------------------------------------------------------------------------------
sums d > before && sha256sum e.h5 > e.before
refused 2 'overwrite' "$data" tokenize e.h5 --out d && sums d | cmp -s before - && refused 2 'overwrite' "$data" import omop "$zip" --out e.h5 && sha256sum -c --quiet e.before
verdict $? "a dataset and an events file are not overwritten" refused.log
"$data" tokenize e.h5 --out d --overwrite --exclude nobody > refused.log 2>&1
[ $? != 0 ] && sums d | cmp -s before -
verdict $? "a failed --overwrite keeps the old dataset" refused.log
mkdir precious && echo mine > precious/notes.txt
refused 2 'precious' "$data" tokenize e.h5 --out precious --overwrite && [ "$(cat precious/notes.txt)" = mine ] && [ "$(ls precious)" = notes.txt ]
verdict $? "a folder that is no dataset is not replaced" refused.log
refused 2 'already holds a run' "$train" $train_flags --out r
verdict $? "a run is not overwritten" refused.log

# ---- damaged datasets --------------------------------------------------------------------------------------------------
missed=
for at in 3 90 700 2000 half last; do
    rm -rf bad && cp -r d bad
    size=$(stat -c %s bad/train-00000.h5)
    case $at in half) at=$((size / 2)) ;; last) at=$((size - 3)) ;; esac
    flip bad/train-00000.h5 "$at"
    cmp -s d/train-00000.h5 bad/train-00000.h5 && continue
    refused 1 'train-00000.h5' "$data" validate bad || missed="$missed validate:$at"
    "$train" --data bad --layers 1 --seq-len 64 --steps 2 --batch 4 --out bad-run > refused.log 2>&1
    [ $? = 1 ] && grep -q 'train-00000.h5' refused.log || missed="$missed train:$at"
    rm -rf bad-run
done
[ -z "$missed" ]
verdict $? "flipped bits of a shard stop validation and training$missed" refused.log
rm -rf bad && cp -r d bad && head -c 5000 d/train-00000.h5 > bad/train-00000.h5
refused 1 'train-00000.h5' "$data" validate bad && refused 1 'train-00000.h5' "$train" --data bad --steps 1 --out bad-run
verdict $? "a shard cut short" refused.log
"$data" tokenize e.h5 --values separate --out s > separate.log 2>&1
verdict $? "tokenize with separate values" separate.log
rm -rf bad && cp -r d bad && cp s/vocabulary.json bad
refused 1 'vocabulary' "$data" validate bad && refused 1 'vocabulary' "$train" --data bad --steps 1 --out bad-run && refused 1 'vocabulary' "$infer" score r --data bad
verdict $? "another dataset's vocabulary.json is noticed" refused.log
rm -rf bad && cp -r d bad && rm bad/dataset.json
refused 1 'dataset.json\|not a dataset' "$data" validate bad && refused 1 'dataset' "$train" --data bad --steps 1 --out bad-run
verdict $? "a dataset without dataset.json" refused.log

# ---- disk full ---------------------------------------------------------------------------------------------------------
full() { # full KIB COMMAND...: fails for want of room, and leaves nothing but what was there before
    local kib=$1 rc
    shift
    ls -R . | grep -v '^full.log$' > there.before
    (ulimit -f "$kib"; "$@") > /dev/null 2> full.log
    rc=$?
    ls -R . | grep -v '^full.log$' > there.after
    [ $rc = 1 ] && grep -q 'File too large\|disk full' full.log && diff there.before there.after >> full.log
}
touch there.before there.after
full 20 "$data" import omop "$zip" --out f.h5 && full 500 "$data" import omop "$zip" --memory 4M --out f.h5
verdict $? "import: disk full" full.log
full 1 "$data" tokenize e.h5 --out f && full 60 "$data" tokenize e.h5 --out f
verdict $? "tokenize: disk full" full.log
full 1 "$data" label e.h5 --data d --outcome full=VISIT --index visit-end
verdict $? "label: disk full" full.log
mkdir synth && full 20 "$data" synth --patients 300 --risk-samples 4 --out synth
verdict $? "synth: disk full" full.log
if [ -e /dev/full ]; then
    "$data" inspect d > /dev/full 2> full.log
    [ $? = 1 ] && grep -q 'cannot write to standard output' full.log
    verdict $? "inspect to a full device" full.log
fi

# ---- a patient of a million tokens beside patients of one ----------------------------------------------------------------
rows=1000000
[ "$(basename "$build")" = build-san ] && rows=60000
mkdir long
awk 'BEGIN { print "person_id,gender_concept_id,year_of_birth"; for (i = 1; i <= 40; i++) print i ",8507," 1930 + i }' > long/person.csv
awk -v n="$rows" 'BEGIN {
    print "person_id,measurement_concept_id,measurement_datetime,value_as_number"
    for (i = 0; i < n; i++) printf "7,%d,20%02d-%02d-%02d %02d:%02d:00,%d\n", 100 + i % 50, i / 60000, i / 5000 % 12 + 1, i / 180 % 28 + 1, i / 60 % 24, i % 60, i % 97
    for (p = 1; p <= 40; p++) if (p != 7) print p ",100,2015-03-04 05:06:00,5" }' > long/measurement.csv
echo 'source_release_date
2020-01-01' > long/cdm_source.csv
"$data" import omop long --memory 8M --out long.h5 > long.log 2>&1 && "$data" tokenize long.h5 --out l --seed 3 >> long.log 2>&1 && "$data" validate l >> long.log 2>&1
verdict $? "a patient of $rows events beside 39 of one: import, tokenize, validate" long.log
"$data" label long.h5 --data l --outcome again=OMOP//100 --horizon 30d --index last-year > long.log 2>&1 &&
    "$train" --data l --layers 1 --seq-len 128 --batch 4 --steps 3 --eval-every 3 --eval-tokens 2000 --out rlong >> long.log 2>&1 &&
    "$infer" risk rlong --data l --labels l/labels/again.h5 --split all --samples 2 --max-tokens 50 --out long.csv >> long.log 2>&1
verdict $? "and train, label, risk" long.log
for s in train tuning held_out; do
    "$infer" score rlong --data l --split $s > score.log 2>&1 || { s=failed; break; }
done
[ $s != failed ] && "$infer" generate rlong --data l --split train --patient 0 --samples 1 --max-tokens 20 > generate.log 2>&1
verdict $? "and score, generate" score.log

# ---- few patients ------------------------------------------------------------------------------------------------------
seq 1 9 > few && "$data" tokenize e.h5 --out p --exclude few > few.log 2>&1 && grep -q '9 patients excluded' few.log && "$data" validate p >> few.log 2>&1
verdict $? "nine people excluded" few.log
refused 2 'nobody to train on' "$data" tokenize e.h5 --out none --split time:1900-01-01 && [ ! -e none ]
verdict $? "a split that leaves nobody to train on" refused.log
refused 2 'nobody to hold out' "$data" tokenize e.h5 --out none --split time:2100-01-01 && [ ! -e none ]
verdict $? "a split that holds nobody out" refused.log
seq 3 100000 > most
"$data" tokenize e.h5 --out late --exclude most > late.log 2>&1 && "$train" --data late --layers 1 --seq-len 64 --batch 4 --steps 1 --out rl >> late.log 2>&1 &&
    refused 2 'held_out.*no patients' "$infer" generate rl --data late && refused 2 'held_out.*no patients' "$infer" score rl --data late
verdict $? "an empty held_out split" refused.log
seq 0 100000 > all && refused 1 'patient' "$data" tokenize e.h5 --out none --exclude all && [ ! -e none ]
verdict $? "everybody excluded" refused.log

# ---- separate values ---------------------------------------------------------------------------------------------------
"$data" validate s > separate.log 2>&1 && "$train" --data s --layers 1 --seq-len 128 --batch 4 --steps 2 --out rs >> separate.log 2>&1 &&
    "$infer" generate rs --data s --samples 2 > generate.log 2>> separate.log && [ "$(grep -c '^simulated future' generate.log)" = 2 ]
verdict $? "separate values: validate, train, generate" separate.log
refused 1 'vocabulary' "$infer" generate rs --data d
verdict $? "fused data are refused by a model of separate values" refused.log
exit $failed
