#!/bin/bash
# test_mimic.sh BUILD - MIMIC-IV to a trained model, through the programs as a user types them: a hospital invented here,
# of which the outcomes are known, and the demo where it is there.
. "$(dirname "$0")/shell.sh"
local_ranks
data=$build/ehr-data train=$build/ehr-train infer=$build/ehr-infer
samples=${EHR_SAMPLE_DATA:-$root/../shared/data}
small="--layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 128 --seq-len 128 --batch 4 --steps 20"
cd "$work" && ln -s "$root/scripts" scripts || exit 1

# ---- an invented hospital --------------------------------------------------------------------------------------------
# 90 patients with two stays of five days each, ten days apart, results at random; every sixth dies on the fourth day of the second.
mkdir -p h/hosp h/icu && awk 'BEGIN {
    srand(5)
    hosp = "h/hosp/"; icu = "h/icu/"
    print "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod" > (hosp "patients.csv")
    print "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,discharge_location,insurance,marital_status,race,hospital_expire_flag" > (hosp "admissions.csv")
    print "subject_id,hadm_id,seq_num,icd_code,icd_version" > (hosp "diagnoses_icd.csv")
    print "subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom" > (hosp "labevents.csv")
    print "subject_id,hadm_id,pharmacy_id,starttime,drug,dose_val_rx,dose_unit_rx" > (hosp "prescriptions.csv")
    print "subject_id,hadm_id,stay_id,charttime,storetime,itemid,value,valuenum,valueuom" > (icu "chartevents.csv")
    for (p = 1; p <= 90; p++) for (k = 0; k < 2; k++) {
        y = 2110 + p % 90; d = 1 + 15 * k; h = 1000 + 2 * p + k; dies = k && p % 6 == 0
        if (!k) printf "%d,%s,%d,%d,2014 - 2016,%s\n", p, p % 2 ? "F" : "M", 30 + p % 60, y, p % 6 ? "" : y "-05-19" > (hosp "patients.csv")
        printf "%d,%d,%d-05-%02d 08:15:00,%d-05-%02d %s,%s,URGENT,%s,Other,SINGLE,WHITE,%d\n", p, h, y, d, y, dies ? 19 : d + 5,
            dies ? "00:00:00" : "12:00:00", dies ? y "-05-19 21:30:00" : "", dies ? "DIED" : "HOME", dies > (hosp "admissions.csv")
        printf "%d,%d,1,%s,%d\n%d,%d,2,I10,10\n", p, h, p % 2 ? "4280" : "I509", p % 2 ? 9 : 10, p, h > (hosp "diagnoses_icd.csv")
        for (i = 0; i < 6; i++) printf "%d,%d,%d,%d-05-%02d %02d:%02d:00,%d-05-%02d %02d:05:00,%d.5,%d.5,mg/dL\n", p, h, 50900 + int(rand() * 12), y, d + i % 3, 9 + i, i, y, d + i % 3, 11 + i, v = int(rand() * 20), v > (hosp "labevents.csv")
        for (i = 0; i < 3; i++) printf "%d,%d,%d,%d-05-%02d 1%d:00:00,%s,%d,mg\n", p, h, 10 * h + i, y, d + i, i, i ? "Furosemide" : "Heparin", 20 * int(1 + 5 * rand()) > (hosp "prescriptions.csv")
        for (i = 0; i < 4; i++) printf "%d,%d,%d,%d-05-%02d %02d:00:00,%d-05-%02d %02d:01:00,220045,%d,%d,bpm\n", p, h, h, y, d + 1, 6 * i, y, d + 1, 6 * i, v = int(60 + 40 * rand()), v > (icu "chartevents.csv")
    }
    print "drug,atc_code\nFurosemide,C03CA01\nHeparin,B01AB01" > "atc.csv"; print "icd_9,icd_10,flags\n4280,I509,10000" > "icd.csv"
}'
gzip h/icu/chartevents.csv h/hosp/labevents.csv
"$data" import mimic h --map atc.csv --map icd.csv --out e.h5 --report report.json > import.log 2>&1 && grep -q '^e.h5: 90 patients, ' import.log &&
    grep -q '^labevents  *1080  *1080  *0 ' import.log && grep -q '^chartevents  *720  *720  *0 ' import.log && grep -q 'not there: transfers, services, icustays' import.log && [ -s report.json ]
verdict $? "import" import.log
"$data" inspect e.h5 > inspect.log 2>&1 && grep -q 'ATC//C03CA01' inspect.log && grep -q 'ICD10CM//I50.9' inspect.log && ! grep -q 'ICD9CM\|DRUG//' inspect.log
verdict $? "ICD-9 is ICD-10, drugs are ATC" inspect.log
"$data" validate e.h5 --strict > validate.log 2>&1 && "$data" tokenize e.h5 --out d > tokenize.log 2>&1 && "$data" validate d --strict >> validate.log 2>&1
verdict $? "tokenize; events and dataset are valid, strictly" validate.log
# 15 of 180 stays end by death; the index is a day after admission and nobody dies or leaves before it.
"$data" label e.h5 --data d --task scripts/tasks/in_hospital_mortality.json > label.log 2>&1 && grep -q '^  rows  *180$' label.log && grep -q '^    positive  *15 ' label.log &&
    grep -q '^    negative  *165$' label.log && grep -q 'expressible  *100.0 %' label.log
