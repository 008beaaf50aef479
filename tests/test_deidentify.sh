#!/bin/bash
# test_deidentify.sh BUILD - a release as a steward makes it, through the programs: report, linkage, dataset, checkpoint,
# attestation, withdrawal of a patient.
. "$(dirname "$0")/shell.sh"
local_ranks
data=$build/ehr-data train=$build/ehr-train infer=$build/ehr-infer
cd "$work" && ln -s "$root/scripts" scripts || exit 1

"$data" import omop "$root/tests/fixtures/omop-synthea27nj.zip" --out e.h5 --quiet > import.log 2>&1
verdict $? "import" import.log
"$data" deidentify e.h5 --dry-run > page.log 2> settings.log && grep -q 'residual risk' page.log && grep -q 'dry run' page.log &&
    [ "$(wc -l < page.log)" -le 60 ] && [ "$(find . -name '*.h5' | wc -l)" = 1 ]
verdict $? "a dry run prints one page and writes nothing" page.log
refused 2 'linkage' "$data" deidentify e.h5 --out r.h5 && [ ! -e r.h5 ]
verdict $? "a release without a linkage file is refused" refused.log
"$data" deidentify e.h5 --out r.h5 --linkage who.h5 > page.log 2> settings.log && grep -q 'level safe-harbor-rules' page.log &&
    [ "$(stat -c %a who.h5)" = 600 ]
verdict $? "deidentify; the linkage is the steward's alone" page.log
sha256sum r.h5 who.h5 > sums
refused 2 'exists' "$data" deidentify e.h5 --out r2.h5 --linkage who.h5 && refused 2 'exists' "$data" deidentify e.h5 --out r.h5 --linkage who2.h5 && sha256sum -c --quiet sums
verdict $? "a release and its linkage are not overwritten" refused.log
"$data" validate r.h5 --strict > validate.log 2>&1 && "$data" tokenize r.h5 --out d > tokenize.log 2>&1 && "$data" validate d --strict >> validate.log 2>&1
verdict $? "the release and its dataset are valid, strictly" validate.log
refused 2 'it has no dates' "$data" tokenize r.h5 --out none --split time:2020-01-01 && [ ! -e none ]
verdict $? "a release has no dates to split by" refused.log
"$data" label r.h5 --data d --outcome visit_1y=VISIT --horizon 365d --index last-year > label.log 2>&1 && [ -s d/labels/visit_1y.h5 ]
verdict $? "label" label.log
refused 2 'calendar.*admission+24h' "$data" label r.h5 --data d --task scripts/tasks/ehrshot/long_los.json && [ ! -e d/labels/ehrshot_long_los.h5 ]
verdict $? "an index at the end of a day is refused: a release has no days" refused.log
flags="--model nano --layers 1 --seq-len 128 --batch 4 --steps 20"
"$train" --data d $flags --out run --require-deidentified > train.log 2>&1 && ! grep -q 'warning: these records' train.log &&
    grep -q '"deidentification": "safe-harbor-rules"' run/latest/trainer.json && grep -q '"three_codes"' run/latest/trainer.json
verdict $? "20 steps of training; the record is in the checkpoint" train.log
"$infer" info run > info.log 2>&1 && grep -q 'safe-harbor-rules' info.log && ! grep -q '.\{300\}' info.log
verdict $? "info tells the level" info.log
grep -q '"three_codes"' d/dataset.json && strings -a d/train-00000.h5 | grep -q three_codes
verdict $? "the record is in the dataset and in its shards"
"$data" tokenize e.h5 --out s > tokenize.log 2>&1 && "$train" --data s $flags --out rs > train.log 2>&1 && grep -q 'warning: these records did not go through' train.log
verdict $? "training on data that is only tokenised warns" train.log
refused 2 'require-deidentified' "$train" --data s $flags --out rs2 --require-deidentified && [ ! -e rs2 ]
verdict $? "and is refused on request" refused.log
sed 's/"level": "safe-harbor-rules"/"level": "expert"/' d/dataset.json > forged && cp -r d f && cp forged f/dataset.json
refused 1 'attestation\|release' "$train" --data f $flags --out rf
verdict $? "a level that nobody attested is refused" refused.log

