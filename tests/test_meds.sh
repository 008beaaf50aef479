#!/bin/bash
# test_meds.sh BUILD - to MEDS and back: the same bytes, MEDS's own schemas, other people's MEDS data through the whole
# pipeline, MEDS labels, simulated futures as MEDS tables.
. "$(dirname "$0")/shell.sh"
local_ranks
python=$root/.venv/bin/python
"$python" -c 'import h5py, meds, pyarrow' 2> /dev/null ||
    skip_all "MEDS parquet" "pyarrow, meds or h5py is not in .venv (sh scripts/setup.sh meds)"
data=$build/ehr-data train=$build/ehr-train infer=$build/ehr-infer
to_meds="$python $root/scripts/events_to_meds.py" to_events="$python $root/scripts/meds_to_events.py --ehr-data $data"
samples=${EHR_SAMPLE_DATA:-$root/../shared/data}
cd "$work" || exit 1

# ---- the way and back ------------------------------------------------------------------------------------------------
cat > schema.py << 'PY'
"""Every file of a MEDS folder against the schemas of the meds package, and MEDS's two promises about subjects."""
import json, pathlib, sys
import meds, pyarrow.compute as pc, pyarrow.parquet as pq
root, seen, rows = pathlib.Path(sys.argv[1]), set(), 0
for path in sorted((root / "data").rglob("*.parquet")):
    table = pq.read_table(path, partitioning=None)
    meds.DataSchema.validate(table)
    rows += table.num_rows
    last = None
    for subject, time in zip(table["subject_id"].to_pylist(), table["time"].to_pylist()):
        if last is None or subject != last[0]:
            assert subject not in seen, f"{path}: subject {subject} is in two places"
            seen.add(subject)
        else:
            assert last[1] is None or (time is not None and time >= last[1]), f"{path}: subject {subject} is out of order"
        last = subject, time
codes = pq.read_table(root / "metadata" / "codes.parquet")
meds.CodeMetadataSchema.validate(codes)
meds.DatasetMetadataSchema.validate(json.loads((root / "metadata" / "dataset.json").read_text()))
splits = root / "metadata" / "subject_splits.parquet"
if splits.exists():
    meds.SubjectSplitSchema.validate(pq.read_table(splits))
assert rows and seen
print(f"{rows} rows, {len(seen)} subjects, {codes.num_rows} codes, {'with' if splits.exists() else 'without'} splits")
PY
there_and_back() { # there_and_back NAME: NAME.h5 -> NAME.meds -> the same bytes
    $to_meds "$1.h5" --out "$1.meds" > "$1.log" 2>&1 && "$python" schema.py "$1.meds" >> "$1.log" 2>&1 &&
        $to_events "$1.meds" --out "$1.back.h5" --quiet >> "$1.log" 2>&1 && cmp "$1.h5" "$1.back.h5" >> "$1.log" 2>&1
}
"$data" import omop "$root/tests/fixtures/omop-synthea27nj.zip" --out omop.h5 --quiet > omop.log 2>&1 && there_and_back omop
verdict $? "OMOP events -> MEDS, valid by its schemas -> the same bytes" omop.log
"$data" synth --patients 300 --seed 3 --risk-samples 4 --out synth > cohort.log 2>&1 && $to_meds synth/events.h5 --out oracle.meds >> cohort.log 2>&1 &&
    grep -q 'oracle knows' cohort.log && $to_events oracle.meds --out cohort.h5 --quiet >> cohort.log 2>&1 && there_and_back cohort && grep -q 'with splits' cohort.log && [ "$(ls cohort.meds/data)" = "$(printf 'held_out\ntrain\ntuning')" ]
verdict $? "a cohort with splits, and the same bytes" cohort.log
if [ -e "$samples/mimic-iv-demo" ]; then
    "$data" import mimic "$samples/mimic-iv-demo" --out mimic.h5 --quiet > mimic.log 2>&1 && there_and_back mimic
    verdict $? "MIMIC-IV demo, and the same bytes" mimic.log
else echo "skip - MIMIC-IV demo to MEDS: not in $samples"; fi

