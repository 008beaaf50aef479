#!/bin/bash
# test_notes.sh BUILD - free texts through the programs: read on request, dropped unless attested, masked, told as tokens,
# trained on, written by a model; identifiers planted in them, and texts that are hostile.
. "$(dirname "$0")/shell.sh"
local_ranks
data=$build/ehr-data train=$build/ehr-train infer=$build/ehr-infer
cd "$work" && ln -s "$root/scripts" scripts || exit 1

# 80 patients with measurements and two notes each.  In the notes of a few: who they are.
mkdir omop && awk 'BEGIN {
    srand(5); d = "omop/"
    print "person_id,gender_concept_id,year_of_birth,race_concept_id" > (d "PERSON.csv")
    print "person_id,measurement_concept_id,measurement_datetime,value_as_number" > (d "MEASUREMENT.csv")
    print "note_id,person_id,note_date,note_datetime,note_type_concept_id,note_class_concept_id,note_title,note_text,visit_occurrence_id" > (d "NOTE.csv")
    print "concept_id,concept_name,domain_id,vocabulary_id,concept_class_id,standard_concept,concept_code\n500,Discharge summary,Note,LOINC,Doc,S,18842-5" > (d "CONCEPT.csv")
    split("cough,fever,chest pain,back pain,no complaints,shortness of breath", what, ",")
    split("Zebulon Quarterman|SSN 123-45-6789|call 617-555-0134|z.quarterman@example.org|born 1961-07-23|MRN: 00482913|http://quarterman.example.org/z|from 10.4.77.12|aged 97 years", who, "|")
    for (p = 1; p <= 80; p++) {
        print p ",8507," 1930 + p % 60 ",8527" > (d "PERSON.csv")
        for (k = 0; k < 6; k++) printf "%d,%d,20%02d-%02d-%02d 10:%02d:00,%d\n", p, 100 + k % 3, 8 + k, 1 + p % 12, 1 + p % 28, p % 60, 50 * rand() > (d "MEASUREMENT.csv")
        for (k = 0; k < 2; k++) {
            text = "Patient presents with " what[1 + int(6 * rand())] " and " what[1 + int(6 * rand())] ".\n\n## Plan\nFollow up in " 1 + p % 3 " weeks, \"if needed\"."
            if (p <= 9 && !k) text = text " Note: " who[p] "."
            gsub(/"/, "\"\"", text)
            printf "%d,%d,20%02d-03-04,20%02d-03-04 12:%02d:00,1,%s,\"Title of %s\",\"%s\",\n", 2 * p + k, p, 10 + k, 10 + k, p % 60, p % 2 ? 500 : 0, p == 1 ? "Quarterman" : "none", text > (d "NOTE.csv")
        }
    }
    # Hostile ones: nothing, a byte that is no UTF-8, a NUL, two mebibytes.
    print "901,70,2012-03-04,2012-03-04 12:00:00,1,500,x,\"  \"," > (d "NOTE.csv")
    printf "902,70,2012-03-05,2012-03-05 12:00:00,1,500,x,\"na\xefve \033[31mred\033[0m\"," > (d "NOTE.csv")
    print "" > (d "NOTE.csv")
    printf "903,70,2012-03-06,2012-03-06 12:00:00,1,500,x,\"a%cb\",\n", 0 > (d "NOTE.csv")
    printf "904,70,2012-03-07,2012-03-07 12:00:00,1,500,x,\"" > (d "NOTE.csv"); for (i = 0; i < 200000; i++) printf "chest pain " > (d "NOTE.csv"); print "\"," > (d "NOTE.csv")
}'
planted='Quarterman|123-45-6789|555-0134|example\.org|1961-07-23|00482913|10\.4\.77\.12|97 years'
holds() { grep -aEq "$planted" "$@"; }

"$data" import omop omop --out plain.h5 --quiet > plain.log 2>&1 && ! holds plain.h5 && grep -q 'note' plain.log
verdict $? "without --notes no text is read" plain.log
"$data" import omop omop --out e.h5 --notes --quiet > import.log 2>&1 && holds e.h5 && ! grep -aq 'Title of' e.h5 && grep -q '164 *163 *1' <(grep '^note ' import.log) &&
    grep -q '163  with its free text' import.log && grep -q '1  text longer than 1 MiB' import.log && grep -q '1  a note without a text' import.log
