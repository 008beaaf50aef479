"""Evaluates risk tables written by `ehr-infer risk`: report.html (pictures, plain words) and report.json (every figure).

Usage: evaluate.py --run RUN --data DATASET --out DIR RISK.csv|RISK.h5 ...

On an oracle cohort the tables carry the true risk of every patient; AUROC and calibration are then also taken in
expectation over it, and the error of the risks themselves is known.
"""

import argparse
import base64
import csv
import html
import io
import json
import pathlib
import sys
import time

import h5py
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import metrics

NEEDED = ["patient_key", "index_minutes", "outcome", "risk", "mc_se"]


def fail(message):
    print(f"evaluate: {message}", file=sys.stderr)
    sys.exit(1)


def read_table(path):
    """Columns as arrays and attributes as strings, from a .csv with "# name: value" lines or an .h5."""
    attributes = {}
    try:
        if path.suffix == ".h5":
            with h5py.File(path) as f:
                columns = {k: np.asarray(f[k]) for k in f}
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
                kind = np.uint64 if k == "patient_key" else float
                columns[k] = np.array([kind(r[k]) if r[k] != "" else np.nan for r in rows], kind)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as e:
        fail(f"{path}: not a risk table: {e}")
    missing = [k for k in NEEDED if k not in columns]
    if missing:
        fail(f"{path}: not a risk table: no column {', '.join(missing)}; expected the output of `ehr-infer risk`")
    if not columns["risk"].size:
        fail(f"{path}: the table has no rows")
    bad = np.flatnonzero(~np.isfinite(columns["risk"]) | ~np.isin(columns["outcome"], [-1, 0, 1]))
    if bad.size:
        fail(f"{path}: row {bad[0]}: expected a number as risk and -1, 0 or 1 as outcome")
    return columns, attributes


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


