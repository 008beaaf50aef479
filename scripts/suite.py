"""Runs what an evaluation needs of ehr-data and ehr-infer, into OUT/work; what is there already and was made by the same
programs from the same checkpoint, dataset, labels and settings is not made again."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

import outcome
import recalibrate
import shards

HERE = pathlib.Path(__file__).resolve().parent
RISK_COLUMNS = ["patient_key", "index_minutes", "outcome", "risk", "mc_se"]
LABEL_COLUMNS = [
    "patient_key",
    "split",
    "patient_row",
    "index_minutes",
    "outcome",
    "event_minutes",
    "censor_minutes",
    "death_minutes",
]
FOLLOWED = ["event_minutes", "censor_minutes", "death_minutes"]
NO_TASKS = {"value_edges", "test_prices"}  # other files of the tasks folder
TRAIN_ROWS = 20000  # of a baseline; more rows than this add little and cost much


def program(name):
    return os.environ.get("EHR_BUILD", str(HERE.parent / "build")) + "/" + name


def program_hash(name):
    try:
        return shards.sha256(program(name))
    except OSError as e:
        raise shards.BadFile(f"{program(name)}: {e.strerror}: build it by `make`, or say by EHR_BUILD where it is") from None


def cpu_seconds():
    """Of this process and of those it waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def say(text):
    print(f"evaluate: {text}", file=sys.stderr, flush=True)


def command(words, log):
    """Runs it with its output in `log`; the end of that is the error when it fails."""
    with open(log, "w") as f:
        rc = subprocess.run([str(w) for w in words], stdout=f, stderr=subprocess.STDOUT, check=False).returncode
    return rc, "\n".join(pathlib.Path(log).read_text(errors="replace").strip().splitlines()[-4:])


def read_risk(path):
    columns, attributes = shards.read_table(path, RISK_COLUMNS, "a risk table", "`ehr-infer risk`")
    if not columns["risk"].size:
        raise shards.BadFile(f"{path}: the table has no rows")
    bad = np.flatnonzero(~np.isfinite(columns["risk"]) | ~np.isin(columns["outcome"], [-1, 0, 1]))
    if bad.size:
        raise shards.BadFile(f"{path}: row {bad[0]}: expected a number as risk and -1, 0 or 1 as outcome")
    return columns, attributes


def outcome_codes(attributes):
    """Patterns of codes that are the outcome of a label file; none where it is a value or a length of stay."""
    return json.loads(attributes.get("outcome_codes", "[]"))


def read_labels(path):
    return shards.read_table(path, LABEL_COLUMNS, "a label file", "`ehr-data label`")


def follow_up(columns, labels):
    """Adds to risk columns the times that only the label file has."""
    at = {k: i for i, k in enumerate(shards.row_keys(labels))}
    rows = [at.get(k, -1) for k in shards.row_keys(columns)]
    if min(rows) < 0:
        raise shards.BadFile("a risk table has rows that its label file has not: remove the report's work folder")
    for name in FOLLOWED:
        columns[name] = labels[name][rows].astype(float)