verdict $? "with --notes texts are, not their titles; every one accounted for" import.log
"$data" import omop omop --out e2.h5 --notes --memory 16M --quiet > import2.log 2>&1 && cmp e.h5 e2.h5
verdict $? "the same bytes in little memory" import2.log
"$data" inspect e.h5 --patient 69 > inspect.log 2>&1 && grep -q 'na.*ve .\[31mred' inspect.log && ! grep -q $'\033' inspect.log && grep -q 'a b$' inspect.log && "$data" inspect e.h5 | grep -q '^notes  *163 with'
verdict $? "inspect prints them, and nothing that a terminal obeys" inspect.log

(ulimit -f 500 && trap '' XFSZ && "$data" import omop omop --out full.h5 --notes --quiet) > full.log 2>&1
[ $? = 1 ] && [ ! -e full.h5 ] && [ -z "$(ls full.h5* 2> /dev/null)" ] && grep -q 'for texts beside\|disk' full.log
verdict $? "a disk that fills up leaves nothing" full.log

# ---- without anybody's word ----------------------------------------------------------------------------------------------
"$data" deidentify e.h5 --out r.h5 --linkage who.h5 --min-patients 2 > page.log 2>&1 && ! holds r.h5 && grep -q 'notes  *163  *0' page.log && grep -q 'LOINC//18842-5' <(strings -a r.h5)
verdict $? "deidentify without an attestation leaves no text, and what was planted is gone" page.log
refused 2 'text-attestation' "$data" tokenize r.h5 --out x --notes && [ ! -e x ]
verdict $? "there is then nothing to tell" refused.log
"$data" tokenize e.h5 --out s --notes > s.log 2>&1 && grep -q 'warning: nobody attested' s.log && grep -q 'structural' s.log && ! grep -aq 'Quarterman\|Zebulon' s/vocabulary.json
verdict $? "of a source they are told with a warning; words of one patient are no tokens" s.log
refused 1 'possible identifiers' "$data" phi-scan s && grep -q 'ssn .*a note in tokens' refused.log && grep -q 'email .*a note in tokens' refused.log &&
    refused 1 'possible identifiers' "$data" phi-scan e.h5 && grep -q 'ssn .*/note_text' refused.log
verdict $? "phi-scan reads them in events and in tokens" refused.log
printf '{"tokens": [\n {"id": 1, "code": "SPELL//\304\240Zebulon", "kind": "text"},\n {"id": 2, "code": "SPELL//cough", "kind": "text"}]}' > spelled.json
printf 'FIRST,LAST\nZebulon,Quarterman\n' > names.csv
refused 1 'possible identifiers' "$data" phi-scan spelled.json --names names.csv && grep -q 'name  *1 .*token of a text' refused.log
verdict $? "and in a vocabulary" refused.log

# ---- attested ------------------------------------------------------------------------------------------------------------
"$data" attest --new-key key > key.log 2>&1 && "$data" attest plain.h5 --level text-scrubbed --name 'A. Person' --role steward --signing-key key --out other.json > attest.log 2>&1 &&
    refused 1 'does not say' "$data" deidentify e.h5 --out x.h5 --linkage x.who.h5 --text-attestation other.json && [ ! -e x.h5 ]
verdict $? "a statement about another source is refused" refused.log
"$data" attest e.h5 --level text-scrubbed --name 'A. Person' --role steward --signing-key key --out said.json > attest.log 2>&1 &&
    "$data" deidentify e.h5 --out rt.h5 --linkage who.rt.h5 --min-patients 2 --text-attestation said.json > page.log 2>&1 && grep -q 'masked: they looked like' page.log && grep -q 'level safe-harbor-rules' page.log
verdict $? "with one about this source texts stay" page.log
! grep -aEq '123-45-6789|555-0134|example\.org|1961-07-23|00482913|10\.4\.77\.12|97 years' rt.h5 && grep -aq '\[SSN\]' rt.h5 && grep -aq '\[AGE\]' rt.h5 && "$data" phi-scan rt.h5 > scan.log 2>&1
verdict $? "what still looked like an identifier is masked, and phi-scan finds none" scan.log
"$data" deidentify e.h5 --out named.h5 --linkage who.named.h5 --min-patients 2 --text-attestation said.json --mask-names names.csv > page.log 2>&1 && ! holds named.h5 && ! grep -aq Zebulon named.h5 && grep -aq '\[NAME\] \[NAME\]' named.h5 &&
    "$data" phi-scan named.h5 --names names.csv > scan.log 2>&1 && refused 1 'possible identifiers' "$data" phi-scan rt.h5 --names names.csv
