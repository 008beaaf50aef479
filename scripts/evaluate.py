"""Evaluates a checkpoint: report.html (pictures, plain words), report.json (every figure), model_card.md.

  evaluate.py --checkpoint CHECKPOINT --data DATASET [--suite standard|quick|privacy|sequential] [--events EVENTS] [--out report]
  evaluate.py --run RUN --data DATASET --out DIR RISK.csv|RISK.h5 ...

The first form computes the risks of every label file in DATASET/labels itself; with the events the dataset was made of
(the data steward has them) also of every task of scripts/tasks.  The second reports on risk tables that are there.

On an oracle cohort the tables carry the true risk of every patient; AUROC and calibration are then also taken in
expectation over it, and the error of the risks themselves is known.
"""

import argparse
import csv
import json
import pathlib
import sys
import time

import numpy as np

import fairness
import futures
import outcome
import privacy
import recalibrate
import recorded
import report_page
import report_parts
import report_privacy
import report_probe
import report_tokens
import sequential
import sequential_page
import shards
import suite
import token_quality

SUITES = {
    "standard": {"samples": 8, "limit": 400, "bootstrap": 1000, "score": 2000, "futures": 100, "probe": 800, "recorded": 4000},
    "quick": {"samples": 4, "limit": 100, "bootstrap": 200, "score": 300, "futures": 20, "probe": 200, "recorded": 300},
    "privacy": {"samples": 0, "limit": 2000, "bootstrap": 1000},
    "sequential": {"samples": 32, "limit": 300, "bootstrap": 1000},
}
NO_OUTCOMES = {"privacy", "sequential"}  # suites without risks


def fail(message):
    print(f"evaluate: {message}", file=sys.stderr)
    sys.exit(1)


def read_log(run):
    """Training and tuning records of RUN/log.jsonl; a torn last line (the run may still be going) is left out."""
    steps, evals = [], []
    path = run / "log.jsonl"
    if not path.exists():
        return steps, evals
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("eval"):
            evals.append(record)
        elif "loss" in record and "step" in record:
            steps.append(record)
    return steps, evals


def losses_of(evals, checkpoint):
    """Losses on the tuning split by the log, of the very step that the checkpoint is of; of the last evaluation what the
    data alone decide, and everything where there is no checkpoint to say which step is meant."""
    last = evals[-1] if evals else {}
    step = checkpoint.name.removeprefix("step-")
    own = next((e for e in reversed(evals) if str(e.get("step")) == step), {}) if step != checkpoint.name else last
    names = {"loss": "loss", "excess_loss": "excess_loss", "excess_loss_se": "excess_se"}
    return {**{k: last.get(k) for k in ("loss_floor", "loss_unigram", "loss_bigram")}, **{k: own.get(v) for k, v in names.items()}}