verdict $? "every death in hospital is found, also after a discharge at midnight" label.log
# 90 first stays are followed by a second ten days later, 75 second stays end alive.
"$data" label e.h5 --data d --task scripts/tasks/readmission_30d.json > label.log 2>&1 && grep -q '^  rows  *165$' label.log && grep -q '^    positive  *90 ' label.log
verdict $? "every readmission is found" label.log
# Told a day before: a diagnosis of the stay is not known yet, and no discharge announces a death.
"$data" label e.h5 --data d --outcome hf=ICD10CM//I50 --first --index admission+24h --horizon 30d > label.log 2>&1 && grep -q '^    positive  *90 ' label.log && grep -q 'had it before  *90$' label.log
verdict $? "a stay's diagnoses are known at its end" label.log
"$data" label e.h5 --data d --outcome death=MEDS_DEATH --horizon 365d > label.log 2>&1
[ $? = 2 ] && grep -q 'shifted by patient' label.log
verdict $? "an index by the calendar is refused: dates are shifted by patient" label.log
"$train" --data d $small --out run > train.log 2>&1 &&
    "$infer" risk run --data d --labels d/labels/in_hospital_mortality.h5 --split all --samples 2 --max-tokens 40 --out risk.csv > risk.log 2>&1 && [ "$(grep -vc '^#' risk.csv)" = 181 ]
verdict $? "train 20 steps, risks of all stays" train.log
(cd h && "$root/.venv/bin/python" -m zipfile -c ../h.zip hosp icu 2> zip.log) || (cd h && python3 -m zipfile -c ../h.zip hosp icu)
"$data" import mimic h.zip --map atc.csv --map icd.csv --memory 4M --out z.h5 --quiet > zip.log 2>&1 && cmp e.h5 z.h5
verdict $? "a zip of packed tables, in little memory: the same bytes" zip.log
"$data" import mimic h/hosp --map icd.csv --out one.h5 --quiet > one.log 2>&1 && grep -q '^one.h5: 90 patients' one.log && grep -q 'not there:.*chartevents' one.log
verdict $? "hosp alone" one.log

# ---- bad input -------------------------------------------------------------------------------------------------------
mkdir bad && gzip -dc h/hosp/labevents.csv.gz > bad/labevents.csv && cp h/hosp/patients.csv bad
awk 'BEGIN { print "subject_id,hadm_id,itemid,charttime,storetime,value,valuenum,valueuom"; for (i = 0; i < 200; i++) print "1,,50900,soon,,1,1,mg/dL" }' > bad/labevents.csv
refused 1 'max-errors' "$data" import mimic bad --out x.h5 && grep -q 'unreadable date' refused.log && [ ! -e x.h5 ]
verdict $? "too many rows that cannot be read: the report says which, nothing is written" refused.log
refused 1 'no table of MIMIC-IV' "$data" import mimic scripts --out x.h5 && refused 1 'cannot read' "$data" import mimic nowhere --out x.h5 &&
    refused 1 'no map that is known' "$data" import mimic h --map h/hosp/patients.csv --out x.h5 && refused 1 'absent.csv' "$data" import mimic h --map absent.csv --out x.h5 && [ ! -e x.h5 ]
verdict $? "no MIMIC, no map" refused.log
refused 2 'map' "$data" import meds h --map atc.csv --out x.h5 && refused 2 'extract-date' "$data" import mimic h --extract-date 2020-01-01 --out x.h5 && [ ! -e x.h5 ]
verdict $? "flags that a format has no use for" refused.log
mkdir bomb && { printf 'subject_id,hadm_id,itemid,charttime,valuenum\n'; head -c 100000000 /dev/zero | tr '\0' 1; } | gzip -9 > bomb/labevents.csv.gz
(cd bomb && python3 -m zipfile -c ../bomb.zip labevents.csv.gz) && refused 1 'looks like a bomb' "$data" import mimic bomb --out x.h5 &&
    refused 1 'looks like a bomb' "$data" import mimic bomb.zip --out x.h5 && [ ! -e x.h5 ]
verdict $? "a gzip bomb, in a folder and in a zip" refused.log

# ---- the demo --------------------------------------------------------------------------------------------------------
if [ ! -e "$samples/mimic-iv-demo" ]; then
    echo "skip - MIMIC-IV demo: not in $samples"
    exit $failed
fi
maps=
for m in icd_cm_9_to_10_mapping icd_pcs_9_to_10_mapping mimic_drug_to_atc icd10cm-order-Jan-2021 atc_coding; do maps="$maps --map $samples/codes/$m.csv.gz"; done
"$data" import mimic "$samples/mimic-iv-demo" $maps --out m.h5 --quiet > demo.log 2>&1 && "$data" validate m.h5 >> demo.log 2>&1 && "$data" tokenize m.h5 --out md >> demo.log 2>&1 &&
    "$data" validate md >> demo.log 2>&1 && "$train" --data md $small --out mrun >> demo.log 2>&1
verdict $? "demo: import with maps, validate, tokenize, train 20 steps" demo.log
# 15 admissions end by death, one of them within a day.
"$data" label m.h5 --data md --task scripts/tasks/in_hospital_mortality.json > label.log 2>&1 && grep -q '^    positive  *14 ' label.log && grep -q 'dead at the index  *1$' label.log
verdict $? "demo: 14 deaths in hospital after the first day, one before" label.log
exit $failed