verdict $? "--mask-names: not even a name is left of what was planted" page.log
refused 2 'no free text is released' "$data" deidentify e.h5 --out x.h5 --linkage x.who.h5 --mask-names names.csv && refused 2 'no names are told' "$data" deidentify e.h5 --out x.h5 --linkage x.who.h5 --text-attestation said.json --mask-names omop/PERSON.csv && [ ! -e x.h5 ]
verdict $? "--mask-names with nothing to mask, or no names" refused.log
"$data" validate rt.h5 --strict > validate.log 2>&1 && "$data" tokenize rt.h5 --out d --notes --notes-tokens 300 --notes-max 60 > tokenize.log 2>&1 && "$data" validate d --strict >> validate.log 2>&1 &&
    grep -q 'cut (--notes-max)' tokenize.log && ! grep -q 'warning: nobody attested' tokenize.log && grep -q '"merges": [1-9]' d/dataset.json
verdict $? "tokenize --notes: a valid dataset" validate.log
"$data" tokenize rt.h5 --out d2 --notes --notes-tokens 300 --notes-max 60 > tokenize2.log 2>&1 && diff -r d d2 > diff.log
verdict $? "the same bytes again" diff.log
tokens_of() { for i in 0 1 2 3; do "$data" inspect "$1" --patient $i --tokens; done; }
"$data" tokenize rt.h5 --out frozen --notes --vocabulary d > frozen.log 2>&1 && cmp d/vocabulary.json frozen/vocabulary.json && tokens_of d > a.log && tokens_of frozen > b.log && cmp a.log b.log &&
    "$data" tokenize rt.h5 --out silent --vocabulary d > silent.log 2>&1 && ! grep -q 'notes:' silent.log && "$data" validate silent --strict >> silent.log 2>&1
verdict $? "a frozen vocabulary applies its merges, and tells no text unless asked" frozen.log
"$data" tokenize rt.h5 --out codes > codes.log 2>&1 && refused 2 'no tokens of texts' "$data" tokenize rt.h5 --out x --notes --vocabulary codes && [ ! -e x ] &&
    refused 2 'goes with --notes' "$data" tokenize rt.h5 --out x --notes-tokens 10 && refused 2 'no effect with --vocabulary' "$data" tokenize rt.h5 --out x --notes --vocabulary d --notes-max 5
verdict $? "flags that do not go together" refused.log
"$data" inspect d --patient 0 > inspect.log 2>&1 && grep -q 'Patient presents with' inspect.log && ! grep -q 'SPELL//' inspect.log && "$data" inspect d | grep -q '^  text '
verdict $? "inspect prints the notes of a dataset as text" inspect.log
# A note that never ends, text without a beginning: what a broken program may have written.
cp -r d broken && cat > break.py << 'PY'
import h5py, hashlib, json, numpy as np
v = json.load(open("broken/vocabulary.json"))
begin = v["notes"]["begin"]
with h5py.File("broken/train-00000.h5", "r+") as f:
    t = f["tokens"][:]
    t[np.flatnonzero(t == begin)[0]] = begin + 1
    t[np.flatnonzero(t == begin + 1)[-1]] = begin + 40
    f["tokens"][:] = t
PY
if "$root/.venv/bin/python" -c 'import h5py' 2> /dev/null; then
    "$root/.venv/bin/python" break.py > break.log 2>&1 && ! "$data" validate broken > broken.log 2>&1 && grep -q 'note.open' broken.log
    verdict $? "validate: a note without its end or its beginning" broken.log
else
    echo "skip - validate: a note without its end: no h5py"
fi
sed 's/"attested_by": "A. Person"/"dropped_by": "nobody"/' d/dataset.json > said && cp -r d unsaid && cp said unsaid/dataset.json && ! "$data" validate unsaid > unsaid.log 2>&1 && grep -q 'note.not_attested' unsaid.log
verdict $? "validate: texts in a release that nobody attested" unsaid.log

# ---- a model of them -----------------------------------------------------------------------------------------------------
# After so few steps its likeliest tokens only: any of 500 would now and then spell an address that is nobody's.
"$train" --data d --model nano --layers 1 --seq-len 128 --batch 8 --steps 30 --out run --require-deidentified > train.log 2>&1 && "$infer" info run > info.log 2>&1 && grep -q ', [0-9]* text;' info.log
verdict $? "training; info counts the tokens of texts" train.log
"$infer" generate run --data d --split train --patient 0 --samples 4 --max-tokens 120 --top-k 4 --history 0 > generated.txt 2> generate.log && ! grep -q 'SPELL//' generated.txt && grep -q 'Patient presents with' generated.txt &&
    "$infer" generate run --data d --split train --patient 0 --samples 4 --max-tokens 120 --json > generated.json 2>> generate.log && grep -q '"kind":"text","text":"Patient presents' generated.json && ! grep -q 'SPELL//' generated.json