# A folder for the CSV that another data set's was kept in: nothing of that comes along.
cp -r cohort.meds bare.meds && rm -r bare.meds/metadata/ehr_c bare.meds/metadata/codes.parquet &&
    $to_events bare.meds --out bare.h5 --quiet > keep.log 2>&1 && $to_events omop.meds --out kept.h5 --keep kept --quiet >> keep.log 2>&1 &&
    $to_events bare.meds --out kept.h5 --keep kept --overwrite --quiet >> keep.log 2>&1 && cmp bare.h5 kept.h5 >> keep.log 2>&1
verdict $? "--keep into a folder used before gives the same bytes" keep.log

# What is known comes by `time`, what happened is beside it; the folder tells what its columns are.
"$python" - << 'PY' > columns.log 2>&1
import glob, json, pyarrow.parquet as pq, pyarrow.compute as pc
t = pq.read_table(sorted(glob.glob("omop.meds/data/*.parquet"))[0], partitioning=None)
dated = t.filter(pc.is_valid(t["time"]))
assert pc.all(pc.greater_equal(dated["time"], dated["event_time"])).as_py()
assert pc.any(pc.greater(dated["time"], dated["event_time"])).as_py()
about = json.load(open("omop.meds/metadata/dataset.json"))
assert set(about["other_extension_columns"] + about["code_modifier_columns"]) == set(t.column_names) - {"subject_id", "time", "code", "numeric_value"}
PY
verdict $? "time is when it was known, event_time when it happened" columns.log

# ---- other people's data ---------------------------------------------------------------------------------------------
# These samples tell no end of observation.  Of a release, whose ends are blurred by a draw, validate warns when more than half of
# the records still end with their last event, which these do in about every other draw; nothing else may be found.
strictly() { # strictly PATH LOG
    "$data" validate "$1" --strict > found.log 2>&1
    local rc=$?
    cat found.log >> "$2"
    [ $rc = 0 ] || { grep -q '^warning  observation_end.equals_last_event ' found.log && grep -q '^0 errors, 1 warning$' found.log; }
}
chain() { # chain NAME OUTCOME: NAME.h5 -> deidentify -> tokenize -> validate --strict -> label -> train
    "$data" validate "$1.h5" >> "$1.log" 2>&1 && "$data" deidentify "$1.h5" --out "$1.r.h5" --linkage "$1.who.h5" --min-patients 2 >> "$1.log" 2>&1 &&
        "$data" tokenize "$1.r.h5" --out "$1.d" >> "$1.log" 2>&1 && strictly "$1.r.h5" "$1.log" && strictly "$1.d" "$1.log" &&
        "$data" label "$1.r.h5" --data "$1.d" --outcome "$2" --horizon 365d --index visit-end >> "$1.log" 2>&1 &&
        "$train" --data "$1.d" --model nano --layers 1 --seq-len 128 --batch 4 --steps 20 --out "$1.run" --require-deidentified >> "$1.log" 2>&1
}
if [ -e "$samples/meds" ]; then
    $to_events "$samples/meds/aces_random" --out aces.h5 --quiet > aces.log 2>&1 && grep -q '^events  *77542  *77542  *0 ' aces.log &&
        grep -q '100 patients, 77542 events; 0 exact duplicates' aces.log && chain aces again=ADMISSION
    verdict $? "MEDS of ACES: all 77,542 rows; deidentify, tokenize, validate --strict, label, train 20 steps" aces.log
    "$data" inspect aces.d > aces.inspect 2>&1 && "$python" - << 'PY' >> aces.inspect 2>&1
import h5py, numpy as np
with h5py.File("aces.h5") as f:
    assert np.bincount(f["split"][:], minlength=3).tolist() == [70, 15, 15], "splits are those of the folders"
PY
    verdict $? "its splits are those of its folders" aces.inspect
    $to_events "$samples/meds/data" --out tiny.h5 --quiet > tiny.log 2>&1 && grep -q '6 patients, 62 events' tiny.log &&
        [ "$("$data" inspect tiny.h5 2>/dev/null | grep -c .)" -gt 3 ]
    verdict $? "MEDS of MEDS_transforms: 62 rows" tiny.log
else echo "skip - MEDS samples: not in $samples"; fi