class Suite:
    made_by = {}  # {program or dataset: hash}, of everything

    def __init__(self, args, dataset):
        self.args, self.dataset = args, dataset
        self.work = args.out / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.model = shards.sha256(args.checkpoint / "model.safetensors")
        self.made_by = {"dataset": shards.sha256(args.data / "dataset.json"), **{k: program_hash(k) for k in ("ehr-data", "ehr-infer")}}
        self.notes, self.seconds, self.cpu, self.cpu_before = [], {}, {}, cpu_seconds()

    def timed(self, what, started):
        """Adds what a part took since it started, and the processor time since the part before it ended."""
        now = cpu_seconds()
        self.seconds[what] = self.seconds.get(what, 0) + time.time() - started
        self.cpu[what] = self.cpu.get(what, 0) + now - self.cpu_before
        self.cpu_before = now

    # ---- labels ---------------------------------------------------------------------------------------------------

    def label_files(self):
        """[(labels, development labels or None)]: files that hold the rows to test on, and to fit on when the first do
        not hold those."""
        paths = list(self.args.labels or [])
        if self.args.events:
            for task in self.args.tasks or sorted(
                p for p in (HERE / "tasks").glob("*.json") if p.stem not in NO_TASKS
            ):
                there = task.stem in {p.stem for p in paths}
                made = None if there else self._label(task, self.work / f"{task.stem}.h5", [])
                if made:
                    paths.append(made)
        if not self.args.labels:
            there = {p.stem for p in paths}
            paths += [p for p in sorted((self.args.data / "labels").glob("*.h5")) if p.stem not in there]
        if not paths:
            raise shards.BadFile(
                f"{self.args.data}/labels has no label file: run `ehr-data label EVENTS --data {self.args.data} --task "
                "scripts/tasks/death_1y.json`, or give --events EVENTS"
            )
        return [(p, self._development(p)) for p in paths]

    def _label(self, task, out, extra):
        words = [
            program("ehr-data"),
            "label",
            self.args.events,
            "--data",
            self.args.data,
            "--task",
            task,
            "--out",
            out,
            *extra,
        ]
        if self.args.linkage:
            words += ["--linkage", self.args.linkage]
        if self._fresh(out, {"task": shards.sha256(task), "dataset": shards.sha256(self.args.data / "dataset.json"),
                             "extra": extra}):  # fmt: skip
            return out
        started = time.time()
        rc, end = command(words, out.with_suffix(".log"))
        self.timed("labels", started)
        if rc:
            self.notes.append(f"{task.stem} was left out: {end.splitlines()[-1] if end else 'ehr-data label failed'}")
            say(self.notes[-1])
            return None
        return out

    def _development(self, path):
        """Oracle cohorts have true risks at one index of held-out patients only: others are labelled at the end of a
        visit, which is what that index is."""
        columns, attributes = read_labels(path)
        if not self.args.events or (columns["split"] < 2).any():
            return None
        task = self.work / f"{path.stem}-development.json"
        task.write_text(attributes["task"])
        if not columns["outcome"].size or json.loads(attributes["task"])["index"] != "oracle":
            return None
        return self._label(task, task.with_suffix(".h5"), ["--index", "visit-end", "--one-per-patient"])

    # ---- risks ----------------------------------------------------------------------------------------------------

    def _fresh(self, out, key):
        """Was `out` made with this key?  If not, what is there of it is removed, and the key noted for its making."""
        note = out.with_name(out.name + ".key")
        text = json.dumps({**self.made_by, **key}, sort_keys=True)
        if note.exists() and note.read_text() == text:
            return out.exists()
        out.unlink(missing_ok=True)
        shutil.rmtree(f"{out}.parts", ignore_errors=True)
        note.write_text(text)
        return False

    def risks(self, labels, split, name):
        a = self.args
        out = self.work / f"{name}-{split}-risk.h5"
        flags = ["--estimator", a.estimator, "--samples", a.samples, "--seed", a.seed, "--limit", a.limit]
        key = {"model": self.model, "labels": shards.sha256(labels), "flags": [str(f) for f in flags]}
        if not self._fresh(out, key):
            say(f"{name}: risks of the {split} split")
            started = time.time()
            words = [
                program("ehr-infer"),
                "risk",
                a.checkpoint,
                "--data",
                a.data,
                "--labels",
                labels,
                "--split",
                split,
                *flags,
            ]
            rc, end = command([*words, "--out", out], out.with_suffix(".log"))
            self.timed("risks", started)
            if rc:
                raise shards.BadFile(f"ehr-infer risk failed for {name} ({split}):\n{end}")
        columns, attributes = read_risk(out)
        follow_up(columns, read_labels(labels)[0])
        return columns, attributes

    # ---- baselines ------------------------------------------------------------------------------------------------

    def baselines(self, name, tested, fitted, test_columns):
        """Risks of the tested rows by each baseline, and its settings; nothing where there is no train row."""
        import baselines  # scikit-learn takes seconds to load: not for reports on tables

        started = time.time()
        labels, attributes = read_labels(fitted)
        first = {k: np.flatnonzero(labels["split"] == k)[:TRAIN_ROWS] for k in (0, 1)}
        y = labels["outcome"][first[0]]
        if min((y == 1).sum(), (y == 0).sum()) < 2:
            self.notes.append(f"{name}: no baselines, the train split has fewer than 2 positives or negatives")
            return {}, {}
        v = shards.Vocabulary(self.args.data, self.dataset)
        tokens = v.outcome_tokens(outcome_codes(attributes))
        rows, weights = [], []
        for k in (0, 1):
            part = {c: labels[c][first[k]] for c in LABEL_COLUMNS}
            rows.append(baselines.Rows(self.args.data, self.dataset, v, part, tokens))
            weights.append(label_weights(part, float(attributes["horizon_minutes"])))
        test = {c: test_columns[c] for c in ("split", "patient_row", "index_minutes", "outcome")}
        rows.append(baselines.Rows(self.args.data, self.dataset, v, test, tokens))
        made = baselines.fit_all(*rows, weights, self.args.seed)
        self.timed("baselines", started)
        return {k: r for k, (r, _) in made.items()}, {
            k: {"train_rows": int(first[0].size), **s} for k, (_, s) in made.items()
        }

    def recalibration(self, fitted, name):
        """The record fitted on the tuning rows; None when there are none."""
        labels, attributes = read_labels(fitted)
        if not (labels["split"] == 1).any():
            self.notes.append(f"{name}: no tuning rows, so no recalibration and no threshold")
            return None
        columns, _ = self.risks(fitted, "tuning", name)
        rows = outcome.Rows(columns)
        record = recalibrate.fit(
            rows.risk, rows.y, rows.weights(float(attributes["horizon_minutes"])), self.args.alerts
        )
        # What a deployment must ask for the map to hold.
        for key in ("outcome_codes", "stop_codes"):
            record[key] = json.loads(attributes.get(key, "[]"))
        record.update(horizon_minutes=int(attributes["horizon_minutes"]), estimator=self.args.estimator)
        if "after_minutes" in attributes:
            record["after_minutes"] = int(attributes["after_minutes"])
        record.update(outcome=name, model_sha256=self.model, labels_sha256=shards.sha256(fitted))
        return recalibrate.seal(record)


def label_weights(labels, horizon):
    """Inverse probabilities of censoring of label rows, which have no risk to be stratified by."""
    return outcome.Rows({**labels, "risk": np.zeros(labels["outcome"].size)}).weights(horizon)