verdict $? "generate writes notes as text" generate.log
"$data" phi-scan d run generated.txt > scan.log 2>&1
verdict $? "phi-scan finds nothing in dataset, checkpoint and futures" scan.log
python3 - > hf.log 2>&1 << 'PY'
import json
text = [x for x in json.load(open("run/latest/vocabulary.json"))["tokens"] if x["kind"] == "text"]
made = json.load(open("run/latest/tokenizer.json"))
assert made["model"]["type"] == "WordLevel" and made["pre_tokenizer"]["type"] == "WhitespaceSplit"
assert len(text) > 256 + 3 + 50
for x in text:
    assert x["code"].split() == [x["code"]] and made["model"]["vocab"][x["code"]] == x["id"], x
PY
verdict $? "in the Hugging Face tokenizer every token of texts is a word of its own" hf.log

# ---- served --------------------------------------------------------------------------------------------------------------
if grep -q 'libmicrohttpd *yes' "$build/detect.txt" && "$root/.venv/bin/python" -c 'import h5py' 2> /dev/null; then
    . "$root/tests/serve.sh"
    served=run
    start notes && "$python" "$client" notes "$url" rt.h5 d || failed=1
    stop || failed=1
else
    echo "skip - texts of raw events: no libmicrohttpd, or no h5py"
fi

# ---- findings as codes ---------------------------------------------------------------------------------------------------
mkdir genomic && printf 'person_id,gender_concept_id,year_of_birth\n1,8507,1950\n' > genomic/person.csv
printf 'person_id,measurement_concept_id,measurement_datetime,value_as_number,value_as_concept_id\n1,35961001,2015-01-01 10:00:00,,9191\n' > genomic/measurement.csv
printf 'person_id,condition_concept_id,condition_start_date\n1,36529001,2015-01-02\n' > genomic/condition_occurrence.csv
printf 'concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\n35961001\tBRCA1 c.68_69del\tMeasurement\tOMOP Genomic\tDNA Variant\tS\tOMG12345\n9191\tPositive\tMeas Value\tSNOMED\tQualifier Value\tS\t10828004\n36529001\tInvasive carcinoma of breast\tCondition\tICDO3\tICDO Condition\tS\t8500/3-C50.9\n' > genomic/concept.csv
"$data" import omop genomic --out g.h5 --quiet > genomic.log 2>&1 && "$data" inspect g.h5 --patient 0 > inspect.log && grep -q 'OMOP Genomic//OMG12345=SNOMED//10828004  BRCA1 c.68_69del: Positive' inspect.log && grep -q 'ICDO3//8500/3-C50.9  Invasive' inspect.log
verdict $? "OMOP: variants and pathology by their concepts" inspect.log

# ---- other formats -------------------------------------------------------------------------------------------------------
mkdir -p mimic/hosp mimic/note && printf 'subject_id,gender,anchor_age,anchor_year,dod\n1,F,50,2150,\n' > mimic/hosp/patients.csv
printf 'subject_id,hadm_id,admittime,dischtime,admission_type\n1,9,2150-01-01 10:00:00,2150-01-03 11:00:00,EW\n' > mimic/hosp/admissions.csv
printf 'note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n1-DS-1,1,9,DS,1,2150-01-03 00:00:00,2150-01-04 09:00:00,"Name:  ___\nAdmitted for cough."\n1-DS-2,1,9,DS,2,2150-01-03 00:00:00,2150-01-04 09:00:00,"Addendum."\n' | gzip > mimic/note/discharge.csv.gz
printf 'note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n1-RR-1,1,9,RR,1,2150-01-01 12:00:00,2150-01-01 13:30:00,"EXAM: chest. Clear."\n' > mimic/note/radiology.csv
"$data" import mimic mimic --out m.h5 --notes --quiet > mimic.log 2>&1 && "$data" inspect m.h5 --patient 0 > inspect.log && grep -q '2150-01-01 12:00 2150-01-01 13:30 .*NOTE//RR' inspect.log && grep -q '2150-01-04 09:00 .*NOTE//DS' inspect.log && [ "$(grep -c 'Addendum\|Admitted for\|Clear' inspect.log)" = 3 ] &&
    "$data" import mimic mimic --out m0.h5 --quiet > mimic.log 2>&1 && ! grep -aq 'Addendum\|NOTE//' m0.h5