def plain(x):
    """x with every number that JSON cannot carry (no horizon given, one sample and so no error) as None."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, list):
        return [plain(v) for v in x]
    return None if isinstance(x, float) and not np.isfinite(x) else x


def evaluate_outcome(columns, attributes, name, args):
    """All figures of one outcome.  Censored rows are left out and counted."""
    known = columns["outcome"] >= 0
    risk, y, patient = columns["risk"], columns["outcome"], columns["patient_key"]
    p = columns.get("true_risk", np.full(risk.size, np.nan))
    has_truth = risk.size > 0 and bool(np.all(np.isfinite(p)))

    def observed(index):
        i = index[known[index]]
        slope, intercept = metrics.calibration(risk[i], y[i])
        return {
            "auroc": metrics.auroc(risk[i], y[i]),
            "auprc": metrics.auprc(risk[i], y[i]),
            "brier": metrics.brier(risk[i], y[i]) if i.size else None,
            "slope": slope,
            "intercept": intercept,
        }

    def expected(index):
        slope, intercept = metrics.calibration(risk[index], p[index])
        return {
            "auroc": metrics.auroc(risk[index], p[index]),
            "auroc_true_risk": metrics.auroc(p[index], p[index]),
            "auprc": metrics.auprc(risk[index], p[index]),
            "brier": metrics.brier(risk[index], p[index]),
            "rmse": float(np.sqrt(np.mean((risk[index] - p[index]) ** 2))),
            "slope": slope,
            "intercept": intercept,
        }

    everyone = np.arange(risk.size)
    out = {
        "name": name,
        "horizon_days": float(attributes.get("horizon_minutes", "nan")) / 1440,
        "estimator": attributes.get("estimator"),
        "n": int(risk.size),
        "patients": int(np.unique(patient).size),
        "censored": int((~known).sum()),
        "positive": int((y == 1).sum()),
        "mean_risk": float(risk.mean()) if risk.size else None,
        "mean_mc_se": float(np.nanmean(columns["mc_se"])) if np.isfinite(columns["mc_se"]).any() else None,
    }
    seen = observed(everyone)
    seen_interval = metrics.bootstrap(observed, patient, args.bootstrap, args.seed)
    out["observed"] = {**seen, "interval": seen_interval}
    bins, ece = metrics.calibration_bins(risk[known], y[known]) if known.any() else ([], None)
    out["observed"]["calibration"], out["observed"]["ece"] = bins, ece
    if has_truth:
        truth = expected(everyone)
        out["expected"] = {**truth, "interval": metrics.bootstrap(expected, patient, args.bootstrap, args.seed)}
        out["expected"]["calibration"], out["expected"]["ece"] = metrics.calibration_bins(risk, p)
        out["mean_true_risk"] = float(p.mean())
    main = out["expected"] if has_truth else out["observed"]
    out["auroc"], out["slope"] = main["auroc"], main["slope"]
    out["auroc_interval"] = main["interval"].get("auroc")
    out["auroc_true_risk"] = out["expected"]["auroc_true_risk"] if has_truth else None
    out["rmse"] = out["expected"]["rmse"] if has_truth else None
    out["_curve"] = (risk, p) if has_truth else (risk[known], y[known])
    return out


# ---- pictures ------------------------------------------------------------------------------------------------------


def picture(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight")
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def axes(title, x, y, width=5.2, height=3.8):
    figure, ax = plt.subplots(figsize=(width, height))
    ax.set_title(title, fontsize=11, loc="left")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def legend(ax, **where):
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, facecolor="white", edgecolor="none", framealpha=1, **where)


def draw_loss(steps, evals):
    figure, ax = axes("Loss while training", "step", "nats a token", 8)
    if steps:
        ax.plot([s["step"] for s in steps], [s["loss"] for s in steps], color="#9ecae1", lw=1, label="train, each step")
    if evals:
        ax.plot([e["step"] for e in evals], [e["loss"] for e in evals], "o-", color="#08519c", ms=3, label="tuning split")
        for key, label, color in [
            ("loss_unigram", "unigram", "#bbbbbb"),
            ("loss_bigram", "bigram", "#888888"),
            ("loss_floor", "floor: no model can be lower", "#cb181d"),
        ]:
            value = evals[-1].get(key)
            if value is not None:
                ax.axhline(value, color=color, lw=1, ls="--", label=f"{label} {value:.3f}")
        low = min([e["loss"] for e in evals] + [evals[-1].get("loss_floor") or 1e9])
        high = max([evals[-1].get("loss_unigram") or 0] + [e["loss"] for e in evals])
        ax.set_ylim(low - 0.05 * (high - low) - 0.02, high + 0.1 * (high - low) + 0.02)
    legend(ax)
    return picture(figure)


def draw_roc(outcomes):
    figure, ax = axes("Discrimination (ROC)", "false positive rate", "true positive rate", 4.4, 4.2)
    for o in outcomes:
        if o["auroc"] is not None:
            ax.plot(*metrics.roc(*o["_curve"]), lw=1.4, label=f"{o['name']}  {o['auroc']:.3f}")
    ax.plot([0, 1], [0, 1], color="#cccccc", lw=0.8)
    legend(ax, loc="lower right")
    return picture(figure)


def draw_calibration(outcomes):
    figure, ax = axes("Calibration (ten bins of equal size)", "predicted risk", "observed or true risk", 4.4, 4.2)
    top = 0.01
    for o in outcomes:
        bins = (o.get("expected") or o["observed"])["calibration"]
        if bins:
            ax.plot([b["risk"] for b in bins], [b["outcome"] for b in bins], "o-", ms=3, lw=1, label=o["name"])
            top = max([top] + [b["risk"] for b in bins] + [b["outcome"] for b in bins])
    ax.plot([0, top], [0, top], color="#cccccc", lw=0.8)
    legend(ax)
    return picture(figure)


# ---- pages ---------------------------------------------------------------------------------------------------------


def number(x, digits=3):
    return "-" if x is None or not np.isfinite(x) else f"{x:.{digits}f}"


def interval(x):
    return "" if not x else f" <small>({x[0]:.3f} to {x[1]:.3f})</small>"


def row(cells, tag="td"):
    return "<tr>" + "".join(f"<{tag}>{c}</{tag}>" for c in cells if c is not None) + "</tr>"


def outcome_table(outcomes, truth):
    """truth: some outcome has true risks; without them their columns are left out."""

    def if_truth(cell):
        return cell if truth else None

    rows = [
        row(
            [
                "outcome",
                "rows",
                "positive",
                "censored",
                "mean risk",
                if_truth("mean true risk"),
                "AUROC",
                if_truth("AUROC of the true risk"),
                "AUPRC",
                "Brier",
                "calibration slope",
                if_truth("RMSE to true risk"),
                "sampling error",
            ],
            "th",
        )
    ]
    for o in outcomes:
        block = o.get("expected") or o["observed"]
        horizon = f"<br><small>within {o['horizon_days']:g} days</small>" if np.isfinite(o["horizon_days"]) else ""
        rows.append(
            row(
                [
                    html.escape(o["name"]) + horizon,
                    str(o["n"]),
                    str(o["positive"]),
                    str(o["censored"]),
                    number(o["mean_risk"]),
                    if_truth(number(o.get("mean_true_risk"))),
                    number(o["auroc"]) + interval(o["auroc_interval"]),
                    if_truth(number(o["auroc_true_risk"])),
                    number(block["auprc"]),
                    number(block["brier"], 4),
                    number(o["slope"], 2) + interval(block["interval"].get("slope")),
                    if_truth(number(o["rmse"], 4)),
                    number(o["mean_mc_se"], 4),
                ]
            )
        )
    return "<table>" + "".join(rows) + "</table>"


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.3em .7em;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}
td:first-child,th:first-child{text-align:left}th{font-weight:600;font-size:.9em;vertical-align:bottom}
small{color:#777;white-space:nowrap}img{max-width:100%}
.note{background:#f6f6f2;padding:.7em 1em;border-left:3px solid #bbb}"""


