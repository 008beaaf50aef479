"""Reads a tokenised dataset (data/dataset.h) and tables (data/table.h) for the evaluation scripts."""

import collections
import csv
import hashlib
import json
import pathlib

import h5py
import numpy as np

SPLITS = ["train", "tuning", "held_out"]


class BadFile(Exception):
    """Something on disk is not what it should be; the message says what was expected."""


def row_keys(columns):
    """Patient, index minutes and how many rows of these two came before, of every row: stays that begin together are two."""
    seen, keys = collections.Counter(), []
    for k in zip(columns["patient_key"].tolist(), columns["index_minutes"].astype(int).tolist(), strict=True):
        keys.append((*k, seen[k]))
        seen[k] += 1
    return keys


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_json(path, what):
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as e:
        raise BadFile(f"{path}: not {what}: {e}") from None


def read_table(path, needed, what, made_by, only=None):
    """Columns as arrays and attributes as strings, from a .csv with "# name: value" lines or an .h5; only: of these columns."""
    path = pathlib.Path(path)
    attributes = {}
    try:
        if path.suffix == ".h5":
            with h5py.File(path) as f:
                columns = {k: np.asarray(f[k]) for k in f if only is None or k in only}
                for k, v in f.attrs.items():
                    attributes[k] = v.decode() if isinstance(v, bytes) else str(v)
        else:
            with open(path, newline="") as f:
                lines = f.readlines()
            while lines and lines[0].startswith("#"):
                name, _, value = lines.pop(0)[1:].partition(":")
                attributes[name.strip()] = value.strip()
            rows = list(csv.DictReader(lines))
            columns = {}
            for k in rows[0] if rows else []:
                text = [r[k] for r in rows]
                if k == "patient_key":
                    columns[k] = np.array(text, np.uint64)
                elif k.startswith("group_"):
                    columns[k] = np.array(text)
                else:
                    columns[k] = np.array([float(t) if t != "" else np.nan for t in text], float)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, csv.Error) as e:
        raise BadFile(f"{path}: not {what}: {e}") from None
    missing = [k for k in needed if k not in columns]
    if missing:
        raise BadFile(f"{path}: not {what}: no column {', '.join(missing)}; expected the output of {made_by}")
    return columns, attributes


class Split:
    """One split of a dataset, its columns read shard by shard as they are asked for."""

    def __init__(self, folder, dataset, split):
        folder = pathlib.Path(folder)
        shards = dataset.get("splits", {}).get(split, {}).get("shards", [])
        self.files = [folder / s["file"] for s in shards]
        self.patients = [int(s["patients"]) for s in shards]
        self.first = np.cumsum([0] + self.patients)

    def column(self, name):
        parts = []
        for path in self.files:
            try:
                with h5py.File(path) as f:
                    parts.append(np.asarray(f[name]))
            except (OSError, KeyError) as e:
                raise BadFile(f"{path}: not a shard with {name}: {e}") from None
        return np.concatenate(parts) if parts else np.zeros(0)

    def timelines(self, rows, extra=()):
        """Yields (position in rows, tokens, minutes, statics, *extra) of the patients in these rows, shard by shard."""
        rows = np.asarray(rows, np.int64)
        for k, path in enumerate(self.files):
            here = np.flatnonzero((rows >= self.first[k]) & (rows < self.first[k + 1]))
            if not here.size:
                continue
            try:
                with h5py.File(path) as f:
                    offsets = np.asarray(f["patient_offsets"], np.int64)
                    statics = np.asarray(f["patient_static"])
                    columns = [np.asarray(f[c]) for c in ("tokens", "minutes", *extra)]
            except (OSError, KeyError) as e:
                raise BadFile(f"{path}: not a shard: {e}") from None
            for i in here:
                p = rows[i] - self.first[k]
                part = slice(offsets[p], offsets[p + 1])
                yield (i, columns[0][part], columns[1][part], statics[p], *(c[part] for c in columns[2:]))


def groups_of(folder, dataset, split, patient_row):
    """{"SEX": array of labels, ...}: the subgroup of each row's patient."""
    names = dataset.get("groups", [])
    if not names or not len(patient_row):
        return {}
    codes = Split(folder, dataset, split).column("patient_group")
    rows = np.asarray(patient_row, np.int64)
    if rows.max() >= codes.shape[0]:
        raise BadFile(f"{folder}: split {split} has {codes.shape[0]} patients, a table speaks of row {rows.max()}")
    out = {}
    for g, group in enumerate(names):
        labels = np.array(group["labels"], dtype=object)
        out[group["name"]] = labels[np.minimum(codes[rows, g], len(labels) - 1)].astype(str)
    return out


def code_matches(code, pattern):
    """As the C side (data/vocabulary.c): a prefix that ends where the code's own parts do, or any with a star."""
    if pattern.endswith("*"):
        return code.startswith(pattern[:-1])
    if not pattern or not code.startswith(pattern):
        return False
    return len(code) == len(pattern) or code[len(pattern)] in "./=" or pattern.endswith("/")


class Vocabulary:
    def __init__(self, folder, dataset):
        tokens = read_json(f"{folder}/{dataset['vocabulary']['file']}", "a vocabulary")["tokens"]
        self.n = len(tokens)
        self.kind = np.array([t["kind"] for t in tokens])
        self.event_kind = np.array([t.get("event_kind", "") for t in tokens])
        self.code = [t["code"] for t in tokens]
        self.base = [t.get("base", t["code"]) for t in tokens]
        self.name = [t.get("name", "") for t in tokens]
        self.level = np.array([t.get("level", 0) for t in tokens])
        self.is_event = np.isin(self.kind, ["event", "unknown"])

    def outcome_tokens(self, patterns):
        hit = [
            bool(self.is_event[i]) and any(code_matches(self.base[i], p) or self.code[i] == p for p in patterns)
            for i in range(self.n)
        ]
        return np.array(hit, bool)
