"""Is checkpoint B better than A?  Tests the difference of every figure on the rows that both were evaluated on.

  compare.py REPORT_A REPORT_B [--bootstrap 1000] [--seed 1] [--out comparison.json]

REPORT_A and REPORT_B are folders made by scripts/evaluate.sh CHECKPOINT DATASET.  Patients are resampled, and both models
are judged on each resample: what makes a patient hard is hard for both and cancels.  Differences are B minus A of the
risks as the models say them (before recalibration), overall and for every group with 20 positives; Benjamini and Hochberg
at 5% over all of them.  Exit 1 when B is worse in any, 3 when there is nothing that can be judged: the gate for taking a
tuned model.
"""

import argparse
import collections
import json
import pathlib
import sys

import numpy as np

import fairness
import metrics
import outcome
import shards

NEEDED = ["patient_key", "index_minutes", "outcome", "risk"]
FIGURES = ["auroc", "auprc", "brier", "log_loss", "miscalibration", "ici"]
HIGHER_IS_BETTER = {"auroc", "auprc"}


def read_rows(report, name):
    columns, _ = shards.read_table(
        report / "rows" / f"{name}.csv", NEEDED, "rows of an evaluation", "scripts/evaluate.sh"
    )
    return columns


def paired(a, b):
    """Rows of both, in a's order; outcomes must agree.  Of rows of one patient and time, all or none: which of two one alone
    would be, nothing says."""
    keys = [shards.row_keys(c) for c in (a, b)]
    many = [collections.Counter(k[:2] for k in rows) for rows in keys]
    at = {k: j for j, k in enumerate(keys[1])}
    pairs = [(i, at[k]) for i, k in enumerate(keys[0]) if many[0][k[:2]] == many[1][k[:2]]]
    i, j = np.array(pairs, int).reshape(-1, 2).T
    a, b = ({k: v[rows] for k, v in c.items()} for c, rows in ((a, i), (b, j)))
    if not np.array_equal(a["outcome"], b["outcome"]):
        raise shards.BadFile("the two reports disagree about what happened: they were made from other labels")
    return a, b


def figures(risk, y, W):
    out = metrics.figures(risk, y, W)
    with np.errstate(divide="ignore"):
        out["miscalibration"] = np.abs(np.log(out["oe"]))  # how far the sum of risks is from the number who had it
    return {k: out[k] for k in FIGURES}


def parts_of(a):
    known = np.flatnonzero(a["outcome"] >= 0)
    y = a["outcome"][known]
    parts = [("everybody", np.ones(known.size, bool))]
    for k in [k for k in a if k.startswith("group_")]:
        labels = a[k][known]
        parts += [(f"{k[6:]}//{v}", labels == v) for v in sorted(set(labels)) if v not in ("", "UNKNOWN")]
    return known, [p for p in parts if y[p[1]].sum() >= (fairness.LEAST_POSITIVES if p[0] != "everybody" else 1)]


def compare_outcome(name, a, b, n, seed):
    known, parts = parts_of(a)
    y, risks = a["outcome"][known], (a["risk"][known], b["risk"][known])

    def differences(W):
        out = {}
        for part, i in parts:
            mine, other = (figures(r[i], y[i], W[:, i]) for r in risks)
            for k in FIGURES:
                with np.errstate(invalid="ignore"):
                    out[part, k, "a"], out[part, k, "b"], out[part, k, "difference"] = mine[k], other[k], other[k] - mine[k]
        return out

    point = differences(np.ones((1, known.size)))
    drawn = metrics.draw(differences, a["patient_key"][known], n, seed)
    rows = []
    for part, i in parts:
        # Who had it, or who had not: a spread rests on the fewer of them, and on none where that is one patient.
        rests_on = min(np.unique(a["patient_key"][known][i & (y == side)]).size for side in (0, 1))
        for k in FIGURES:
            value, values = point[part, k, "difference"][0], drawn[part, k, "difference"]
            same = np.array_equal(risks[0][i], risks[1][i])
            rows.append({
                "outcome": name, "group": part, "figure": k, "rows": int(i.sum()), "positive": int(y[i].sum()),
                "a": outcome.number(point[part, k, "a"][0]), "b": outcome.number(point[part, k, "b"][0]),
                "difference": outcome.number(value), "interval": metrics.interval(values),
                "p": 1.0 if same else metrics.p_value(value, values, rests_on) if rests_on > 1 else None,
            })  # fmt: skip
    return rows


