"""events.h5 -> a MEDS folder (parquet), or simulated futures -> MEDS tables of trajectories.

Usage: events_to_meds.py events.h5 --out MEDS
       events_to_meds.py --futures FUTURES.jsonl --data DATASET --out FOLDER [--linkage events.linkage.h5]

`time` is when an event was known, so that whoever uses data up to a prediction time uses nothing that came later;
event_time, beside it, is when it happened.  metadata/ehr_c/ holds what MEDS has no place for: meds_to_events.py makes
the same events.h5 of it, byte for byte.

--futures takes what `ehr-infer generate --json` wrote: one folder a sample, MEDS's columns and prediction_time.  A value
was simulated as one of the levels of its code in DATASET: numeric_value lies inside it, so that thresholds which are
edges judge it rightly, and says no more.  Subjects are patient keys and time runs from 1970-01-01 at a record's first
event, unless --linkage says who is who and when.
"""

import argparse
import csv
import datetime
import json
import pathlib

from meds import EXTRA, NO_TIME, SPLITS, fail  # first: it explains what is missing

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KINDS = ["static", "birth", "visit_start", "transfer", "lab", "diagnosis", "procedure", "drug", "other", "visit_end", "death"]
DATA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        ("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        ("numeric_value", pa.float32()),
        ("event_time", pa.timestamp("us")),
        ("comparator", pa.int8()),
        ("unit", pa.string()),
        ("precision", pa.int8()),
        ("visit", pa.int64()),
    ]
)
TRAJECTORY = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("prediction_time", pa.timestamp("us"), nullable=False),
        ("time", pa.timestamp("us")),
        pa.field("code", pa.string(), nullable=False),
        ("numeric_value", pa.float32()),
        ("unit", pa.string()),
    ]
)
SHARD = 1 << 20  # events in a file, whole subjects


def texts(dataset):
    return [t.decode() for t in dataset[:].tolist()]


def times(values):
    return pa.array(values, pa.int64(), mask=values == NO_TIME).cast(pa.timestamp("us"))


# ---- events ----------------------------------------------------------------------------------------------------------


def table_of(f, codes, units, subject, counts, rows):
    def column(name):
        return f[name][rows]

    value, unit = column("numeric_value"), column("unit")
    return pa.table(
        [
            pa.array(np.repeat(subject, counts)),
            times(column("available")),
            codes.take(pa.array(column("code"))),
            pa.array(value, pa.float32(), mask=np.isnan(value)),
            times(column("time")),
            pa.array(column("comparator").astype(np.int8)),
            units.take(pa.array(unit)),
            pa.array(column("precision").astype(np.int8)),
            pa.array(column("visit").astype(np.int64)),
        ],
        schema=DATA,
    )


def write_shards(f, out):
    """Patients in their order, in files of whole subjects; a file holds subjects of one split only."""
    codes = pa.array(texts(f["codes"]), pa.string())
    units = pa.array([u or None for u in texts(f["units"])], pa.string())
    subject, offsets = f["subject_id"][:], f["patient_offsets"][:].astype(np.int64)
    split = f["split"][:] if "split" in f else np.full(len(subject), 255, np.uint8)
    n, first = {}, 0
    while first < len(subject):
        end = first + 1
        while end < len(subject) and split[end] == split[first] and offsets[end + 1] - offsets[first] <= SHARD:
            end += 1
        folder = out / "data" / SPLITS[split[first]] if split[first] < 3 else out / "data"
        folder.mkdir(parents=True, exist_ok=True)
        k = n.get(folder, 0)
        n[folder] = k + 1
        rows = slice(offsets[first], offsets[end])
        counts = np.diff(offsets[first : end + 1])
        pq.write_table(table_of(f, codes, units, subject[first:end], counts, rows), folder / f"{k}.parquet")
        first = end
    return subject, split