# ---- what is no MEDS -------------------------------------------------------------------------------------------------
"$python" - << 'PY' || exit 1
import pathlib, pyarrow as pa, pyarrow.parquet as pq
t = pa.table({"subject_id": pa.array([1, 1, 2], pa.int64()), "time": pa.array([0, 60000000, 0], pa.timestamp("us")), "code": ["A", "B", "A"]})
def put(name, *tables):
    for i, x in enumerate(tables):
        p = pathlib.Path(name) / "data" / f"{i}.parquet"
        p.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(x, p)
put("good", t)
put("nocode", t.drop(["code"]))
put("zone", t.set_column(1, "time", t["time"].cast(pa.timestamp("us", "UTC"))))
put("twice", t, t)
put("apart", pa.concat_tables([t, t]))
put("nobody", t.set_column(0, "subject_id", pa.array([1, None, 2], pa.int64())))
pathlib.Path("empty/data").mkdir(parents=True)
pathlib.Path("torn/data").mkdir(parents=True)
pathlib.Path("torn/data/0.parquet").write_bytes(pathlib.Path("good/data/0.parquet").read_bytes()[:-9])
PY
missed=
for case in "nocode:no column code" "zone:without time zone" "twice:in two places" "apart:in two places" "nobody:no subject_id" "empty:no parquet files" "torn:0.parquet" "nowhere:no folder"; do
    refused 1 "${case#*:}" $to_events "${case%%:*}" --out x.h5 && [ ! -e x.h5 ] && [ -z "$(ls -d .meds-* 2> /dev/null)" ] || missed="$missed $case"
done
[ -z "$missed" ] && $to_events good --out x.h5 --quiet > refused.log 2>&1
verdict $? "folders that are no MEDS are refused, and leave nothing$missed" refused.log
head -c 3000 omop.h5 > cut.h5
refused 1 'damaged' $to_meds cut.h5 --out cut.meds && refused 1 'no events file\|not an events file' $to_meds schema.py --out cut.meds2 &&
    refused 1 'not an empty folder' $to_meds omop.h5 --out omop.meds
verdict $? "files that hold no events, and folders that are not empty" refused.log

# ---- labels ----------------------------------------------------------------------------------------------------------
"$data" tokenize omop.h5 --out d > labels.log 2>&1 && "$python" - << 'PY' >> labels.log 2>&1
import pathlib, h5py, meds, numpy as np, pyarrow as pa, pyarrow.parquet as pq
with h5py.File("omop.linkage.h5") as f:
    subject, origin = f["subject_id"][:], f["origin_us"][:]
subject, times = np.repeat(subject, 2), np.concatenate([[o + 86400_000_000, o + 700 * 86400_000_000] for o in origin])
t = pa.table({"subject_id": subject, "prediction_time": pa.array(times, pa.timestamp("us")), "boolean_value": np.arange(len(subject)) % 3 == 0})
meds.LabelSchema.validate(t)
for i, part in enumerate([t.slice(0, 20), t.slice(20)]):
    pathlib.Path("aces/train").mkdir(parents=True, exist_ok=True)
    pq.write_table(part, f"aces/train/{i}.parquet")
pq.write_table(t.drop(["boolean_value"]).append_column("float_value", pa.array(np.ones(len(t)), pa.float32())), "float.parquet")
PY
"$python" "$root/scripts/meds_labels.py" aces aces.csv >> labels.log 2>&1 && grep -q 'aces.csv: 56 labels' labels.log &&
    "$data" label omop.h5 --data d --meds aces.csv --outcome visit=VISIT --horizon 365d >> labels.log 2>&1 && [ -s d/labels/visit.h5 ] &&
    grep -q 'label file  *56  rows; 0 of nobody in this dataset; [0-9]* outcomes given' labels.log &&
    "$train" --data d --model nano --layers 1 --seq-len 128 --batch 4 --steps 2 --out run > run.log 2>&1 &&
    "$infer" risk run --data d --labels d/labels/visit.h5 --split all --samples 2 --max-tokens 40 --out risk.csv >> labels.log 2>&1 && [ "$(grep -vc '^#' risk.csv)" -gt 10 ]
