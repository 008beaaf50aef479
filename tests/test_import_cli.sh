#!/bin/bash
# test_import_cli.sh BUILD - ehr-data import as a user types it: formats, flags, reports, and files that are in the way.
. "$(dirname "$0")/shell.sh"
data=$build/ehr-data
cd "$work" || exit 1
mkdir synthea fhir
cat > synthea/patients.csv << 'EOF'
Id,BIRTHDATE,DEATHDATE,SSN,RACE,ETHNICITY,GENDER
3edac2e3-d223,1950-06-15,,999-12-3456,white,nonhispanic,F
EOF
cat > synthea/observations.csv << 'EOF'
DATE,PATIENT,ENCOUNTER,CATEGORY,CODE,DESCRIPTION,VALUE,UNITS,TYPE
2020-01-02T10:10:00Z,3edac2e3-d223,,laboratory,2345-7,Glucose,90,mg/dL,numeric
EOF
cat > fhir/all.ndjson << 'EOF'
{"resourceType":"Patient","id":"3edac2e3-d223","gender":"female","birthDate":"1950-06-15","extension":[{"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-race","extension":[{"url":"ombCategory","valueCoding":{"code":"2106-3"}}]},{"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity","extension":[{"url":"ombCategory","valueCoding":{"code":"2186-5"}}]}]}
{"resourceType":"Observation","id":"o","status":"final","category":[{"coding":[{"code":"laboratory"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"2345-7","display":"Glucose"}]},"subject":{"reference":"Patient/3edac2e3-d223"},"effectiveDateTime":"2020-01-02T10:10:00Z","valueQuantity":{"value":90,"code":"mg/dL"}}
not json
EOF
"$data" import --help > help.log 2>&1 && for format in omop synthea fhir mimic; do grep -q "^  $format " help.log || echo "$format" >> missing; done
[ ! -e missing ] && grep -q -- '--lab-lag' help.log && grep -q -- '--utc-offset' help.log
verdict $? "--help names every format and flag" help.log
refused 2 'synthea' "$data" import cda synthea && refused 2 'unknown format cda' "$data" import cda synthea && refused 2 'missing' "$data" import && refused 2 'missing' "$data" import fhir
verdict $? "an unknown format or a missing path is named, with those there are" refused.log
"$data" import synthea synthea --out s.h5 --utc-offset=Z --report s.json --quiet > s.log 2>&1 && "$data" import fhir fhir --out f.h5 --report f.json --quiet > f.log 2>&1
verdict $? "import both" f.log
# The same patient and the same value, so that only what is said about the source differs.
"$data" inspect s.h5 2>&1 | grep -v '\.h5' > s.txt && "$data" inspect f.h5 2>&1 | grep -v '\.h5' > f.txt && grep -q '2345-7' s.txt && diff <(grep -E '//|MEDS' s.txt) <(grep -E '//|MEDS' f.txt) > d.log
verdict $? "the same events by both ways" d.log
grep -q 'not readable as JSON \[error\]' f.log && grep -q '"what": "not readable as JSON"' f.json && grep -q '"available_assumed": 1' f.json
verdict $? "the report says what was dropped, and which times are assumed" f.log
refused 1 'max-errors 0' "$data" import fhir fhir --out x.h5 --max-errors 0 && [ ! -e x.h5 ] && grep -q 'not readable as JSON' refused.log
verdict $? "--max-errors 0 leaves no file and still tells why" refused.log
refused 2 'exists' "$data" import fhir fhir --out f.h5 && "$data" import fhir fhir/all.ndjson --out f.h5 --overwrite --quiet > f.log 2>&1
verdict $? "a file that exists is kept, unless told otherwise; a single file is read" f.log
"$data" import fhir fhir --out lag.h5 --lab-lag 6h --quiet > lag.log 2>&1 && ! cmp -s lag.h5 f.h5 && refused 2 'lab-lag' "$data" import fhir fhir --out x.h5 --lab-lag soon && refused 2 'utc-offset' "$data" import synthea synthea --out x.h5 --utc-offset Boston
verdict $? "--lab-lag and --utc-offset" refused.log
refused 1 'no FHIR file' "$data" import fhir synthea --out x.h5 && refused 1 'no Synthea table' "$data" import synthea fhir --out x.h5 && refused 1 'nowhere' "$data" import fhir nowhere --out x.h5
verdict $? "the wrong format for a folder" refused.log
(ulimit -f 8 && trap '' XFSZ && "$data" import fhir fhir --out full.h5 --quiet) > full.log 2>&1
[ $? = 1 ] && [ -z "$(ls full.h5* 2> /dev/null)" ]
verdict $? "a full disk leaves nothing" full.log
exit $failed
