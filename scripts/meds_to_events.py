"""MEDS parquet -> events.h5, by way of CSV that `ehr-data import meds` reads.

Usage: meds_to_events.py MEDS --out events.h5 [--ehr-data build/ehr-data] [--keep FOLDER] [--] [flags of ehr-data import]

MEDS is a folder with data/**/*.parquet and metadata/, or the data folder alone.  Record batches are streamed: memory
does not grow with the data set; the CSV lies beside --out and is removed (--keep leaves it in FOLDER).  Columns that
events_to_meds.py adds come back as they were; text_value is left out: it may hold anything.
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile

from meds import EXTRA, SPLITS, fail  # first: it explains what is missing

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).resolve().parent
COLUMNS = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time_us", pa.int64()),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("available_us", pa.int64()),
        ("comparator", pa.int64()),
        ("unit", pa.string()),
        ("precision", pa.int64()),
        ("visit", pa.int64()),
        ("observation_end_us", pa.int64()),
        ("split", pa.string()),
    ]
)


def microseconds(column):
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        return column.cast(pa.timestamp("us")).cast(pa.int64())
    return None


class Subjects:
    """Split and end of observation of each subject, looked up batch by batch."""

    def __init__(self, root):
        self.split, self.end = {}, {}
        path = root / "metadata" / "subject_splits.parquet"
        if path.exists():
            table = pq.read_table(path)
            self.split = dict(zip(table["subject_id"].to_pylist(), table["split"].to_pylist()))
        path = root / "metadata" / EXTRA / "subjects.parquet"
        if path.exists():
            table = pq.read_table(path)
            self.end = dict(zip(table["subject_id"].to_pylist(), table["observation_end"].cast(pa.int64()).to_pylist()))

    def columns(self, ids, folder):
        """folder: the split that the file's folder is named after, where there is no table of splits."""
        encoded = ids.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        end = pa.array([self.end.get(s) for s in distinct], pa.int64())
        split = pa.array([self.split.get(s, None if self.split else folder) for s in distinct], pa.string())
        return end.take(encoded.indices), split.take(encoded.indices)


def convert(batch, subjects, folder, path):
    have = set(batch.schema.names)
    for name in ["subject_id", "time", "code"]:
        if name not in have:
            fail(f"{path} has no column {name}: it is not MEDS data (it has {', '.join(batch.schema.names)})")
    n = batch.num_rows

    def column(name, kind):
        return batch[name].cast(kind) if name in have else pa.nulls(n, kind)

    # Of a file that events_to_meds.py wrote, `time` is when it was known; of others it is all there is.
    ours = "event_time" in have
    time = microseconds(batch["event_time" if ours else "time"])
    if time is None:
        fail(f"{path}: column time is {batch['time'].type}, a timestamp without time zone was expected")
    end, split = subjects.columns(batch["subject_id"].cast(pa.int64()), folder)
    value = column("numeric_value", pa.float32())
    return pa.record_batch(
        [
            batch["subject_id"].cast(pa.int64()),
            time,
            batch["code"].cast(pa.string()),
            pc.if_else(pc.is_finite(value), value, pa.scalar(None, pa.float32())),
            microseconds(batch["time"]) if ours else pa.nulls(n, pa.int64()),
            column("comparator", pa.int64()),
            column("unit", pa.string()),
            column("precision", pa.int64()),
            column("visit", pa.int64()),
            end,
            split,
        ],
        schema=COLUMNS,
    )


def contiguous(ids, state, path):
    """MEDS: a subject is in one file, and there in one piece."""
    change = pc.fill_null(pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)), True)
    starts = [ids[0].as_py()] + ids.slice(1).filter(change).to_pylist()
    if starts[0] == state["last"]:
        starts = starts[1:]
    for s in starts:
        if s is None:
            fail(f"{path}: a row has no subject_id")
        if s in state["seen"]:
            fail(f"{path}: subject {s} is in two places; in MEDS a subject's rows stand together in one file")
        state["seen"].add(s)
    state["last"] = ids[-1].as_py()


def data_files(root):
    data = root / "data" if (root / "data").is_dir() else root
    # metadata/ lies beside data/, or in it where somebody gave the data folder alone.
    files = sorted(p for p in data.rglob("*.parquet") if "metadata" not in p.relative_to(data).parts)
    if not files:
        fail(f"{root} holds no parquet files (data/**/*.parquet were expected)")
    return data, files


def write_events(root, out):
    data, files = data_files(root)
    subjects, state, rows = Subjects(root), {"seen": set(), "last": None}, 0
    with pa.csv.CSVWriter(out, COLUMNS) as writer:
        for path in files:
            folder = next((p for p in path.relative_to(data).parts if p in SPLITS), None)
            try:
                for batch in pq.ParquetFile(path).iter_batches(batch_size=1 << 17):
                    if batch.num_rows:
                        contiguous(batch["subject_id"], state, path)
                        writer.write_batch(convert(batch, subjects, folder, path))
                        rows += batch.num_rows
                state["last"] = None  # a subject goes on in no other file
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as e:
                fail(f"{path}: {e}")
    return rows


def write_codes(root, out):
    path = root / "metadata" / "codes.parquet"
    if not path.exists():
        return
    table = pq.read_table(path)
    n, have = table.num_rows, set(table.column_names)
    if "code" not in have:
        fail(f"{path} has no column code")

    def text(name):
        return table[name].cast(pa.string()) if name in have else pa.nulls(n, pa.string())

    parents = table["parent_codes"].to_pylist() if "parent_codes" in have else [None] * n
    # The smallest of several, so that the order of the list does not show.
    parent = pa.array([min(p) if p else None for p in parents], pa.string())
    pa.csv.write_csv(pa.table([text("code"), text("description"), parent, text("kind")], ["code", "description", "parent", "kind"]), out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meds", type=pathlib.Path, help="MEDS folder")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("events.h5"), help="events file to write [events.h5]")
    parser.add_argument("--ehr-data", type=pathlib.Path, default=HERE.parent / "build" / "ehr-data", help="the program that imports [build/ehr-data]")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the CSV, which is then kept")
    args, more = parser.parse_known_args()
    if not args.meds.is_dir():
        fail(f"{args.meds} is no folder")
    if not args.ehr_data.exists():
        fail(f"there is no {args.ehr_data}: run make, or give --ehr-data")
    folder = args.keep or pathlib.Path(tempfile.mkdtemp(prefix=".meds-", dir=args.out.resolve().parent))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ["codes.csv", "units.csv", "origin.csv"]:  # of another data set, kept there before
            (folder / name).unlink(missing_ok=True)
        rows = write_events(args.meds, folder / "events.csv")
        write_codes(args.meds, folder / "codes.csv")
        for name in ["units.csv", "origin.csv"]:
            extra = args.meds / "metadata" / EXTRA / name
            if extra.exists():
                shutil.copy(extra, folder / name)
        print(f"{args.meds}: {rows} rows", flush=True)
        command = [args.ehr_data, "import", "meds", folder, "--out", args.out] + [m for m in more if m != "--"]
        return subprocess.run(command, check=False).returncode
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