verdict $? "MIMIC-IV-Note: known when stored, both notes of a time" inspect.log
mkdir fhir && {
    echo '{"resourceType":"Patient","id":"p","gender":"female","birthDate":"1950-06-15"}'
    note() { printf '{"resourceType":"DocumentReference","id":"%s","status":"%s","subject":{"reference":"Patient/p"},"date":"2020-01-0%sT10:00:00Z","type":{"coding":[{"system":"http://loinc.org","code":"34117-2"}]},"content":[{"attachment":%s}]}\n' "$1" "$2" "$1" "$3"; }
    b64() { printf '{"contentType":"text/plain; charset=utf-8","data":"%s"}' "$(printf "$1" | base64 -w 0)"; }
    note 1 current "$(b64 'First document.')"
    note 2 superseded "$(b64 'Old document.')"
    note 3 current '{"contentType":"application/pdf","data":"JVBERi0="}'
    note 4 current '{"contentType":"text/plain","url":"http://elsewhere.example/x"}'
    note 5 current '{"contentType":"text/plain","data":"!!! no base64"}'
    note 6 entered-in-error "$(b64 'Wrong patient.')"
    printf '{"resourceType":"DiagnosticReport","id":"r","status":"final","subject":{"reference":"Patient/p"},"effectiveDateTime":"2020-02-01T10:00:00Z","issued":"2020-02-01T12:00:00Z","code":{"coding":[{"system":"http://loinc.org","code":"24627-2"}]},"conclusion":"No acute finding.","presentedForm":[%s]}\n' "$(b64 'CT of the chest.')"
} > fhir/all.ndjson
"$data" import fhir fhir --out f.h5 --notes --utc-offset=Z --quiet > fhir.log 2>&1 && "$data" inspect f.h5 --patient 0 > inspect.log && [ "$(grep -c 'First document\|No acute finding\|CT of the chest' inspect.log)" = 3 ] && ! grep -q 'Old document\|Wrong patient\|PDF' inspect.log &&
    grep -q '3  text that is no plain text' fhir.log && grep -q '1  entered in error' fhir.log && "$data" import fhir fhir --out f0.h5 --utc-offset=Z --quiet > fhir.log 2>&1 && ! grep -aq 'No acute\|First document' f0.h5
verdict $? "FHIR: plain text of current documents and of reports" inspect.log
samples=${EHR_SAMPLE_DATA:-$root/../shared/data}
if [ -e "$samples/synthea-csv-fhir/fhir" ]; then
    # Synthea writes names, dates and ages into its notes.
    "$data" import fhir "$samples/synthea-csv-fhir/fhir" --out sy.h5 --notes --quiet > sy.log 2>&1 && grep -q '126  with its free text' sy.log && refused 1 'possible identifiers' "$data" phi-scan sy.h5 --names "$samples/synthea-csv-fhir/csv" && grep -q 'name  *126  */note_text' refused.log &&
        "$data" attest sy.h5 --level text-scrubbed --name 'A. Person' --role steward --signing-key key --out sy.json > attest.log 2>&1 && mkdir y &&
        "$data" deidentify sy.h5 --out y/r.h5 --linkage sy.who.h5 --min-patients 2 --text-attestation sy.json --mask-names "$samples/synthea-csv-fhir/csv" >> sy.log 2>&1 && "$data" validate y/r.h5 --strict >> sy.log 2>&1 &&
        "$data" tokenize y/r.h5 --out y/d --notes --notes-max 200 >> sy.log 2>&1 && "$data" validate y/d --strict >> sy.log 2>&1 && rm y/r.linkage.h5 &&
        "$train" --data y/d --model nano --layers 1 --seq-len 256 --batch 4 --steps 20 --out y/run --require-deidentified >> sy.log 2>&1 &&
        "$infer" generate y/run --data y/d --split train --patient 0 --samples 200 --max-tokens 60 --top-k 4 --history 0 > y/generated.txt 2>> sy.log && grep -q 'History of Present Illness' y/generated.txt &&
        "$data" phi-scan y --names "$samples/synthea-csv-fhir/csv" > scan.log 2>&1
    verdict $? "Synthea's notes in FHIR: found before, nothing in release, dataset, checkpoint and futures" scan.log
else
    echo "skip - Synthea's notes: not in $samples"
fi
refused 2 'text_value' "$data" import meds fhir --out x.h5 --notes
verdict $? "MEDS: texts are not read, and that is said" refused.log
exit $failed