"$data" attest --new-key key > key.log && refused 2 'exists' "$data" attest --new-key key && [ "$(stat -c %a key)" = 600 ] &&
    "$data" attest r.h5 --level expert --name 'A. Person' --role statistician --signing-key key --out a.json > attest.log 2>&1 &&
    "$data" tokenize r.h5 --out da --attestation a.json > tokenize.log 2>&1 && "$data" attest --verify da --trusted-key key.pub > verify.log 2>&1 &&
    grep -q 'expert, by A. Person, statistician' verify.log
verdict $? "a signed statement gives the dataset its level" tokenize.log
"$data" attest --new-key other > key.log && refused 1 'not by the key' "$data" attest --verify da --trusted-key other.pub &&
    refused 2 'no de-identification record' "$data" attest e.h5 --level expert --name B --role r --signing-key key --out b.json
verdict $? "another key, and a source that was not de-identified" refused.log

"$data" whereis --linkage who.h5 --subject 3 . > where.log 2>&1
[ "$(grep -c '^dataset      \./d' where.log)" = 2 ] && grep -q '^events       ./r.h5' where.log && grep -q '^events       ./e.h5' where.log && grep -q '^checkpoint   ./run/step-' where.log && ! grep -q '\./s' where.log
verdict $? "whereis lists what has a patient" where.log
echo 3 > gone
"$data" deidentify e.h5 --out g.h5 --linkage gone.h5 --exclude gone > page.log 2>&1 && "$data" tokenize r.h5 --out dg --exclude gone --linkage who.h5 > tokenize.log 2>&1 &&
    grep -q '1 patients excluded' tokenize.log && refused 0 'not in' "$data" whereis --linkage gone.h5 --subject 3 g.h5 &&
    "$data" whereis --linkage who.h5 --subject 3 dg > where.log && ! grep -q '^dataset' where.log
verdict $? "a patient who withdrew is in no new release or dataset" where.log
"$data" import omop "$root/tests/fixtures/omop-synthea27nj.zip" --out x.h5 --exclude gone --quiet > import.log 2>&1 && grep -q 'its person is excluded' import.log &&
    "$data" whereis --linkage who.h5 --subject 3 x.h5 > where.log && ! grep -q '^events' where.log && grep -q '^x.h5: 27 patients' import.log
verdict $? "nor in a new import" import.log

# ---- identifiers ---------------------------------------------------------------------------------------------------------
"$data" phi-scan d d/labels run r.h5 da > scan.log 2>&1
verdict $? "phi-scan finds nothing in a release, its dataset and its checkpoint" scan.log
refused 1 'possible identifiers' "$data" phi-scan e.h5 who.h5 && grep -q 'calendar times' refused.log && grep -q 'of a linkage' refused.log
verdict $? "phi-scan finds calendar times in a source and ids in a linkage" refused.log
samples=${EHR_SAMPLE_DATA:-$root/../shared/data}

