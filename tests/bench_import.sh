#!/bin/bash
# bench_import.sh [BUILD] - importing and tokenising an OMOP export of EVENTS rows (2,000,000), which is drawn here, rows in
# no order of patients, under MEMORY (1G): rows a second of CPU time, and the most memory that was taken; then tokenising
# with 2 threads and as many as there are cores, whose bytes must be the same: the time that passed beside that of one, and
# what the threads cost a row.  EVENTS=50000000 takes 3 GB of disk below TMPDIR and some minutes.
cd "$(dirname "$0")/.." || exit 1
build=${1:-build} events=${EVENTS:-2000000} memory=${MEMORY:-1G}
work=$(mktemp -d "${TMPDIR:-/tmp}/ehr-bench-import-XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
mkdir "$work/omop"

# A patient has some 500 rows: 4 in 5 measurements, the rest visits, conditions and drugs of 400 codes each.
awk -v n="$events" -v dir="$work/omop/" '
    function day(i) { return sprintf("%d-%02d-%02d", 2005 + i % 15, 1 + int(i / 15) % 12, 1 + int(i / 180) % 28) }
    BEGIN {
        srand(7); people = int(n / 500) + 1
        f = dir "PERSON.csv"; print "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,race_concept_id" > f
        for (i = 1; i <= people; i++) print i "," (i % 2 ? 8507 : 8532) "," 1930 + i % 70 "," 1 + i % 12 "," 1 + i % 28 ",8527" > f
        f = dir "OBSERVATION_PERIOD.csv"; print "observation_period_id,person_id,observation_period_start_date,observation_period_end_date" > f
        for (i = 1; i <= people; i++) print i "," i ",2005-01-01,2021-12-31" > f
        f = dir "CONCEPT.csv"; print "concept_id,concept_name,domain_id,vocabulary_id,concept_class_id,standard_concept,concept_code" > f
        for (i = 0; i < 400; i++) {
            print 1000 + i ",lab " i ",Measurement,LOINC,Lab Test,S," 1000 + i "-1" > f
            print 2000 + i ",condition " i ",Condition,SNOMED,Disorder,S," 200000 + i > f
            print 3000 + i ",drug " i ",Drug,RxNorm,Ingredient,S," 3000 + i > f
        }
        print "8840,milligram per deciliter,Unit,UCUM,Unit,S,mg/dL" > f
        m = dir "MEASUREMENT.csv"; print "measurement_id,person_id,measurement_concept_id,measurement_date,measurement_datetime,measurement_type_concept_id,value_as_number,unit_concept_id,visit_occurrence_id,unit_source_value" > m
        c = dir "CONDITION_OCCURRENCE.csv"; print "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,condition_type_concept_id,visit_occurrence_id" > c
        d = dir "DRUG_EXPOSURE.csv"; print "drug_exposure_id,person_id,drug_concept_id,drug_exposure_start_date,drug_type_concept_id" > d
        v = dir "VISIT_OCCURRENCE.csv"; print "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date,visit_end_datetime" > v
        for (i = 1; i <= n; i++) {
            p = 1 + int(people * rand()); k = int(400 * rand() * rand()); r = i % 20; t = day(int(5000 * rand()))
            if (r < 16) print i "," p "," 1000 + k "," t "," t " " 8 + i % 12 ":" 10 + i % 50 ":00,32817," int(1000 * rand()) / 10 ",8840,,mg/dL" > m
            else if (r < 18) print i "," p "," 2000 + k "," t ",32817," > c
            else if (r < 19) print i "," p "," 3000 + k "," t ",32817" > d
            else print i "," p ",9202," t "," t " 08:00:00," t "," t " 09:30:00" > v
        }
    }' || exit 1

measured() { # measured NAME COMMAND...: rows a second of CPU time; with the program `time` also the most memory
    local name=$1 TIMEFORMAT='%U %S %R'
    shift
    if [ -n "$(type -P time)" ]; then command time -f '%U %S %e %M' -o "$work/time" "$@" > "$work/log" 2>&1
    else { time "$@" > "$work/log" 2>&1; } 2> "$work/time"; fi || { tail -n 5 "$work/log"; exit 1; }
    awk -v name="$name" -v n="$events" '{ cpu = $1 + $2 > 0 ? $1 + $2 : 0.01
        printf "%-10s %9.0f rows/s a core (%.1f s of CPU, %.1f s)%s\n", name, n / cpu, cpu, $3, $4 ? sprintf(", %.0f MB at most", $4 / 1024) : "" }' "$work/time"
}
echo "$events rows, $(du -sm "$work/omop" | cut -f 1) MB of CSV, --memory $memory"
measured import "$build/ehr-data" import omop "$work/omop" --out "$work/e.h5" --memory "$memory"
measured tokenize "$build/ehr-data" tokenize "$work/e.h5" --out "$work/d" --threads 1
cp "$work/time" "$work/one"
for threads in $(printf '2\n%s\n' "$(nproc)" | awk '$1 > 1 && !seen[$1]++'); do
    measured "$threads threads" "$build/ehr-data" tokenize "$work/e.h5" --out "$work/d$threads" --threads "$threads"
    diff -r "$work/d" "$work/d$threads" || { echo "the dataset depends on the number of threads"; exit 1; }
    rm -r "$work/d$threads"
    paste "$work/one" "$work/time" | awk -v one="$(wc -w < "$work/one")" -v t="$threads" '{
        at = one; printf "%-10s %9.2fx as fast as 1 thread, %.2fx a core; CPU time a row %.2fx\n", "", $3 / $(at + 3), $3 / $(at + 3) / t,
            ($(at + 1) + $(at + 2)) / ($1 + $2) }'
done