def page(report, outcomes, pictures):
    se = "" if report["excess_loss_se"] is None else f" <small>&plusmn; {report['excess_loss_se']:.4f}</small>"
    loss_rows = [
        ("this model", report["loss"], ""),
        ("floor: the law that drew these patients", report["loss_floor"], ""),
        ("excess over the floor", report["excess_loss"], se),
        ("bigram: knows the last token only", report["loss_bigram"], ""),
        ("unigram: knows how common a token is", report["loss_unigram"], ""),
    ]
    losses = "".join(
        f"<tr><td>{label}</td><td>{number(value, 4)}{error}</td></tr>"
        for label, value, error in loss_rows
        if value is not None
    )
    truth = any(o.get("expected") for o in outcomes)
    used = sorted({o["estimator"] for o in outcomes if o["estimator"]})
    estimators = f", risks by {html.escape(', '.join(used))}" if used else ""
    basis = (
        "These patients are synthetic and their true risks are known: AUROC, slope and error are taken against the truth "
        "in expectation. No model can have a higher AUROC than the column beside it."
        if truth
        else "Outcomes are those recorded; patients whose follow-up ended before the horizon are left out and counted."
    )
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>ehr.c report</title><style>{STYLE}</style>
<h1>Evaluation report</h1>
<p class="note">For research. Not a medical device; not for use in the care of any person.</p>
<p>Checkpoint {html.escape(report['checkpoint'] or '-')}{estimators}, dataset {html.escape(report['dataset'])}
(de-identification level: {html.escape(str(report['deidentification']))}).</p>
<h2>How well the next event is predicted</h2>
<p>Mean surprise in nats a token on the tuning split; lower is better.</p>
<table>{losses}</table><p><img alt="loss curve" src="{pictures['loss']}"></p>
<h2>How well risks are told apart, and whether they are right</h2><p>{basis} Intervals: 95%, resampling patients.</p>
{outcome_table(outcomes, truth)}
<p><img alt="ROC" src="{pictures['roc']}"> <img alt="calibration" src="{pictures['calibration']}"></p>
<h2>How to read this</h2>
<p>AUROC: the chance that a patient who has the outcome was given a higher risk than one who has not; 0.5 is a coin.
AUPRC: the precision at each depth of the ranking, averaged; without any skill it is the share of positives. Brier: the mean
squared error against what happened. Calibration slope: 1 when risks are as spread as they should be, below 1 when they are
too extreme; risks that are too high or too low throughout show in the mean risk. Sampling error: the
mean standard error of a risk from simulating a finite number of futures; it says nothing about the error of the model.</p>
</html>"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="folder written by ehr-train (log.jsonl)")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="dataset folder")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for report.html and report.json")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples for intervals [1000]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="time of the whole job, stored in the report")
    parser.add_argument("--started", type=float, help="unix time at which the whole job began; overrides --seconds")
    parser.add_argument("risk", type=pathlib.Path, nargs="+", help="risk tables")
    args = parser.parse_args()
    start = time.time()
    try:
        dataset = json.loads((args.data / "dataset.json").read_text())
    except (OSError, ValueError) as e:
        fail(f"--data {args.data}: not a dataset: {e}")
    outcomes = []
    for path in args.risk:
        columns, attributes = read_table(path)
        outcomes.append(evaluate_outcome(columns, attributes, attributes.get("name", path.stem), args))
    steps, evals = read_log(args.run)
    last = evals[-1] if evals else {}
    latest = args.run / "latest"
    report = {
        "format": "ehr.c report",
        "format_version": 1,
        "checkpoint": str(latest.resolve().name) if latest.exists() else None,
        "dataset": str(args.data),
        "deidentification": dataset.get("deidentification", {}).get("level"),
        "split_of_loss": "tuning",
        **{k: last.get(k) for k in ["loss", "loss_floor", "excess_loss", "loss_unigram", "loss_bigram"]},
        "excess_loss_se": last.get("excess_se"),
        "steps": steps[-1]["step"] if steps else None,
        "bootstrap": args.bootstrap,
        "seed": args.seed,
        "outcomes": [{k: v for k, v in o.items() if not k.startswith("_")} for o in outcomes],
    }
    pictures = {
        "loss": draw_loss(steps, evals),
        "roc": draw_roc(outcomes),
        "calibration": draw_calibration(outcomes),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    report["seconds"] = time.time() - args.started if args.started else args.seconds or time.time() - start
    (args.out / "report.html").write_text(page(report, outcomes, pictures))
    (args.out / "report.json").write_text(json.dumps(plain(report), indent=1, allow_nan=False) + "\n")
    for o in outcomes:
        truth = f"  of the true risk {number(o['auroc_true_risk'])}  rmse {number(o['rmse'], 4)}" if o["auroc_true_risk"] else ""
        print(f"{o['name']:24} n {o['n']:5}  AUROC {number(o['auroc'])}{truth}  slope {number(o['slope'], 2)}")
    print(f"{args.out / 'report.html'}")


if __name__ == "__main__":
    main()