def write_metadata(f, out, subject, split):
    metadata, extra = out / "metadata", out / "metadata" / EXTRA
    extra.mkdir(parents=True)
    parents = [[p] if p else None for p in texts(f["code_parent"])]
    pq.write_table(
        pa.table(
            {
                "code": pa.array(texts(f["codes"]), pa.string()),
                "description": pa.array([n or None for n in texts(f["code_name"])], pa.string()),
                "parent_codes": pa.array(parents, pa.list_(pa.string())),
                "kind": pa.array([KINDS[k] for k in f["code_kind"][:]], pa.string()),
            }
        ),
        metadata / "codes.parquet",
    )
    known = split < 3
    if known.any():
        names = pa.array([SPLITS[s] for s in split[known]], pa.string())
        pq.write_table(pa.table({"subject_id": pa.array(subject[known]), "split": names}), metadata / "subject_splits.parquet")
    pq.write_table(
        pa.table({"subject_id": pa.array(subject), "observation_end": times(f["observation_end"][:])}), extra / "subjects.parquet"
    )
    for name, header, rows in [
        ("units", ["unit"], [[u] for u in texts(f["units"]) if u]),
        ("origin", ["source", "provenance"], [[attribute(f, "source"), attribute(f, "provenance")]]),
    ]:
        with open(extra / f"{name}.csv", "w", newline="", encoding="utf-8") as csv_file:
            csv.writer(csv_file, quoting=csv.QUOTE_ALL).writerows([header] + rows)
    about = {
        "dataset_name": attribute(f, "source"),
        "etl_name": "ehr.c",
        "meds_version": "0.4.1",
        "code_modifier_columns": ["unit"],
        "other_extension_columns": ["event_time", "comparator", "precision", "visit"],
    }
    (metadata / "dataset.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def attribute(f, name):
    value = f.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def events(path, out):
    try:
        with h5py.File(path) as f:
            if attribute(f, "format") != "ehr.c events":
                fail(f"{path} is not an events file; ehr-data import makes one")
            if "oracle_risk" in f:
                print(f"{path} is an oracle cohort: what the oracle knows of it has no place in MEDS and is left out")
            if "note_event" in f:
                print(f"the texts of {len(f['note_event'])} notes are left out: they stay in {path}")
            subject, split = write_shards(f, out)
            write_metadata(f, out, subject, split)
    except (OSError, KeyError) as e:
        fail(f"{path} is not an events file, or is damaged: {e}")
    print(f"{out}: {len(subject)} subjects")


# ---- futures ---------------------------------------------------------------------------------------------------------


def linkage_read(path):
    """patient key -> (subject, first event in us)"""
    if not path:
        return None
    with h5py.File(path) as f:
        return dict(zip(f["patient_key"][:].tolist(), zip(f["subject_id"][:].tolist(), f["origin_us"][:].tolist())))


def levels_read(data):
    """token -> (code, a value inside its level or None, unit)"""
    try:
        tokens = json.loads((data / "vocabulary.json").read_text(encoding="utf-8"))["tokens"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        fail(f"{data} is no dataset: {e!r}")
    levels = {}
    for t in tokens:
        if not t.get("level"):
            continue
        lo, hi = t.get("lo"), t.get("hi")  # lo < value <= hi
        value = (lo + hi) / 2 if lo is not None and hi is not None else hi
        if hi is None and lo is not None:
            value = float(np.nextafter(np.float32(lo), np.float32(np.inf)))
        levels[t["code"]] = t["base"], value, t.get("unit") or None
    return levels


def futures(path, out, data, linkage):
    """One folder a sample; a line "history" comes before the lines of its futures."""
    who, samples, key, index, notes = linkage_read(linkage), {}, None, None, 0
    levels = levels_read(data)
    day = datetime.timedelta(days=1) // datetime.timedelta(microseconds=1)
    with open(path, encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            try:
                line = json.loads(text)
                if line["kind"] == "history":
                    key = line["patient_key"]
                    subject, origin = who[key] if who is not None else (int(np.uint64(key).astype(np.int64)), 0)
                    index = origin + round(line["index_days"] * day)
                elif line["kind"] == "future":
                    if index is None:
                        raise ValueError("a future without a history before it")
                    rows = samples.setdefault(line["sample"], [])
                    for e in line["events"]:
                        if e.get("kind") == "text":
                            notes += 1  # the words of a simulated note: nobody wrote them
                            continue
                        rows.append((subject, index, index + round(e["days"] * day), *levels.get(e["code"], (e["code"], None, None))))
            except (ValueError, KeyError, TypeError) as e:
                fail(f"{path}, line {number}: not what ehr-infer generate --json writes: {e!r}")
    for sample, rows in samples.items():
        rows.sort(key=lambda r: (r[0], r[1], r[2]))
        columns = list(zip(*rows)) or [()] * 6
        stamp = pa.timestamp("us")
        folder = out / str(sample)
        folder.mkdir(parents=True)
        pq.write_table(
            pa.table(
                [
                    pa.array(columns[0], pa.int64()),
                    pa.array(columns[1], pa.int64()).cast(stamp),
                    pa.array(columns[2], pa.int64()).cast(stamp),
                    pa.array(columns[3], pa.string()),
                    pa.array(columns[4], pa.float32()),
                    pa.array(columns[5], pa.string()),
                ],
                schema=TRAJECTORY,
            ),
            folder / "0.parquet",
        )
    if notes:
        print(f"the words of {notes} simulated notes are left out; the notes' own events are there")
    print(f"{out}: {len(samples)} samples")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=pathlib.Path, nargs="?", help="events file of `ehr-data import`")
    parser.add_argument("--futures", type=pathlib.Path, help="JSON lines of `ehr-infer generate --json`")
    parser.add_argument("--data", type=pathlib.Path, help="with --futures: the dataset they were simulated from")
    parser.add_argument("--linkage", type=pathlib.Path, help="with --futures: who is who, as deidentify or tokenize wrote it")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write")
    args = parser.parse_args()
    if (args.events is None) == (args.futures is None):
        parser.error("give an events file, or --futures")
    if (args.futures is None) != (args.data is None):
        parser.error("--futures needs --data, the dataset they were simulated from")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        fail(f"--out {args.out} exists and is not an empty folder")
    args.out.mkdir(parents=True, exist_ok=True)
    if args.events:
        events(args.events, args.out)
    else:
        futures(args.futures, args.out, args.data, args.linkage)


if __name__ == "__main__":
    main()