verdict $? "label parquet in MEDS's schema -> label file -> risks" labels.log
refused 2 'meds_labels.py' "$data" label omop.h5 --data d --meds float.parquet --outcome visit=VISIT --out odd.h5 &&
    refused 1 'float_value' "$python" "$root/scripts/meds_labels.py" float.parquet x.csv && refused 1 'no column subject_id' "$python" "$root/scripts/meds_labels.py" omop.meds/metadata/codes.parquet x.csv &&
    refused 2 'leave out --index' "$data" label omop.h5 --data d --meds aces.csv --index visit-end --outcome visit=VISIT && [ ! -e odd.h5 ] && [ ! -e x.csv ]
verdict $? "label files that are none" refused.log
"$data" deidentify omop.h5 --out release.h5 --linkage who.h5 --min-patients 2 > labels.log 2>&1 && "$data" tokenize release.h5 --out dr >> labels.log 2>&1 &&
    "$data" label release.h5 --data dr --meds aces.csv --release-linkage who.h5 --outcome visit=VISIT --horizon 365d >> labels.log 2>&1 &&
    [ "$(grep -o 'label file.*' labels.log | grep -c '[1-9][0-9]* outcomes given')" = 1 ] && [ -s dr/labels/visit.h5 ]
verdict $? "labels of the source, on its release" labels.log

# ---- futures ---------------------------------------------------------------------------------------------------------
"$infer" generate run --data d --split train --patient 1 --samples 3 --max-tokens 60 --json > futures.jsonl 2> futures.log &&
    $to_meds --futures futures.jsonl --data d --out futures --linkage omop.linkage.h5 >> futures.log 2>&1 && $to_meds --futures futures.jsonl --data d --out keyed >> futures.log 2>&1 &&
    "$python" - << 'PY' >> futures.log 2>&1
import json, h5py, meds, numpy as np, pyarrow.compute as pc, pyarrow.parquet as pq
lines = [json.loads(x) for x in open("futures.jsonl")]
tokens, values = {t["code"]: t for t in json.load(open("d/vocabulary.json"))["tokens"]}, 0
with h5py.File("omop.linkage.h5") as f:
    subject = {int(k): int(s) for k, s in zip(f["patient_key"][:], f["subject_id"][:])}[lines[0]["patient_key"]]
n = 0
for line in lines:
    if line["kind"] != "future":
        continue
    t = pq.read_table(f"futures/{line['sample']}/0.parquet")
    meds.DataSchema.validate(t.drop(["prediction_time"]))
    for row, e in zip(t.to_pylist(), line["events"], strict=True):
        token = tokens[e["code"]]
        assert row["code"] == token.get("base", e["code"]), (row, e)
        value = row["numeric_value"]
        assert (value is None) == (token.get("level", 0) < 1), (row, token)
        if value is not None:
            assert value > np.float32(token.get("lo", -np.inf)) and value <= np.float32(token.get("hi", np.inf)), (row, token)
            assert row["unit"] == (token.get("unit") or None)
            values += 1
    assert set(t["subject_id"].to_pylist()) <= {subject}
    assert pc.all(pc.greater_equal(t["time"], t["prediction_time"])).as_py() is not False
    n += t.num_rows
assert n > 30 and values > 5, (n, values)
PY
verdict $? "simulated futures as MEDS trajectories, with the steward's ids and times" futures.log
sed 's/"events":\[{/"events":[{"days":1.5,"kind":"text","text":"cough"},{/' futures.jsonl > worded.jsonl
$to_meds --futures worded.jsonl --data d --out worded --linkage omop.linkage.h5 > worded.log 2>&1 && grep -q 'the words of [1-9]' worded.log && diff -r futures worded > diff.log
verdict $? "words of simulated notes have no place in MEDS's columns and are left out" worded.log
echo '{"kind": "future", "sample": 0, "events": []}' > odd.jsonl
refused 1 'line 1' $to_meds --futures odd.jsonl --data d --out odd && refused 1 'no dataset' $to_meds --futures futures.jsonl --data aces --out odd2 && refused 2 'needs --data' $to_meds --futures futures.jsonl --out odd3
verdict $? "futures that are none" refused.log
exit $failed