# ---- every sample, all the way -------------------------------------------------------------------------------------------
# Splits by patient; two patients behind each code, since samples have few.  A small model: what it may give away are
# tokens of the release, and more of them the less it has learned.
futures=1000
case $build in *-san*) futures=100 ;; esac # instrumented code is slow at what the plain build does in full
chain() { # chain FORMAT FOLDER: records to futures in y/; then nothing in y tells of a person
    rm -rf y y.linkage.h5 && mkdir y
    "$data" import "$1" "$samples/$2" --out y/e.h5 > y.log 2>&1 &&
        "$data" deidentify y/e.h5 --out y/r.h5 --linkage y.linkage.h5 --min-patients 2 >> y.log 2>&1 &&
        "$data" validate y/r.h5 --strict >> y.log 2>&1 && mv y/e.h5 y.source.h5 &&
        "$data" tokenize y/r.h5 --out y/d >> y.log 2>&1 && "$data" validate y/d --strict >> y.log 2>&1 &&
        "$data" label y/r.h5 --data y/d --outcome visit_1y=VISIT --index visit-end --horizon 365d >> y.log 2>&1 && [ -s y/d/labels/visit_1y.h5 ] &&
        "$data" validate y/d >> y.log 2>&1 && rm y/r.linkage.h5 &&
        "$train" --data y/d --layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 128 --seq-len 128 --batch 4 --steps 20 --out y/run --require-deidentified >> y.log 2>&1 &&
        "$infer" generate y/run --data y/d --split train --patient 0 --samples $futures --max-tokens 40 > y/generated.txt 2>> y.log &&
        [ "$(grep -c '^simulated future' y/generated.txt)" = $futures ]
}
# Who died is looked at a year before they would have been observed no longer, as the living are: a release keeps that.
mkdir deaths && awk 'BEGIN {
    srand(2)
    print "person_id,gender_concept_id,year_of_birth" > "deaths/person.csv"; print "person_id,death_date" > "deaths/death.csv"
    print "person_id,measurement_concept_id,measurement_datetime,value_as_number" > "deaths/measurement.csv"; print "source_release_date\n2021-01-01" > "deaths/cdm_source.csv"
    for (p = 1; p <= 300; p++) {
        print p ",8507," 1930 + p % 60 > "deaths/person.csv"
        for (k = 0; k < 8; k++) printf "%d,%d,20%02d-%02d-%02d 10:%02d:00,%d\n", p, 100 + int(20 * rand()), 8 + int(11 * rand()), 1 + int(12 * rand()), 1 + int(28 * rand()), int(60 * rand()), int(50 * rand()) > "deaths/measurement.csv"
        if (p % 4 == 0) printf "%d,20%02d-%02d-15\n", p, 19 + p / 4 % 2, 1 + p / 8 % 12 > "deaths/death.csv"
    }
}'
found() { sed -n 's/^    positive  *\([0-9]*\) .*/\1/p' "$1"; }
"$data" import omop deaths --out de.h5 --quiet > deaths.log 2>&1 && "$data" tokenize de.h5 --out dd >> deaths.log 2>&1 && "$data" deidentify de.h5 --out dr.h5 --linkage dl.h5 --min-patients 2 >> deaths.log 2>&1 &&
    "$data" tokenize dr.h5 --out drd >> deaths.log 2>&1 && "$data" label de.h5 --data dd --task scripts/tasks/death_1y.json > source.log 2>&1 &&
    "$data" label dr.h5 --data drd --task scripts/tasks/death_1y.json > release.log 2>&1 && [ "$(found source.log)" -gt 25 ] && [ "$(found release.log)" -gt "$(($(found source.log) / 2))" ]
verdict $? "deaths are found in a release as in its source ($(found release.log) and $(found source.log))" deaths.log
for sample in omop:omop-synthea27nj/Synthea27Nj_5.4.zip synthea:synthea-csv-27 synthea:synthea-csv-fhir/csv fhir:synthea-csv-fhir/fhir mimic:mimic-iv-demo; do
    format=${sample%%:*} folder=${sample#*:}
    if [ ! -e "$samples/$folder" ]; then
        echo "skip - $folder: not in $samples"
        continue
    fi
    chain "$format" "$folder"
    verdict $? "$folder: import, deidentify, tokenize, validate --strict, label, train, generate" y.log
    names=
    case $format in synthea | fhir) names="--names $samples/$folder" ;; esac
    "$data" phi-scan y $names > y.log 2>&1
    verdict $? "$folder: phi-scan finds nothing in release, dataset, checkpoint and $futures futures${names:+, nor a name}" y.log
    [ "$format" = synthea ] || continue
    sed -n 's/,.*//; 2p' "$samples/$folder/patients.csv" > y.id
    "$data" import synthea "$samples/$folder" --out y/x.h5 --exclude y.id --quiet > y.log 2>&1 && grep -q 'its person is excluded' y.log &&
        "$data" whereis --linkage y.linkage.h5 --subject "$(cat y.id)" y > where.log && grep -q '^dataset' where.log && ! grep -q 'y/x.h5' where.log
    verdict $? "$folder: a patient by the id in the source: excluded, found" where.log
done
exit $failed