def judge(tests, level=0.05):
    """Adds to each test whether B is better, worse, or neither."""
    told = [t for t in tests if t["p"] is not None]
    marks = metrics.benjamini_hochberg([t["p"] for t in told], level) if told else []
    for t in tests:
        t["verdict"] = "no difference shown" if t["p"] is not None else "not judged"
    for t, mark in zip(told, marks, strict=True):
        if mark:
            t["verdict"] = "better" if (t["difference"] > 0) == (t["figure"] in HIGHER_IS_BETTER) else "worse"


def compare(a, b, n, seed):
    """Tests of all outcomes, and lines that say what of them one report has and the other has not."""
    names = [{p.stem for p in (r / "rows").glob("*.csv")} for r in (a, b)]
    tests, left_out = [], []
    for name in sorted(names[0] | names[1]):
        if name not in names[0] & names[1]:
            left_out.append(f"{name}: only {'A' if name in names[0] else 'B'} has it")
            continue
        tables = [read_rows(r, name) for r in (a, b)]
        pair = paired(*tables)
        size, both = [len(t["outcome"]) for t in tables], len(pair[0]["outcome"])
        if max(size) > both:
            left_out.append(f"{name}: {size[0] - both} of {size[0]} rows of A and {size[1] - both} of {size[1]} of B, which the other "
                            "does not have")  # fmt: skip
        if (pair[0]["outcome"] == 1).any() and (pair[0]["outcome"] == 0).any():
            tests += compare_outcome(name, *pair, n, seed)
        else:
            left_out.append(f"{name}: nobody has the outcome, or everybody, among the {both} rows of both")
    judge(tests)
    return tests, left_out


def models(reports):
    """Hashes of the models; keys of patients mean the same people only where the events are the same."""
    told = [shards.read_json(r / "report.json", "a report of scripts/evaluate.sh").get("provenance", {}) for r in reports]
    events = {t["events_sha256"] for t in told if t.get("events_sha256")}
    if len(events) > 1:
        raise shards.BadFile(f"{reports[0]} and {reports[1]} were evaluated on other events: patients of one key are not the same people")
    return [t.get("model_sha256") for t in told]


def show(tests):
    print(f"{'outcome':22} {'group':26} {'figure':15} {'A':>8} {'B':>8} {'B - A':>9}  {'95%':20} verdict")
    for t in tests:
        box = "" if not t["interval"] else f"{t['interval'][0]:+.4f} to {t['interval'][1]:+.4f}"
        cells = [
            f"{t[k]:{w}}" if t[k] is not None else "-"
            for k, w in (("a", "8.4f"), ("b", "8.4f"), ("difference", "+9.4f"))
        ]
        print(
            f"{t['outcome']:22} {t['group']:26} {t['figure']:15} {cells[0]:>8} {cells[1]:>8} {cells[2]:>9}  {box:20} {t['verdict']}"
        )


def main():
    parser = argparse.ArgumentParser(
        prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=pathlib.Path, metavar="REPORT_A")
    parser.add_argument("b", type=pathlib.Path, metavar="REPORT_B")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples [1000]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, help="every test as JSON")
    args = parser.parse_args()
    if args.bootstrap < 2:
        parser.error("--bootstrap takes at least 2 resamples: their spread is what differences are judged by")
    try:
        sha = models((args.a, args.b))
        tests, left_out = compare(args.a, args.b, args.bootstrap, args.seed)
    except shards.BadFile as e:
        print(f"compare: {e}", file=sys.stderr)
        return 1
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if not tests:
        print(
            f"compare: {args.a} and {args.b} have no outcome with rows in common: evaluate both on the same dataset",
            file=sys.stderr,
        )
        return 3
    show(tests)
    judged = any(t["p"] is not None for t in tests)
    count = {v: sum(t["verdict"] == v for t in tests) for v in ("better", "worse", "no difference shown", "not judged")}
    print(f"of {len(tests)} figures: {', '.join(f'{n} {v}' for v, n in count.items())}")
    if args.out:
        record = {"format": "ehr.c comparison", "format_version": 1, "model_sha256": sha, "bootstrap": args.bootstrap,
                  "seed": args.seed, "count": count, "left_out": left_out, "tests": tests}  # fmt: skip
        args.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    if not judged:
        print("compare: nothing could be judged: too few patients had an outcome, or had it not; evaluate more rows (--limit)", file=sys.stderr)
    return 1 if count["worse"] else 0 if judged else 3


if __name__ == "__main__":
    sys.exit(main())