def plain(x):
    """x with every number that JSON cannot carry (no horizon given, one sample and so no error) as None."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items() if not k.startswith("_")}
    if isinstance(x, list):
        return [plain(v) for v in x]
    if isinstance(x, np.generic):
        x = x.item()
    return None if isinstance(x, float) and not np.isfinite(x) else x


def write_json(path, x):
    path.write_text(json.dumps(plain(x), indent=1, allow_nan=False) + "\n")


def table_groups(args, dataset, columns):
    if "patient_row" not in columns or not (columns["split"] == 2).all():
        return {}
    return shards.groups_of(args.data, dataset, "held_out", columns["patient_row"].astype(int))


def write_rows(path, rows, record, risks):
    """What every figure was computed from, a row a patient and index time: compare.py reads it."""
    names = list(rows.groups)
    mapped = recalibrate.apply(record, rows.risk) if record else rows.risk
    with open(path, "w", newline="") as f:
        out = csv.writer(f)
        head = ["patient_key", "index_minutes", "outcome", "risk", "mc_se", "recalibrated"]
        out.writerow(head + [f"baseline_{k}" for k in risks] + [f"group_{g}" for g in names])
        for i in range(rows.risk.size):
            cells = [
                int(rows.patient[i]),
                int(rows.index[i]),
                int(rows.y[i]),
                *(f"{v[i]:.9g}" for v in (rows.risk, rows.mc_se, mapped)),
            ]
            out.writerow(cells + [f"{r[i]:.9g}" for r in risks.values()] + [rows.groups[g][i] for g in names])


def one_outcome(args, dataset, name, columns, attributes, record=None, risks=None, settings=None):
    rows = outcome.Rows(columns, table_groups(args, dataset, columns))
    rows.index = columns["index_minutes"]
    result = outcome.evaluate(name, attributes, rows, record, risks, settings, args.bootstrap, args.seed)
    if args.checkpoint:
        (args.out / "rows").mkdir(exist_ok=True)
        write_rows(args.out / "rows" / f"{name}.csv", rows, record, risks or {})
    return result


def from_tables(args, dataset):
    outcomes = []
    for path in args.risk:
        columns, attributes = suite.read_risk(path)
        outcomes.append(one_outcome(args, dataset, attributes.get("name", path.stem), columns, attributes))
    return outcomes


def from_checkpoint(args, dataset, s, files):
    import probe  # scikit-learn takes seconds to load: not for reports on tables

    outcomes, records = [], []
    for tested, development in files:
        name, fitted = tested.stem, development or tested
        labels, attributes = suite.read_labels(tested)
        if not (labels["split"] == 2).any():
            s.notes.append(f"{name} was left out: no held-out patient has a row")
            suite.say(s.notes[-1])
            continue
        columns, attributes = s.risks(tested, "held_out", name)
        record = s.recalibration(fitted, name)
        risks, settings = s.baselines(name, tested, fitted, columns)
        started = time.time()
        suite.say(f"{name}: figures")
        outcomes.append(one_outcome(args, dataset, name, columns, attributes, record, risks, settings))
        outcomes[-1]["probe"] = probe.measure(s, name, fitted, tested, columns, SUITES[args.suite]["probe"], attributes)
        if outcomes[-1]["probe"]:
            outcomes[-1]["_probe"] = report_probe.section(outcomes[-1])
        outcomes[-1]["labels_sha256"] = shards.sha256(tested)
        outcomes[-1]["task"] = json.loads(attributes.get("task", "{}"))
        outcomes[-1]["counts"] = json.loads(labels_counts(tested))
        s.timed("figures", started)
        if record:
            records.append(record)
    if not outcomes:
        raise shards.BadFile("no outcome could be evaluated:\n  " + "\n  ".join(s.notes))
    write_json(args.out / "recalibration.json", recalibrate.document(records))
    return outcomes


def from_privacy(args, s):
    args.reference = find_checkpoint(args.reference)[0] if args.reference else None
    there = args.labels or args.events or any((args.data / "labels").glob("*.h5"))
    return privacy.measure(s, [tested for tested, _ in s.label_files()] if there else [], args.limit)


def labels_counts(path):
    return suite.read_labels(path)[1].get("counts", "{}")


def parse():
    parser = argparse.ArgumentParser(
        prog="evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=pathlib.Path, help="checkpoint, or the run it is in (then `best`, else `latest`)"
    )
    parser.add_argument("--run", type=pathlib.Path, help="folder written by ehr-train (log.jsonl)")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="dataset folder")
    parser.add_argument(
        "--out", type=pathlib.Path, help="folder for the report [report, of other suites report-privacy, report-sequential]"
    )
    parser.add_argument("--suite", choices=sorted(SUITES), default="standard",
                        help="; ".join(f"{k}: {v['limit']} rows a split, {str(v['samples']) + ' futures a row' if v['samples'] else '1000 futures'}, {v['bootstrap']} resamples"
                                       for k, v in sorted(SUITES.items())))  # fmt: skip
    parser.add_argument(
        "--reference", type=pathlib.Path, help="privacy: a checkpoint of other patients, to compare losses with"
    )
    parser.add_argument(
        "--canaries", type=pathlib.Path, help="privacy: what `ehr-data tokenize --canaries` wrote [DATASET.canaries]"
    )
    parser.add_argument(
        "--sensitive", type=pathlib.Path, help="privacy: a list of sensitive codes [scripts/sensitive_codes.json]"
    )
    parser.add_argument("--labels", type=pathlib.Path, nargs="+", help="label files [all in DATASET/labels]")
    parser.add_argument("--events", type=pathlib.Path, help="events file of the dataset: label tasks here and now")
    parser.add_argument("--tasks", type=pathlib.Path, nargs="+", help="with --events [all of scripts/tasks]")
    parser.add_argument("--linkage", type=pathlib.Path, help="with --events [beside it]")
    parser.add_argument("--samples", type=int, help="simulated futures a row [the suite's]")
    parser.add_argument("--limit", type=int, help="rows a split and task, 0 = all [the suite's]")
    parser.add_argument(
        "--recorded", type=int, help="held-out patients whose whole records are set beside what the model expects, 0 = all [the suite's]"
    )
    parser.add_argument(
        "--estimator", choices=["reach", "scope", "mc", "next"], default="reach", help="of ehr-infer risk [reach]"
    )
    parser.add_argument(
        "--alerts", type=float, default=10, help="alerts per 100 rows at the threshold that is fitted [10]"
    )
    parser.add_argument("--bootstrap", type=int, help="resamples for intervals [the suite's]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="time of the whole job, stored in the report")
    parser.add_argument("--started", type=float, help="unix time at which the whole job began; overrides --seconds")
    parser.add_argument("risk", type=pathlib.Path, nargs="*", help="risk tables, with --run")
    args = parser.parse_args()
    for k in ("samples", "limit", "bootstrap", "recorded"):
        if getattr(args, k) is None:
            setattr(args, k, SUITES[args.suite].get(k))
    args.out = args.out or pathlib.Path(f"report-{args.suite}" if args.suite in NO_OUTCOMES else "report")
    if bool(args.checkpoint) == bool(args.run):
        parser.error("give either --checkpoint or --run")
    if bool(args.run) != bool(args.risk):
        parser.error("risk tables go with --run; a checkpoint's risks are computed")
    for k, least in (("samples", 0), ("limit", 0), ("recorded", 0), ("bootstrap", 2)):
        if getattr(args, k) is not None and getattr(args, k) < least:
            parser.error(f"--{k} takes a whole number from {least} on, not {getattr(args, k)}")
    if not 0 < args.alerts < 100:
        parser.error("--alerts takes a number between 0 and 100")
    return args


def find_checkpoint(path):
    """(checkpoint, the run it lies in)."""
    for p in [path, path / "best", path / "latest"]:
        if (p / "model.safetensors").exists():
            return p.resolve(), p.resolve().parent
    raise shards.BadFile(f"{path}: no checkpoint: expected model.safetensors in it, in its best/ or in its latest/")


def provenance(args, s, dataset):
    trainer = {}
    if (args.checkpoint / "trainer.json").exists():
        trainer = shards.read_json(args.checkpoint / "trainer.json", "a trainer record")
    return {
        "model_sha256": s.model,
        "dataset_sha256": shards.sha256(args.data / "dataset.json"),
        "events_sha256": dataset.get("events_sha256"),
        "vocabulary_sha256": dataset["vocabulary"]["sha256"],
        "recalibration_sha256": None if args.suite in NO_OUTCOMES else shards.sha256(args.out / "recalibration.json"),
        "config": shards.read_json(args.checkpoint / "config.json", "a model's configuration"),
        "trainer": trainer,
    }


def build(args, dataset):
    start = time.time()
    s, found, outcomes = None, {}, []
    for old in (args.out / "rows").glob("*.csv"):  # of an earlier evaluation, perhaps of another checkpoint
        old.unlink()
    if args.checkpoint:
        args.checkpoint, args.run = find_checkpoint(args.checkpoint)
        args.out.mkdir(parents=True, exist_ok=True)
        s = suite.Suite(args, dataset)
        if args.suite == "privacy":
            found["privacy"] = from_privacy(args, s)
        elif args.suite == "sequential":
            found["sequential"] = sequential.measure(s)
        else:
            files = s.label_files()
            outcomes = from_checkpoint(args, dataset, s, files)
            found["recorded"] = recorded.measure(s, [p for p, _ in files], args.recorded)
            found["tokens"] = token_quality.measure(s, SUITES[args.suite]["score"])
            found["futures"] = futures.measure(s, [p for p, _ in files], SUITES[args.suite]["futures"])
    else:
        outcomes = from_tables(args, dataset)
        args.out.mkdir(parents=True, exist_ok=True)
    alarms, tests = fairness.raise_alarms(outcomes, found.get("recorded", []))
    steps, evals = read_log(args.run)
    latest = args.checkpoint or args.run / "latest"
    report = {
        "format": "ehr.c report",
        "format_version": 1,
        "checkpoint": latest.resolve().name if latest.exists() else None,
        "dataset": str(args.data),
        "deidentification": dataset.get("deidentification", {}).get("level"),
        "split_of_loss": "tuning",
        **losses_of(evals, latest.resolve()),
        "steps": steps[-1]["step"] if steps else None,
        "bootstrap": args.bootstrap,
        "seed": args.seed,
        "alarm_tests": tests,
        "alarms": alarms,
        "outcomes": outcomes,
    }
    if s:
        report.update(suite=args.suite, samples=args.samples, limit=args.limit, notes=s.notes, **found,
                      provenance=provenance(args, s, dataset), seconds_of={f"{k}, seconds": v for k, v in s.seconds.items()},
                      cpu_seconds_of={f"{k}, CPU seconds": v for k, v in s.cpu.items()})  # fmt: skip
        report["cpu_seconds"] = suite.cpu_seconds()
    report["seconds"] = time.time() - args.started if args.started else args.seconds or time.time() - start
    if "tokens" in found:
        report["_tokens"] = report_tokens.section(found["tokens"])
    if "privacy" in found:
        report["_privacy"] = report_privacy.section(found["privacy"])
        report["_summary"] = report_privacy.summary(found["privacy"])
    if "sequential" in found:
        report["_sequential"] = sequential_page.section(found["sequential"])
        report["_summary"] = sequential_page.summary(found["sequential"])
    (args.out / "report.html").write_text(report_page.page(report, steps, evals))
    write_json(args.out / "report.json", report)
    if s and outcomes:
        (args.out / "model_card.md").write_text(report_page.model_card(plain(report), dataset))
    return report


def main():
    args = parse()
    try:
        dataset = shards.read_json(args.data / "dataset.json", "a dataset")
        report = build(args, dataset)
    except shards.BadFile as e:
        fail(str(e) if "dataset.json" not in str(e) else f"--data {args.data}: not a dataset: {e}")
    number = report_parts.number
    for o in report["outcomes"]:
        truth = (
            f"  of the true risk {number(o['auroc_true_risk'])}  rmse {number(o['rmse'], 4)}"
            if o["auroc_true_risk"]
            else ""
        )
        print(f"{o['name']:24} n {o['n']:5}  AUROC {number(o['auroc'])}{truth}  slope {number(o['slope'], 2)}")
    for line in privacy.told(report["privacy"]) if "privacy" in report else []:
        print(line)
    if "sequential" in report:
        for k, label in [("never", "never ask"), ("own", "stop where the model would"), ("everything", "ask for everything")]:
            p = report["sequential"][k]
            print(f"{label:28} {p['tests']:5.1f} tests  {p['cost']:8.2f} {report['sequential']['currency']}  named right {number(p['right']['mean'])}")
    if report["alarm_tests"]:
        print(f"{len(report['alarms'])} alarms of {report['alarm_tests']} tests of subgroups")
    parts = [
        f"{k.split(', ')[0]} {v:.0f} s ({report['cpu_seconds_of'][k.replace(', seconds', ', CPU seconds')]:.0f} s of CPU)"
        for k, v in report.get("seconds_of", {}).items()
    ]
    if parts:
        print(f"took {report['seconds']:.0f} s, {report['cpu_seconds']:.0f} s of CPU: {'; '.join(parts)}")
    print(f"{args.out / 'report.html'}")


if __name__ == "__main__":
    main()
