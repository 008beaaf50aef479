"""MEDS label parquet (a file or a folder of them, such as ACES writes) -> the CSV that `ehr-data label --meds` reads.

Usage: meds_labels.py LABELS.parquet|FOLDER LABELS.csv
"""

import argparse
import pathlib

from meds import fail  # first: it explains what is missing

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq


def read(path):
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowInvalid, OSError) as e:
        fail(f"{path}: {e}")
    have = table.column_names
    for name in ["subject_id", "prediction_time"]:
        if name not in have:
            fail(f"{path} has no column {name}: it is no MEDS label file (it has {', '.join(have)})")
    time = table["prediction_time"]
    if not pa.types.is_timestamp(time.type) or time.type.tz is not None:
        fail(f"{path}: prediction_time is {time.type}, a timestamp without time zone was expected")
    other = [c for c in ["integer_value", "float_value", "categorical_value"] if c in have and table[c].null_count < len(table)]
    if "boolean_value" in have:
        outcome = table["boolean_value"].cast(pa.bool_())
    elif other:
        fail(f"{path} has {other[0]}, boolean_value was expected; leave the column out to take the prediction times alone")
    else:
        outcome = pa.nulls(len(table), pa.bool_())
    us = time.cast(pa.timestamp("us")).cast(pa.int64())
    return pa.table([table["subject_id"].cast(pa.int64()), us, outcome], ["subject_id", "prediction_time_us", "boolean_value"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=pathlib.Path, help="label parquet, or a folder of it")
    parser.add_argument("out", type=pathlib.Path, help="CSV to write")
    args = parser.parse_args()
    paths = sorted(args.labels.rglob("*.parquet")) if args.labels.is_dir() else [args.labels]
    if not paths:
        fail(f"{args.labels} holds no parquet files")
    table = pa.concat_tables([read(p) for p in paths])
    pa.csv.write_csv(table, args.out)
    print(f"{args.out}: {table.num_rows} labels")


if __name__ == "__main__":
    main()
